"""Baselines: ranks in them are uniform when nothing has drifted."""

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from answerable.packing import baseline
from answerable.packing.table import Columns
from handler import feature_types
from handler.manifest import Distribution, Feature, Output


def ranks(found: Distribution, values: list[Any]) -> NDArray[np.float64]:
    """u = F(x), spread uniformly within a step: what monitoring will do with live values."""
    rng = np.random.default_rng(0)
    result = []
    for value in values:
        if value in found.values:
            i = found.values.index(value)
            low, high = found.cdf_left[i], found.cdf_right[i]
            result.append(rng.uniform(low, high))
        else:
            i = int(np.searchsorted(np.array(found.values), value))
            assert 0 < i < len(found.values), "a value of the sample lies outside of it"
            left, right = float(found.values[i - 1]), float(found.values[i])
            share = (value - left) / (right - left)
            result.append(
                found.cdf_right[i - 1] + share * (found.cdf_left[i] - found.cdf_right[i - 1])
            )
    return np.array(result)


def distance_to_uniform(u: NDArray[np.float64]) -> float:
    """Kolmogorov's and Smirnov's statistic."""
    ordered, steps = np.sort(u), np.arange(len(u) + 1) / len(u)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def well_formed(found: Distribution) -> None:
    assert len(found.values) == len(found.cdf_left) == len(found.cdf_right) <= baseline.KNOTS
    assert (found.cdf_left[0], found.cdf_right[-1]) == (0, 1)
    edges = [edge for step in zip(found.cdf_left, found.cdf_right, strict=True) for edge in step]
    assert edges == sorted(edges)


SHAPES: dict[str, Any] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.lognormal(sigma=2, size=n),
    "few": lambda rng, n: rng.integers(0, 6, n).astype(float),
    "counts": lambda rng, n: rng.poisson(40, n).astype(float),
    "half zero": lambda rng, n: np.where(rng.random(n) < 0.5, 0, rng.exponential(size=n)),
    "rounded": lambda rng, n: rng.normal(50, 20, n).round(),
    "constant": lambda rng, n: np.full(n, 3.0),
    "two humps": lambda rng, n: rng.normal(size=n) + 50 * rng.integers(0, 2, n),
}


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 2**32), rows=st.integers(200, 900)
)
def test_ranks_of_the_sample_itself_are_uniform(shape: str, seed: int, rows: int) -> None:
    values = SHAPES[shape](np.random.default_rng(seed), rows).tolist()
    found = baseline.numbers(values)
    well_formed(found)
    # knots are 1/40 apart; between them a straight line is a guess, and the spread is a draw
    assert distance_to_uniform(ranks(found, values)) < 1 / 40 + 1.95 / np.sqrt(rows)


@settings(max_examples=40, deadline=None)
@given(shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 2**32))
def test_ranks_of_other_values_of_the_same_origin_are_uniform(shape: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = baseline.numbers(SHAPES[shape](rng, 2000).tolist())
    low, high = found.values[0], found.values[-1]
    values = [value for value in SHAPES[shape](rng, 500).tolist() if low <= value <= high]
    assert distance_to_uniform(ranks(found, values)) < 1 / 40 + 2.3 * np.sqrt(
        1 / len(values) + 1 / 2000
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1))
def test_categories_are_steps_by_frequency(values: list[str | None]) -> None:
    found = baseline.categories(values)
    present = [value for value in values if value is not None]
    assert found.rows == len(present)
    assert found.missing_share == round(1 - len(present) / len(values), 6)
    shares = [b - a for a, b in zip(found.cdf_left, found.cdf_right, strict=True)]
    for value, share in zip(found.values, shares, strict=True):
        assert abs(share - present.count(str(value)) / len(present)) < 2e-6
    assert all(one >= other - 2e-6 for one, other in pairwise(shares))
    assert set(found.values) == set(present)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9) | st.integers(-5, 5).map(float) | st.none(), min_size=1))
def test_any_numbers_have_a_distribution(values: list[float | None]) -> None:
    found = baseline.numbers(values)
    present = [value for value in values if value is not None]
    assert found.rows == len(present)
    if not present:
        assert found.values == ()
        return
    well_formed(found)
    assert (found.values[0], found.values[-1]) == (min(present), max(present))
    if len(set(present)) < baseline.KNOTS:
        assert set(found.values) == set(present)


def test_features_and_outputs_by_name() -> None:
    features = [
        feature_types.make(Feature("n", "n", "number"), "float32"),
        feature_types.make(Feature("t", "t", "text"), "string"),
        feature_types.make(Feature("c", "c", "category", categories=(1, 2)), "int64"),
    ]
    columns: Columns = {"n": [0.1, 0.2, None], "t": ["a", "aaa", "a"], "c": [1, 2, 2]}
    classes = tuple(f"k{i}" for i in range(12))
    outputs = [
        Output("v", "v", "float32", (None, 1), "value"),
        Output("l", "l", "string", (None,), "label", classes=classes),
        Output("p", "p", "float32", (None, 12), "probabilities", classes=classes),
        Output("r", "r", "float32", (None, 3), "tensor"),
    ]
    answers: list[Any] = [
        np.array([[0.1], [0.7], [0.1]], np.float32),
        np.array(["k1", "k0", "k1"], object),
        np.full((3, 12), 1 / 12, np.float32),
        np.zeros((3, 3), np.float32),
    ]
    found = baseline.measure(features, columns, outputs, answers)
    assert found.rows == 3
    assert found.features["n"].missing_share == 0.333333
    assert found.features["t"].values == (1, 3)
    assert found.features["c"].values == (2, 1)
    assert found.outputs["v"].values == (0.1, 0.7)  # not 0.10000000149011612
    assert found.outputs["l"].values == ("k1", "k0")
    assert [name for name in found.outputs if name.startswith("p")] == [
        f"p.k{i}" for i in range(10)
    ]
    assert "r" not in found.outputs
