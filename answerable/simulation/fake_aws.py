"""Stand in for AWS around two versions of a function, in this process.

Covers what the hooks call of Lambda, CodeDeploy and CloudWatch, and the gateway that clients call.
"""

import contextlib
import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from answerable.commands import report
from answerable.local import event_sources
from answerable.local.event_sources import HttpRequest
from answerable.local.local_lambda import Context
from answerable.simulation import cloudwatch
from answerable.simulation.plan import CANDIDATE, CURRENT, Plan
from answerable.simulation.versions import NO_FAULT, Fault
from handler import app, scoring
from handler import manifest as manifests
from handler.drift import monitor
from handler.drift.counts import Counts
from handler.drift.monitor import HOUR_MS
from handler.drift.targets import fingerprint, targets
from handler.release import version_client
from handler.release.deploy_hooks import HookRun
from handler.settings import Settings

FUNCTION = f"arn:aws:lambda:{event_sources.REGION}:{event_sources.ACCOUNT}:function:simulated"
JSON = [("content-type", "application/json")]


class FakeAws:
    """Two versions of one function, from `artifacts` by number, and the metrics that they emit."""

    def __init__(self, plan: Plan, artifacts: Mapping[str, Path], fault: Fault = NO_FAULT) -> None:
        self._out = io.StringIO()
        self._fault = fault
        self.handlers: dict[str, app.Handler] = {}
        for version, folder in artifacts.items():
            session = (fault if version == CANDIDATE else NO_FAULT).session
            settings = Settings(folder, service=plan.service, function_version=version)
            with contextlib.redirect_stdout(self._out), patch.object(scoring, "Session", session):
                self.handlers[version] = app.create(settings)
        self.metrics = cloudwatch.Metrics()
        self._manifests = {v: manifests.read(folder) for v, folder in artifacts.items()}
        self._by_fingerprint = {fingerprint(m): m for m in self._manifests.values()}
        self._counts: dict[tuple[str, int], Counts] = {}  # by fingerprint and hour
        self._history: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        keys = {key for alarm in plan.alarms for key in cloudwatch.keys(alarm.properties)}
        self._keys = {key: dict(key[2]) for key in keys if key[0].startswith("AWS/")}
        self._plan = plan

    def send(
        self, version: str, path: str, body: bytes, request_id: str, sent_at: int
    ) -> tuple[int, bytes]:
        """Return status and body of a client's request at a time (ms); 502 if the function crashes.

        Adds the record's metrics, and AWS's own metrics that the template's alarms read.
        """
        if version == CANDIDATE and path == "/predict":
            body = self._fault.alter(body)
        event = event_sources.make_event("rest", HttpRequest("POST", path, JSON, body), request_id)
        start = time.perf_counter()
        try:
            status, _, reply = event_sources.parse_response(self._call(version, event))
        except Exception:
            status, reply = 502, b""
        ms = (time.perf_counter() - start) * 1e3
        for record in report.parsed([self._out.getvalue()]):
            if "_aws" in record:
                self.metrics.add(record, sent_at)
            if "bins" in record:
                mark = record["model"]["fingerprint"]
                counts = Counts(targets(self._by_fingerprint[mark]))
                hour = mark, sent_at // HOUR_MS * HOUR_MS
                self._counts.setdefault(hour, counts).add_bins(record)
        aws = {
            "Invocations": 1, "Errors": int(status == 502), "Throttles": 0,
            "Count": 1, "4XXError": int(400 <= status < 500), "5XXError": int(status >= 500),
            "Latency": ms,
        }  # fmt: skip
        # as an HTTP API and a function's URL name them
        aws |= {"4xx": aws["4XXError"], "5xx": aws["5XXError"], "UrlRequestCount": 1}
        aws |= {"Url4xxCount": aws["4xx"], "Url5xxCount": aws["5xx"], "UrlRequestLatency": ms}
        function = {"FunctionName": self._plan.function, "ExecutedVersion": version}
        for key, dimensions in self._keys.items():
            if key[1] in aws and all(dimensions.get(k, v) == v for k, v in function.items()):
                self.metrics.add_value(key, sent_at, aws[key[1]])
        return status, reply

    def _call(self, version: str, event: Any) -> Any:
        self._out.seek(0)
        self._out.truncate()
        with contextlib.redirect_stdout(self._out):
            return self.handlers[version](event, Context(30.0))

    def run_monitor(self, live: str, now: int) -> None:
        """Run the drift monitor about the last full hour of the live version; keep its metrics."""
        manifest, period = self._manifests[live], (now // HOUR_MS - 1) * HOUR_MS
        mark = fingerprint(manifest)
        history = self._history[mark]
        counts = self._counts.pop((mark, period), Counts(targets(manifest)))
        history[period] = {**counts.as_fields(), "period": period}
        line = {"service": self._plan.service, "timestamp": now}
        if fields := monitor.metric_fields(line, monitor.decide(manifest, history, period)):
            self.metrics.add(line | fields, now)

    def run_hook(self, checks: Callable[[HookRun], None]) -> list[str]:
        """Return the reasons of a hook's checks against the candidate."""
        target = version_client.VersionClient(self, f"{FUNCTION}:{CANDIDATE}")
        revision = json.dumps({"CurrentVersion": CURRENT, "TargetVersion": CANDIDATE})
        hook = HookRun(
            client=lambda service: self,
            environ=self._plan.environ,
            manifest=self._manifests[CANDIDATE],
            deployment={"startTime": datetime.now(UTC), "revision": revision},
            target=target,
            live=target.sibling(CURRENT),
            reasons=[],
            facts={},
        )
        checks(hook)
        return hook.reasons

    def invoke(self, **kwargs: Any) -> dict[str, Any]:
        """Stand in for `lambda:Invoke` of one version."""
        version = kwargs["FunctionName"].rpartition(":")[2]
        error: dict[str, Any] = {}
        try:
            reply = self._call(version, json.loads(kwargs["Payload"]))
        except Exception as exception:
            reply = {"errorMessage": type(exception).__name__}
            error = {"FunctionError": "Unhandled"}
        payload = io.BytesIO(json.dumps(reply).encode())
        return {**error, "ExecutedVersion": version, "Payload": payload}

    def get_paginator(self, name: str) -> "FakeAws":
        """Stand in for the paginator of `cloudwatch:GetMetricData`."""
        return self

    def paginate(self, **kwargs: Any) -> list[dict[str, Any]]:
        """Return each metric's statistic since the release began."""
        stats = [query["MetricStat"] for query in kwargs["MetricDataQueries"]]
        keys = [(cloudwatch.key(stat["Metric"]), stat["Stat"]) for stat in stats]
        values = [self.metrics.statistic(key, stat, 0, 1 << 62) for key, stat in keys]
        return [{"MetricDataResults": [{"Values": [value or 0.0]} for value in values]}]
