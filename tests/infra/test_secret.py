"""The secret of the prediction ids: who makes it, who has it, and what a new one changes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from infra import secret
from tests.infra.conftest import Synth, Template
from tests.infra.test_security import allowed

DOORS = ("handler.function.lambda_handler", "handler.jobs.function.lambda_handler")


def sealed_with(template: Template, door: str = DOORS[0]) -> Any:
    return template.function(door)["Environment"]["Variables"]["PREDICTION_ID_SECRET"]


def test_every_function_has_the_same_secret_and_the_template_has_none(synth: Synth) -> None:
    template = synth.template("jobs=true")
    (key,) = template.all("Custom::Secret")
    assert [sealed_with(template, door) for door in DOORS] == [{"Fn::GetAtt": [key, "Value"]}] * 2
    holders = [
        name
        for name, function in template.all("AWS::Lambda::Function").items()
        if key in json.dumps(function["Properties"])
    ]
    assert len(holders) == 2
    assert key not in json.dumps(template.body["Outputs"])


def test_a_new_one_is_a_new_version_which_knows_the_one_before(
    synth: Synth, template: Template
) -> None:
    (first,) = template.all("Custom::Secret")
    again = synth.template("prediction_id_key_version=2")
    assert set(again.all("Custom::Secret")) > {first}
    new, space, old = sealed_with(again)["Fn::Join"][1]
    assert (old, space) == ({"Fn::GetAtt": [first, "Value"]}, " ")
    assert new["Fn::GetAtt"][0] != first
    versions = [set(found.all("AWS::Lambda::Version")) for found in (template, again)]
    assert not versions[0] & versions[1]
    assert first not in synth.template("prediction_id_key_version=3").all("Custom::Secret")


class Ssm:
    """Parameters, by name; PutParameter overwrites none."""

    class exceptions:  # noqa: N801
        ParameterAlreadyExists = type("ParameterAlreadyExists", (Exception,), {})
        ParameterNotFound = type("ParameterNotFound", (Exception,), {})

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def put_parameter(self, Name: str, Type: str, Value: str) -> None:
        assert Type == "SecureString"
        if Name in self.values:
            raise self.exceptions.ParameterAlreadyExists
        self.values[Name] = Value

    def get_parameter(self, Name: str, WithDecryption: bool) -> dict[str, dict[str, str]]:
        assert WithDecryption
        return {"Parameter": {"Value": self.values[Name]}}

    def delete_parameter(self, Name: str) -> None:
        if Name not in self.values:
            raise self.exceptions.ParameterNotFound
        del self.values[Name]


class Maker:
    """The custom resource's function and its answers to CloudFormation: (path, type, body)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ssm = Ssm()
        self.answers: list[tuple[str, str, dict[str, Any]]] = []
        monkeypatch.setattr("boto3.client", {"ssm": self.ssm}.__getitem__)
        self.code: dict[str, Any] = {}
        exec(secret.CODE, self.code)

    def __call__(self, *types: str, key: int = 1) -> list[dict[str, Any]]:
        answers = self.answers

        class Bucket(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answers.append((self.path, self.headers["content-type"], json.loads(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        with HTTPServer(("127.0.0.1", 0), Bucket) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/signed?x=1"
            properties = {"Parameter": f"/a/{key}"}
            event = {**REQUEST, "ResponseURL": url, "ResourceProperties": properties}
            for request_type in types:
                self.code["handler"]({**event, "RequestType": request_type}, None)
            server.shutdown()
        return [body for _, _, body in answers[-len(types) :]]


REQUEST = {"StackId": "s", "RequestId": "r", "LogicalResourceId": "Key1"}


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch, socket_enabled: None) -> Maker:
    return Maker(monkeypatch)


def test_the_maker_answers_cloudformation_and_logs_nothing(
    maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    (body,) = maker("Create")
    assert len(body["Data"].pop("Value")) >= 43  # 256 bits
    answer = REQUEST | {"PhysicalResourceId": "Key1", "Status": "SUCCESS"}
    assert body == answer | {"NoEcho": True, "Data": {}}
    assert maker.answers[0][:2] == ("/signed?x=1", "")  # the signature has no content type
    assert "".join(capsys.readouterr()) == ""


def test_an_update_returns_the_same_secret(maker: Maker) -> None:
    values = {body["Data"]["Value"] for body in maker("Create", "Update", "Create", "Update")}
    assert len(values) == 1
    (other,) = maker("Create", key=2)
    assert other["Data"]["Value"] not in values


def test_a_deleted_secret_is_gone_and_deleting_again_is_no_failure(maker: Maker) -> None:
    (first, *deleted, second) = maker("Create", "Delete", "Delete", "Create")
    assert [body["Status"] for body in deleted] == ["SUCCESS", "SUCCESS"]
    assert first["Data"] != second["Data"]


def test_a_failure_is_answered_without_its_message(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker.ssm, "put_parameter", lambda **more: 1 / 0)
    (body,) = maker("Create")
    assert (body["Status"], body["Reason"]) == ("FAILED", "ZeroDivisionError")
    assert "Data" not in body


def test_the_maker_may_use_its_own_parameters_only(synth: Synth) -> None:
    may = allowed(synth.template("prediction_id_key_version=2"), "SecretRole")
    actions = {f"ssm:{verb}Parameter" for verb in ("Get", "Put", "Delete")}
    assert may.keys() == actions | {"logs:CreateLogStream", "logs:PutLogEvents"}
    assert "parameter/answerable/diabetes-dev/prediction-id-secret-" in may["ssm:GetParameter"]
    assert "*" not in may["ssm:GetParameter"]
