"""`answerable report RECORDS…`: what the records say, as one HTML page.

Each feature and output against its baseline, the drift score over time with its alarm line, and
traffic, rejects, latency and outcomes. The page has no script and loads nothing.
"""

import argparse
import datetime
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from answerable import charts
from answerable.commands import add_model
from handler import manifest as manifests
from handler import metrics
from handler.drift import statistic
from handler.drift.statistic import BINS, Target
from handler.errors import ArtifactError
from handler.manifest import Manifest
from infra.project import find_model

STYLE = Path(__file__).parents[1] / "pages" / "report.css"
OUTCOME_METRICS = (
    metrics.OUTCOMES,
    metrics.OUTCOME_AGE,
    metrics.ABSOLUTE_ERROR,
    metrics.CORRECT,
    metrics.IMPACT,
)
HOUR_MS = 3_600_000
WINDOWS = 48  # on a time axis, if their length is not told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `report`."""
    add = parser.add_argument
    add("records", nargs="+", metavar="RECORDS", help="files of records; - reads stdin")
    add_model(parser)
    add("--output", type=Path, default=Path("report.html"), metavar="FILE")
    add(
        "--hours", type=float, metavar="N", help="a window's length (default: the alarm's, or less)"
    )


class Window(NamedTuple):
    """A stretch of time: D, how many values, whether D is certain, and whether the alarm fires."""

    start: float
    score: float
    values: int
    certain: bool
    loud: bool


class Seen(NamedTuple):
    """All there is of one target."""

    target: Target
    counts: list[int]
    missing: int
    windows: list[Window]


def main(args: argparse.Namespace) -> int:
    """Write the page; 1 where there is nothing to draw."""
    console = Console(stderr=True, highlight=False)
    try:
        directory = find_model(args.model)
        manifest = manifests.read(directory)
    except ArtifactError as error:
        console.print(Text(f"report: {error}", "red"))
        return 1
    records = [record for name in args.records for record in read(name)]
    ours = [
        r for r in records if (r.get("model") or {}).get("name", manifest.name) == manifest.name
    ]
    if not any(r["message"] == "request" for r in ours):
        console.print(Text(f"report: no records of {manifest.name} in {args.records}", "red"))
        return 1
    args.output.write_text(page(manifest, ours, args.hours), encoding="utf-8")
    console.print(Text(f"{args.output}: {len(ours)} records of {manifest.name}"))
    return 0


def read(name: str) -> Iterator[dict[str, Any]]:
    """The records in a file, other lines passed over."""
    source = sys.stdin if name == "-" else open(name, encoding="utf-8")  # noqa: SIM115
    with source as lines:
        yield from parsed(lines)


def parsed(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The records among lines, or among texts of several lines."""
    for line in (line for text in texts for line in text.splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("message") in ("request", "outcomes"):
            yield record


def page(manifest: Manifest, records: Sequence[dict[str, Any]], hours: float | None = None) -> str:
    """The whole document."""
    requests = [r for r in records if r["message"] == "request" and "Requests" in r]
    outcomes = [r for r in records if r["message"] == "outcomes"]
    times = [r["timestamp"] for r in (*requests, *outcomes)] or [0]
    span = (min(times), max(times) + 1)
    length = hours or _hours(manifest, span)
    seen = [
        watch(manifest, target, requests, span, length) for target in statistic.targets(manifest)
    ]
    body = [
        _header(manifest, requests, span, length),
        _verdict(seen, manifest),
        _traffic(manifest, requests, span, length),
        _targets("Outputs", [s for s in seen if s.target.output], manifest, span),
        _targets("Inputs", [s for s in seen if not s.target.output], manifest, span),
        _outcomes(manifest, requests, outcomes, span, length),
    ]
    title = escape(f"{manifest.name} {manifest.version}: report")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text()}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _hours(manifest: Manifest, span: tuple[int, int]) -> float:
    """The alarm's own window; of a shorter time, a part of it."""
    whole = (span[1] - span[0]) / HOUR_MS
    return min(manifest.alarms.drift_hours, max(whole / 12, 1 / 60))


def watch(
    manifest: Manifest,
    target: Target,
    requests: Iterable[dict[str, Any]],
    span: tuple[int, int],
    hours: float,
) -> Seen:
    """The bins of one target in all, and by window."""
    total = [0] * BINS
    parts: dict[int, list[int]] = defaultdict(lambda: [0] * BINS)
    missing = 0
    for record in requests:
        found = record.get(target.metric)
        if found is None:
            continue
        window = parts[int((record["timestamp"] - span[0]) / HOUR_MS / hours)]
        for number in found if isinstance(found, list) else [found]:
            total[number - 1] += 1
            window[number - 1] += 1
        missing += 0 if target.output else record.get("missing_counts", {}).get(target.name, 0)
    rows, wanted = target.distribution.rows, manifest.alarms
    windows = []
    for at, counts in sorted(parts.items()):
        score, values = statistic.score(counts, rows), sum(counts)
        certain = statistic.is_significant(counts, rows, hours) and values >= wanted.drift_min_rows
        start = span[0] + (at + 0.5) * hours * HOUR_MS
        windows.append(
            Window(start, score, values, certain, certain and score > wanted.drift_threshold)
        )
    return Seen(target, total, missing, windows)


def _header(
    manifest: Manifest, requests: Sequence[dict[str, Any]], span: tuple[int, int], hours: float
) -> str:
    start, end = (_moment(at) for at in span)
    rows = sum(r["Rows"] for r in requests)
    versions = sorted({str(r["version"]) for r in requests})
    window = f"{hours:g} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return (
        f"<header><h1>{escape(manifest.name)} <small>{escape(manifest.version)}</small></h1>"
        f"<p>{escape(manifest.description)}</p><p class=quiet>{start} to {end} UTC · "
        f"{rows:,} predictions in {len(requests):,} requests · function version "
        f"{escape(', '.join(versions))} · windows of {window} · owner {escape(manifest.owner)}</p>"
        "</header>"
    )


def _verdict(seen: Sequence[Seen], manifest: Manifest) -> str:
    """What somebody in a hurry needs to know."""
    loud = [s for s in seen if any(window.loud for window in s.windows)]
    if not seen:
        return "<p class=verdict>This model was packed without a baseline: nothing is watched.</p>"
    if not any(w.values >= manifest.alarms.drift_min_rows for s in seen for w in s.windows):
        few = manifest.alarms.drift_min_rows
        return f"<p class=verdict>No window has {few} values yet: too few to speak of drift.</p>"
    if not loud:
        return (
            "<p class='verdict good'>No drift: everything looks as it did when it was packed.</p>"
        )
    names = ", ".join(
        f"<a href='#{escape(s.target.metric)}'>{escape(s.target.name)}</a>" for s in loud
    )
    return f"<p class='verdict bad'>Drift: {names}.</p>"


def _targets(title: str, seen: Sequence[Seen], manifest: Manifest, span: tuple[int, int]) -> str:
    """A card for each, the most drifted first."""
    order = sorted(
        seen, key=lambda s: -max((w.score for w in s.windows if w.certain), default=-9.0)
    )
    cards = [_card(one, manifest, span) for one in order]
    note = (
        "Left: how the values spread over the deciles of the baseline; without drift all bars "
        "reach the line. Right: the drift score over time and its alarm line; a dot is an alarm, "
        "which a score over the line is only where chance does not make it."
    )
    return (
        f"<h2>{title}</h2><p class=quiet>{note}</p><section class=cards>{''.join(cards)}</section>"
    )


def _card(seen: Seen, manifest: Manifest, span: tuple[int, int]) -> str:
    total, target = sum(seen.counts), seen.target
    name = f"<h3>{escape(target.name)}</h3>"
    if not total:
        return f"<article>{name}<p class=quiet>no values</p></article>"
    shares = [count / total for count in seen.counts]
    limit = manifest.alarms.drift_threshold
    loud = [window.loud for window in seen.windows]
    worst = max(seen.windows, key=lambda window: window.score)
    state = "bad" if any(loud) else "good"
    points = [(window.start, max(window.score, 0.0)) for window in seen.windows]
    facts = f"{total:,} values · score up to {max(worst.score, 0.0):.2f}"
    if not target.output:
        before = target.distribution.missing_share
        facts += f" · missing {seen.missing / total:.1%} (packed: {before:.1%})"
    return (
        f'<article class={state} id="{escape(target.metric)}">{name}<div class=pair>'
        + charts.bars(shares, 1 / BINS, f"{target.name}: shares by decile of the baseline")
        + charts.line(
            points, f"{target.name}: drift score over time", limit=limit, loud=loud, span=span
        )
        + f"</div><p class=quiet>{facts}</p></article>"
    )


def _traffic(
    manifest: Manifest, requests: Sequence[dict[str, Any]], span: tuple[int, int], hours: float
) -> str:
    hours = min(hours, max((span[1] - span[0]) / HOUR_MS / WINDOWS, 1 / 60))
    parts: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in requests:
        parts[int((record["timestamp"] - span[0]) / HOUR_MS / hours)].append(record)
    series: dict[str, list[charts.Point]] = {"rows": [], "p50": [], "p99": [], "rejects": []}
    for at, found in sorted(parts.items()):
        start = span[0] + (at + 0.5) * hours * HOUR_MS
        took = sorted(r["Latency"] for r in found)
        cut = quantiles(took, n=100, method="inclusive") if len(took) > 1 else took * 99
        refused = sum(r[metrics.CLIENT_ERRORS] + r[metrics.SERVER_ERRORS] for r in found)
        for name, value in (
            ("rows", sum(r["Rows"] for r in found)),
            ("p50", cut[49]),
            ("p99", cut[98]),
            ("rejects", 100 * refused / len(found)),
        ):
            series[name].append((start, float(value)))
    problems = Counter(r["problem"] for r in requests if "problem" in r)
    told = ", ".join(f"{escape(kind)} {count}" for kind, count in problems.most_common()) or "none"
    took = sorted(r["Latency"] for r in requests)
    size = (300, 80)
    cards = [
        ("Predictions", charts.line(series["rows"], "predictions by window", span=span, size=size),
         f"{sum(r['Rows'] for r in requests):,} in all"),
        ("Latency p99", charts.line(series["p99"], "latency", span=span, size=size),
         f"median {_middle(took):.2f} ms, slowest {took[-1]:.1f} ms" if took else ""),
        ("Refused and failed, %", charts.line(series["rejects"], "share of requests", span=span,
         size=size, limit=manifest.alarms.client_error_max_percent if problems else None, kind="warm"), told),
    ]  # fmt: skip
    text = "".join(
        f"<article><h3>{title}</h3>{chart}<p class=quiet>{facts}</p></article>"
        for title, chart, facts in cards
    )
    return f"<h2>Traffic</h2><section class='cards wide'>{text}</section>"


def _outcomes(
    manifest: Manifest,
    requests: Sequence[dict[str, Any]],
    outcomes: Sequence[dict[str, Any]],
    span: tuple[int, int],
    hours: float,
) -> str:
    """By version, what became of its predictions."""
    if not outcomes:
        text = "No outcome was told yet. <code>POST /feedback</code> takes them."
        return f"<h2>Outcomes</h2><p class=quiet>{text}</p>"
    made = Counter[str]()
    for record in requests:
        made[str(record["version"])] += record["Rows"]
    versions: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    over: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in outcomes:
        for name in OUTCOME_METRICS:
            values = record.get(name, [])
            versions[str(record["version"])][name] += values
            over[name][int((record["timestamp"] - span[0]) / HOUR_MS / hours)] += values
    unit = (
        f", {manifest.outcome_value.unit}"
        if manifest.outcome_value and manifest.outcome_value.unit
        else ""
    )
    heads = (
        "version",
        "outcomes",
        "of predictions",
        "mean error",
        "correct",
        f"impact{unit}",
        "age, h",
    )
    lines = []
    for version, found in sorted(versions.items()):
        count = len(found[metrics.OUTCOMES])
        share = f"{count / made[version]:.1%}" if made[version] else ""
        worth = f"{sum(found['Impact']):,.6g}" if found["Impact"] else ""
        error, correct = (
            _mean(found[metrics.ABSOLUTE_ERROR], "{:.3g}"),
            _mean(found["Correct"], "{:.1%}"),
        )
        age = _mean(found[metrics.OUTCOME_AGE], "{:.1f}")
        lines.append((version, f"{count:,}", share, error, correct, worth, age))
    rows = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in one)}</tr>" for one in lines)
    table = f"<table><tr>{''.join(f'<th>{escape(h)}</th>' for h in heads)}</tr>{rows}</table>"
    cards = ""
    for name, title in (
        (metrics.ABSOLUTE_ERROR, "Absolute error, mean"),
        ("Correct", "Correct"),
        ("Impact", "Impact, mean"),
    ):
        points = [
            (span[0] + (at + 0.5) * hours * HOUR_MS, sum(values) / len(values))
            for at, values in sorted(over[name].items())
            if values
        ]
        if points:
            chart = charts.line(points, title, span=span, size=(300, 80))
            cards += f"<article><h3>{title}</h3>{chart}</article>"
    return f"<h2>Outcomes</h2>{table}<section class='cards wide'>{cards}</section>"


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else ""


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2]


def _moment(milliseconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M")
