"""Every zoo model goes through every step of the product, from pack to report."""

from typing import Any

import pytest

from tests.docs import models
from tests.zoo import steps
from tests.zoo.known import KNOWN
from tests.zoo.models import ZOO


def cases() -> list[Any]:
    """Return pytest's parameters; a model's tests run in one process, which packs it once."""
    params = []
    for model in ZOO.values():
        for step in steps.STEPS:
            marks: list[Any] = [pytest.mark.xdist_group(model.name)]
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ZOO]
)
def test_models_page_has_the_model_s_row(name: str) -> None:
    assert models.row(ZOO[name]) in models.FILE.read_text(), "stale: make reference PAGE=models"


@pytest.mark.slow
def test_models_page_has_the_known_failures() -> None:
    assert models.FILE.read_text().endswith(models.known_failures())


def test_models_page_has_all_models() -> None:
    page = models.FILE.read_text()
    assert page.startswith(models.head())
    assert all(f"\n| {name} | " in page for name in ZOO)
    assert all(name in ZOO and step in steps.STEPS for name, step in KNOWN)
