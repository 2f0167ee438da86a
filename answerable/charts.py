"""Charts for pages without a script: values and labels here, geometry in pages/report.html.

A chart is an SVG that is stretched to its card, with its labels beside it as text. So nothing can
leave the card, and text keeps its size.
"""

import datetime
from collections.abc import Sequence
from typing import NamedTuple


class Value(NamedTuple):
    """A number over a stretch of the axis (of time: in ms), its text and its CSS class."""

    start: float
    end: float
    number: float
    text: str
    kind: str = "bar"


class Chart(NamedTuple):
    """Bars over the `span` of a horizontal axis, `top` is the highest number that fits.

    `line`: CSS class and number of a dashed line.
    """

    label: str
    values: Sequence[Value]
    span: tuple[float, float]
    top: float
    line: tuple[str, float] | None
    top_label: str
    x_labels: Sequence[str]


def histogram(label: str, shares: Sequence[float], expected: float, edges: Sequence[str]) -> Chart:
    """Return the shares by bin, with a line where all of them are without drift."""
    top = max(*shares, expected * 2)
    values = [Value(i, i + 1, share, f"{share:.1%}") for i, share in enumerate(shares)]
    return Chart(label, values, (0, len(shares)), top, ("expected", expected), f"{top:.0%}", edges)


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
    line = None if limit is None else ("limit", limit)
    labels = [time_label(moment, length) for moment in (span[0], sum(span) / 2, span[1])]
    return Chart(
        label, titled, (span[0], span[0] + length), top, line, f"{short(top)}{unit}", labels
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
