"""What commands print for people: numbers, and text from data."""

import io

import pytest
from rich.console import Console

from answerable.terminal import number, plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (300.0, "300"),
        (-409.76099419958746, "-409.8"),
        (0.30000000000000004, "0.3"),
        (12345.678, "12346"),
        (3.4e-8, "3.4e-8"),
        (2.5e12, "2.5e12"),
    ],
)
def test_number_is_as_people_write_it(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("name", ["[/x]", "[red]x[/red]", "[bold", "\x1b[31mred\x07", "a\rb"])
def test_text_from_data_is_neither_markup_nor_an_escape_sequence(name: str) -> None:
    out = io.StringIO()
    Console(file=out, force_terminal=True, highlight=False).print(plain(name), end="")
    assert out.getvalue() == name.replace("\x1b", "\\x1b").replace("\x07", "\\x07").replace(
        "\r", "\\r"
    )
