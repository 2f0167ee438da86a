"""Text and tables for people at a terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def plain(text: object, style: str = "") -> Text:
    """Return text from data: no Rich markup, and control characters as their escapes."""
    shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    return Text("".join(shown), style)


def table(columns: Sequence[str], rows: Iterable[Iterable[object]], title: str = "") -> Table:
    """Return a table of plain text; columns without names have no header."""
    result = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    result.show_header = any(columns)
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*map(plain, row))
    return result


def listed(values: Sequence[object], limit: int) -> str:
    """Return the first `limit` values with commas between them, and how many more there are."""
    shown = ", ".join(map(str, values[:limit]))
    return f"{shown} and {len(values) - limit} more" if len(values) > limit else shown


def number(value: float) -> str:
    """Return a number as people write it: four digits, whole numbers whole."""
    if float(value).is_integer() and abs(value) < 1e9:
        return str(int(value))
    if abs(value) >= 1e9 or abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.0f}" if abs(value) >= 1e3 else f"{float(f'{value:.4g}'):g}"
