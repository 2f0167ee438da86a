"""`python strip_packages.py FOLDER`: take from installed packages what the image never uses.

The Dockerfile runs this file with the base image's Python, so it imports only the standard
library. tests/runtime runs on stripped packages.
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
numpy/f2py numpy/random numpy/fft numpy/polynomial numpy/testing numpy/typing numpy/_typing/*
numpy/_core/include numpy/_core/lib numpy/_core/_simd.*.so numpy/_core/*_tests.*.so
aws_lambda_powertools/event_handler aws_lambda_powertools/utilities/[!_jt]*
**/tests **/__pycache__ **/*.pyi **/*.h **/*.hpp **/*.a
""".split()  # noqa: SIM905  (a paragraph of patterns)

# Documentation strings, and types for type checkers: 9 ms of 100.
REPLACED = {
    "numpy/_core/_add_newdocs.py": "",
    "numpy/_core/_add_newdocs_scalars.py": "",
    "numpy/_typing/__init__.py": "NDArray = list\n",
}

# The text and the signature of numpy's functions, for documentation, and the name of the Linux
# distribution, which onnxruntime looks up and does not use: 6 ms, mostly of inspect and tokenize.
EDITS = {
    "numpy/_core/overrides.py": {
        "if docs_from_dispatcher and ": "if False and ",
        "if not verify and not getattr": "if False and not getattr",
    },
    "onnxruntime/__init__.py": {"\nonnxruntime_validation.check_distro_info()\n": "\n"},
}

# Packages that begin with the names that a prediction needs. Any other name loads the whole
# package. pybind11 reads numpy.lib.NumpyVersion.
FIRST_NAMES = {
    "numpy": """
from . import _distributor_init
from ._globals import _CopyMode, _NoValue
from .version import __version__
from . import _core
from ._core import *
""",
    "numpy/lib": """
from ._version import NumpyVersion
""",
    "pydantic_core": """
from ._pydantic_core import (
    PydanticCustomError, PydanticKnownError, SchemaValidator, ValidationError, from_json
)
""",
}
OTHER_NAMES = """

def __getattr__(name):
    if name == "_whole":
        raise AttributeError(name)
    from importlib import import_module

    whole = vars(import_module(__name__ + "._whole"))
    new = whole.keys() - globals().keys() | whole.keys() & {"__getattr__"}
    globals().update({key: whole[key] for key in new})
    if name in globals():
        return globals()[name]
    if "__getattr__" in whole:
        return whole["__getattr__"](name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
"""


def strip(folder: Path) -> None:
    """Strip the packages in `folder`."""
    for pattern in REMOVED:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, text in REPLACED.items():
        _write(folder / name, text)
    for name, edits in EDITS.items():
        _write(folder / name, _edit((folder / name).read_text(), edits))
    for name, text in FIRST_NAMES.items():
        (folder / name / "__init__.py").rename(folder / name / "_whole.py")
        _write(folder / name / "__init__.py", text.lstrip() + OTHER_NAMES)


def _edit(text: str, edits: dict[str, str]) -> str:
    for old, new in edits.items():
        if text.count(old) != 1:
            raise ValueError(f"the package does not have {old.strip()!r} once")
        text = text.replace(old, new)
    return text


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # it may be a hard link
    path.write_text(text)


if __name__ == "__main__":
    strip(Path(sys.argv[1]))
