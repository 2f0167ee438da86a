"""The real `cdk bootstrap` and `cdk deploy`, and HTTP calls through API, alias and container.

Against ministack. What it rejects is left out by tests/e2e/app.py; ARCHITECTURE.md lists what only
AWS can show.
"""

import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.e2e import emulator
from tests.e2e.conftest import NEXT, Images
from tests.e2e.emulator import ACCOUNT, AS_IN_LAMBDA, REGION, Reply, Tools
from tests.fixtures import expected_answers

STACK = "answerable-diabetes-test"


class Cloud:
    """An account: the emulator, and the CDK CLI turned to it."""

    def __init__(self, answerable: Tools, endpoint: str, outputs: Path) -> None:
        self.tools, self.endpoint, self.outputs = answerable, endpoint, outputs
        self.environment = emulator.environment(
            AWS_ENDPOINT_URL=self.endpoint,
            AWS_ACCESS_KEY_ID=ACCOUNT,  # the emulator takes it for the account
            AWS_SECRET_ACCESS_KEY="test",
            AWS_REGION=REGION,
            CDK_DISABLE_VERSION_CHECK="1",
            CDK_DISABLE_CLI_TELEMETRY="true",
        )

    def client(self, service: str, endpoint: str = "") -> Any:
        connect: Any = boto3.client
        keys = {"aws_access_key_id": ACCOUNT, "aws_secret_access_key": "test"}
        endpoint = endpoint or self.endpoint
        return connect(service, endpoint_url=endpoint, region_name=REGION, **keys)

    def cdk(self, *args: str, tree: Path) -> None:
        run = subprocess.run(
            [self.tools.cdk, *args],
            cwd=tree,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-4000:]

    def deploy(
        self, tree: Path, tag: str, *more: str, repository: str = "answerable"
    ) -> dict[str, str]:
        """Deploy an image, with more settings, and give the stack's outputs."""
        settings = ["stage=test", "rollout=all-at-once", *more]
        settings += [f"image_repository={repository}", f"image_tag={tag}"]
        context = [word for setting in settings for word in ("-c", setting)]
        files = ["--output", str(tree / "cdk.out"), "--outputs-file", str(self.outputs)]
        app = ["--app", "python -m tests.e2e.app", "--require-approval", "never"]
        self.cdk("deploy", *app, *context, *files, tree=tree)
        outputs: dict[str, str] = json.loads(self.outputs.read_text())[STACK]
        return outputs

    def call(self, outputs: dict[str, str], method: str, path: str, **more: Any) -> Reply:
        api = outputs["Url"].removeprefix("https://").partition(".")[0]
        url = f"{self.endpoint}/_aws/execute-api/{api}/test{path}"
        return emulator.call(url, method, **{"signed_for": "execute-api"} | more)


def bridge(answerable: Tools) -> str:
    """The host's address, as containers see it."""
    # the first of its net: an engine that was started again does not always tell the gateway
    show = ["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}"]
    run = subprocess.run([answerable.docker, *show], capture_output=True, text=True, check=True)
    return str(ipaddress.ip_network(run.stdout.strip())[1])


@contextmanager
def account(
    answerable: Tools, directory: Path, port: int = 0, functions_port: int = 0
) -> Iterator[Cloud]:
    """An empty account, which containers reach too, its functions through another port if given."""
    host, port = bridge(answerable), port or emulator.free_port()
    endpoint = f"http://{host}:{port}"
    options = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": host,
        "MINISTACK_HOST": host,  # where CloudFormation waits for the maker of the secret
        "AWS_ENDPOINT_URL": f"http://{host}:{functions_port or port}",  # that the functions get
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "LAMBDA_EXECUTOR": "docker",
        # It heeds not the user, and cannot put code into what is read-only, as the maker of the
        # secret's: test_image.py sees to both.
        "LAMBDA_DOCKER_FLAGS": " ".join(AS_IN_LAMBDA[1:]),
        "TMPDIR": str(directory),
        "S3_DATA_DIR": str(directory / "s3"),
        "STATE_DIR": str(directory / "state"),
    }
    with (directory / "ministack.log").open("w") as log:
        process = subprocess.Popen(
            [answerable.ministack], env=os.environ | options, stdout=log, stderr=log, cwd=directory
        )
        try:
            emulator.wait_for(f"{endpoint}/")
            yield Cloud(answerable, endpoint, directory / "outputs.json")
        finally:
            process.terminate()  # it takes its containers along
            process.wait(30)


@pytest.fixture(scope="module")
def cloud(answerable: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with account(answerable, tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(scope="module")
def first(cloud: Cloud, images: Images) -> dict[str, str]:
    """The stack's outputs after bootstrap and the first deployment."""
    cloud.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", tree=images.first)
    return cloud.deploy(images.first, "first")


def predict(cloud: Cloud, outputs: dict[str, str]) -> Any:
    body = expected_answers.event("good/rest-one-row")["body"].encode()
    reply = cloud.call(
        outputs, "POST", "/predict", body=body, headers={"content-type": "application/json"}
    )
    assert reply.status == 200, reply
    return reply.json()


def versions(cloud: Cloud, outputs: dict[str, str]) -> list[str]:
    found = cloud.client("lambda").list_versions_by_function(FunctionName=outputs["FunctionName"])
    return [item["Version"] for item in found["Versions"] if item["Version"] != "$LATEST"]


def live(cloud: Cloud, outputs: dict[str, str]) -> str:
    name = outputs["FunctionName"]
    found: str = cloud.client("lambda").get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    return found


def test_predict_through_api_alias_and_container(cloud: Cloud, first: dict[str, str]) -> None:
    found = predict(cloud, first)
    expected_answers.check("good/rest-one-row", {"statusCode": 200, "body": json.dumps(found)})
    assert live(cloud, first) == first["LiveVersion"] == "1"


def test_the_other_routes(cloud: Cloud, first: dict[str, str]) -> None:
    assert cloud.call(first, "GET", "/ping").status == 200
    assert cloud.call(first, "GET", "/openapi.json").json()["openapi"].startswith("3.")
    assert cloud.call(first, "GET", "/model").json()["name"] == "diabetes"


def test_without_a_signature_the_gateway_answers_as_we_do(
    cloud: Cloud, first: dict[str, str]
) -> None:
    reply = cloud.call(first, "GET", "/model", signed_for=None)
    problem = reply.json()
    assert reply.status == problem["status"] == 403
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:answerable:problem:forbidden"
    assert problem["error"] == problem["detail"]


def over_http(name: str) -> bool:
    """Whether an HTTP client could send a bad event through this gateway."""
    event = expected_answers.event(name)
    if not isinstance(event, dict) or event.get("httpMethod") != "POST":
        return False
    if not isinstance(event.get("body"), str) or event.get("isBase64Encoded"):
        return False
    return not any("\ud800" <= c <= "\udfff" for c in event["body"])


@pytest.mark.parametrize(
    "name", [name for name in expected_answers.names("bad") if over_http(name)]
)
def test_a_bad_body_over_http(cloud: Cloud, first: dict[str, str], name: str) -> None:
    event = expected_answers.event(name)
    sent = event["body"].encode()
    kind = {k.lower(): v for k, v in event["headers"].items()}.get("content-type")
    reply = cloud.call(
        first,
        "POST",
        event["path"],
        body=sent,
        headers={"content-type": kind} if kind else {},
    )
    expected = expected_answers.stated()[name]
    assert (reply.status, reply.json()["type"]) == (expected["status"], expected["type"])


def test_there_and_back_again(cloud: Cloud, images: Images, first: dict[str, str]) -> None:
    """A new model version is a new function version; the old one stays; returning works."""
    before = predict(cloud, first)["model"]["version"]
    second = cloud.deploy(images.second, "second")
    assert second["FunctionName"] == first["FunctionName"]
    assert live(cloud, second) == second["LiveVersion"] == "2"
    assert predict(cloud, second)["model"]["version"] == NEXT
    assert versions(cloud, second) == ["1", "2"]

    cloud.client("lambda").update_alias(
        FunctionName=first["FunctionName"], Name="live", FunctionVersion="1"
    )
    assert predict(cloud, first)["model"]["version"] == before

    third = cloud.deploy(images.first, "first")
    assert live(cloud, third) == third["LiveVersion"] == "3"
    assert predict(cloud, third)["model"]["version"] == before
    assert versions(cloud, third) == ["1", "2", "3"]


def test_teardown_leaves_logs_and_versions(cloud: Cloud, images: Images) -> None:
    app = ["--app", "python -m tests.e2e.app", "--force", "-c", "stage=test"]
    app += ["-c", "rollout=all-at-once", "-c", "image_repository=answerable", "-c", "image_tag=x"]
    cloud.cdk("destroy", *app, "--output", str(images.first / "cdk.out"), tree=images.first)
    stacks = cloud.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])
    assert STACK not in [stack["StackName"] for stack in stacks["StackSummaries"]]
    groups = cloud.client("logs").describe_log_groups()["logGroups"]
    assert groups
    assert all(group.get("retentionInDays") for group in groups if STACK in group["logGroupName"])
