"""Fitted models of frameworks, packed as objects or files, through the steps of the zoo.

The answers are compared with the framework's own predictions.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import answerable
from tests.zoo import registry, steps
from tests.zoo.registry import PACKS, ZooModel


class Fitted(NamedTuple):
    """A fitted model, its features, and its own predictions by output of the packed model.

    `options`: more arguments of `answerable.pack`.
    """

    model: Any
    features: pd.DataFrame
    predictions: dict[str, Any]
    options: dict[str, Any] = {}


class PackedFitted(steps.Packed):
    """A packed fitted model, as the steps take it."""

    def __init__(self, name: str, fitted: Fitted) -> None:
        self.fitted = fitted
        self.model = ZooModel(
            name,
            "table",
            "",
            _no_graph,
            True,
            PACKS,
            "dynamic",
            (),
            "",
            (),
            1e-5,
            True,
            True,
            {},
            None,
        )
        self._scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self._scratch.name)
        self.directory = self.folder / "artifacts" / steps.NAME
        sample = self.folder / "sample.csv"
        fitted.features.to_csv(sample, index=False)
        self.paths = registry.Paths(self.directory / "model.onnx", sample, None)
        self.code, self.text = self.pack("1.0.0")

    def pack(self, version: str) -> tuple[int, str]:
        """Pack the object with the table as a DataFrame."""
        facts: dict[str, Any] = {
            "name": steps.NAME,
            "version": version,
            "owner": "tests",
            "reason": "a test",
        }
        packed = answerable.pack(
            self.fitted.model,
            self.fitted.features,
            **facts,
            **self.fitted.options,
            threads=1,
            artifacts=self.directory.parent,
        )
        assert packed.manifest.lineage.parity is not None
        return 0, ""

    @functools.cached_property
    def expected(self) -> list[list[registry.Array]]:
        """The framework's answers, by output and row."""
        predictions = self.fitted.predictions
        assert set(predictions) == {output.name for output in self.manifest.outputs}
        return [
            list(np.asarray(predictions[output.name])[: steps.ROWS])
            for output in self.manifest.outputs
        ]


def _no_graph() -> registry.Built:
    raise NotImplementedError


@functools.cache
def packed(name: str, fit: Callable[[], Fitted]) -> PackedFitted:
    """Return the packed model, packed once per process."""
    return PackedFitted(name, fit())


def run(name: str, fit: Callable[[], Fitted], step: str) -> None:
    """Run one step. Raise AssertionError where the product is wrong."""
    try:
        steps.STEPS[step](packed(name, fit))
    except steps.NotApplicable:
        assert step in ("requests", "feedback")
