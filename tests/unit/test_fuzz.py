"""The inputs that `make fuzz` found worth keeping still get answers that keep the promises."""

import pytest

from tests.fuzz import harnesses
from tests.fuzz.__main__ import CORPUS


@pytest.mark.parametrize("name", harnesses.HARNESSES)
def test_every_kept_input_keeps_the_promises(name: str) -> None:
    inputs = harnesses.unpack((CORPUS / f"{name}.bin").read_bytes())
    assert inputs
    for data in inputs:
        harnesses.HARNESSES[name](data)
