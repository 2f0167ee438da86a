from pathlib import Path

import pytest

from tests.fixtures import artifact


@pytest.fixture(scope="session")
def endless_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.endless(tmp_path_factory.mktemp("endless"))
