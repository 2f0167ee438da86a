"""The typed client that docs/how-to/call-the-api.md generates, against the handler."""

import hashlib
import hmac
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from answerable.local import event_sources
from answerable.local.event_sources import HttpRequest
from handler import app
from handler.settings import Settings
from tests.fixtures import artifact
from tests.fixtures.events import Context
from tests.fixtures.server import ROOT

PAGE = ROOT / "docs/how-to/call-the-api.md"
KEY, SECRET, REGION = "AKIDEXAMPLE", "the-secret-key", "eu-west-1"


class Api:
    """A model's generated client over its handler, without a socket."""

    def __init__(self, directory: Path, folder: Path) -> None:
        config = folder / "config.yml"
        config.write_text("post_hooks: []")
        command = ["generate", "--meta", "none", "--config", str(config)]
        command += ["--path", str(directory / "openapi.json")]
        command += ["--output-path", str(folder / directory.name)]
        run = subprocess.run(
            [sys.executable, "-m", "openapi_python_client", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        self.said = run.stdout + run.stderr
        self.document = json.loads((directory / "openapi.json").read_text())
        self.name = directory.name
        self.handler = app.create(Settings(directory))
        self.requests: list[httpx.Request] = []

    def module(self, name: str) -> ModuleType:
        return import_module(f"{self.name}.{name}")

    def client(self, base_url: str = "https://api.example.org/dev", **options: Any) -> Any:
        transport = {"transport": httpx.MockTransport(self._answer)}
        options["httpx_args"] = options.get("httpx_args", {}) | transport
        return self.module("client").Client(base_url=base_url, **options)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path.removeprefix("/dev")
        sent = HttpRequest(request.method, path, [*request.headers.items()], request.read())
        event = event_sources.make_event("rest", sent, "1")
        response = self.handler(event, Context())
        return httpx.Response(
            response["statusCode"], headers=response["headers"], content=response["body"]
        )


@pytest.fixture(scope="module", params=["diabetes", "classifier"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("clients")
    directory = artifact.DIABETES
    if request.param == "classifier":  # numbers as categories, a name that is no identifier
        directory = artifact.classifier(folder / "artifacts/classifier")
    sys.path.insert(0, str(folder))
    yield Api(directory, folder)
    sys.path.remove(str(folder))


def example(api: Api) -> Any:
    operation = api.document["paths"]["/predict"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["example"]
    return api.module("models").Instances.from_dict(body)


def test_typed_client_has_every_operation_and_schema(api: Api) -> None:
    assert "Endpoint will not be generated" not in api.said
    assert "Unable to process schema" not in api.said
    models = api.module("models")
    for name in api.document["components"]["schemas"].keys() - {"Invocation"}:  # a union
        assert hasattr(models, name), name


def test_typed_client_predicts_reports_outcomes_and_reads_problems(api: Api) -> None:
    client, models = api.client(raise_on_unexpected_status=True), api.module("models")
    predict, feedback = (api.module(f"api.scoring.{name}") for name in ("predict", "feedback"))
    (prediction,) = predict.sync(client=client, body=example(api)).predictions
    outcome = {"prediction_id": prediction.id, "actual": 1}
    for value in (2, 3):  # the second replaces the first
        body = models.Outcomes.from_dict({"outcomes": [outcome | {"value": value}]})
        accepted = feedback.sync(client=client, body=body)
        assert isinstance(accepted, models.AcceptedOutcomes)
    assert (accepted.accepted, accepted.corrected) == (1, 1)
    refused = predict.sync(client=client, body=models.Instances(instances=[]))
    assert isinstance(refused, models.Problem)
    assert (refused.status, refused.errors[0].pointer) == (422, "/instances")


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_api_key_of_the_docs_is_sent(api: Api) -> None:
    (code,) = [text for text in snippets() if "x-api-key" in text]
    names: dict[str, Any] = {"Client": api.client, "url": "https://api.example.org/dev", "key": "k"}
    exec(code, names)
    api.module("api.scoring.predict").sync(client=names["client"], body=example(api))
    assert api.requests[-1].headers["x-api-key"] == "k"


def test_signature_of_the_docs_verifies(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is computed again from the request that arrived (Signature Version 4)."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    (code,) = [text for text in snippets() if "SigV4Auth" in text]
    names: dict[str, Any] = {"Client": api.client, "url": "https://api.example.org/dev"}
    exec(code, names)
    api.module("api.scoring.predict").sync(client=names["client"], body=example(api))
    request = api.requests[-1]
    header = request.headers["authorization"]
    pattern = r"AWS4-HMAC-SHA256 Credential=(\S+?)/(\S+), SignedHeaders=(\S+), Signature=(\w+)"
    match = re.fullmatch(pattern, header)
    assert match
    key_id, scope, signed, signature = match.groups()
    date, region, service, end = scope.split("/")
    assert (key_id, region, service, end) == (KEY, REGION, "execute-api", "aws4_request")
    assert {"host", "content-type", "x-amz-date", "x-amz-security-token"} <= {*signed.split(";")}
    headers = "".join(f"{name}:{request.headers[name]}\n" for name in signed.split(";"))
    digest = hashlib.sha256(request.content).hexdigest()
    canonical = "\n".join([request.method, request.url.path, "", headers, signed, digest])
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashed])
    secret = f"AWS4{SECRET}".encode()
    for part in (date, region, service, end, text):
        secret = hmac.digest(secret, part.encode(), "sha256")
    assert secret.hex() == signature
