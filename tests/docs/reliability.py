"""docs/reliability.md: what the tests break, from their own marks. pytest only collects them."""

import contextlib
import io
from pathlib import Path

import pytest

from tests.fixtures.server import ROOT

HEAD = """# When something breaks

What the tests break or send, what then happens, and the test that shows it. Written by
`make reference` from the tests' marks `fault`; `make check` fails if it is stale.
Tests under `e2e` run in `make e2e`, *slow* ones in `make check`, all others in `make test`.

| what breaks, or is sent | what then happens | shown by |
|---|---|---|
"""


class Marks:
    """A pytest plugin that keeps one line per marked test function."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            path = item.path.relative_to(ROOT)
            name = item.name.partition("[")[0]
            for mark in item.iter_markers("fault"):
                fault, behaviour = (text.replace("|", "\\|") for text in mark.args)
                link = f"`{path}::{name}`"
                slow = " *slow*" if item.get_closest_marker("slow") else ""
                line = f"| {fault} | {behaviour} | {link}{slow} |\n"
                self.lines.setdefault((str(path), fault), line)


def files() -> dict[Path, str]:
    """Return the file and what it must hold."""
    marks = Marks()
    arguments = [
        "--collect-only",
        "-q",
        "-m",
        "fault",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests"),
    ]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main(arguments, plugins=[marks])
    if code:
        raise SystemExit(output.getvalue())
    return {ROOT / "docs/reliability.md": HEAD + "".join(marks.lines.values())}
