"""Functions that make pydantic-core's schemas, without importing `pydantic_core.core_schema`.

That module is a hundred TypedDicts for type checkers. The image has none of it
(infra/strip_packages.py). The schemas are plain dicts, made by functions of the same names:
https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

from collections.abc import Callable
from typing import Any

from pydantic_core import (
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


def plain_function_schema(function: Callable[[Any], Any]) -> CoreSchema:
    """Return the schema that `function` alone decides on."""
    return {"type": "function-plain", "function": {"type": "no-info", "function": function}}
