"""Artifacts that many tests only read."""

from pathlib import Path

import pytest

from handler.scoring import Scorer, load
from tests.fixtures import artifact
from tests.fixtures.artifact import DIABETES


@pytest.fixture(scope="session")
def echo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.echo(tmp_path_factory.mktemp("artifacts") / "echo")


@pytest.fixture(scope="session")
def echo(echo_dir: Path) -> Scorer:
    return load(echo_dir)


@pytest.fixture(scope="session")
def shipped() -> Scorer:
    return load(DIABETES)
