"""Who gets in: each `auth` setting, deployed, called as nobody, as a stranger and as a caller.

What the emulator holds: API keys and their usage plan, and a pool's tokens with their signature.
Of SigV4 it asks only that there is a signature; that a wrong one is refused, only AWS can show.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import Images
from tests.e2e.emulator import ACCOUNT, REGION, Reply, Tools
from tests.e2e.test_deploy import Cloud, account
from tests.fixtures import expected_answers

JSON = {"content-type": "application/json"}
CALLS = [
    ("POST", "/predict"),
    ("GET", "/"),
    ("GET", "/model"),
    ("OPTIONS", "/predict"),
    ("GET", "/golden/0"),
    ("GET", "/no/such/path"),
]


class Deployed(NamedTuple):
    """`caller`: the headers that let one in. `strangers`: some that must not."""

    cloud: Cloud
    outputs: dict[str, str]
    caller: dict[str, str]
    strangers: list[dict[str, str]]
    status: int  # of a refusal

    def call(self, method: str, path: str, headers: dict[str, str]) -> Reply:
        body = (
            expected_answers.event("good/rest-one-row")["body"].encode()
            if method == "POST"
            else None
        )
        return self.cloud.call(
            self.outputs, method, path, body=body, headers={**JSON, **headers}, signed_for=None
        )


def keys(cloud: Cloud, outputs: dict[str, str]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The stack's own key; one that is in no plan, and none at all."""
    gateway = cloud.client("apigateway")
    own = gateway.get_api_key(apiKey=outputs["ApiKeyId"], includeValue=True)["value"]
    foreign = gateway.create_api_key(name="of another API", enabled=True)["value"]
    wrong = [foreign, own[:-1], own + "0", ""]
    return {"x-api-key": own}, [{"x-api-key": key} for key in wrong]


def tokens(cloud: Cloud, pool: str, other: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A user's token; one of another pool, one without a signature, one that was changed."""
    own, foreign = token(cloud, pool), token(cloud, other)
    head, claims, seal = own.split(".")
    text = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))
    told = json.dumps(json.loads(text) | {"sub": "somebody else"}).encode()
    changed = base64.urlsafe_b64encode(told).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    wrong = [foreign, f"{head}.{changed}.{seal}", f"{none}.{claims}.", f"{head}.{claims}.", "x"]
    return {"authorization": own}, [{"authorization": text} for text in wrong]


def token(cloud: Cloud, pool: str) -> str:
    cognito = cloud.client("cognito-idp")
    password = {"Username": "user", "Password": "Correct-horse-1"}
    cognito.admin_create_user(UserPoolId=pool, Username="user", MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool, Permanent=True, **password)
    flows = ["ALLOW_USER_PASSWORD_AUTH"]
    made = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="client", ExplicitAuthFlows=flows
    )
    found = cognito.initiate_auth(
        ClientId=made["UserPoolClient"]["ClientId"],
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={name.upper(): value for name, value in password.items()},
    )
    signed: str = found["AuthenticationResult"]["IdToken"]
    return signed


@pytest.fixture(scope="module", params=["api-key", "cognito"])
def deployed(
    request: Any, answerable: Tools, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    with account(answerable, tmp_path_factory.mktemp(request.param)) as cloud:
        cloud.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", tree=images.first)
        settings, pools = [f"auth={request.param}"], []
        if request.param == "cognito":
            cognito = cloud.client("cognito-idp")
            pools = [cognito.create_user_pool(PoolName=n)["UserPool"]["Id"] for n in ("a", "b")]
            arn = f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{pools[0]}"
            settings.append(f"user_pool_arn={arn}")
        outputs = cloud.deploy(images.first, "first", *settings)
        found = tokens(cloud, pools[0], pools[1]) if pools else keys(cloud, outputs)
        yield Deployed(cloud, outputs, *found, status=401 if pools else 403)


def test_a_caller_gets_in(deployed: Deployed) -> None:
    assert deployed.call("POST", "/predict", deployed.caller).status == 200
    assert deployed.call("GET", "/golden/0", deployed.caller).status == 404  # is no client's


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_nobody_else_does(deployed: Deployed, method: str, path: str) -> None:
    for headers in ({}, *deployed.strangers):
        reply = deployed.call(method, path, headers)
        problem = reply.json()
        assert reply.status == problem["status"] == deployed.status, headers
        assert reply.headers["content-type"] == "application/problem+json"
        assert not any(value and value in reply.body.decode() for value in headers.values())


def test_the_functions_seal_with_a_secret_of_the_account(deployed: Deployed) -> None:
    """And an id that another made up is refused, though its owner may call."""
    functions = deployed.cloud.client("lambda")
    name = deployed.outputs["FunctionName"]
    live = functions.get_function_configuration(FunctionName=name, Qualifier="live")
    assert len(live["Environment"]["Variables"]["PREDICTION_ID_SECRET"]) >= 43
    id = deployed.call("POST", "/predict", deployed.caller).json()["predictions"][0]["id"]
    for told, status in ((id, 202), (id[:-1] + ("A" if id[-1] != "A" else "B"), 422)):
        body = json.dumps({"outcomes": [{"prediction_id": told, "actual": 1}]}).encode()
        sent = {"body": body, "headers": {**JSON, **deployed.caller}, "signed_for": None}
        reply = deployed.cloud.call(deployed.outputs, "POST", "/feedback", **sent)
        assert reply.status == status, reply
