"""Every good event through `sam local invoke`, from the template that would be deployed."""

from pathlib import Path

import pytest

from tests import answers
from tests.e2e import sam
from tests.e2e.conftest import Images
from tests.e2e.surroundings import Tools


@pytest.fixture(scope="module")
def template(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam.synth(tmp_path_factory.mktemp("sam"), "first", images.first)


@pytest.mark.parametrize("name", answers.names("good"))
def test_a_good_event(tools: Tools, template: Path, name: str) -> None:
    answers.check(name, sam.invoke(tools, template, name))
