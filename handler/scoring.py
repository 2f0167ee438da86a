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
from handler.errors import ApiError, ArtifactError
from handler.manifest import Manifest
from handler.model_inputs import Array, Columns, make_batcher
from handler.session import Session

if TYPE_CHECKING:
    from handler.protocols.tensor_columns import TensorValidator


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


class _Runs(NamedTuple):
    """What the graph answered: `parts` are row numbers and outputs, of each run."""

    parts: list[tuple[Sequence[int], Sequence[Array]]]
    unusual: dict[str, int]
    seconds: float


class Scorer:
    """A loaded and warmed model with its contract."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self.manifest = manifest
        self.contract = Contract(manifest)
        self._batches = make_batcher(manifest)
        self._model = Session(directory, manifest)

    @cached_property
    def table(self) -> "TensorValidator":
        """What makes columns of tensors; `/predict` does without."""
        from handler.protocols.tensor_columns import TensorValidator

        return TensorValidator(self.manifest, self.contract)

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
        start, count = perf_counter(), len(columns[0])
        runs = self._run(columns, deadline)
        if len(runs.parts) == 1:
            outputs = runs.parts[0][1]
            predictions = self.contract.predictions(outputs, count)
        else:
            predictions = [b""] * count
            for indices, part in runs.parts:
                texts = self.contract.predictions(part, len(indices))
                for i, text in zip(indices, texts, strict=True):
                    predictions[i] = text
            kinds = [output.kind for output in self.manifest.outputs]
            outputs = _together(runs, [kind != "tensor" for kind in kinds])
        seconds = {"run": runs.seconds, "convert": perf_counter() - start - runs.seconds}
        return Scored(predictions, runs.unusual, seconds, columns, outputs)

    def infer(self, columns: Columns, deadline: float | None = None) -> Scored:
        """The same for those who want the outputs, all of them, and no predictions."""
        start = perf_counter()
        runs = self._run(columns, deadline)
        for indices, part in runs.parts:
            self.contract.finite(part, len(indices))
        wanted = [True] * len(self.manifest.outputs)
        outputs = runs.parts[0][1] if len(runs.parts) == 1 else _together(runs, wanted)
        seconds = {"run": runs.seconds, "convert": perf_counter() - start - runs.seconds}
        return Scored([], runs.unusual, seconds, columns, outputs)

    def _run(self, columns: Columns, deadline: float | None) -> _Runs:
        parts, unusual, running = [], {}, 0.0
        for indices, feeds, counts in self._batches(columns):
            before = perf_counter()
            outputs = self._model.run(feeds, deadline)
            running += perf_counter() - before
            parts.append((indices, outputs))
            unusual.update(counts)
        return _Runs(parts, unusual, running)


def _together(runs: _Runs, wanted: Sequence[bool]) -> list[Array]:
    """The wanted outputs of several runs as if of one."""
    order = np.argsort([i for indices, _ in runs.parts for i in indices])
    return [
        np.concatenate([outputs[k] for _, outputs in runs.parts])[order] if take else np.empty(0)
        for k, take in enumerate(wanted)
    ]


def load(directory: Path) -> Scorer:
    """Read, verify, open and warm the artifact in `directory`. Raises ArtifactError."""
    scorer = Scorer(manifests.read(directory), directory)
    try:
        scorer.score(orjson.dumps({"instances": [example(scorer.manifest)]}))
    except ApiError as error:
        # a tensor contract has no example: zeros of the least shape may be nothing for the model
        if scorer.manifest.features:
            raise ArtifactError(f"the model fails on its own example: {error}") from None
    return scorer
