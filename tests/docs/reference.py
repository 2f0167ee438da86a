"""Write docs/reference/ and the shipped artifact's manifest and OpenAPI document, from the code.

`make reference` does it. tests/unit/test_reference.py compares the files with it.
"""

import argparse
import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from answerable.__main__ import COMMANDS
from answerable.packing import artifact, openapi
from handler import manifest as manifests
from infra.settings import Settings
from tests.docs import contract_file
from tests.fixtures.artifact import DIABETES

ROOT = Path(__file__).parents[2]
HEAD = """# {title}

`make reference` writes this page from the code.
"""


def files() -> dict[Path, str]:
    """Return the content of each generated file."""
    artifacts = [ROOT / "model_artifacts/diabetes", DIABETES]
    return {
        ROOT / "docs/reference/commands.md": _page("Commands", _commands()),
        ROOT / "docs/reference/settings.md": _page("Settings of deploy.toml", _settings()),
        ROOT / "docs/reference/contract-file.md": _page("Contract file", contract_file.lines()),
        **{path: content for a in artifacts if a.exists() for path, content in _artifact(a)},
    }


def _page(title: str, lines: Iterator[str]) -> str:
    return "\n".join([HEAD.format(title=title), *lines]) + "\n"


def _artifact(directory: Path) -> Iterator[tuple[Path, str]]:
    manifest = json.loads((directory / manifests.FILE_NAME).read_text())
    document = openapi.render(manifests.read(directory))
    for name, content in artifact.contents(manifest, document).items():
        yield directory / name, content.decode()


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _commands() -> Iterator[str]:
    """Not argparse's own help, which looks another way in each version of Python."""
    for name, summary in COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"answerable.commands.{name.replace('-', '_')}").add_arguments(
            parser
        )
        yield f"\n## `answerable {name}`\n\n{summary[0].upper()}{summary[1:]}.\n"
        yield from _arguments(parser, "")


def _arguments(parser: argparse.ArgumentParser, prefix: str) -> Iterator[str]:
    rows, inner = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner += [(f"{prefix}{name} ", found) for name, found in action.choices.items()]
            rows += [_row(f"`{prefix}{a.dest}`", a.help or "") for a in action._choices_actions]
        elif action.help != argparse.SUPPRESS and action.dest != "help":
            value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
            words = [" ".join([name, *([str(value)] if value else [])])
                     for name in action.option_strings] or [str(value)]  # fmt: skip
            chosen = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
            rows.append(_row(f"`{prefix}{', '.join(words)}`", _help(action) + chosen))
    yield from [_row("argument", "meaning"), "|---|---|", *rows] if rows else ()
    for name, found in inner:
        more = [line for line in _arguments(found, name) if not line.startswith(("| arg", "|---"))]
        yield from more


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default))


def _settings() -> Iterator[str]:
    """The settings of a deployment, with the comments above them in infra/settings.py."""
    yield from (_row("setting", "default", "values", "meaning"), "|---|---|---|---|")
    lines = (ROOT / "infra/settings.py").read_text().splitlines()
    classes = [node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef)]
    body = next(node.body for node in classes if node.name == "Settings")
    schema: dict[str, Any] = Settings.model_json_schema()["properties"]
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        above: list[str] = []
        for line in reversed(lines[: node.lineno - 1]):
            if not line.strip().startswith("#"):
                break
            above.insert(0, line.strip("# "))
        trailing = lines[(node.end_lineno or 0) - 1].partition("  # ")[2]
        told = schema[name]
        found = next(part for part in told.get("anyOf", [told]) if part["type"] != "null")
        limits = [str(found[key]) for key in ("minimum", "maximum") if key in found]
        values = ", ".join(f"`{v}`" for v in found.get("enum", ())) or found["type"]
        values += f", {' to '.join(limits)}" if limits else ""
        default = told.get("default")
        shown = (
            ""
            if default in (None, "")
            else f"`{str(default).lower() if default in (True, False) else default}`"
        )
        yield _row(f"`{name}`", shown, values, " ".join([*above, trailing]).strip())
