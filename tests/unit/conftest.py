"""Artifacts that many tests only read."""

import logging
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


@pytest.fixture(autouse=True)
def _fresh_logger() -> None:
    """Drop Powertools' logger: it keeps the stdout of the test that used it first."""
    logging.root.manager.loggerDict.pop("answerable", None)


@pytest.fixture(scope="session")
def shipped() -> Scorer:
    return load(DIABETES)
