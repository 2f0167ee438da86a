"""Run the drift monitor's decision over the records of a simulation."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from answerable.simulation.cloudwatch import Metrics
from handler.drift import monitor
from handler.drift.counts import Counts
from handler.drift.monitor import HOUR_MS
from handler.drift.targets import fingerprint, targets
from handler.manifest import Manifest

RUN_MINUTE = 10  # of an hour, as infra/drift.py schedules it


class SimulatedMonitor:
    """The monitor of one service, with the `manifests` by version."""

    def __init__(self, service: str, manifests: Mapping[str, Manifest]) -> None:
        self._service, self._manifests = service, manifests
        self._versions = {fingerprint(m): version for version, m in manifests.items()}
        self._counts: dict[tuple[str, int], Counts] = {}
        self._history: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)

    def add(self, record: Mapping[str, Any], sent_at: int) -> None:
        """Count a record at a time (ms) if it has bins."""
        if "bins" in record:
            mark = record["model"]["fingerprint"]
            manifest = self._manifests[self._versions[mark]]
            key = mark, sent_at // HOUR_MS * HOUR_MS
            self._counts.setdefault(key, Counts(targets(manifest))).add_bins(record)

    def run(self, live: str, now: int, sink: Metrics) -> None:
        """Decide about the last full hour of the live version's model; write the metrics."""
        manifest, period = self._manifests[live], (now // HOUR_MS - 1) * HOUR_MS
        mark = fingerprint(manifest)
        history = self._history[mark]
        counts = self._counts.pop((mark, period), Counts(targets(manifest)))
        history[period] = {**counts.as_fields(), "period": period}
        line = {"service": self._service, "timestamp": now}
        fields = monitor.metric_fields(line, monitor.decide(manifest, history, period))
        if fields:
            sink.add(line | fields, now)
