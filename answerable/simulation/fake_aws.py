"""The services around two versions, in this process: Lambda, CodeDeploy and CloudWatch, as far as
the hooks ask them, and the gateway that clients call.
"""

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from answerable.commands import report
from answerable.local import event_sources
from answerable.local.event_sources import HttpRequest
from answerable.local.local_lambda import Context
from answerable.simulation import cloudwatch
from answerable.simulation.plan import NEW, OLD, Plan
from handler import manifest as manifests
from handler.release import version_client
from handler.release.deploy_hooks import HookRun
from handler.settings import Settings

FUNCTION = f"arn:aws:lambda:{event_sources.REGION}:{event_sources.ACCOUNT}:function:rehearsed"
JSON = [("content-type", "application/json")]


class FakeAws:
    """Two versions of one function, `artifacts` by number, and the metrics that they leave."""

    def __init__(self, plan: Plan, artifacts: Mapping[str, Path]) -> None:
        self._out = io.StringIO()
        with contextlib.redirect_stdout(self._out):
            from handler import app  # loads a model, too

            self.handlers = {
                version: app.create(
                    Settings(folder, service=plan.service, function_version=version)
                )
                for version, folder in artifacts.items()
            }
        self.metrics = cloudwatch.Metrics()
        keys = {key for alarm in plan.alarms for key in cloudwatch.keys(alarm.properties)}
        self._keys = {key: dict(key[2]) for key in keys if key[0].startswith("AWS/")}
        self._plan, self._new = plan, artifacts[NEW]

    def send(
        self, version: str, path: str, body: bytes, request_id: str, at: int
    ) -> tuple[int, bytes]:
        """Status and body that a client gets at a moment (ms): 502 of a function that crashed.

        The metrics are those of the record, and what the template's alarms read of AWS's own.
        """
        event = event_sources.make_event("rest", HttpRequest("POST", path, JSON, body), request_id)
        start = time.perf_counter()
        try:
            status, _, found = event_sources.parse_response(self._call(version, event))
        except Exception:
            status, found = 502, b""
        ms = (time.perf_counter() - start) * 1e3
        for record in report.parsed([self._out.getvalue()]):
            if "_aws" in record:
                self.metrics.add(record, at)
        told = {
            "Invocations": 1, "Errors": int(status == 502), "Throttles": 0,
            "Count": 1, "4XXError": int(400 <= status < 500), "5XXError": int(status >= 500),
            "Latency": ms,
        }  # fmt: skip
        ours = {"FunctionName": self._plan.function, "ExecutedVersion": version}
        for key, named in self._keys.items():
            if key[1] in told and all(named.get(k, v) == v for k, v in ours.items()):
                self.metrics.put(key, at, told[key[1]])
        return status, found

    def _call(self, version: str, event: Any) -> Any:
        self._out.seek(0)
        self._out.truncate()
        with contextlib.redirect_stdout(self._out):
            return self.handlers[version](event, Context(30.0))

    def against(self, question: Callable[[HookRun], None]) -> list[str]:
        """The reasons that a hook, `prove` or `judge`, has against the new version."""
        target = version_client.VersionClient(self, f"{FUNCTION}:{NEW}")
        gate = HookRun(
            client=lambda service: self,
            environ=self._plan.environ,
            manifest=manifests.read(self._new),
            deployment="rehearsed",
            target=target,
            live=target.sibling(OLD),
            reasons=[],
            facts={},
        )
        question(gate)
        return gate.reasons

    def invoke(self, **asked: Any) -> dict[str, Any]:
        """`lambda:Invoke` of one version."""
        version = asked["FunctionName"].rpartition(":")[2]
        told: dict[str, Any] = {"ExecutedVersion": version}
        try:
            answer = self._call(version, json.loads(asked["Payload"]))
        except Exception as error:
            answer, told["FunctionError"] = {"errorMessage": type(error).__name__}, "Unhandled"
        return {**told, "Payload": io.BytesIO(json.dumps(answer).encode())}

    def get_deployment(self, **asked: Any) -> dict[str, Any]:
        """`codedeploy:GetDeployment`."""
        revision = json.dumps({"CurrentVersion": OLD, "TargetVersion": NEW})
        return {"deploymentInfo": {"startTime": datetime.now(UTC), "revision": revision}}

    def get_paginator(self, name: str) -> "FakeAws":
        """Of `cloudwatch:GetMetricData`, the only thing that is asked for in pages."""
        return self

    def paginate(self, **asked: Any) -> list[dict[str, Any]]:
        """All that was counted of each metric since the release began."""
        stats = [query["MetricStat"] for query in asked["MetricDataQueries"]]
        keys = [(cloudwatch.key(stat["Metric"]), stat["Stat"]) for stat in stats]
        found = [self.metrics.statistic(key, stat, 0, 1 << 62) for key, stat in keys]
        return [{"MetricDataResults": [{"Values": [value or 0.0]} for value in found]}]
