"""`answerable report RECORDS…`: what the records say, as one HTML page.

Each input and output against its baseline, the drift score over time, traffic and outcomes. The
drift is that of the monitor's records (months of it), or else that of the records of requests. The
page has no script and loads nothing.
"""

import argparse
import json
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple, TypeVar

import jinja2

from answerable import charts
from answerable.charts import Row, Value
from answerable.commands import InputError, add_model, warn
from handler import manifest as manifests
from handler import metrics
from handler.drift import BINS, decision, monitor
from handler.drift.counts import Counts
from handler.drift.targets import fingerprint, targets
from handler.manifest import Distribution, Manifest
from infra.project import find_model

PAGES = Path(__file__).parents[1] / "pages"
KINDS = ("request", "batch", "outcomes", monitor.MESSAGE)
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
MAX_WINDOWS = 48
MAX_HOURS = 10_000  # of a window
WINDOW_MINUTES = (1, 5, 15, 60, 360, 1440, 10_080)
MAX_ROWS = 8  # categories of a chart
MAX_LINKS = 12
EM_STEPS = 100
Span = tuple[float, float]
Record = dict[str, Any]
Period = tuple[float, float, Counts]  # start and end (ms), and the bin counts between
Item = TypeVar("Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("records", nargs="+", metavar="RECORDS", help="files of log lines; - reads stdin")
    add_model(parser)
    add("--output", type=Path, default=Path("report.html"), metavar="FILE")
    add("--hours", type=float, metavar="N", help="the length of a window (default: by the records)")


class Window(NamedTuple):
    """A stretch of time (ms), its bin counts, and what has drifted in it."""

    start: float
    end: float
    counts: Counts
    drifted: dict[str, decision.Drifted]


def main(args: argparse.Namespace) -> int:
    """Write the page."""
    manifest = manifests.read(find_model(args.model))
    records = [record for name in args.records for record in read(name)]
    ours = [record for record in records if _is_of(record, manifest)]
    if not any(record["message"] != "outcomes" for record in ours):
        names = ", ".join(args.records)
        raise InputError(f"there are no records of {manifest.name} in {names}")
    if args.hours is not None and not 0 < args.hours < MAX_HOURS:
        raise InputError(f"--hours takes a number from 0 to {MAX_HOURS}")
    args.output.write_text(page(manifest, ours, args.hours), encoding="utf-8")
    warn(f"{args.output}: {len(ours)} records of {manifest.name}", "")
    return 0


def _is_of(record: Record, manifest: Manifest) -> bool:
    """Return whether a record is of the model; lines of outcomes do not name theirs."""
    model = record.get("model")
    return not isinstance(model, dict) or model.get("name") == manifest.name


def read(name: str) -> Iterator[Record]:
    """Yield the records in a file, or in stdin for `-`. Raise OSError or InputError."""
    return parsed(sys.stdin if name == "-" else read_lines(name))


def read_lines(name: str | Path) -> Iterator[str]:
    """Yield the lines of a file. Raise OSError, or InputError if it is no text."""
    try:
        with open(name, encoding="utf-8") as lines:
            yield from lines
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8") from None


def parsed(texts: Iterable[str]) -> Iterator[Record]:
    """Yield the records among lines, or among texts of several lines."""
    for line in (line for text in texts for line in text.splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or record.get("message") not in KINDS:
            continue
        if isinstance(record.get("timestamp"), int):
            yield record


def page(manifest: Manifest, records: Sequence[Record], hours: float | None = None) -> str:
    """Return the whole document."""
    requests = [r for r in records if r["message"] == "request" and metrics.REQUESTS in r]
    outcomes = [r for r in records if r["message"] == "outcomes"]
    periods = list(_periods(manifest, records))
    moments = [r["timestamp"] for r in (*requests, *outcomes)]
    moments += [moment for start, end, _ in periods for moment in (start, end)]
    span = (min(moments, default=0), max(moments, default=0) + 1)
    total = _sum(manifest, periods)
    minutes = hours * 60 if hours else _minutes(manifest, periods, span)
    windows = list(_windows(manifest, periods, span, minutes))
    cards = [_card(i, manifest, total, windows, span) for i in range(len(total.targets))]
    cards.sort(key=lambda card: (card["kind"] != "bad", -(card["score"] or 0.0)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        style=(PAGES / "report.css").read_text(encoding="utf-8"),
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        facts=_facts(manifest, records, total, span),
        verdict=_verdict(manifest, total, windows, span),
        traffic=_traffic(manifest, requests, windows, span),
        groups=[
            {"title": title, "cards": [card for card in cards if card["output"] is is_output]}
            for title, is_output in (("Outputs", True), ("Inputs", False))
        ],
        window=_duration(minutes),
        has_scores=any(card["score"] is not None for card in cards),
        outcomes=_outcomes(manifest, requests, outcomes, span, minutes),
    )


def _periods(manifest: Manifest, records: Sequence[Record]) -> Iterator[Period]:
    """Yield the bin counts of the monitor's periods, else those of single records.

    Only bins of the manifest's model and baseline can be compared with it.
    """
    mark, monitored = fingerprint(manifest), targets(manifest)
    history = {
        record["period"]: record
        for record in records
        if record["message"] == monitor.MESSAGE and record.get("fingerprint") == mark
    }
    for start, record in sorted(history.items()):
        counts = Counts(monitored)
        counts.add_counts(record)
        yield start, start + HOUR_MS, counts
    if history:
        return
    for record in sorted(records, key=lambda record: int(record["timestamp"])):
        model = record.get("model") or {}
        if record["message"] in ("request", "batch") and model.get("fingerprint", mark) == mark:
            counts = Counts(monitored)
            if counts.add_bins(record):
                yield record["timestamp"], record["timestamp"], counts


def _sum(manifest: Manifest, periods: Iterable[Period]) -> Counts:
    total = Counts(targets(manifest))
    for _, _, counts in periods:
        total.add_counts(counts.as_fields())
    return total


def _minutes(manifest: Manifest, periods: Sequence[Period], span: Span) -> float:
    """Return the length of a window: at most MAX_WINDOWS, most of them with enough rows."""
    whole = (span[1] - span[0]) / MINUTE_MS
    shortest = max((end - start for start, end, _ in periods), default=0) / MINUTE_MS
    rows = sum(counts.rows for _, _, counts in periods)
    for minutes in WINDOW_MINUTES:
        used = len({int((start - span[0]) / MINUTE_MS / minutes) for start, _, _ in periods})
        enough = rows >= used * manifest.alarms.drift_min_rows
        if shortest <= minutes <= whole and whole / minutes <= MAX_WINDOWS and enough:
            return minutes
    return max(whole, shortest)


def _group(
    items: Iterable[Item], moment: Callable[[Item], float], span: Span, step: float
) -> Iterator[tuple[float, float, list[Item]]]:
    """Yield start, end (ms) and items of each stretch of `step` ms that has any."""
    groups: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[int((moment(item) - span[0]) / step)].append(item)
    for number, group in sorted(groups.items()):
        yield span[0] + number * step, span[0] + (number + 1) * step, group


def _windows(
    manifest: Manifest, periods: Iterable[Period], span: Span, minutes: float
) -> Iterator[Window]:
    for start, end, group in _group(periods, itemgetter(0), span, minutes * MINUTE_MS):
        counts = _sum(manifest, group)
        result = counts.decide(manifest.alarms, monitor.LOOKS)
        drifted = {f"in_{d.name}": d for d in result.inputs}
        drifted |= {f"out_{d.name}": d for d in result.outputs}
        yield Window(start, end, counts, drifted)


def _duration(minutes: float) -> str:
    for length, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= length:
            count = minutes / length
            return unit if count == 1 else f"{count:.3g} {unit}s"
    return f"{minutes * 60:.0f} seconds"


def _facts(manifest: Manifest, records: Sequence[Record], total: Counts, span: Span) -> list[str]:
    requests = sum(metrics.REQUESTS in record for record in records)
    versions = sorted({str(r["version"]) for r in records if "version" in r})
    rows = sum(r.get(metrics.ROWS, 0) for r in records) or total.rows
    dates = " to ".join(charts.date_label(moment) for moment in span)
    predictions = f"{rows:,} predictions" + (f" in {requests:,} requests" if requests else "")
    facts = [f"{dates} UTC", predictions]
    if versions:
        facts.append(f"function version {', '.join(versions)}")
    return [*facts, f"owner {manifest.owner}"]


def _verdict(
    manifest: Manifest, total: Counts, windows: Sequence[Window], span: Span
) -> dict[str, Any]:
    """Return what somebody in a hurry needs to know."""
    minimum = manifest.alarms.drift_min_rows
    if not total.targets:
        text = "The model was packed without a baseline, so no drift is measured."
        return {"kind": "", "text": text, "links": []}
    if not any(window.counts.rows >= minimum for window in windows):
        text = f"{total.rows} predictions so far. Drift is judged from {minimum} on."
        return {"kind": "", "text": text, "links": []}
    links: list[dict[str, Any]] = []
    for target in total.targets:
        hits = [window for window in windows if target.key in window.drifted]
        if hits:
            worst = max((w.drifted[target.key] for w in hits), key=lambda d: d.score)
            length = span[1] - span[0]
            since = charts.time_label(hits[0].start, length)
            state = "" if hits[-1] is windows[-1] else ", but not in the last window"
            text = f"{worst.direction}, score {worst.score:.2f}, first seen {since}{state}"
            links.append({"key": target.key, "name": target.name, "text": text, "d": worst.score})
    if not links:
        text = "No drift: inputs and outputs look as they did when the model was packed."
        return {"kind": "good", "text": text, "links": []}
    links.sort(key=lambda link: -link["d"])
    count = f"{len(links)} of {len(total.targets)} inputs and outputs"
    return {"kind": "bad", "text": f"Drift in {count}", "links": links[:MAX_LINKS]}


def _card(
    index: int, manifest: Manifest, total: Counts, windows: Sequence[Window], span: Span
) -> dict[str, Any]:
    """Return the card of a target."""
    target, counts = total.targets[index], total.by_target[index]
    count, limit = sum(counts), manifest.alarms.drift_threshold
    values, scores = [], []
    for window in windows:
        in_window = window.counts.by_target[index]
        size = sum(in_window)
        if size < manifest.alarms.drift_min_rows:
            values.append(Value(window.start, window.end, 0.0, "bar none", f"{size} values"))
            continue
        score = max(decision.score(in_window, target.baseline_rows), 0.0)
        drifted = window.drifted.get(target.key)
        text = f"score {score:.3f}" + (f", {drifted.direction}" if drifted else "")
        kind = "bar bad" if drifted else "bar"
        values.append(Value(window.start, window.end, score, kind, text))
        scores.append(score)
    facts = [f"{count:,} values"]
    if scores:
        last = f"score {scores[-1]:.2f}"
        facts.append(last if len(scores) == 1 else f"{last} at last, {max(scores):.2f} at most")
    elif count:
        facts.append(f"no score under {manifest.alarms.drift_min_rows} values a window")
    missing, unseen = total.missing[target.name], total.unseen[target.name]
    if not target.output and count and (missing or target.distribution.missing_share):
        packed = target.distribution.missing_share
        facts.append(f"missing {missing / count:.1%}, in the baseline {packed:.1%}")
    if not target.output and unseen:
        facts.append(f"{unseen:,} of a kind that the baseline does not have")
    units = {feature.name: feature.unit for feature in manifest.features}
    units |= {output.name: output.unit for output in manifest.outputs}
    kinds = len(target.distribution.values)
    is_discrete = kinds > 0 and (kinds <= MAX_ROWS or not target.ordered)
    label = f"{target.name}: shares by tenths of the baseline"
    return {
        "key": target.key,
        "name": target.name,
        "unit": units.get(target.name, ""),
        "output": target.output,
        "kind": "bad" if any(target.key in window.drifted for window in windows) else "",
        "score": max(scores, default=None),
        "rows": _rows(total, index) if count and is_discrete else [],
        "histogram": charts.histogram(
            label, [n / count for n in counts], 1 / BINS, _edges(target.distribution)
        )
        if count
        else None,
        "timeline": charts.timeline(f"{target.name}: drift score", values, span, limit=limit),
        "facts": facts,
    }


def _edges(baseline: Distribution) -> list[str]:
    """Return the values at the quarters of a baseline."""
    labels = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        present = 1 - baseline.missing_share
        if share > present or not baseline.values:
            labels.append("missing")
            continue
        index = bisect_left(baseline.cdf_right, min(share / present, baseline.cdf_right[-1]))
        value = baseline.values[index]
        labels.append(value if isinstance(value, str) else charts.short(float(value)))
    return labels


def _rows(total: Counts, index: int) -> list[Row]:
    """Return the live and the baseline's shares of categories, the most frequent first."""
    target, counts = total.targets[index], list(total.by_target[index])
    baseline = target.distribution
    present, count = 1 - baseline.missing_share, sum(counts)
    missing = 0 if target.output else total.missing[target.name]
    unseen = 0 if target.output else min(total.unseen[target.name], counts[-1])
    counts[-1] -= unseen
    steps = [
        (str(value), low * present, high * present)
        for value, low, high in zip(
            baseline.values, baseline.cdf_left, baseline.cdf_right, strict=True
        )
    ]
    if baseline.missing_share:
        steps.append(("missing", present, 1.0))
        missing = 0  # it has bins of its own
    live = _shares(counts, [(low, high) for _, low, high in steps])
    scale = (count - unseen) / count
    rows = [
        _row(name, share * scale, high - low)
        for (name, low, high), share in zip(steps, live, strict=True)
    ]
    if len(rows) > MAX_ROWS:
        rest = rows[MAX_ROWS - 1 :]
        rows = rows[: MAX_ROWS - 1]
        rows.append(
            _row(f"{len(rest)} more", sum(r.live for r in rest), sum(r.baseline for r in rest))
        )
    if unseen:
        rows.append(_row("missing" if unseen == missing else "unseen", unseen / count, 0.0))
    return rows


def _row(name: str, live: float, baseline: float) -> Row:
    return Row(name, live, baseline, f"{live:.0%} ({baseline:.0%})")


def _shares(counts: Sequence[int], steps: Sequence[tuple[float, float]]) -> list[float]:
    """Return the most likely shares of categories, each of which is spread evenly over its step.

    A bin that two categories share is divided by expectation maximisation
    (A. P. Dempster and others, 1977, Journal of the Royal Statistical Society B 39, 1-38).
    """
    overlaps = [
        [max(min(high, (b + 1) / BINS) - max(low, b / BINS), 0.0) / max(high - low, 1e-9)
         for low, high in steps]
        for b in range(BINS)
    ]  # fmt: skip
    shares, count = [1 / len(steps)] * len(steps), max(sum(counts), 1)
    for _ in range(EM_STEPS):
        likely = [0.0] * len(steps)
        for number, overlap in zip(counts, overlaps, strict=True):
            weights = [share * width for share, width in zip(shares, overlap, strict=True)]
            if whole := sum(weights):
                likely = [a + number * w / whole for a, w in zip(likely, weights, strict=True)]
        shares = [value / count for value in likely]
    return shares


def _traffic(
    manifest: Manifest, requests: Sequence[Record], windows: Sequence[Window], span: Span
) -> list[dict[str, Any]]:
    """Return the cards of traffic; without records of requests, only that of predictions."""
    if not requests:
        counts = [Value(w.start, w.end, n := w.counts.rows, "bar", f"{n:,}") for w in windows]
        chart = charts.timeline("predictions", counts, span)
        text = f"{sum(w.counts.rows for w in windows):,}"
        return [{"title": "Predictions", "chart": chart, "text": text}]
    step = max((span[1] - span[0]) / MAX_WINDOWS, MINUTE_MS / 4)
    rows, slowest, failed = [], [], []
    for start, end, group in _group(requests, itemgetter("timestamp"), span, step):
        took = sorted(record[metrics.LATENCY] for record in group)
        p99 = quantiles(took, n=100, method="inclusive")[98] if len(took) > 1 else took[0]
        bad = sum(r[metrics.CLIENT_ERRORS] + r[metrics.SERVER_ERRORS] for r in group)
        count, share = sum(r[metrics.ROWS] for r in group), 100 * bad / len(group)
        rows.append(Value(start, end, count, "bar", f"{count:,}"))
        slowest.append(Value(start, end, p99, "bar", f"{p99:.2f} ms"))
        failed.append(Value(start, end, share, "bar warm", f"{share:.1f} %"))
    problems = Counter(r["problem"] for r in requests if "problem" in r)
    took = sorted(r[metrics.LATENCY] for r in requests)
    limit = manifest.alarms.client_error_max_percent if problems else None
    cards = {
        "Predictions": (
            charts.timeline("predictions", rows, span),
            f"{sum(r[metrics.ROWS] for r in requests):,} in {len(requests):,} requests",
        ),
        "Latency, 99th percentile": (
            charts.timeline("latency", slowest, span, unit=" ms"),
            f"median {took[len(took) // 2]:.2f} ms, slowest {took[-1]:.1f} ms",
        ),
        "Refused and failed requests": (
            charts.timeline("share of requests", failed, span, limit=limit, unit=" %"),
            ", ".join(f"{kind} {count}" for kind, count in problems.most_common()) or "none",
        ),
    }
    return [
        {"title": title, "chart": chart, "text": text} for title, (chart, text) in cards.items()
    ]


def _outcomes(
    manifest: Manifest,
    requests: Sequence[Record],
    outcomes: Sequence[Record],
    span: Span,
    minutes: float,
) -> dict[str, Any] | None:
    """Return the outcomes by version, and over time."""
    if not outcomes:
        return None
    predictions = Counter[str]()
    for record in requests:
        predictions[str(record["version"])] += record[metrics.ROWS]
    value = manifest.outcome_value
    impact = f"impact, {value.unit}" if value and value.unit else "impact"
    lines = []
    for version in sorted({str(record["version"]) for record in outcomes}):
        group = [record for record in outcomes if str(record["version"]) == version]
        count, worth = len(_values(group, metrics.OUTCOMES)), _values(group, metrics.IMPACT)
        cells = (
            f"{count / predictions[version]:.1%}" if predictions[version] else "",
            _mean(_values(group, metrics.ABSOLUTE_ERROR), "{:.3g}"),
            _mean(_values(group, metrics.CORRECT), "{:.1%}"),
            f"{sum(worth):,.6g}" if worth else "",
            _mean(_values(group, metrics.OUTCOME_AGE), "{:.1f}"),
        )
        lines.append((version, f"{count:,}", *cells))
    cards = []
    for name, title in (
        (metrics.ABSOLUTE_ERROR, "Mean absolute error"),
        (metrics.CORRECT, "Share of correct predictions"),
        (metrics.IMPACT, f"Mean {impact}"),
    ):
        bars = []
        groups = _group(outcomes, itemgetter("timestamp"), span, minutes * MINUTE_MS)
        for start, end, group in groups:
            if values := _values(group, name):
                mean = sum(values) / len(values)
                bars.append(Value(start, end, max(mean, 0.0), "bar", f"{mean:.4g}"))
        if bars:
            cards.append({"title": title, "chart": charts.timeline(title, bars, span)})
    heads = ("version", "outcomes", "of predictions", "mean error", "correct", impact, "age, h")
    return {"heads": heads, "lines": lines, "cards": cards}


def _values(records: Iterable[Record], name: str) -> list[float]:
    return [value for record in records for value in record.get(name, [])]


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else ""
