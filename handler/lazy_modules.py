"""Modules of the standard library that packages import at start-up, and that a prediction skips.

orjson imports dataclasses, which imports inspect; numpy imports ast, ctypes and pickle. A module
here is loaded when one of its attributes is used. importlib's LazyLoader does not serve, because
another `import` of its module loads it: https://github.com/python/cpython/issues/86298
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

NAMES = ("ast", "copy", "ctypes", "inspect", "ntpath", "pickle")


def defer_imports() -> None:
    """Let the imports of the modules load nothing yet."""
    for name in NAMES:
        if name not in sys.modules:
            sys.modules[name] = _placeholder(name)


def _placeholder(name: str) -> ModuleType:
    placeholder = ModuleType(name)

    def load(attribute: str) -> Any:
        """Return an attribute of the module, which replaces the placeholder."""
        if sys.modules.get(name) is placeholder:
            del sys.modules[name]
        module = import_module(name)
        vars(placeholder).update(vars(module))
        return getattr(module, attribute)

    vars(placeholder)["__getattr__"] = load
    return placeholder
