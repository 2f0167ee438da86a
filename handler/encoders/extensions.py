"""onnxruntime-extensions: operators for text and pictures in the graph itself."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any


def register(options: Any) -> None:
    """Let sessions with these options run the operators. Raise ImportError without the library.

    The package is not imported, which would take 260 ms: the path of its library suffices.
    """
    spec = find_spec("onnxruntime_extensions")
    if spec is None or spec.origin is None:
        raise ImportError("onnxruntime-extensions is not installed")
    files = Path(spec.origin).parent.glob("_extensions_pydll*")
    (library,) = (file for file in files if file.suffix in (".so", ".pyd"))
    options.register_custom_ops_library(str(library))
