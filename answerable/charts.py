"""Charts for pages without a script: geometry here, markup in pages/charts.html.

A chart is an SVG that is stretched to its card, with its labels beside it as text. So nothing can
leave the card, and text keeps its size.
"""

import datetime
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 300.0, 60.0
MIN_BAR = 0.75
MIN_WIDTH = 3.0


class Bar(NamedTuple):
    """A rectangle, its CSS class, and the text that a pointer over it shows."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


class Chart(NamedTuple):
    """Bars over a horizontal axis. `lines`: heights of dashed lines, by CSS class."""

    label: str
    bars: list[Bar]
    lines: dict[str, float]
    y_labels: tuple[str, str]
    x_labels: list[str]


class Row(NamedTuple):
    """A category: shares of the live values and of the baseline, as numbers and as text."""

    name: str
    live: float
    baseline: float
    text: str


class Value(NamedTuple):
    """A number in a stretch of time (ms), its CSS class and its text."""

    start: float
    end: float
    number: float
    kind: str
    text: str


def histogram(label: str, shares: Sequence[float], expected: float, edges: Sequence[str]) -> Chart:
    """Return the shares by bin, with a line where all of them are without drift."""
    top = max(*shares, expected * 2)
    width = WIDTH / len(shares)
    bars = [
        _bar(i * width + 1, width - 2, share / top, "bar", f"{share:.1%}")
        for i, share in enumerate(shares)
    ]
    line = {"expected": HEIGHT - expected / top * HEIGHT}
    return Chart(label, bars, line, (f"{top:.0%}", "0"), list(edges))


def timeline(
    label: str,
    values: Sequence[Value],
    span: tuple[float, float],
    *,
    limit: float | None = None,
    unit: str = "",
) -> Chart:
    """Return values over time, with a line at `limit`."""
    top = max([value.number for value in values], default=0.0)
    if limit is not None:
        top = max(top, limit * 1.5)
    top = top or 1.0
    length = max(span[1] - span[0], 1.0)
    bars = []
    for value in values:
        left, right = (
            min(max((moment - span[0]) / length, 0.0), 1.0) * WIDTH
            for moment in (value.start, value.end)
        )
        width = max(right - left - 1, MIN_WIDTH)
        left = min(left, WIDTH - width)
        title = f"{time_label(value.start, length)}: {value.text}"
        bars.append(_bar(left, width, value.number / top, value.kind, title))
    lines = {} if limit is None else {"limit": HEIGHT - limit / top * HEIGHT}
    moments = (span[0], (span[0] + span[1]) / 2, span[1])
    return Chart(
        label,
        bars,
        lines,
        (f"{short(top)}{unit}", "0"),
        [time_label(moment, length) for moment in moments],
    )


def _bar(x: float, width: float, share: float, kind: str, title: str) -> Bar:
    height = max(min(share, 1.0) * HEIGHT, MIN_BAR)
    return Bar(
        round(x, 1), round(HEIGHT - height, 1), round(width, 1), round(height, 1), kind, title
    )


def time_label(milliseconds: float, length: float) -> str:
    """Return a time in UTC, as precise as an axis of this length (ms) needs."""
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    hours = length / 3_600_000
    if hours > 72:
        return f"{moment:%b} {moment.day}"
    if hours > 24:
        return f"{moment:%b} {moment.day}, {moment:%H:%M}"
    return f"{moment:%H:%M:%S}" if hours < 0.2 else f"{moment:%H:%M}"


def date_label(milliseconds: float) -> str:
    """Return a time in UTC, to the minute."""
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M")


def short(value: float) -> str:
    """Return a number in few characters."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
