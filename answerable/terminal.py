"""Text for people at a terminal."""

from rich.text import Text


def plain(text: object, style: str = "") -> Text:
    """Return text from data: no Rich markup, and control characters as their escapes."""
    shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    return Text("".join(shown), style)


def number(value: float) -> str:
    """Return a number as people write it: four digits, whole numbers whole."""
    if float(value).is_integer() and abs(value) < 1e9:
        return str(int(value))
    if abs(value) >= 1e9 or abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.0f}" if abs(value) >= 1e3 else f"{float(f'{value:.4g}'):g}"
