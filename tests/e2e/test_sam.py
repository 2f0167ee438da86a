"""Every good event through `sam local invoke`, from the template that would be deployed."""

from pathlib import Path

import pytest

from tests.e2e import sam
from tests.e2e.conftest import Images
from tests.e2e.emulator import Tools
from tests.fixtures import expected_answers


@pytest.fixture(scope="module")
def template(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam.synth(tmp_path_factory.mktemp("sam"), "first", images.first)


@pytest.mark.parametrize("name", expected_answers.names("good"))
def test_a_good_event(answerable: Tools, template: Path, name: str) -> None:
    expected_answers.check(name, sam.invoke(answerable, template, name))
