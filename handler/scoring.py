"""Score a request: the sentence that the product is."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from handler import manifest as manifests
from handler.contract import Contract, example
from handler.errors import ArtifactError, Refusal
from handler.manifest import Manifest
from handler.model import Model
from handler.tensors import Array, Columns, batches

if TYPE_CHECKING:
    from handler.columns import Table


class Scored(NamedTuple):
    """`predictions`: one JSON object per row. `unusual`: values per feature that the contract
    accepts although they are out of its range or categories. `seconds`: by step.
    """

    predictions: list[bytes]
    unusual: dict[str, int]
    seconds: dict[str, float]


class Inferred(NamedTuple):
    """`outputs`: in the manifest's order, as the graph gives them."""

    outputs: Sequence[Array]
    rows: int
    unusual: dict[str, int]
    seconds: dict[str, float]


class Scorer:
    """A loaded and warmed model with its contract."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self.manifest = manifest
        self.contract = Contract(manifest)
        self._batches = batches(manifest)
        self._model = Model(directory, manifest)

    @cached_property
    def table(self) -> "Table":
        """What makes columns of tensors; `/predict` does without."""
        from handler.columns import Table

        return Table(self.manifest, self.contract)

    def score(self, body: str | bytes, deadline: float | None = None) -> Scored:
        """Score a body `{"instances": […]}`. Raises a Refusal; see handler.errors."""
        start = perf_counter()
        columns = self.contract.columns(body)
        validated = perf_counter() - start
        scored = self.score_columns(columns, deadline)
        scored.seconds["validate"] = validated
        return scored

    def score_columns(self, columns: Columns, deadline: float | None = None) -> Scored:
        """Score what the contract has validated, from one request or stacked from many."""
        start, running = perf_counter(), 0.0
        count = len(columns[0])
        predictions: list[bytes] = []
        unusual: dict[str, int] = {}
        for indices, feeds, counts in self._batches(columns):
            before = perf_counter()
            outputs = self._model.run(feeds, deadline)
            running += perf_counter() - before
            if len(indices) == count:  # all in one run
                predictions, unusual = self.contract.predictions(outputs, count), counts
                break
            predictions = predictions or [b""] * count
            for i, text in zip(
                indices, self.contract.predictions(outputs, len(indices)), strict=True
            ):
                predictions[i] = text
            unusual.update(counts)
        around = perf_counter() - start - running
        return Scored(predictions, unusual, {"run": running, "convert": around})

    def infer(self, columns: Columns, deadline: float | None = None) -> Inferred:
        """The same, but the outputs as they are."""
        start, running = perf_counter(), 0.0
        unusual: dict[str, int] = {}
        runs: list[Sequence[Array]] = []
        for _, feeds, counts in self._batches(columns):
            before = perf_counter()
            outputs = self._model.run(feeds, deadline)
            running += perf_counter() - before
            self.contract.finite(outputs)
            runs.append(outputs)
            unusual.update(counts)
        outputs = runs[0]
        if self.manifest.execution.batch == "none":  # one instance, without an axis for rows
            outputs = [np.asarray(output[0], output.dtype) for output in outputs]
        elif len(runs) > 1:
            outputs = [np.concatenate(parts) for parts in zip(*runs, strict=True)]
        around = perf_counter() - start - running
        return Inferred(outputs, len(columns[0]), unusual, {"run": running, "convert": around})


def load(directory: Path) -> Scorer:
    """Read, verify, open and warm the artifact in `directory`. Raises ArtifactError."""
    scorer = Scorer(manifests.read(directory), directory)
    try:
        scorer.score(orjson.dumps({"instances": [example(scorer.manifest)]}))
    except Refusal as error:
        # a tensor contract has no example: zeros of the least shape may be nothing for the model
        if scorer.manifest.features:
            raise ArtifactError(f"the model fails on its own example: {error}") from None
    return scorer
