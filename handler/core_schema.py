"""pydantic-core and the schemas we make for it, without its `core_schema`.

That module is a hundred TypedDicts for type checkers: a sixth of what our imports add to a cold
start. So `pydantic_core` is imported with its four names that come from there left for later, and
the schemas, plain dicts, are made by the functions below, which are named as theirs:
https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

_MODULE = "pydantic_core.core_schema"
_NAMES = "CoreConfig", "CoreSchema", "CoreSchemaType", "ErrorType"

if "pydantic_core" not in sys.modules:
    sys.modules[_MODULE] = ModuleType(_MODULE)
    for _name in _NAMES:
        setattr(sys.modules[_MODULE], _name, None)
    import pydantic_core

    del sys.modules[_MODULE]
    for _name in _NAMES:
        delattr(pydantic_core, _name)

    def _later(name: str) -> object:
        if name not in _NAMES:
            raise AttributeError(name)
        return getattr(import_module(_MODULE), name)

    pydantic_core.__getattr__ = _later  # type: ignore[method-assign]  # for pydantic, if it comes

from pydantic_core import SchemaValidator, ValidationError, from_json  # noqa: E402

__all__ = ["CoreSchema", "SchemaValidator", "ValidationError", "from_json"]

CoreSchema = dict[str, Any]


def _kind(kind: str, *names: str) -> Callable[..., CoreSchema]:
    """The function that makes a schema of a kind; `names` are of its arguments without one."""

    def schema(*parts: Any, **rules: Any) -> CoreSchema:
        given = {name: rule for name, rule in rules.items() if rule is not None}
        return {"type": kind, **dict(zip(names, parts, strict=True)), **given}

    return schema


any_schema, none_schema, bool_schema = _kind("any"), _kind("none"), _kind("bool")
int_schema, float_schema, str_schema = _kind("int"), _kind("float"), _kind("str")
literal_schema = _kind("literal", "expected")
nullable_schema = _kind("nullable", "schema")
default_schema = _kind("default", "schema", "default")
union_schema = _kind("union", "choices")
chain_schema = _kind("chain", "steps")
list_schema = _kind("list", "items_schema")
tuple_schema = _kind("tuple", "items_schema")
dict_schema = _kind("dict", "keys_schema", "values_schema")
typed_dict_schema = _kind("typed-dict", "fields")
typed_dict_field = _kind("typed-dict-field", "schema")
call_schema = _kind("call", "arguments_schema", "function")
arguments_schema = _kind("arguments", "arguments_schema")


def arguments_parameter(name: str, schema: CoreSchema) -> CoreSchema:
    """One parameter of `arguments_schema`."""
    return {"name": name, "schema": schema}
