"""`answerable deploy STAGE`: deploy the model with the settings of deploy.toml.

Before the deployment the synthesised template is compared with the deployed one. A deployment that
would remove a queue, a bucket, a key or the archive, or that would change how clients authenticate,
stops and lists the losses. CodeDeploy refuses to deploy over a rollback, because the alias is not
at the stack's version. So a first deployment pins the stack to the live versions, and a second one
releases the new version. After the deployment a smoke test asks the golden rows of the live
version, and calls the URL.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from answerable import cdk, smoke
from answerable.stack import Client, connect, deployed_template, lookup
from handler.release import rollback
from handler.release.rollback import Log, ReleaseError, Service
from infra.settings import SETTINGS, Settings

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    cdk.add_arguments(parser)
    parser.add_argument("--yes-remove", nargs="+", action="extend", default=[], metavar="SETTING",
        help="remove what these settings had made, as jobs")  # fmt: skip
    parser.add_argument("--skip-smoke-test", action="store_true",
        help="do not ask the golden rows of the deployed version, nor call its URL")  # fmt: skip


def main(
    args: argparse.Namespace,
    run: cdk.Run = cdk.run,
    client: Client = connect,
    get: smoke.Get = smoke.get_status,
) -> int:
    """Return the CDK CLI's exit code."""
    chosen, _ = cdk.read_settings(args)
    if code := cdk.synth(args, run):
        return code
    deployed = deployed_template(client, chosen.stack)
    # without a terminal nobody can approve the changes of IAM
    approval = [] if sys.stdin.isatty() else ["--require-approval", "never"]
    command = ["deploy", "--app", str(cdk.OUTPUT), *approval, chosen.stack]
    if deployed is None:
        check_log_role(client, chosen)
    else:
        template = cdk.template(chosen.stack)
        losses = [r for r in removals(deployed, template) if r.name not in args.yes_remove]
        if losses:
            names = " ".join(dict.fromkeys(loss.name for loss in losses))
            lines = "\n".join(f"  {loss.name}: {loss.text}" for loss in losses)
            raise ReleaseError(
                f"this deployment would remove or change what is in use:\n{lines}\n"
                f"Correct deploy.toml, or confirm it with --yes-remove {names}"
            )
        service = lookup(client, chosen.model, chosen.stage)
        moves = deployed["Outputs"].get("LiveVersion") != template["Outputs"]["LiveVersion"]
        if pins := pins_over_rollback(service, chosen, moves, print):
            pinned = argparse.Namespace(**{**vars(args), "overrides": args.overrides + pins})
            if code := cdk.synth(pinned, run) or run(command) or cdk.synth(args, run):
                return code
    if code := run(command):
        return code
    if not args.skip_smoke_test:
        service = lookup(client, chosen.model, chosen.stage)
        smoke.check_live_version(service, print)
        smoke.check_url(service, chosen, get, print)
    return 0


def check_log_role(client: Client, chosen: Settings) -> None:
    """Raise ReleaseError if a REST API could not write logs in this account and region."""
    if chosen.endpoint != "rest" or chosen.gateway_log_role:
        return
    if not client("apigateway").get_account().get("cloudwatchRoleArn"):
        raise ReleaseError(
            "API Gateway has no log role in this account and region, and refuses stages with logs. "
            f"Set gateway_log_role = true in [stage.{chosen.stage}.{chosen.model}] of deploy.toml, "
            'or endpoint = "http"'
        )


def pins_over_rollback(service: Service, chosen: Settings, moves: bool, log: Log) -> list[str]:
    """Return the options that pin the stack to the live versions, if the alias is not at the
    stack's version. Raise ReleaseError if the stack or the alias is in motion.

    Without `moves`, the deployment leaves the alias where it is. A pinned deployment moves it
    without CodeDeploy.
    """
    if not service.stack_status.endswith("_COMPLETE"):
        page = "docs/runbook.md#alias-moved"
        raise ReleaseError(f"the stack is in {service.stack_status}: wait, or see {page}")
    if chosen.pinned_version:
        return []
    alias = service.alias()
    live = alias["FunctionVersion"]
    if rollback.weights(alias) or service.running():
        raise ReleaseError("a deployment is under way. Wait for it, or stop it in CodeDeploy")
    if live == service.stack_live_version:
        return []
    log(f"version {live} is live, and the stack has version {service.stack_live_version}")
    if not moves:
        log("this deployment has no new version: the alias stays")
        return []
    log(f"first deployment: pin the stack to version {live}; second: release the new version")
    pins: dict[str, object] = {**rollback.pin_settings(service, service.live_versions(alias))}
    if chosen.provisioned_concurrency:  # it needs CodeDeploy, so it pauses
        pins["provisioned_concurrency"] = 0
    return [f"{name}={value}" for name, value in pins.items()]
