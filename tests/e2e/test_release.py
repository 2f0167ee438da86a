"""Releases and rollbacks through the deployed hooks; the test plays CodeDeploy's part."""

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from answerable import commands
from answerable.commands import release
from tests.e2e import emulator
from tests.e2e.emulator import ACCOUNT, REGION, ROOT, Tools
from tests.e2e.test_deploy import Cloud, account, bridge, live, predict

REPOSITORY = "answerable-release"
BAD = "1.2.0"


class CodeDeploy(ThreadingHTTPServer):
    """The calls of CodeDeploy's API that the functions make."""

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Door)
        self.url = f"http://{host}:{self.server_address[1]}"
        self.heard: list[str] = []
        self.current = "0"
        self.succeeded: list[tuple[str, str]] = []

    def answer(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        if call == "PutLifecycleEventHookExecutionStatus":
            self.heard.append(body["status"])
            return {"lifecycleEventHookExecutionId": body["lifecycleEventHookExecutionId"]}
        if call == "ListDeployments":
            wanted = "Succeeded" in body["includeOnlyStatuses"]
            return {"deployments": [f"d-{i}" for i in range(len(self.succeeded)) if wanted]}
        if call == "BatchGetDeployments":
            return {"deploymentsInfo": [_info(i, *v) for i, v in enumerate(self.succeeded)]}
        assert call == "GetDeployment", call
        return {"deploymentInfo": _info(0, self.current, "")}


def _info(number: int, before: str, after: str) -> dict[str, Any]:
    content = json.dumps({"CurrentVersion": before, "TargetVersion": after})
    start = datetime.now(UTC).timestamp() - 600 + number
    revision = {"revisionType": "String", "string": {"content": content}}
    return {"createTime": start, "revision": revision}


class Door(BaseHTTPRequestHandler):
    server: CodeDeploy

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = self.server.answer(self.headers["x-amz-target"].rpartition(".")[2], body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


class Releases(Cloud):
    """An account in which CloudFormation publishes versions and this moves the alias."""

    trees: dict[str, Path]
    codedeploy: CodeDeploy

    def publish(self, tag: str, *settings: str, at: str = "") -> dict[str, str]:
        """`cdk deploy` of an image, with the alias left where it is."""
        self.environment |= {"E2E_CODEDEPLOY": self.codedeploy.url, "E2E_LIVE": at}
        settings += ("auto_rollback_on=drift",)
        settings = ("stage=test", f"image_repository={REPOSITORY}", f"image_tag={tag}", *settings)
        context = [word for setting in settings for word in ("-c", setting)]
        tree = self.trees[tag]
        files = ["--output", str(tree / "cdk.out"), "--outputs-file", str(self.outputs)]
        app = ["--app", "python -m tests.e2e.release_app", "--require-approval", "never"]
        self.cdk("deploy", *app, *context, *files, tree=tree)
        (outputs,) = json.loads(self.outputs.read_text()).values()
        return dict(outputs)

    def hook(self, when: str) -> str:
        """Ask a hook as CodeDeploy does; what it called back with."""
        event = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": when}
        heard = len(self.codedeploy.heard)
        name = f"CodeDeployHook_diabetes-test_{when}"
        reply = self.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))
        assert "FunctionError" not in reply, reply["Payload"].read()
        (status,) = self.codedeploy.heard[heard:]
        return status

    def shift(self, outputs: dict[str, str], version: str) -> list[str]:
        """CodeDeploy's part: ask, move, ask again, and back if the answer is no."""
        self.codedeploy.current = live(self, outputs)
        told = [self.hook("before")]
        if told == ["Succeeded"]:
            self.point(outputs, version)
            told.append(self.hook("after"))
            if told[-1] == "Succeeded":
                self.codedeploy.succeeded.append((self.codedeploy.current, version))
            else:
                self.point(outputs, self.codedeploy.current)
        return told

    def ask(self, part: str, event: dict[str, Any]) -> dict[str, Any]:
        """Call one of the rollback functions as EventBridge does; its last log line."""
        functions = self.client("lambda")
        (name,) = [
            found["FunctionName"]
            for found in functions.list_functions()["Functions"]
            if f"Rollback{part}" in found["FunctionName"]
        ]
        reply = functions.invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail")
        assert "FunctionError" not in reply, reply["Payload"].read()
        log = base64.b64decode(reply["LogResult"]).decode().splitlines()
        (line,) = [
            line for line in log if '"message":"rollback check"' in line or "rollback" in line
        ]
        return dict(json.loads(line))

    def point(self, outputs: dict[str, str], version: str) -> None:
        function = outputs["FunctionName"]
        self.client("lambda").update_alias(
            FunctionName=function, Name="live", FunctionVersion=version
        )

    def release(self, *words: str) -> int:
        parser = argparse.ArgumentParser()
        release.add_arguments(parser)
        action, *more = words
        args = parser.parse_args([action, "test", *more, "--model", "diabetes"])
        services = {"codedeploy": self.codedeploy.url}
        return commands.run(
            "release", release.main, args, lambda name: self.client(name, services.get(name, ""))
        )


def in_alarm(version: str) -> dict[str, Any]:
    """What EventBridge sends when an output of a version drifts."""
    event: dict[str, Any] = json.loads((ROOT / "tests/fixtures/alarm.json").read_text())
    for query in event["detail"]["configuration"]["metrics"]:
        if "metricStat" in query:
            dimensions = query["metricStat"]["metric"]["dimensions"]
            dimensions["service"] = dimensions["service"].replace("-dev", "-test")
            dimensions["version"] = version
    return event


def build(answerable: Tools, directory: Path, version: str) -> Path:
    """A tree and an image with the model at a version; of BAD, a golden answer is a wrong one."""
    directory.mkdir()
    tree = emulator.tree(directory, version)
    if version == BAD:
        folder = tree / "model_artifacts/diabetes"
        golden, manifest = folder / "golden.jsonl", folder / "manifest.json"
        lines = [json.loads(line) for line in golden.read_text().splitlines()]
        lines[5]["prediction"]["progression"] += 1
        golden.write_text("".join(json.dumps(line) + "\n" for line in lines))
        content = json.loads(manifest.read_text())
        digest = hashlib.sha256(golden.read_bytes()).hexdigest()
        content["files"]["golden.jsonl"] = {"sha256": digest, "bytes": golden.stat().st_size}
        manifest.write_text(json.dumps(content))
    name = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}:{version}"
    subprocess.run(
        [sys.executable, "-m", "answerable", "image", "--tag", name],
        cwd=tree,
        env=emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base),
        check=True,
    )
    return tree


@pytest.fixture(scope="module")
def cloud(answerable: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    directory = tmp_path_factory.mktemp("releases")
    codedeploy = CodeDeploy(bridge(answerable))
    threading.Thread(target=codedeploy.serve_forever, daemon=True).start()
    with account(answerable, directory) as plain:
        cloud = Releases(answerable, plain.endpoint, plain.outputs)
        cloud.codedeploy = codedeploy
        versions = ("1.0.0", "1.1.0", BAD)
        cloud.trees = {v: build(answerable, directory / v, v) for v in versions}
        yield cloud
    codedeploy.shutdown()
    codedeploy.server_close()


def test_there_and_back_and_on(
    cloud: Releases, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", tree=cloud.trees["1.0.0"])
    outputs = cloud.publish("1.0.0")
    assert live(cloud, outputs) == "1"
    assert predict(cloud, outputs)["model"]["version"] == "1.0.0"

    # the second version, through the hooks
    second = cloud.publish("1.1.0", at="1")
    assert second == {**outputs, "LiveVersion": "2", "Settings": second["Settings"]}
    assert '"image_tag": "1.1.0"' in second["Settings"]
    assert live(cloud, outputs) == "1"
    assert cloud.shift(outputs, "2") == ["Succeeded", "Succeeded"]
    assert predict(cloud, outputs)["model"]["version"] == "1.1.0"

    # one with a wrong golden answer gets no traffic
    cloud.publish(BAD, at="2")
    assert cloud.shift(outputs, "3") == ["Failed"]
    assert live(cloud, outputs) == "2"

    # the probe knows which version was live before, and that its image is not in ECR yet
    scheduled = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}
    found = cloud.ask("Probe", scheduled)
    assert (found["RollbackUnavailable"], found["steps"]) == (
        1,
        ["the stack has version 3", "version 2 is live; before it was 1"],
    )
    assert "its image is gone" in found["reason"]

    # back to the first, which has its image and proves itself
    assert cloud.release("rollback", "1") == 1  # nothing is in ECR yet
    assert "its image is gone" in capsys.readouterr().err
    ecr = cloud.client("ecr")
    ecr.create_repository(repositoryName=REPOSITORY)
    for version in cloud.trees:
        ecr.put_image(repositoryName=REPOSITORY, imageTag=version, imageManifest=version)
    found = cloud.ask("Probe", scheduled)
    assert found["RollbackUnavailable"] == 0
    assert "29 golden rows answered as packed" in found["steps"][-1]
    assert cloud.release("rollback", "3") == 1
    assert "version 3 is not what it was" in capsys.readouterr().err
    assert cloud.release("rollback") == 0
    assert "29 golden rows answered as packed" in capsys.readouterr().out
    assert live(cloud, outputs) == "1"
    assert predict(cloud, outputs)["model"]["version"] == "1.0.0"
    assert cloud.release("rollback", "1") == 0  # again is no harm
    assert cloud.release("rollback", "9") == 1
    assert "version 9 is gone" in capsys.readouterr().err

    # the stack is pinned, and the next version goes on top of it
    cloud.publish("1.1.0", "pinned_version=1")
    assert live(cloud, outputs) == "1"
    latest = cloud.publish("1.1.0", at="1")["LiveVersion"]
    assert cloud.shift(outputs, latest) == ["Succeeded", "Succeeded"]
    assert live(cloud, outputs) == latest
    assert predict(cloud, outputs)["model"]["version"] == "1.1.0"

    # its outputs drift: back to what was live before it, which is not the number before it
    alarm = in_alarm(latest)
    assert "-c pinned_version=1" in cloud.ask("OnAlarm", alarm)["steps"][-1]
    assert live(cloud, outputs) == "1"
    assert predict(cloud, outputs)["model"]["version"] == "1.0.0"
    assert cloud.ask("OnAlarm", alarm)["steps"] == [
        f"stopped: the alarm is about version {latest}, and 1 is live"
    ]

    # and on: the same image goes on top, and for a day it is a person's to take it back
    cloud.publish("1.1.0", at="1")
    assert cloud.shift(outputs, latest) == ["Succeeded", "Succeeded"]
    assert "already; roll back by hand" in cloud.ask("OnAlarm", alarm)["steps"][-1]
    assert live(cloud, outputs) == latest

    # old versions go, and those that may be needed stay
    assert cloud.release("prune", "--keep", "1") == 0
    told = capsys.readouterr().out
    assert "delete version 2 of" in told
    assert cloud.release("rollback", "1", "--dry-run") == 0
    assert cloud.release("rollback", "2", "--dry-run") == 1
    assert cloud.ask("Probe", scheduled)["RollbackUnavailable"] == 0


def test_a_revision_id_that_is_not_the_alias_s_is_refused(cloud: Releases) -> None:
    """That the emulator keeps AWS's promise, on which the rollback's own check stands."""
    functions = cloud.client("lambda")
    (function,) = [
        item["FunctionName"]
        for item in functions.list_functions()["Functions"]
        if "Scoring" in item["FunctionName"]
    ]
    with pytest.raises(functions.exceptions.PreconditionFailedException):
        functions.update_alias(FunctionName=function, Name="live", RevisionId="another")
