"""`python -m tests.reliability [--check]`: docs/reliability.md, made of the tests' own marks.

Nothing is run: pytest only collects, all lanes of it.
"""

import argparse
import contextlib
import io
import os
import sys

import pytest

from tests.fixtures.server import ROOT

FILE = ROOT / "docs/reliability.md"
HEAD = """# When something breaks

What the tests break or send, what then happens, and the test that shows it. Written by
`python -m tests.reliability` from the tests' marks `fault`; `make check` fails if it is stale.
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
                link = f'[{path.stem.removeprefix("test_")}](../{path} "{name}")'
                slow = " *slow*" if item.get_closest_marker("slow") else ""
                self.lines.setdefault(
                    (str(path), fault), f"| {fault} | {behaviour} | {link}{slow} |\n"
                )


def document() -> str:
    """The page as the tests of now have it."""
    marks = Marks()
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = pytest.main(
            ["--collect-only", "-q", "-m", "fault", "-p", "no:cacheprovider", str(ROOT / "tests")],
            plugins=[marks],
        )
    if code:
        raise SystemExit(told.getvalue())
    return HEAD + "".join(marks.lines.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is stale")
    check = parser.parse_args().check
    os.chdir(ROOT)
    text = document()
    if not check:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        sys.exit(f"{FILE.relative_to(ROOT)} is stale: python -m tests.reliability")


if __name__ == "__main__":
    main()
