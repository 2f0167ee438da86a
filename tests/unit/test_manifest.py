import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from handler import app, manifest
from handler.errors import ArtifactError
from handler.settings import Settings
from tests.fixtures import events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context


def text(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return document


def test_a_manifest_is_one_frozen_object(echo_dir: Path) -> None:
    read = manifest.read(echo_dir)
    assert read.features[0].maximum == 10
    assert read.features[0].out_of_range == "reject"
    assert read.inputs[0].shape == (None, 1)
    with pytest.raises(AttributeError):
        read.name = "other"  # type: ignore[misc]


def spoil(document: dict[str, Any], *path: Any, to: Any) -> str:
    *way, last = path
    place: Any = document
    for step in way:
        place = place[step]
    if to is ...:
        del place[last]
    else:
        place[last] = to
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (("format",), 1, "format 1"),
        (("name",), ..., "name"),
        (("nmae",), "x", "nmae"),
        (("version",), 1, "version"),
        (("limits", "rows"), 0, "limit"),
        (("limits", "rows"), "1000", "limits/rows"),
        (("limits", "rows"), True, "limits/rows"),
        (("features", 0, "input"), "elsewhere", "elsewhere"),
        (("features", 1, "input"), "ratio", "columns"),
        (("features", 0, "type"), "float", "features/0/type"),
        (("features",), [], "0 features"),
        (("outputs",), [], "no inputs or no outputs"),
        (("files",), {}, "model.onnx"),
        (("files", "model.onnx", "bytes"), "9", "files/model.onnx/bytes"),
    ],
)
def test_a_wrong_manifest_is_named_at_its_place(
    echo_dir: Path, path: tuple[Any, ...], to: Any, said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        manifest.parse(spoil(text(echo_dir), *path, to=to))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"'])
def test_what_is_no_manifest_is_refused(content: str) -> None:
    with pytest.raises(ArtifactError):
        manifest.parse(content)


def test_a_missing_manifest_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        manifest.read(tmp_path)


@pytest.mark.fault(
    "a manifest contradicts itself: dtype, column, baseline, output shape, a value of another type",
    "the function lives and answers 503 with the reason; its import does not fail",
)
@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (("inputs", 0, "dtype"), "float31", "float31"),
        (("inputs", 0, "dtype"), "bool", "cannot be of type"),
        (("outputs", 0, "dtype"), "object", "object"),
        (("inputs", 1, "name"), "age", "one name"),
        (("inputs", 0, "shape"), [], "axis for the rows"),
        (("features", 0, "column"), 3, "columns"),
        (("features", 0, "column"), -1, "columns"),
        (("features", 0, "minimum"), "x", "wrong type"),
        (("features", 1, "categories"), [], "categories"),
        (("outputs", 0, "shape"), [None, 3], "progression"),
        (("outputs", 0, "kind"), "probabilities", "0 classes"),
        (("baseline", "features", "age", "values"), [1.0], "differ in length"),
        (("baseline", "features", "age", "cdf_left"), [], "differ in length"),
        (("baseline", "features", "age", "missing_share"), 7.0, "share"),
        (("baseline", "features", "age", "values", 0), "x", "no number"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_a_503(
    tmp_path: Path, path: tuple[Any, ...], to: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(DIABETES, directory)
    (directory / manifest.FILE_NAME).write_text(spoil(text(directory), *path, to=to))
    (directory / manifest.DIGEST_FILE_NAME).unlink()
    answer = app.create(Settings(directory))(events.rest("{}", "/predict"), Context())
    assert answer["statusCode"] == 503
    assert said in json.loads(answer["body"])["detail"]
