"""Placeholders of modules become the modules when they are used."""

import subprocess
import sys

import pytest

USES = {
    "an attribute": "import inspect; assert inspect.signature(print).parameters",
    "a name": "from ast import literal_eval; assert literal_eval('[1]') == [1]",
    "a submodule": "import ctypes.util; assert ctypes.util.find_library",
    "no such name": "import pickle; assert not hasattr(pickle, 'nothing')",
    "both modules": "import copy; a = copy.copy; import copy; assert a is copy.copy",
    "a subclass": "import dataclasses, inspect; assert not inspect.isclass(dataclasses.field)",
}


@pytest.mark.parametrize("use", USES)
def test_a_deferred_module_is_loaded_by_its_use(use: str) -> None:
    script = f"""
import sys
from handler import lazy_modules
for name in lazy_modules.NAMES:
    sys.modules.pop(name, None)
lazy_modules.defer_imports()
placeholders = dict(sys.modules)
{USES[use]}
loaded = [name for name in lazy_modules.NAMES if sys.modules[name] is not placeholders[name]]
assert loaded and all(sys.modules[name].__spec__ for name in loaded), loaded
"""
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_a_module_that_is_loaded_stays() -> None:
    script = """
import inspect, sys
from handler import lazy_modules
lazy_modules.defer_imports()
assert sys.modules["inspect"] is inspect
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not done.returncode, done.stderr
