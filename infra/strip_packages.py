"""`python strip_packages.py FOLDER`: take from installed packages what the image never uses.

The Dockerfile runs this file with the base image's Python, so it imports only the standard
library. What it edits falls back to the whole package: a missing name of numpy loads the rest of
numpy. A file that a new version no longer has, or that reads otherwise, stays as it is; a test
compares the edits with the locked versions.
"""

import shutil
import sys
from pathlib import Path

# `libonnxruntime.so` is the C library: the Python binding is linked statically. sympy, mpmath,
# protobuf and flatbuffers are for onnxruntime's conversion tools.
REMOVED = """
bin share sympy* isympy* mpmath* protobuf* google flatbuffers*
onnxruntime/tools onnxruntime/quantization onnxruntime/transformers onnxruntime/datasets
onnxruntime/backend onnxruntime/capi/libonnxruntime.so*
numpy/f2py numpy/random numpy/fft numpy/polynomial numpy/testing numpy/typing
numpy/_core/include numpy/_core/lib numpy/_core/_simd.*.so numpy/_core/*_tests.*.so numpy/_typing/*
aws_lambda_powertools/event_handler aws_lambda_powertools/utilities/[!_jt]*
**/tests **/__pycache__ **/*.pyi **/*.h **/*.hpp **/*.a
""".split()

# Modules that start with a few names, and with all of them when another name is asked for.
# pybind11 asks numpy.lib for NumpyVersion: https://github.com/pybind/pybind11/pull/4857
LAZY = {
    "numpy": """
from . import _distributor_init
from ._globals import _CopyMode, _NoValue
from .version import __version__
from . import _core
from ._core import *
""",
    "numpy/lib": "from ._version import NumpyVersion\n",
    "pydantic_core": """
from ._pydantic_core import (
    PydanticCustomError, PydanticKnownError, SchemaValidator, ValidationError, __version__, from_json
)
""",
}
LATER = """
def __getattr__(name):
    if name[:1] == "_" and name != "__all__":
        raise AttributeError(name)
    from importlib import import_module

    whole = vars(import_module(__name__ + "._whole"))
    globals().update(
        (key, value) for key, value in whole.items()
        if key[:2] != "__" or key in ("__all__", "__dir__", "__getattr__")
    )
    if name in globals():
        return globals()[name]
    if "__getattr__" in whole:
        return whole["__getattr__"](name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
"""
# Files with another text: documentation strings, and types for type checkers.
EMPTIED = {
    "numpy/_core/_add_newdocs.py": "",
    "numpy/_core/_add_newdocs_scalars.py": "",
    "numpy/_typing/__init__.py": "NDArray = list\n",
}

def strip(folder: Path) -> None:
    """Strip the packages in `folder`."""
    for pattern in REMOVED:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, text in EMPTIED.items():
        _write(folder / name, text)
    for name, text in LAZY.items():
        (folder / name / "__init__.py").rename(folder / name / "_whole.py")
        _write(folder / name / "__init__.py", text + LATER)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # it may be a hard link
    path.write_text(text)


if __name__ == "__main__":
    strip(Path(sys.argv[1]))
