"""Score a request: the sentence that the product is."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import orjson

from handler import manifest as manifests
from handler.contract import Contract, example
from handler.errors import ArtifactError, Refusal
from handler.manifest import Manifest
from handler.model import Model
from handler.tensors import Array, Columns, batches


class Scored(NamedTuple):
    """`predictions`: one JSON object per row. `unusual`: values per feature that the contract
    accepts although they are out of its range or categories. `seconds`: by step.

    And for what watches: the validated `columns`, and the `outputs`, [rows, …] each in the
    manifest's order; raw tensors that were not run together are left empty there.
    """

    predictions: list[bytes]
    unusual: dict[str, int]
    seconds: dict[str, float]
    columns: Columns
    outputs: Sequence[Array]


class Scorer:
    """A loaded and warmed model with its contract."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self.manifest = manifest
        self.contract = Contract(manifest)
        self._batches = batches(manifest)
        self._model = Model(directory, manifest)

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
        runs: list[tuple[Sequence[int], Sequence[Array]]] = []
        for indices, feeds, counts in self._batches(columns):
            before = perf_counter()
            outputs = self._model.run(feeds, deadline)
            running += perf_counter() - before
            if len(indices) == count:  # all in one run
                predictions, unusual = self.contract.predictions(outputs, count), counts
                together = outputs
                break
            predictions = predictions or [b""] * count
            for i, text in zip(
                indices, self.contract.predictions(outputs, len(indices)), strict=True
            ):
                predictions[i] = text
            unusual.update(counts)
            runs.append((indices, outputs))
        else:
            together = self._together(runs)
        around = perf_counter() - start - running
        seconds = {"run": running, "convert": around}
        return Scored(predictions, unusual, seconds, columns, together)

    def _together(self, runs: list[tuple[Sequence[int], Sequence[Array]]]) -> list[Array]:
        """The outputs of several runs as if of one."""
        order = np.argsort([i for indices, _ in runs for i in indices])
        return [
            np.empty(0)
            if output.kind == "tensor"
            else np.concatenate([outputs[k] for _, outputs in runs])[order]
            for k, output in enumerate(self.manifest.outputs)
        ]


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
