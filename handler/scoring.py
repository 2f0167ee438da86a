"""Runs one request: validate, run the ONNX session, render the predictions."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from handler import feature_types
from handler import manifest as manifests
from handler.errors import ApiError, ArtifactError
from handler.manifest import Manifest
from handler.model_inputs import Array, Columns, make_batcher
from handler.render import ResponseRenderer
from handler.session import Session
from handler.validate import RequestValidator, example

if TYPE_CHECKING:
    from handler.protocols.tensor_columns import TensorValidator


class Scored(NamedTuple):
    """A scored request.

    `predictions`: one JSON object per row. `out_of_range_counts`: by feature, accepted values
    outside of its range or categories. `seconds`: duration by step. `columns`: the validated
    values. `outputs`: arrays [rows, …] in the manifest's order; raw tensors of several runs are
    left empty, unless they were asked for.
    """

    predictions: list[bytes]
    out_of_range_counts: dict[str, int]
    seconds: dict[str, float]
    columns: Columns
    outputs: Sequence[Array]


class _Runs(NamedTuple):
    """The results of all runs of a request: row numbers and outputs of each."""

    results: list[tuple[Sequence[int], Sequence[Array]]]
    out_of_range_counts: dict[str, int]
    seconds: float


class Scorer:
    """A loaded and warmed model with its contract."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self.manifest = manifest
        self.types = feature_types.of(manifest)
        self.validator = RequestValidator(manifest, self.types)
        self.renderer = ResponseRenderer(manifest)
        self._batches = make_batcher(manifest, self.types)
        self._session = Session(directory, manifest)

    @cached_property
    def tensor_validator(self) -> "TensorValidator":
        """Return the validator of tensors, which `/predict` does without."""
        from handler.protocols.tensor_columns import TensorValidator

        return TensorValidator(self.manifest, self.validator)

    def score(self, body: str | bytes, deadline: float | None = None) -> Scored:
        """Score a body `{"instances": […]}`. Raise an ApiError; see handler.errors."""
        start = perf_counter()
        columns = self.validator.parse(body)
        validated = perf_counter() - start
        scored = self.score_columns(columns, deadline)
        scored.seconds["validate"] = validated
        return scored

    def score_columns(self, columns: Columns, deadline: float | None = None) -> Scored:
        """Score validated columns, of one request or of many."""
        start, count = perf_counter(), len(columns[0])
        runs = self._run(columns, deadline)
        if len(runs.results) == 1:
            outputs = runs.results[0][1]
            predictions = self.renderer.render_predictions(outputs, count)
        else:
            predictions = [b""] * count
            for indices, results in runs.results:
                rendered = self.renderer.render_predictions(results, len(indices))
                for i, text in zip(indices, rendered, strict=True):
                    predictions[i] = text
            is_field = [output.kind != "tensor" for output in self.manifest.outputs]
            outputs = _concat_in_request_order(runs, is_field)
        seconds = {"run": runs.seconds, "convert": perf_counter() - start - runs.seconds}
        return Scored(predictions, runs.out_of_range_counts, seconds, columns, outputs)

    def run(self, columns: Columns, deadline: float | None = None) -> Scored:
        """Score validated columns for their outputs, all of them, without predictions."""
        start = perf_counter()
        runs = self._run(columns, deadline)
        for indices, results in runs.results:
            self.renderer.check_outputs(results, len(indices))
        if len(runs.results) == 1:
            outputs = runs.results[0][1]
        else:
            outputs = _concat_in_request_order(runs, [True] * len(self.manifest.outputs))
        seconds = {"run": runs.seconds, "convert": perf_counter() - start - runs.seconds}
        return Scored([], runs.out_of_range_counts, seconds, columns, outputs)

    def _run(self, columns: Columns, deadline: float | None) -> _Runs:
        results, out_of_range, seconds = [], {}, 0.0
        for indices, feeds, counts in self._batches(columns):
            start = perf_counter()
            outputs = self._session.run(feeds, deadline)
            seconds += perf_counter() - start
            results.append((indices, outputs))
            out_of_range.update(counts)
        return _Runs(results, out_of_range, seconds)


def _concat_in_request_order(runs: _Runs, selected: Sequence[bool]) -> list[Array]:
    """Return the selected outputs of several runs as if of one; the others empty."""
    order = np.argsort([i for indices, _ in runs.results for i in indices])
    return [
        np.concatenate([outputs[k] for _, outputs in runs.results])[order]
        if is_selected
        else np.empty(0)
        for k, is_selected in enumerate(selected)
    ]


def load(directory: Path) -> Scorer:
    """Read, verify, open and warm the artifact in `directory`. Raise ArtifactError."""
    scorer = Scorer(manifests.read(directory), directory)
    try:
        scorer.score(orjson.dumps({"instances": [example(scorer.manifest)]}))
    except ApiError as error:
        # a tensor contract has no example: zeros of the least shape may mean nothing to the model
        if scorer.manifest.features:
            raise ArtifactError(f"the model fails on its own example: {error}") from None
    return scorer
