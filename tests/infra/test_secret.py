"""The secret of the prediction ids: who makes it, who has it, and what a new one changes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from infra import secret
from tests.infra.conftest import Synth, Template

DOORS = ("handler.function.lambda_handler", "handler.jobs.function.lambda_handler")


def sealed_with(template: Template, door: str = DOORS[0]) -> Any:
    return template.function(door)["Environment"]["Variables"]["PREDICTION_ID_SECRET"]


def test_every_door_has_the_same_and_nobody_reads_it_in_the_template(synth: Synth) -> None:
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


def test_the_maker_tells_cloudformation_and_nobody_else(
    template: Template, capsys: pytest.CaptureFixture[str], socket_enabled: None
) -> None:
    told: list[tuple[str, str, dict[str, Any]]] = []

    class Bucket(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append((self.path, self.headers["content-type"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    code: dict[str, Any] = {}
    exec(secret.CODE, code)
    with HTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = {"StackId": "s", "RequestId": "r", "LogicalResourceId": "Key1"}
        url = f"http://127.0.0.1:{server.server_port}/signed?x=1"
        for _ in range(2):
            code["handler"]({**asked, "RequestType": "Create", "ResponseURL": url}, None)
        server.shutdown()
    values = {body["Data"].pop("Value") for _, _, body in told}
    assert len(values) == 2
    assert min(map(len, values)) >= 43  # 256 bits
    answer = asked | {"PhysicalResourceId": "Key1", "Status": "SUCCESS", "NoEcho": True, "Data": {}}
    assert told[0] == ("/signed?x=1", "", answer)  # the signature has no content type
    assert "".join(capsys.readouterr()) == ""
