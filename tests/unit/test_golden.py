import math
from pathlib import Path
from typing import Any

import pytest

from handler import manifest
from handler.errors import ArtifactError
from handler.release import golden

LINE = '{"name":"a","instance":{"x":1},"prediction":{"y":2.0}}'


@pytest.mark.parametrize(
    ("expected", "found", "deviation"),
    [
        ({"y": 2.0}, {"y": 2.0, "id": "new"}, 0),
        ({"y": 2.0}, {"y": 2.1}, 0.05),
        ({"y": 0.5}, {"y": 0.6}, 0.1),  # absolute below 1
        ({"y": 2.0}, {"y": 2}, 0),
        ({"y": [[1.0], [2.0]]}, {"y": [[1.0], [4.0]]}, 1),
        ({"y": {"a": 0.5, "b": 0.5}}, {"y": {"a": 0.5, "b": 0.25}}, 0.25),
        ({"y": 2.0}, {}, math.inf),
        ({"y": [1.0]}, {"y": [1.0, 1.0]}, math.inf),
        ({"y": "a"}, {"y": "b"}, math.inf),
        ({"y": 1}, {"y": 2}, math.inf),
        ({"y": True}, {"y": 1}, math.inf),
        ({"y": 1.0}, {"y": True}, math.inf),
        ({"y": 1.0}, {"y": None}, math.inf),
        ([], [], 0),
    ],
)
def test_deviation(expected: Any, found: Any, deviation: float) -> None:
    assert golden.deviation(expected, found) == pytest.approx(deviation)


def test_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / golden.FILE_NAME).write_text(f"{LINE}\n{LINE}\n")
    assert golden.read(tmp_path) == [golden.Row("a", {"x": 1}, {"y": 2.0})] * 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name":"a"}', LINE + "\nnull"])
def test_a_damaged_file_is_an_artifact_error(tmp_path: Path, text: str) -> None:
    (tmp_path / golden.FILE_NAME).write_text(text)
    with pytest.raises(ArtifactError, match="golden"):
        golden.read(tmp_path)


def test_a_missing_file_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        golden.read(tmp_path)


def test_halves_may_differ_by_more(echo_dir: Path) -> None:
    found = manifest.read(echo_dir)
    halves = found._replace(outputs=(found.outputs[0]._replace(dtype="float16"),))
    assert golden.tolerance(halves) == 100 * golden.tolerance(found) == pytest.approx(1e-2)
