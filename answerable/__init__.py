"""The command `answerable` and the Python API: `answerable.pack`, `load`, `diff`."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Set before onnxruntime is first imported: from 1.29 on it sends telemetry by default.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_BUNDLE = Path(__file__).parent / "_bundle"  # handler and infra, in a wheel
if _BUNDLE.is_dir():
    sys.path.insert(0, str(_BUNDLE))

if TYPE_CHECKING:
    from answerable.api import Model, load
    from answerable.comparison import Diff, diff
    from answerable.packing.errors import PackError
    from answerable.packing.pack import Packed, pack
    from handler.errors import ApiError, ArtifactError

__all__ = [
    "ApiError",
    "ArtifactError",
    "Diff",
    "Model",
    "PackError",
    "Packed",
    "diff",
    "load",
    "pack",
]
_MODULES = {
    "answerable.api": ("Model", "load"),
    "answerable.comparison": ("Diff", "diff"),
    "answerable.packing.errors": ("PackError",),
    "answerable.packing.pack": ("Packed", "pack"),
    "handler.errors": ("ApiError", "ArtifactError"),
}


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used: a command does not pay for the others."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'answerable' has no attribute {name!r}")
