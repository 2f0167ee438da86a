"""Charts for pages without a script: geometry here, markup in pages/report.html.

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
    """Bars over a horizontal axis. `line`: CSS class and height of a dashed line."""

    label: str
    bars: list[Bar]
    line: tuple[str, float] | None
    top_label: str
    x_labels: Sequence[str]


class Value(NamedTuple):
    """A number over a stretch of the axis (of time: in ms), its text and its CSS class."""

    start: float
    end: float
    number: float
    text: str
    kind: str = "bar"


def histogram(label: str, shares: Sequence[float], expected: float, edges: Sequence[str]) -> Chart:
    """Return the shares by bin, with a line where all of them are without drift."""
    top = max(*shares, expected * 2)
    values = [Value(i, i + 1, share, f"{share:.1%}") for i, share in enumerate(shares)]
    bars = _bars(values, (0, len(shares)), top)
    return Chart(label, bars, ("expected", _height(expected, top)), f"{top:.0%}", edges)


def timeline(
    label: str,
    values: Sequence[Value],
    span: tuple[float, float],
    *,
    limit: float | None = None,
    unit: str = "",
) -> Chart:
    """Return values over time, with a line at `limit`."""
    top = max([(limit or 0.0) * 1.5, *(value.number for value in values)]) or 1.0
    length = max(span[1] - span[0], 1.0)
    titled = [v._replace(text=f"{time_label(v.start, length)}: {v.text}") for v in values]
    line = None if limit is None else ("limit", _height(limit, top))
    labels = [time_label(moment, length) for moment in (span[0], sum(span) / 2, span[1])]
    return Chart(label, _bars(titled, span, top), line, f"{short(top)}{unit}", labels)


def _bars(values: Sequence[Value], span: tuple[float, float], top: float) -> list[Bar]:
    """Return the bars of values; each is wide and high enough to be seen, and within the chart."""
    bars, scale = [], WIDTH / max(span[1] - span[0], 1.0)
    for value in values:
        start, end = (
            min(max((moment - span[0]) * scale, 0.0), WIDTH) for moment in (value.start, value.end)
        )
        width = max(end - start - 1, MIN_WIDTH)
        y = min(max(_height(value.number, top), 0.0), HEIGHT - MIN_BAR)
        x, y, width, height = (
            round(number, 1) for number in (min(start, WIDTH - width), y, width, HEIGHT - y)
        )
        bars.append(Bar(x, y, width, height, value.kind, value.text))
    return bars


def _height(number: float, top: float) -> float:
    """Return the y coordinate of a number."""
    return HEIGHT - number / top * HEIGHT


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
