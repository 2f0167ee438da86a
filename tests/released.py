"""Functions and the AWS services around them, in this process, for the tests of releases."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handler import api, settings
from handler.settings import Settings
from tests.events import Context

SHIPPED = settings.ARTIFACTS / "diabetes"
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
        event, qualifier = json.loads(Payload), FunctionName.rpartition(":")[2]
        version = self.live if qualifier == "live" else qualifier
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
