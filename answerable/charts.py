"""Charts as SVG text, for pages without a script. Colours and fonts are the page's own classes."""

from collections.abc import Sequence
from html import escape

Point = tuple[float, float]


def bars(shares: Sequence[float], expected: float, label: str) -> str:
    """Shares by bin, as bars, and the line that all of them stand at without drift."""
    width, height, gap = 200, 64, 3
    top = max(*shares, expected * 2)
    each = (width + gap) / len(shares)
    parts = [_open(width, height, label)]
    for i, share in enumerate(shares):
        tall = share / top * height
        parts.append(
            f'<rect class="bar" x="{i * each:.1f}" y="{height - tall:.1f}" '
            f'width="{each - gap:.1f}" height="{tall:.1f}" rx="1"/>'
        )
    y = height - expected / top * height
    parts.append(f'<line class="expected" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return "".join(parts) + "</svg>"


def line(
    points: Sequence[Point],
    label: str,
    *,
    limit: float | None = None,
    loud: Sequence[bool] = (),
    span: Point = (0, 1),
    size: tuple[int, int] = (200, 48),
    kind: str = "",
    low: float = 0.0,
) -> str:
    """Points over `span`, joined; those that are `loud` are marked; `limit` is a dashed line."""
    width, height = size
    values = [y for _, y in points] + ([limit * 1.3] if limit is not None else [])
    top, low = max([*values, low + 1e-9]), min([*values, low])
    reach = max(span[1] - span[0], 1e-9)

    def at(point: Point) -> tuple[float, float]:
        x = 4 + (point[0] - span[0]) / reach * (width - 8)
        return x, height - 4 - (point[1] - low) / (top - low) * (height - 8)

    parts = [_open(width, height, label)]
    if limit is not None:
        y = at((0, limit))[1]
        parts.append(f'<line class="limit" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
    places = [at(point) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline class="line {kind}" points="{path}"/>')
    if len(places) == 1:
        parts.append(_dot(f"dot {kind}", *places[0]))
    for (x, y), marked in zip(places, loud, strict=False):
        if marked:
            parts.append(_dot("loud", x, y))
    return "".join(parts) + "</svg>"


def _dot(kind: str, x: float, y: float) -> str:
    """A line of no length with round ends: a circle would be squeezed with the picture."""
    return f'<path class="{kind}" d="M{x:.1f} {y:.1f}h0"/>'


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">'
    )
