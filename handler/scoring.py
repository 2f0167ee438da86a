"""Score a request: validate it, run the ONNX session, check the outputs."""

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from handler import feature_types
from handler import manifest as manifests
from handler.errors import (
    MAX_VIOLATIONS,
    ApiError,
    ArtifactError,
    BadOutput,
    ContractViolation,
    DeadlineExceeded,
    ServerError,
    Violation,
    pointer,
)
from handler.manifest import Manifest
from handler.model_inputs import Array, Columns, make_batcher
from handler.render import ResponseRenderer, Run
from handler.session import Session
from handler.validate import RequestValidator, example

if TYPE_CHECKING:
    from handler.protocols.tensor_columns import TensorValidator


class Scored(NamedTuple):
    """A scored request.

    `columns`: the validated values. `runs`: of each run of the graph, the numbers of its rows and
    its outputs. `outputs`: arrays [rows, …] in the manifest's order; one is empty if runs gave it
    different shapes. `out_of_range_counts`: by feature, accepted values outside of its range or
    categories. `seconds`: duration by step.
    """

    columns: Columns
    runs: Sequence[Run]
    outputs: Sequence[Array]
    out_of_range_counts: dict[str, int]
    seconds: dict[str, float]

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0])


class Scorer:
    """A loaded and warmed model with its contract."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self.manifest = manifest
        self.types = feature_types.of(manifest, directory)
        self.validator = RequestValidator(manifest, self.types)
        self.renderer = ResponseRenderer(manifest)
        self._batches = make_batcher(manifest, self.types)
        self._directory = directory
        self._session = Session(directory, manifest)

    @cached_property
    def tensor_validator(self) -> "TensorValidator":
        """Return the validator of tensors, which `/predict` does without."""
        from handler.protocols.tensor_columns import TensorValidator

        return TensorValidator(self.manifest, self.validator)

    def predict(self, body: str | bytes) -> list[bytes]:
        """Return the JSON of each prediction for a body, without ids. Raise as `score` does."""
        return self.renderer.render_predictions(self.score(body).runs)

    def score(self, body: str | bytes, deadline: float | None = None) -> Scored:
        """Score a body `{"instances": […]}`. Raise an ApiError; see handler.errors."""
        start = perf_counter()
        return self.score_columns(self.validator.parse(body), deadline, start=start)

    def score_columns(
        self,
        columns: Columns,
        deadline: float | None = None,
        pointer_for_row: Callable[[int], str] = lambda row: pointer("instances", row),
        start: float | None = None,
    ) -> Scored:
        """Score columns, validated since `start`. Raise ContractViolation or a ServerError."""
        validated = perf_counter()
        try:
            scored = self._run(columns, deadline)
        except ServerError as error:
            raise self._attribute(error, columns, deadline, pointer_for_row) from None
        if start is not None:
            scored.seconds["validate"] = validated - start
        return scored

    def _run(self, columns: Columns, deadline: float | None) -> Scored:
        start, run_seconds = perf_counter(), 0.0
        runs: list[Run] = []
        out_of_range: dict[str, int] = {}
        for indices, feeds, counts in self._batches(columns):
            run_start = perf_counter()
            outputs = self._session.run(feeds, deadline)
            run_seconds += perf_counter() - run_start
            try:
                self.renderer.check_outputs(outputs, len(indices))
            except BadOutput as error:  # it names rows of the run
                error.rows = [indices[i] for i in error.rows]
                raise
            runs.append((indices, outputs))
            out_of_range.update(counts)
        outputs = runs[0][1] if len(runs) == 1 else _concat_in_request_order(runs)
        seconds = {"run": run_seconds, "convert": perf_counter() - start - run_seconds}
        return Scored(columns, runs, outputs, out_of_range, seconds)

    def _attribute(
        self,
        error: ServerError,
        columns: Columns,
        deadline: float | None,
        pointer_for_row: Callable[[int], str],
    ) -> ApiError:
        """Return the violations of the rows that the model fails for, or else `error`.

        Rows that give NaN or infinity count as rows that the model fails for. The model is at
        fault, not the caller, if it also fails for its own example, or for a row whose values are
        all within what the sample showed.
        """
        at_fault = type(error) in (ServerError, BadOutput)
        if not at_fault or (isinstance(error, BadOutput) and not error.rows):
            return error
        if not self._can_score(self._example_columns(), deadline):
            return error
        rows = error.rows if isinstance(error, BadOutput) else self._failing_rows(columns, deadline)
        if any(self._is_sampled(columns, i) for i in rows):
            return error
        violations = [
            Violation(pointer_for_row(i), "model_rejected", f"the model cannot score row {i}")
            for i in rows
        ]
        return ContractViolation(violations) if violations else error

    def _failing_rows(self, columns: Columns, deadline: float | None) -> Sequence[int]:
        """Return the first rows that the model fails for alone, by halving a failed run."""
        count = len(columns[0])
        if count == 1:
            return [0]
        failing: list[int] = []
        pending = [(count // 2, count), (0, count // 2)]
        while pending and len(failing) <= MAX_VIOLATIONS:
            start, stop = pending.pop()
            if self._can_score([column[start:stop] for column in columns], deadline):
                continue
            if stop - start == 1:
                failing.append(start)
            else:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
        return failing

    def _is_sampled(self, columns: Columns, row: int) -> bool:
        """Return whether all values of a row are within what the sample showed."""
        baseline = self.manifest.baseline.features if self.manifest.baseline else {}
        if any(kind.is_encoded for kind in self.types):  # its baseline is of summaries
            return False
        pairs = zip(self.types, columns, strict=True) if self.types else ()
        return bool(baseline) and all(
            kind.is_sampled(column[row], baseline[kind.feature.name])
            for kind, column in pairs
            if kind.feature.name in baseline
        )

    def _can_score(self, columns: Columns, deadline: float | None) -> bool:
        """Return whether the model scores all rows. Raise DeadlineExceeded."""
        try:
            self._run(columns, deadline)
        except DeadlineExceeded:
            raise
        except ApiError:
            return False
        return True

    def _example_columns(self) -> Columns:
        """Return the contract's example, of a tensor contract the first golden row."""
        instance = example(self.manifest)
        if not self.types:
            from handler.release import golden

            with contextlib.suppress(ArtifactError):
                instance = golden.read(self._directory)[0].instance
        return self.validator.parse(orjson.dumps({"instances": [instance]}))


def _concat_in_request_order(runs: Sequence[Run]) -> list[Array]:
    """Return the outputs of several runs as if of one, or empty if their shapes differ."""
    order = np.argsort([i for indices, _ in runs for i in indices])
    return [
        np.concatenate(arrays)[order]
        if len({array.shape[1:] for array in arrays}) == 1
        else np.empty(0)
        for arrays in zip(*(outputs for _, outputs in runs), strict=True)
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
