"""The project's models, by name."""

from pathlib import Path

import pytest

from handler.errors import ArtifactError
from infra.project import find_model


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pack(*names: str) -> None:
    for name in names:
        Path("model_artifacts", name).mkdir(parents=True)
        Path("model_artifacts", name, "manifest.json").touch()


def test_find_model_without_a_name_takes_the_only_model() -> None:
    pack("churn")
    assert find_model() == find_model("churn") == Path("model_artifacts/churn")


def test_find_model_with_a_slash_takes_the_path() -> None:
    assert find_model("elsewhere/churn") == Path("elsewhere/churn")


def test_find_model_takes_a_folder_that_is_no_model_s_name() -> None:
    pack("churn")
    for folder in ("churn", "before", "before@1.0.0"):
        Path(folder).mkdir()
        Path(folder, "manifest.json").touch()
    assert find_model("churn") == Path("model_artifacts/churn")
    assert find_model("before") == Path("before")
    assert find_model("before@1.0.0") == Path("before@1.0.0")
    Path("manifest.json").touch()
    assert find_model() == Path("model_artifacts/churn")


@pytest.mark.parametrize(
    ("names", "name", "message"),
    [
        ([], "", "no model is packed in model_artifacts/"),
        ([], "churn", "no model is packed in model_artifacts/"),
        (["wine", "churn"], "", "name one of several models: churn, wine"),
        (["wine", "churn"], "chrun", "no model is named chrun: churn, wine"),
    ],
)
def test_find_model_lists_the_names(names: list[str], name: str, message: str) -> None:
    pack(*names)
    with pytest.raises(ArtifactError, match=f"^{message}$"):
        find_model(name)
