import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import emulator
from tests.e2e.emulator import ACCOUNT, REGION, Tools

E2E = Path(__file__).parent
NEXT = "99.0.0"  # the model version of the second deployment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.enable_socket)


class Images(NamedTuple):
    """The same code with two versions of the model: the trees they are built from, their tags."""

    first: Path
    second: Path
    repository: str = "answerable"

    def name(self, tag: str, suffix: str = "amazonaws.com") -> str:
        """As the template spells it. SAM puts `localhost` where AWS has its domain."""
        return f"{ACCOUNT}.dkr.ecr.{REGION}.{suffix}/{self.repository}:{tag}"


@pytest.fixture(scope="session")
def answerable() -> Tools:
    return emulator.prepare()


@pytest.fixture(scope="session")
def images(answerable: Tools, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Both images, built from the real Dockerfile; the first as `make image` builds it."""
    trees = {
        "first": emulator.tree(tmp_path_factory.mktemp("first")),
        "second": emulator.tree(tmp_path_factory.mktemp("second"), NEXT),
    }
    images = Images(trees["first"], trees["second"])
    for tag, tree in trees.items():
        subprocess.run(
            [sys.executable, "-m", "answerable", "image", "--tag", images.name(tag)],
            cwd=tree,
            env=emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base),
            check=True,
        )
        named = [images.name(tag), images.name(tag, "localhost")]
        subprocess.run([answerable.docker, "tag", *named], check=True)
    return images


@pytest.fixture(scope="session")
def function(answerable: Tools, images: Images) -> Iterator[emulator.Container]:
    """The image as Lambda runs it, under the emulator in its base image."""
    with emulator.container(
        answerable.docker, images.name("first"), *emulator.AS_IN_LAMBDA
    ) as running:
        yield running
