"""pydantic-core without its module `core_schema`, and functions that make its schemas.

That module is a hundred TypedDicts for type checkers. Importing it costs a sixth of what our
imports add to a cold start. `pydantic_core` is imported without the four names it takes from
there; they are loaded on first use. The schemas are plain dicts, made by functions of the same
names: https://docs.pydantic.dev/latest/api/pydantic_core_schema/
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

from pydantic_core import (  # noqa: E402
    PydanticCustomError,
    PydanticKnownError,
    SchemaValidator,
    ValidationError,
    from_json,
)

__all__ = [
    "CoreSchema",
    "PydanticCustomError",
    "PydanticKnownError",
    "SchemaValidator",
    "ValidationError",
    "from_json",
]

CoreSchema = dict[str, Any]


def _schema_maker(type_name: str, *names: str) -> Callable[..., CoreSchema]:
    """Return the function that makes schemas of a type; `names` are its positional arguments."""

    def schema(*values: Any, **options: Any) -> CoreSchema:
        stated = {name: value for name, value in options.items() if value is not None}
        return {"type": type_name, **dict(zip(names, values, strict=True)), **stated}

    return schema


any_schema, none_schema, bool_schema = map(_schema_maker, ("any", "none", "bool"))
int_schema, float_schema, str_schema = map(_schema_maker, ("int", "float", "str"))
literal_schema = _schema_maker("literal", "expected")
nullable_schema = _schema_maker("nullable", "schema")
default_schema = _schema_maker("default", "schema", "default")
union_schema = _schema_maker("union", "choices")
chain_schema = _schema_maker("chain", "steps")
list_schema = _schema_maker("list", "items_schema")
tuple_schema = _schema_maker("tuple", "items_schema")
dict_schema = _schema_maker("dict", "keys_schema", "values_schema")
typed_dict_schema = _schema_maker("typed-dict", "fields")
typed_dict_field = _schema_maker("typed-dict-field", "schema")
call_schema = _schema_maker("call", "arguments_schema", "function")
arguments_schema = _schema_maker("arguments", "arguments_schema")


def arguments_parameter(name: str, schema: CoreSchema) -> CoreSchema:
    """Return one parameter of `arguments_schema`."""
    return {"name": name, "schema": schema}


def plain_function_schema(function: Callable[[Any], Any]) -> CoreSchema:
    """Return the schema that `function` alone decides on."""
    return {"type": "function-plain", "function": {"type": "no-info", "function": function}}
