"""Summaries of raw tensors: one number a row, which is binned like any other number.

`mean` of an image is its brightness, and `length` of token ids or of a mask counts what is no
padding. Which summaries a model has, its manifest's baseline declares as `<tensor>.<summary>`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from handler.model_inputs import Array

MAX_ELEMENTS = 4096  # of a row; of more, evenly spaced ones are summarised


def _norm(values: Array) -> Any:
    """Return the Euclidean norm of all values; numpy.linalg would cost a cold start 2 ms."""
    return np.sqrt(np.vdot(values, values))


def _entropy(values: Array) -> Any:
    """Return the entropy, in nats, of the softmax of a row."""
    shifted = np.exp(values - values.max())
    shares = shifted / shifted.sum()
    return -(shares * np.log(np.maximum(shares, 1e-300))).sum()


SUMMARIES: dict[str, Callable[[Array], Any]] = {
    "mean": np.mean,
    "norm": _norm,
    "entropy": _entropy,
    "length": np.count_nonzero,
}

# attributes of the values of encoded features: see handler/encoders
VALUE_SUMMARIES = ("tokens", "unknown_share", "brightness", "contrast", "pixels")


def names(dtype: str, output: bool) -> tuple[str, ...]:
    """Return the summaries of a tensor of a dtype."""
    if dtype == "string":
        return ("length",)
    if dtype.startswith("float"):
        return ("mean", "norm", "entropy") if output else ("mean", "norm")
    return ("mean",) if dtype in ("bool", "uint8") else ("mean", "length")


def summarise(name: str, row: Any) -> float | None:
    """Return a summary of a tensor's row, or of an encoded value; None if it is no number."""
    if name in VALUE_SUMMARIES:
        return None if row is None else float(getattr(row, name))
    flat = np.asarray(row).ravel()
    if flat.dtype.kind in "OU":
        return float(sum(map(len, flat.tolist())))
    if not flat.size:
        return None
    values = flat[:: -(-flat.size // MAX_ELEMENTS)].astype(np.float64)
    summary = float(SUMMARIES[name](values))
    return summary if np.isfinite(summary) else None
