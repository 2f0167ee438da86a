"""The import rule: handler <- infra <- answerable <- {tests, benchmarks}."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# whom each part may import, besides itself and libraries
RULES = {
    "handler": set(),
    "infra": {"handler"},
    "answerable": {"handler", "infra"},
    "benchmarks": {"handler", "infra", "answerable", "tests"},
}
INFRA_TAKES = {"handler.manifest", "handler.validate", "handler.errors", "handler.http"}
INFRA_TAKES |= {"handler.metrics", "handler.settings"}


def imports(path: Path) -> set[str]:
    """Full dotted names that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("part", [part for part in RULES if (ROOT / part).is_dir()])
def test_imports_run_one_way(part: str) -> None:
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        others = {name.partition(".")[0] for name in imports(path)} & {*RULES, "tests"} - {part}
        assert others <= RULES[part], path


@pytest.mark.skipif(not (ROOT / "infra").is_dir(), reason="there is no infra in this tree")
def test_infra_takes_only_what_reads_the_manifest() -> None:
    for path in (ROOT / "infra").rglob("*.py"):
        taken = {name for name in imports(path) if name.startswith("handler.")}
        assert all(any(name.startswith(known) for known in INFRA_TAKES) for name in taken), path


@pytest.mark.parametrize("module", ["manifest", "validate", "metrics", "settings"])
def test_what_infra_takes_does_not_load_onnxruntime(module: str) -> None:
    code = f"import sys, handler.{module}; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_entry_points_import_neither_numpy_nor_onnx() -> None:
    for door in ("app", "gateway_events", "http_body", "jobs/worker", "jobs/storage"):
        names = {name.partition(".")[0] for name in imports(ROOT / "handler" / f"{door}.py")}
        assert not names & {"numpy", "onnxruntime"}, door


def test_scoring_knows_no_transport() -> None:
    names = imports(ROOT / "handler" / "scoring.py")
    assert not any(
        name.startswith(("handler.app", "handler.gateway_events", "handler.http_body"))
        for name in names
    )
