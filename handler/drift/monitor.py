"""The drift monitor: `handler.drift.monitor.on_schedule`, an hourly function of the image.

    schedule ─ the live version's manifest ─ records of the last hour ─ bin counts ─ own record
             ─ sum of own records ─ decision ─ metrics of the alarms, message on their topic

A period is an hour, named by its start. Its record goes to the function's own log group, where
`answerable report` finds months of them. A period that has a record is left alone, so repeated and
late runs change nothing.

Records are counted by the fingerprint of the live model, whichever function or version wrote them.
So a window survives deployments, pins and rollbacks of the same model.

The records of a period are sampled: each log group is read in slices of five minutes, and of each
slice the first MAX_SLICE_RECORDS records are counted.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from handler import manifest as manifests
from handler import metrics
from handler.drift.counts import Counts
from handler.drift.decision import LOOKS_A_MONTH, Decision
from handler.drift.targets import fingerprint, targets
from handler.manifest import Manifest
from handler.release.deploy_hooks import client
from handler.release.rollback import ALIAS
from handler.release.version_client import VersionClient

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

MESSAGE = "drift"
HOUR_MS, SLICE_MS = 3_600_000, 300_000
MAX_SLICE_RECORDS, MAX_SLICE_PAGES = 1000, 20  # pages may be empty
WEEK_HOURS = 168
WEEK_BELOW_ROWS = 1000  # in a day: with less traffic, a week is decided on as well
LOOKS = 2 * LOOKS_A_MONTH  # on a day and on a week
QUIET_HOURS = 24  # after a message about a target
MAX_NAMES = 20  # in a message
RUNBOOK = "docs/runbook.md"
Record = dict[str, Any]


class Live(NamedTuple):
    """The live version of the API, and its manifest."""

    version: str
    manifest: Manifest


def on_schedule(event: Any, context: "LambdaContext") -> None:
    """Lambda entry point. An exception is retried by Lambda, and is what the silence alarm sees."""
    period = period_before(event["time"])
    live = _live(client("lambda"), os.environ["FUNCTION_NAME"])
    logs, own_group = client("logs"), os.environ["MONITOR_LOG_GROUP"]
    mark = fingerprint(live.manifest)
    oldest = period - (WEEK_HOURS - 1) * HOUR_MS
    history = {
        record["period"]: record
        for record in parse(_messages(logs, own_group, mark, oldest))
        if record.get("message") == MESSAGE and record.get("fingerprint") == mark
    }
    if period in history:
        return
    counts, complete = Counts(targets(live.manifest)), True
    for group in os.environ["RECORD_LOG_GROUPS"].split(","):
        complete &= add_sample(counts, logs, group, mark, period)
    record = {"fingerprint": mark, "period": period, **counts.as_fields()}
    decision = decide(live.manifest, history | {period: record}, period)
    line = metrics.log_line(
        "WARNING" if any(decision) else "INFO",
        MESSAGE,
        service=os.environ["SERVICE_NAME"],
        version=live.version,
        model={"name": live.manifest.name, "version": live.manifest.version},
        **record,
        **({} if complete else {"sampled": True}),
        **_decision_fields(decision),
    )
    if text := message(live, decision, history, period):
        subject = f"{line['service']}: drift"
        topic = os.environ["TOPIC_ARN"]
        client("sns").publish(TopicArn=topic, Subject=subject[:100], Message=text)
    metrics.write(line | metric_fields(line, decision))


def period_before(moment: str) -> int:
    """Return the start (ms) of the last full hour before an ISO time."""
    hour = int(datetime.fromisoformat(moment).timestamp() * 1000) // HOUR_MS
    return (hour - 1) * HOUR_MS


def _live(functions: Any, name: str) -> Live:
    """Return the version that the alias names, which a canary does not change."""
    alias = functions.get_alias(FunctionName=name, Name=ALIAS)
    version = alias["FunctionVersion"]
    reply = VersionClient(functions, alias["AliasArn"]).sibling(version).call("GET", "/manifest")
    if reply.status != 200:
        raise RuntimeError(f"version {version} does not answer: {reply.status}")
    return Live(version, manifests.parse(reply.body))


def add_sample(counts: Counts, logs: Any, group: str, mark: str, period: int) -> bool:
    """Add a sample of a period's records; return whether it is all of them."""
    complete = True
    for start in range(period, period + HOUR_MS, SLICE_MS):
        messages = _messages(logs, group, mark, start, start + SLICE_MS - 1)
        records = [r for r in islice(parse(messages), MAX_SLICE_RECORDS + 1) if _has_mark(r, mark)]
        for record in records[:MAX_SLICE_RECORDS]:
            counts.add_bins(record)
        complete &= len(records) <= MAX_SLICE_RECORDS
    return complete


def _has_mark(record: Record, mark: str) -> bool:
    model = record.get("model")
    return isinstance(model, dict) and model.get("fingerprint") == mark


def _messages(
    logs: Any, group: str, words: str, start: int, end: int | None = None
) -> Iterator[str]:
    """Yield the log events with the words from one time (ms) to another, or until now."""
    until = {} if end is None else {"endTime": end}
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=group, filterPattern=f'"{words}"', startTime=start, **until
    )
    for page in islice(pages, None if end is None else MAX_SLICE_PAGES):
        yield from (event["message"] for event in page["events"])


def parse(messages: Iterable[str]) -> Iterator[Record]:
    """Yield the JSON objects among log events."""
    for text in messages:
        try:
            record = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def decide(manifest: Manifest, history: Mapping[int, Record], period: int) -> Decision:
    """Return what has drifted at the end of a period, in the last `drift_hours` or in a week."""
    day = _sum(manifest, history, period, manifest.alarms.drift_hours)
    decision = day.decide(manifest.alarms, LOOKS)
    if day.rows >= WEEK_BELOW_ROWS:
        return decision
    week = _sum(manifest, history, period, WEEK_HOURS).decide(manifest.alarms, LOOKS)
    inputs, outputs = (
        first + tuple(d for d in second if d.name not in {f.name for f in first})
        for first, second in ((decision.inputs, week.inputs), (decision.outputs, week.outputs))
    )
    return decision._replace(inputs=inputs, outputs=outputs)


def _sum(manifest: Manifest, history: Mapping[int, Record], period: int, hours: int) -> Counts:
    counts = Counts(targets(manifest))
    for start, record in history.items():
        if period - hours * HOUR_MS < start <= period:
            counts.add_counts(record)
    return counts


def _decision_fields(decision: Decision) -> Record:
    fields = {
        "drifted_outputs": [drifted._asdict() for drifted in decision.outputs],
        "drifted_inputs": [drifted._asdict() for drifted in decision.inputs],
        "unseen_inputs": list(decision.unseen_inputs),
    }
    return {name: value for name, value in fields.items() if value}


def metric_fields(line: Record, decision: Decision) -> Record:
    """Return the metrics of a decision as fields of its line.

    A count of 0 is no metric: the alarms take missing data for OK, and CloudWatch bills a metric
    for the hours in which it is written.
    """
    fields: Record = {
        metrics.DRIFTED_OUTPUTS: len(decision.outputs),
        metrics.DRIFTED_INPUTS: len(decision.inputs),
        metrics.UNSEEN_INPUTS: max(int(decision.unseen), len(decision.unseen_inputs)),
    }
    fields = {name: value for name, value in fields.items() if value}
    if fields:
        directives = metrics.directives(fields, dimensions=metrics.BY_SERVICE)
        fields["_aws"] = metrics.emf(line, directives)
    return fields


def message(live: Live, decision: Decision, history: Mapping[int, Record], period: int) -> str:
    """Return the text for the owner, "" if nothing has drifted that did not in the last day."""
    since = period - QUIET_HOURS * HOUR_MS
    recent = {name for start in history if start >= since for name in _names(history[start])}
    if _names(_decision_fields(decision)) <= recent:
        return ""
    hour = datetime.fromtimestamp(period / 1000, UTC).isoformat(timespec="minutes")
    lines = [
        f"{live.manifest.name} {live.manifest.version} (version {live.version}) no longer sees or "
        f"predicts what its baseline has. Hour of {hour}:"
    ]
    for section, title, group in (
        ("drift-outputs", "Outputs", decision.outputs),
        ("drift-inputs", "Inputs", decision.inputs),
    ):
        if group:
            lines += ["", f"{title} that have drifted ({_runbook(live.manifest, section)}):"]
            lines += [f"- {d.name}: score {d.score:.2f}, {d.direction}" for d in group[:MAX_NAMES]]
            if len(group) > MAX_NAMES:
                lines.append(f"- and {len(group) - MAX_NAMES} more")
    if decision.unseen:
        unseen = ", ".join(decision.unseen_inputs[:MAX_NAMES])
        lines += ["", f"Unseen values ({_runbook(live.manifest, 'drift-unseen')}): {unseen}"]
    return "\n".join([*lines, "", f"Owner: {live.manifest.owner}"])


def _names(record: Record) -> set[tuple[str, str]]:
    return {
        (kind, item if isinstance(item, str) else item["name"])
        for kind in ("drifted_outputs", "drifted_inputs", "unseen_inputs")
        for item in record.get(kind, ())
    }


def _runbook(manifest: Manifest, section: str) -> str:
    return f"{manifest.runbook or RUNBOOK}#{section}"


def latest_version(logs: Any, group: str, now_ms: int) -> str:
    """Return the version that the monitor's last record is about, "" without one.

    It is what an alarm of drift is about, because its metrics have no version.
    """
    pages = _messages(logs, group, "fingerprint", now_ms - 3 * HOUR_MS)
    records = [record for record in parse(pages) if record.get("message") == MESSAGE]
    return str(max(records, key=lambda record: record["timestamp"])["version"]) if records else ""
