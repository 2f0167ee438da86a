"""The check of all values of one input at once, which answers before the contract's schemas do."""

import math
from typing import Any

import numpy as np
import pytest

from handler.errors import ContractViolation
from handler.scoring import Scorer

LIMIT = 20  # of the feature `note/~`


@pytest.mark.parametrize(
    ("name", "array", "accepted"),
    [
        ("note", np.array([["a" * LIMIT]], object), True),
        ("note", np.array([["a" * (LIMIT + 1)]], object), False),
        ("note", np.array([["a"], ["a" * (LIMIT + 1)]], object), False),
        ("note", np.array([[1]]), False),
        ("colour", np.array([["red"], ["blue"]], object), True),
        ("colour", np.array([["red"], ["green"]], object), False),
        ("count", np.array([[1_000_000]]), True),
        ("count", np.array([[1_000_001]]), False),
        ("count", np.array([[-5]]), True),
        ("count", np.array([[-6]]), False),
        ("count", np.array([[3]], np.int32), False),
        ("count", np.array([[3.0]]), False),
        ("open", np.array([[True]]), True),
        ("open", np.array([[1]]), False),
        ("ratio", np.array([[0.0], [10.0]]), True),
        ("ratio", np.array([[3]]), True),
        ("ratio", np.array([[3]], np.uint8), True),
        ("ratio", np.array([[True]]), False),
        ("ratio", np.array([["3"]], object), False),
        ("ratio", np.array([[3]], np.longdouble), False),
        ("ratio", np.array([[np.nan]]), False),
        ("ratio", np.array([[10.001]]), False),
        ("serum", np.array([[np.nan], [0.5]]), True),
        ("serum", np.array([[np.inf]]), False),
    ],
)
def test_accepts_only_what_the_contract_takes(
    echo: Scorer, name: str, array: Any, accepted: bool
) -> None:
    assert echo.tensor_validator._checks[name].accepts(array) is accepted


def test_nan_in_json_is_no_null(echo: Scorer) -> None:
    tensors: dict[str, Any] = {
        feature.input: [feature.example] for feature in echo.manifest.features
    }
    columns = echo.tensor_validator.columns({**tensors, "serum": [None]}, "/{}/{}".format)
    assert list(columns[5]) == [None]
    with pytest.raises(ContractViolation) as error:
        echo.tensor_validator.columns({**tensors, "serum": [math.nan]}, "/{}/{}".format)
    assert [(v.pointer, v.code) for v in error.value.violations] == [("/5/0", "non_finite")]
