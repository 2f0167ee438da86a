"""The part of JSON Schema that tests/emf.schema.json uses; any other keyword raises."""

from typing import Any

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
}
NOTES = {"$comment", "title"}
LEAST = {"minimum": lambda value: value, "minLength": len, "minItems": len}
MOST = {"maximum": lambda value: value, "maxLength": len, "maxItems": len}


def validate(value: Any, schema: dict[str, Any], where: str = "") -> None:
    """Raise AssertionError, with the place, unless the value is as the schema says."""
    for keyword, told in schema.items():
        if keyword == "type":
            right = isinstance(value, TYPES[told]) and not isinstance(value, bool)
            assert right, f"{where}: {value!r} is no {told}"
        elif keyword == "enum":
            assert value in told, f"{where}: {value!r}"
        elif keyword == "required":
            assert set(told) <= set(value), f"{where}: lacks {set(told) - set(value)}"
        elif keyword == "additionalProperties":
            assert told is False
            extra = set(value) - set(schema["properties"])
            assert not extra, f"{where}: has {extra}"
        elif keyword == "properties":
            for name in set(told) & set(value):
                validate(value[name], told[name], f"{where}/{name}")
        elif keyword == "items":
            for i, item in enumerate(value):
                validate(item, told, f"{where}/{i}")
        elif keyword in LEAST:
            assert LEAST[keyword](value) >= told, f"{where}: {keyword} {told}"
        elif keyword in MOST:
            assert MOST[keyword](value) <= told, f"{where}: {keyword} {told}"
        else:
            assert keyword in NOTES, f"{keyword}: a keyword that is not known here"
