"""The losses of a deployment: resources of the stack, and access of its clients."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from infra.settings import SETTINGS

# resources that hold something, or that clients use
STATEFUL = {
    "AWS::ApiGateway::ApiKey",
    "AWS::ApiGateway::RestApi",
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::DomainName",
    "AWS::Lambda::Url",
    "AWS::KinesisFirehose::DeliveryStream",
    "AWS::S3::Bucket",
    "AWS::SNS::Topic",
    "AWS::SQS::Queue",
}
# settings that, once deployed, are not changed by a slip
GUARDED = ("endpoint", "auth", "user_pool_arn", "user_pool_scope", "jwt_issuer", "authorizer_arn",
    "vpc_endpoint_ids", "truststore_uri", "domain_name", "base_path", "jobs", "batch",
    "archive")  # fmt: skip
# settings that may change, and are not left out by a slip
KEPT = ("allowed_ips", "web_acl_arn", "kms_key_arn")
# the setting that makes a resource, by how its logical id begins
SETTING_OF = {
    "ApiDomain": "domain_name",
    "ApiRestClient": "clients",
    "ApiRestKey": "auth",
    "Api": "endpoint",
    "Archive": "archive",
    "Batch": "batch",
    "Jobs": "jobs",
    "TicketTopic": "ticket_destination",
    "Topic": "alarm_destination",
}


class Removal(NamedTuple):
    """One loss; `name` is the setting that `--yes-remove` takes."""

    name: str
    text: str


def removals(deployed: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Removal]:
    """Yield what the template `new` takes away from the template `deployed`."""
    before, after = (t.get("Metadata", {}).get(SETTINGS, {}) for t in (deployed, new))
    for name in GUARDED + KEPT:
        old, value = before.get(name), after.get(name)
        if old and (not value if name in KEPT else old != value):
            text = "nothing" if value in ("", [], None) else value
            yield Removal(name, f"the setting changes from {old} to {text}")
    key = "prediction_id_key_version"
    if before.get(key, 1) > after.get(key, 1):
        yield Removal(key, "the number goes down: ids signed with the newer secret are refused")
    for logical_id, resource in deployed["Resources"].items():
        if resource["Type"] in STATEFUL and logical_id not in new["Resources"]:
            names = (SETTING_OF[begin] for begin in SETTING_OF if logical_id.startswith(begin))
            stays = " (it stays in the account)" * ("Retain" in resource.get("DeletionPolicy", ""))
            yield Removal(next(names, logical_id), f"{resource['Type']} {logical_id}{stays}")
