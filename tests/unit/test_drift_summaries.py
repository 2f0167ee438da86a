"""Raw tensors are binned by summaries, which the baseline declares."""

import json
from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline
from handler.drift import BINS, summaries
from handler.drift.bins import Binner
from handler.drift.targets import targets
from handler.manifest import Execution, Output, Tensor

INPUTS = (
    Tensor("image", "float32", (None, 3, 8, 8)),
    Tensor("ids", "int64", (None, None)),
    Tensor("text", "string", (None, 1)),
)
OUTPUTS = (Output("logits", "logits", "float32", (None, 5), "tensor"),)


def feeds(rng: np.random.Generator, rows: int, brightness: float = 0.0) -> dict[str, Any]:
    ids = np.arange(16) < rng.integers(1, 16, (rows, 1))
    texts = [["x" * int(n)] for n in rng.integers(1, 20, rows)]
    return {
        "image": (rng.normal(size=(rows, 3, 8, 8)) + brightness).astype("float32"),
        "ids": ids.astype("int64"),
        "text": np.array(texts, object),
    }


def outputs(rng: np.random.Generator, rows: int, scale: float = 1.0) -> list[Any]:
    return [(rng.normal(size=(rows, 5)) * scale).astype("float32")]


@pytest.fixture(scope="module")
def manifest() -> Any:
    rng = np.random.default_rng(1)
    known = baseline.measure((), {}, OUTPUTS, outputs(rng, 2000), INPUTS, feeds(rng, 2000))
    fields = {"baseline": known, "features": (), "inputs": INPUTS, "outputs": OUTPUTS}
    return type("M", (), {**fields, "execution": Execution()})()


def test_the_baseline_declares_a_small_fixed_set(manifest: Any) -> None:
    assert [target.key for target in targets(manifest)] == [
        "in_image.mean", "in_image.norm", "in_ids.mean", "in_ids.length", "in_text.length",
        "out_logits.mean", "out_logits.norm", "out_logits.entropy",
    ]  # fmt: skip


def binned(manifest: Any, rows: int, **change: float) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    columns = list(feeds(rng, rows, change.get("brightness", 0.0)).values())
    bins = Binner(manifest).bin("r", columns, outputs(rng, rows, change.get("scale", 1.0)))
    return dict(zip([target.key for target in targets(manifest)], bins.bins, strict=True))


def test_without_drift_every_bin_occurs(manifest: Any) -> None:
    found = binned(manifest, 1000)
    assert {len(set(numbers)) for numbers in found.values()} == {BINS}


def test_brightness_and_confidence_move(manifest: Any) -> None:
    found = binned(manifest, 40, brightness=1.0, scale=4.0)
    assert set(found["in_image.mean"]) == {BINS}
    assert np.mean(found["out_logits.entropy"]) < 3  # surer than it was
    assert np.mean(found["out_logits.norm"]) > 9
    assert np.mean(found["in_ids.length"]) < 8


def test_one_row_is_binned_as_many_are(manifest: Any) -> None:
    rng = np.random.default_rng(3)
    columns, arrays = list(feeds(rng, 5).values()), outputs(rng, 5)
    together = Binner(manifest).bin("r", columns, arrays).bins
    first = Binner(manifest).bin("r", [c[:1] for c in columns], [a[:1] for a in arrays]).bins
    assert first == [numbers[0] for numbers in together]
    as_json = [json.loads(json.dumps(column[:1].tolist())) for column in columns]
    assert Binner(manifest).bin("r", as_json, [a[:1] for a in arrays]).bins == first


def test_outputs_that_are_not_available_have_no_bins(manifest: Any) -> None:
    rng = np.random.default_rng(4)
    bins = Binner(manifest).bin("r", list(feeds(rng, 5).values()), [np.empty(0)]).bins
    assert bins[-3:] == [[], [], []]
    assert {len(numbers) for numbers in bins[:-3]} == {5}


@pytest.mark.parametrize("name", summaries.SUMMARIES)
def test_any_row_has_a_number_or_none(name: str) -> None:
    rows: list[Any] = [np.zeros(0), np.zeros(3), np.full(9000, 1e30), np.array([np.nan, 1.0]), 7]
    for row in rows:
        value = summaries.summarise(name, row)
        assert value is None or np.isfinite(value)
    assert summaries.summarise("mean", np.arange(10_000)) == pytest.approx(5000, abs=10)
