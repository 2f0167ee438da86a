"""Functions and the AWS services around them, in this process, for the tests of releases."""

import io
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.stub import Stubber

from handler import api, settings, way_back
from handler.manifest import SEAL
from handler.settings import Settings
from tests.events import Context

SHIPPED = settings.ARTIFACTS / "diabetes"
STACK = "answerable-diabetes-dev"
STACK_ARN = f"arn:aws:cloudformation:eu-west-1:123456789012:stack/{STACK}/1"
NAME, WORKER = "scoring", "worker"
DIGEST = "sha256:" + "a" * 64
IMAGE = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/some/repository@{DIGEST}"
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:scoring"
EVENT = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "e-1"}
Edit = Callable[[dict[str, Any]], None]


def artifact(directory: Path, edit: Edit | None = None, **fields: Any) -> Path:
    """The shipped artifact with another manifest."""
    shutil.copytree(SHIPPED, directory)
    path = directory / "manifest.json"
    manifest = {**json.loads(path.read_text()), **fields}
    if edit:
        edit(manifest)
    path.write_text(json.dumps(manifest))
    (directory / SEAL).unlink(missing_ok=True)
    return directory


class Lambda:
    """`lambda:Invoke` for versions that are artifacts, or functions of an event."""

    def __init__(self, versions: dict[str, Any], live: str = "1") -> None:
        self.handlers = {
            name: api.create(Settings(what, function_version=name))
            if isinstance(what, Path)
            else what
            for name, what in versions.items()
        }
        self.live = live
        self.asked: list[tuple[str, str]] = []

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        event, (function, qualifier) = json.loads(Payload), FunctionName.split(":")[-2:]
        version = self.live if qualifier == "live" else qualifier
        if function == WORKER:
            version = f"{WORKER}:{version}"
            self.asked.append((version, json.dumps(event)))
        else:
            self.asked.append((qualifier, f"{event['httpMethod']} {event['path']}"))
        try:
            answer = self.handlers[version](event, Context())
        except Exception as error:
            text = json.dumps({"errorMessage": str(error)}).encode()
            return {
                "Payload": io.BytesIO(text),
                "FunctionError": "Unhandled",
                "ExecutedVersion": version,
            }
        return {"Payload": io.BytesIO(json.dumps(answer).encode()), "ExecutedVersion": version}


class Account:
    """Version 3 is live, 1 to 3 are published; what is asked is stated call by call. The worker's
    version 8 goes with 2.
    """

    def __init__(self, group: bool = True, worker: bool = False, stack: bool = True) -> None:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        names = ("cloudformation", "lambda", "ecr", "codedeploy", "sns")
        self.clients = {n: boto3.client(n, region_name="eu-west-1", **keys) for n in names}
        self.stubs = {name: Stubber(client) for name, client in self.clients.items()}
        for stub in self.stubs.values():
            stub.activate()
        self.functions = Lambda(dict.fromkeys("123", SHIPPED))
        self.functions.handlers[f"{WORKER}:8"] = lambda *_: {"batchItemFailures": []}
        self.clients["lambda"].invoke = self.functions.invoke
        outputs = {"FunctionName": NAME, "LiveVersion": "3"}
        if worker:
            outputs["JobsWorkerName"] = WORKER
        if group:
            outputs |= {"Application": "app", "DeploymentGroup": "group"}
        told = {
            "StackName": STACK,
            "StackId": STACK_ARN,
            "CreationTime": "2026-01-01",
            "StackStatus": "UPDATE_COMPLETE",
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in outputs.items()],
        }
        if stack:
            self.answer("cloudformation", "describe_stacks", {"Stacks": [told]}, StackName=STACK)

    def answer(self, service: str, call: str, answer: Any, **expected: Any) -> None:
        self.stubs[service].add_response(call, answer, expected or None)

    def error(self, service: str, call: str, code: str) -> None:
        self.stubs[service].add_client_error(call, code)

    def versions(self, numbers: str = "123", function: str = NAME) -> None:
        versions = [{"Version": v, "Description": f"model {v}"} for v in ("$LATEST", *numbers)]
        self.answer(
            "lambda", "list_versions_by_function", {"Versions": versions}, FunctionName=function
        )

    def alias(
        self,
        version: str = "3",
        weights: dict[str, float] | None = None,
        function: str = NAME,
        note: str = "",
    ) -> None:
        answer: dict[str, Any] = {"FunctionVersion": version, "RevisionId": "revision-7"}
        answer["Description"] = note
        if weights:
            answer["RoutingConfig"] = {"AdditionalVersionWeights": weights}
        self.answer("lambda", "get_alias", answer, FunctionName=function, Name="live")

    def version(
        self,
        number: str = "2",
        state: str = "Active",
        image: str = IMAGE,
        function: str = NAME,
    ) -> None:
        arn = FUNCTION.replace(NAME, function)
        found = {"FunctionArn": f"{arn}:{number}", "State": state}
        answer = {"Configuration": found, "Code": {"ResolvedImageUri": image}}
        self.answer("lambda", "get_function", answer, FunctionName=function, Qualifier=number)

    def image(self, there: bool = True) -> None:
        self.answer(
            "ecr",
            "describe_images",
            {"imageDetails": [{"imageDigest": DIGEST}] if there else []},
            registryId="123456789012",
            repositoryName="some/repository",
            imageIds=[{"imageDigest": DIGEST}],
        )

    def deployments(self, *ids: str) -> None:
        self.answer(
            "codedeploy",
            "list_deployments",
            {"deployments": list(ids)},
            applicationName="app",
            deploymentGroupName="group",
            includeOnlyStatuses=way_back.RUNNING,
        )

    def history(self, *told: tuple[str, str, str]) -> None:
        """Deployments that succeeded, as (creator, from, to), the latest last."""
        ids = [f"d-{i}" for i in range(len(told))]
        self.answer(
            "codedeploy",
            "list_deployments",
            {"deployments": ids},
            applicationName="app",
            deploymentGroupName="group",
            includeOnlyStatuses=["Succeeded"],
        )
        infos = [
            {
                "createTime": datetime(2026, 1, 1 + i, tzinfo=UTC),
                "creator": creator,
                "revision": {
                    "revisionType": "AppSpecContent",
                    "appSpecContent": {
                        "content": json.dumps({"CurrentVersion": was, "TargetVersion": now})
                    },
                },
            }
            for i, (creator, was, now) in enumerate(told)
        ]
        if infos:
            answer = {"deploymentsInfo": infos}
            self.answer("codedeploy", "batch_get_deployments", answer, deploymentIds=ids)

    def moved(self, to: str = "2", function: str = NAME, note: Any = None) -> None:
        self.answer(
            "lambda",
            "update_alias",
            {"FunctionVersion": to},
            **({"Description": note} if note else {}),
            FunctionName=function,
            Name="live",
            FunctionVersion=to,
            RoutingConfig={"AdditionalVersionWeights": {}},
            RevisionId="revision-7",
        )

    def done(self) -> None:
        """Every call that was stated was made; a Stubber refuses every other."""
        for stub in self.stubs.values():
            stub.assert_no_pending_responses()
