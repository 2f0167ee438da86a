"""The workflows, as zizmor reads them: pinned actions, least permissions, nothing injected."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = [
    *sorted((ROOT / ".github/workflows").glob("*.yml")),
    ROOT / "answerable/project_template/release.yml",
]


def test_zizmor_finds_nothing() -> None:
    command = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--persona=pedantic"]
    found = subprocess.run([*command, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (found.returncode, len(WORKFLOWS)) == (0, 4), found.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.parent.name + path.stem)
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.M))
    targets.add(".venv/ready")
    steps = [
        step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]
    ]
    for step in steps:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40))
        for words in re.findall(r"\bmake ([^&|;\n]+)", step.get("run", "")):
            assert {word for word in words.split() if "=" not in word} <= targets
    assert "secrets." not in path.read_text()
