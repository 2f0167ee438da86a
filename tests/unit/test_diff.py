"""`answerable diff`: two versions, explained."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from answerable.__main__ import main
from answerable.comparison import distance
from handler.manifest import Distribution
from tests.fixtures.artifact import DIABETES

SHIPPED = DIABETES
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped artifact with a narrower age, another metric and a shifted baseline."""
    monkeypatch.setenv("COLUMNS", "120")
    directory = tmp_path / "other"
    shutil.copytree(SHIPPED, directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["version"] = "1.0.1"
    manifest["features"][0]["maximum"] = 110
    manifest["lineage"]["reason"] = "because [of] that"
    manifest["lineage"]["metrics"]["held_out_mae"] = 40.5
    manifest["lineage"]["versions"]["lightgbm"] = "4.0"
    bmi = manifest["baseline"]["features"]["bmi"]
    bmi["values"] = [value + 100 for value in bmi["values"]]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "manifest.sha256").unlink()
    return directory


def lines(capsys: Capture) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_every_difference_is_reported(other: Path, capsys: Capture) -> None:
    assert main(["diff", str(SHIPPED), str(other)]) == 0
    told = lines(capsys)
    for line in (
        "diabetes 1.0.0 -> diabetes 1.0.1",
        "because [of] that",
        "major age: maximum 120 -> 110",
        "refused: 2.0.0 is the least version after 1.0.0",
        "other answers 0 of 29, by more than 1e-05",
        "refused 1",
        "bmi 100.0%",
        "age 0.0%",
        "held_out_mae 47.29 40.5",
        "lightgbm - 4.0",
    ):
        assert line.split() in told, line


def test_other_answers_are_counted_and_measured(tmp_path: Path, capsys: Capture) -> None:
    directory = tmp_path / "other"
    shutil.copytree(SHIPPED, directory)
    rows = [json.loads(line) for line in (directory / "golden.jsonl").read_text().splitlines()]
    for row in rows[:3]:
        row["prediction"]["progression"] *= 1.25
    rows[3]["prediction"] = {"progression": "high"}
    (directory / "golden.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["diff", str(directory), str(SHIPPED)]) == 0
    told = lines(capsys)
    assert ["other", "answers", "4", "of", "29,", "by", "more", "than", "1e-05"] in told
    assert ["largest", "difference", "0.2", "of", "max(1,", "the", "old", "number)"] in told
    assert ["of", "another", "kind", "1"] in told


def test_a_version_can_be_a_git_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "model_artifacts/diabetes")
    monkeypatch.chdir(tmp_path)
    author = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init"], ["add", "."], [*author, "commit", "-m", "one"], ["tag", "v1"]):
        subprocess.run(["git", *words], check=True, capture_output=True)
    assert main(["diff", "v1:diabetes", "diabetes"]) == 0
    assert ["patch", "the", "contract", "is", "the", "same"] in lines(capsys)
    assert main(["diff", "v1:absent", "model_artifacts/diabetes"]) == 2
    assert "v1:absent" in capsys.readouterr().err


def test_what_cannot_be_had_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    assert main(["diff", str(tmp_path), str(SHIPPED)]) == 2
    assert capsys.readouterr().err.strip() == "diff: manifest.json: No such file or directory"


def numbers(*values: Any) -> Distribution:
    """As many equal values as are given, in ascending order and with no ties."""
    steps = [i / (len(values) - 1) for i in range(len(values))]
    return Distribution(100, 0.0, values, tuple(steps), tuple(steps))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (numbers(0.0, 1.0), numbers(0.0, 1.0), 0),
        (numbers(0.0, 1.0), numbers(0.5, 1.5), 0.5),
        (numbers(0.0, 1.0), numbers(5.0, 6.0), 1),
        (numbers(0, 10), numbers(0, 5, 10), 0),
        (
            Distribution(9, 0, ("a", "b"), (0, 0.5), (0.5, 1)),
            Distribution(9, 0, ("b", "c"), (0, 0.75), (0.75, 1)),
            0.5,
        ),
        (
            Distribution(9, 0, (1, 2), (0.0, 0.5), (0.5, 1.0)),
            Distribution(9, 0, (1, 2), (0.0, 0.9), (0.9, 1.0)),
            0.4,
        ),
    ],
)
def test_the_distance_of_baselines(a: Distribution, b: Distribution, expected: float) -> None:
    assert distance(a, b) == distance(b, a) == pytest.approx(expected)
