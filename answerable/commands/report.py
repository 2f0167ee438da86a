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
from typing import Any, NamedTuple, TypeVar

import jinja2
import numpy as np

from answerable import charts
from answerable.charts import Value
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


class Window(NamedTuple):
    """A stretch of time (ms), its bin counts, and what has drifted in it."""

    start: float
    end: float
    counts: Counts
    drifted: dict[str, decision.Drifted]


class Category(NamedTuple):
    """A category's shares of the live values and of the baseline."""

    name: str
    live: float
    baseline: float


def page(manifest: Manifest, records: Sequence[Record], hours: float | None = None) -> str:
    """Return the whole document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"time": charts.time_label, "date": charts.date_label}
    return environment.get_template("report.html").render(
        style=(PAGES / "report.css").read_text(encoding="utf-8"),
        manifest=manifest,
        report=Report(manifest, records, hours),
        max_links=MAX_LINKS,
    )


class Report:
    """The content of the page.

    `requests`, `outcomes`: the records of each kind. `total`: all bin counts. `span`: the first and
    the last moment (ms). `minutes`: the length of a window.
    """

    def __init__(
        self, manifest: Manifest, records: Sequence[Record], hours: float | None = None
    ) -> None:
        self._manifest = manifest
        self.requests = [r for r in records if r["message"] == "request" and metrics.REQUESTS in r]
        self.outcomes = [r for r in records if r["message"] == "outcomes"]
        self.versions = sorted({str(r["version"]) for r in records if "version" in r})
        periods = list(_periods(manifest, records))
        moments = [r["timestamp"] for r in (*self.requests, *self.outcomes)]
        moments += [moment for start, end, _ in periods for moment in (start, end)]
        self.span = min(moments, default=0), max(moments, default=0) + 1
        self.total = _sum(manifest, periods)
        self.rows = sum(r.get(metrics.ROWS, 0) for r in records) or self.total.rows
        self.minutes = hours * 60 if hours else self._window_minutes(periods)
        self.windows = list(self._windows(periods))
        minimum = manifest.alarms.drift_min_rows
        self.is_judged = any(window.counts.rows >= minimum for window in self.windows)

    def _window_minutes(self, periods: Sequence[Period]) -> float:
        """Return the length of a window: at most MAX_WINDOWS, most of them with enough rows."""
        whole = (self.span[1] - self.span[0]) / MINUTE_MS
        shortest = max((end - start for start, end, _ in periods), default=0) / MINUTE_MS
        for minutes in WINDOW_MINUTES:
            used = len({int((start - self.span[0]) / MINUTE_MS / minutes) for start, *_ in periods})
            enough = self.total.rows >= used * self._manifest.alarms.drift_min_rows
            if shortest <= minutes <= whole and whole / minutes <= MAX_WINDOWS and enough:
                return minutes
        return max(whole, shortest)

    def _group(
        self, items: Iterable[Item], moment: Callable[[Item], float], step: float
    ) -> Iterator[tuple[float, float, list[Item]]]:
        """Yield start, end (ms) and items of each stretch of `step` ms that has any."""
        groups: dict[int, list[Item]] = defaultdict(list)
        for item in items:
            groups[int((moment(item) - self.span[0]) / step)].append(item)
        for number, group in sorted(groups.items()):
            yield self.span[0] + number * step, self.span[0] + (number + 1) * step, group

    def _windows(self, periods: Iterable[Period]) -> Iterator[Window]:
        for start, end, group in self._group(periods, itemgetter(0), self.minutes * MINUTE_MS):
            counts = _sum(self._manifest, group)
            result = counts.decide(self._manifest.alarms, monitor.LOOKS)
            drifted = {f"in_{d.name}": d for d in result.inputs}
            drifted |= {f"out_{d.name}": d for d in result.outputs}
            yield Window(start, end, counts, drifted)

    @property
    def window(self) -> str:
        """Return the length of a window in words."""
        for length, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
            if self.minutes >= length:
                count = self.minutes / length
                return unit if count == 1 else f"{count:.3g} {unit}s"
        return f"{self.minutes * 60:.0f} seconds"

    def drifted(self) -> list[dict[str, Any]]:
        """Return the targets that drifted in any window, the worst first."""
        drifted = []
        for target in self.total.targets:
            hits = [window for window in self.windows if target.key in window.drifted]
            if hits:
                worst = max((w.drifted[target.key] for w in hits), key=lambda d: d.score)
                lasts = hits[-1] is self.windows[-1]
                drifted.append(
                    {"of": target, "worst": worst, "since": hits[0].start, "lasts": lasts}
                )
        return sorted(drifted, key=lambda item: -item["worst"].score)

    def cards(self) -> list[dict[str, Any]]:
        """Return the card of each target, the worst first."""
        cards = [self._card(index) for index in range(len(self.total.targets))]
        return sorted(cards, key=lambda c: (not c["drifted"], -max(c["scores"], default=0.0)))

    def _card(self, index: int) -> dict[str, Any]:
        alarms, target, total = self._manifest.alarms, self.total.targets[index], self.total
        count, baseline = sum(total.by_target[index]), target.distribution
        values, scores = [], []
        for window in self.windows:
            counts, drifted = window.counts.by_target[index], window.drifted.get(target.key)
            score, text, kind = 0.0, f"{sum(counts)} values", "bar none"
            if sum(counts) >= alarms.drift_min_rows:
                score = max(decision.score(counts, target.baseline_rows), 0.0)
                scores.append(score)
                text = f"score {score:.3f}" + (f", {drifted.direction}" if drifted else "")
                kind = "bar bad" if drifted else "bar"
            values.append(Value(window.start, window.end, score, text, kind))
        is_discrete = baseline.values and (len(baseline.values) <= MAX_ROWS or not target.ordered)
        units = {field.name: field.unit for field in self._manifest.features}
        units |= {field.name: field.unit for field in self._manifest.outputs}
        label, limit = f"{target.name}: drift score", alarms.drift_threshold
        return {
            "target": target,
            "unit": units.get(target.name, ""),
            "drifted": any(target.key in window.drifted for window in self.windows),
            "count": count,
            "scores": scores,
            # by feature: of an output, neither is counted
            "missing": 0 if target.output else total.missing[target.name],
            "unseen": 0 if target.output else total.unseen[target.name],
            "categories": self._categories(index) if count and is_discrete else [],
            "histogram": charts.histogram(
                f"{target.name}: shares by tenths of the baseline",
                [n / max(count, 1) for n in total.by_target[index]],
                1 / BINS,
                _edges(baseline),
            ),
            "timeline": charts.timeline(label, values, self.span, limit=limit),
        }

    def _categories(self, index: int) -> list[Category]:
        """Return the live and the baseline's shares of categories, the most frequent first."""
        target, counts = self.total.targets[index], list(self.total.by_target[index])
        baseline, count = target.distribution, sum(counts)
        present = 1 - baseline.missing_share
        missing = 0 if target.output else self.total.missing[target.name]
        unseen = 0 if target.output else min(self.total.unseen[target.name], counts[-1])
        counts[-1] -= unseen
        names = [*map(str, baseline.values)]
        steps = [
            (low * present, high * present)
            for low, high in zip(baseline.cdf_left, baseline.cdf_right, strict=True)
        ]
        if baseline.missing_share:
            names, steps = [*names, "missing"], [*steps, (present, 1.0)]
            missing = 0  # it has bins of its own
        scale = (count - unseen) / count
        categories = [
            Category(name, share * scale, high - low)
            for name, (low, high), share in zip(names, steps, _shares(counts, steps), strict=True)
        ]
        if len(categories) > MAX_ROWS:
            rest = categories[MAX_ROWS - 1 :]
            live, packed = sum(c.live for c in rest), sum(c.baseline for c in rest)
            more = Category(f"{len(rest)} more", live, packed)
            categories = [*categories[: MAX_ROWS - 1], more]
        if unseen:
            name = "missing" if unseen == missing else "unseen"
            categories.append(Category(name, unseen / count, 0.0))
        return categories

    def traffic(self) -> list[tuple[str, charts.Chart, str]]:
        """Return title, chart and text; without records of requests, only of predictions."""
        span, requests = self.span, self.requests
        if not requests:
            counts = [
                Value(w.start, w.end, w.counts.rows, f"{w.counts.rows:,}") for w in self.windows
            ]
            chart = charts.timeline("predictions", counts, span)
            return [("Predictions", chart, f"{self.total.rows:,}")]
        step = max((span[1] - span[0]) / MAX_WINDOWS, MINUTE_MS / 4)
        rows, slowest, failed = [], [], []
        for start, end, group in self._group(requests, itemgetter("timestamp"), step):
            p99 = float(np.percentile([record[metrics.LATENCY] for record in group], 99))
            bad = sum(r[metrics.CLIENT_ERRORS] + r[metrics.SERVER_ERRORS] for r in group)
            count, share = sum(r[metrics.ROWS] for r in group), 100 * bad / len(group)
            rows.append(Value(start, end, count, f"{count:,}"))
            slowest.append(Value(start, end, p99, f"{p99:.2f} ms"))
            failed.append(Value(start, end, share, f"{share:.1f} %", "bar warm"))
        problems = Counter(r["problem"] for r in requests if "problem" in r)
        took = [r[metrics.LATENCY] for r in requests]
        limit = self._manifest.alarms.client_error_max_percent if problems else None
        return [
            (
                "Predictions",
                charts.timeline("predictions", rows, span),
                f"{sum(r[metrics.ROWS] for r in requests):,} in {len(requests):,} requests",
            ),
            (
                "Latency, 99th percentile",
                charts.timeline("latency", slowest, span, unit=" ms"),
                f"median {np.median(took):.2f} ms, slowest {max(took):.1f} ms",
            ),
            (
                "Refused and failed requests",
                charts.timeline("share of requests", failed, span, limit=limit, unit=" %"),
                ", ".join(f"{kind} {count}" for kind, count in problems.most_common()) or "none",
            ),
        ]

    @property
    def impact(self) -> str:
        """Return the name of the outcomes' value."""
        value = self._manifest.outcome_value
        return f"impact, {value.unit}" if value and value.unit else "impact"

    def outcomes_by_version(self) -> Iterator[tuple[str, ...]]:
        """Yield version, outcomes, share of predictions, mean error, correct, impact, age (h)."""
        predictions = Counter[str]()
        for record in self.requests:
            predictions[str(record["version"])] += record[metrics.ROWS]
        for version in sorted({str(record["version"]) for record in self.outcomes}):
            group = [record for record in self.outcomes if str(record["version"]) == version]
            count, worth = len(_values(group, metrics.OUTCOMES)), _values(group, metrics.IMPACT)
            yield (
                version,
                f"{count:,}",
                f"{count / predictions[version]:.1%}" if predictions[version] else "",
                _mean(_values(group, metrics.ABSOLUTE_ERROR), "{:.3g}"),
                _mean(_values(group, metrics.CORRECT), "{:.1%}"),
                f"{sum(worth):,.6g}" if worth else "",
                _mean(_values(group, metrics.OUTCOME_AGE), "{:.1f}"),
            )

    def outcomes_over_time(self) -> Iterator[tuple[str, charts.Chart]]:
        """Yield title and chart of each mean of the outcomes that there is."""
        step = self.minutes * MINUTE_MS
        groups = list(self._group(self.outcomes, itemgetter("timestamp"), step))
        for name, title in (
            (metrics.ABSOLUTE_ERROR, "Mean absolute error"),
            (metrics.CORRECT, "Share of correct predictions"),
            (metrics.IMPACT, f"Mean {self.impact}"),
        ):
            means = [(s, e, np.mean(v)) for s, e, group in groups if (v := _values(group, name))]
            if means:
                bars = [Value(s, e, max(float(mean), 0.0), f"{mean:.4g}") for s, e, mean in means]
                yield title, charts.timeline(title, bars, self.span)


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


def _shares(counts: Sequence[int], steps: Sequence[tuple[float, float]]) -> list[float]:
    """Return the most likely shares of categories, each of which is spread evenly over its step.

    A bin that two categories share is divided by expectation maximisation
    (A. P. Dempster and others, 1977, Journal of the Royal Statistical Society B 39, 1-38).
    """
    low, high = np.array(steps).T
    edges = np.arange(BINS + 1)[:, None] / BINS
    overlaps = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)
    overlaps /= np.maximum(high - low, 1e-9)  # [bins, categories]
    shares = np.full(len(steps), 1 / len(steps))
    for _ in range(EM_STEPS):
        weights = overlaps * shares
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        shares = np.array(counts) @ weights / max(sum(counts), 1)
    return [float(share) for share in shares]


def _values(records: Iterable[Record], name: str) -> list[float]:
    return [value for record in records for value in record.get(name, [])]


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else ""
