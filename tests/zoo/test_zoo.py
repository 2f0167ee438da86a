"""Every zoo model goes through every step of the product, from pack to report."""

from typing import Any

import pytest

from tests.zoo import page, steps
from tests.zoo.known import KNOWN
from tests.zoo.models import ZOO


def cases() -> list[Any]:
    """Return pytest's parameters, model by model."""
    params = []
    for model in ZOO.values():
        for step in steps.STEPS:
            marks: list[Any] = []
            if not model.fast or step in steps.SLOW:
                marks.append(pytest.mark.slow)
            if reason := KNOWN.get((model.name, step)):
                marks.append(pytest.mark.xfail(strict=True, reason=reason))
            params.append(pytest.param(model.name, step, id=f"{model.name}-{step}", marks=marks))
    return params


@pytest.mark.parametrize(("name", "step"), cases())
def test_zoo_model_passes_the_step(name: str, step: str) -> None:
    try:
        steps.run(ZOO[name], step)
    except steps.NotApplicable:
        assert (name, step) not in KNOWN


def test_known_failures_are_of_models_and_steps_that_exist() -> None:
    assert all(name in ZOO and step in steps.STEPS for name, step in KNOWN)


@pytest.mark.slow
def test_models_page_is_current() -> None:
    assert page.FILE.read_text() == page.text(), "stale: python -m tests.zoo.page"
