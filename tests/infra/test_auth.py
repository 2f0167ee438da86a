"""Who gets in, as the template has it; tests/e2e/test_auth.py has what the emulator enforces."""

import json
import re
from typing import Any

import pytest

from tests.infra.conftest import POOL, Synth, Template

SCOPE = "predict/write"
ASKS: dict[str, dict[str, Any]] = {
    "auth=iam": {"AuthorizationType": "AWS_IAM"},
    "auth=api-key": {"AuthorizationType": "NONE", "ApiKeyRequired": True},
    "auth=cognito": {"AuthorizationType": "COGNITO_USER_POOLS", "AuthorizationScopes": [SCOPE]},
}


def deployed(synth: Synth, auth: str) -> Template:
    pool = (f"user_pool_arn={POOL}", f"user_pool_scope={SCOPE}")
    return synth.template(auth, *(pool if auth == "auth=cognito" else ()))


@pytest.mark.parametrize("auth", ASKS)
def test_every_method_of_every_path_asks_for_the_same(synth: Synth, auth: str) -> None:
    template = deployed(synth, auth)
    methods = [item["Properties"] for item in template.all("AWS::ApiGateway::Method").values()]
    paths = {str(method["ResourceId"]) for method in methods}
    assert len(paths) == 1 + len(template.all("AWS::ApiGateway::Resource")) == 2  # "/", "/{proxy+}"
    for method in methods:
        assert method["HttpMethod"] == "ANY"  # OPTIONS too: no other method is let by
        names = ("AuthorizationType", "ApiKeyRequired", "AuthorizationScopes")
        assert {name: method[name] for name in names if method.get(name)} == ASKS[auth]
    authorizers = template.all("AWS::ApiGateway::Authorizer")
    assert [method.get("AuthorizerId") for method in methods] == [
        {"Ref": name} for name in authorizers for _ in methods
    ] or [None] * 2
    for authorizer in authorizers.values():
        assert authorizer["Properties"]["ProviderARNs"] == [POOL]
        assert authorizer["Properties"]["IdentitySource"] == "method.request.header.Authorization"
    # without a resource policy IAM's own rule holds: the account's own, and who is allowed
    assert "Policy" not in template.one("AWS::ApiGateway::RestApi")["Properties"]


def test_a_key_is_of_a_plan_of_this_stage_alone(synth: Synth) -> None:
    template = synth.template("auth=api-key", "rate_limit=7", "burst_limit=9")
    plan = template.one("AWS::ApiGateway::UsagePlan")["Properties"]
    (stage,) = plan["ApiStages"]
    assert stage["ApiId"]["Ref"] in template.all("AWS::ApiGateway::RestApi")
    assert stage["Stage"]["Ref"] in template.all("AWS::ApiGateway::Stage")
    assert plan["Throttle"] == {"BurstLimit": 9, "RateLimit": 7}
    assert "ApiKeyId" in template.body["Outputs"]
    key = template.one("AWS::ApiGateway::ApiKey")["Properties"]
    assert "Value" not in key
    (joined,) = template.all("AWS::ApiGateway::UsagePlanKey").values()
    assert joined["Properties"]["KeyType"] == "API_KEY"


@pytest.mark.parametrize("auth", ASKS)
def test_only_this_api_invokes_the_alias(synth: Synth, auth: str) -> None:
    permissions = deployed(synth, auth).all("AWS::Lambda::Permission").values()
    assert permissions
    for permission in permissions:
        assert "SourceArn" in permission["Properties"]
        callers = {"apigateway.amazonaws.com": "Live", "events.amazonaws.com": "Probe|Drift"}
        whose = callers[permission["Properties"]["Principal"]]
        assert re.search(whose, json.dumps(permission["Properties"]["FunctionName"]))
