"""Duplicate keys in JSON objects. JSON parsers disagree on which value wins (RFC 8259, 4)."""

from typing import Any

from handler.errors import BadRequest
from handler.fast_bytes import count


def reject_duplicate_keys(
    body: str | bytes, document: Any, expected_keys: int | None = None
) -> None:
    """Raise BadRequest if any object in `body` has a duplicate key.

    `document` is the parsed body, `expected_keys` the number of its keys if the caller knows it.
    Each key has a colon in the body. Only a body with more colons is looked at as a whole: it has
    colons in strings, or a duplicate key.
    """
    if count(body, ":") <= (_count_keys(document) if expected_keys is None else expected_keys):
        return
    import re

    text = body if isinstance(body, str) else body.decode()
    # one match per string; the group is empty unless a colon follows
    strings = re.findall(r'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?', text)
    if len(strings) - strings.count("") > _count_keys(document, deep=True):
        raise BadRequest("an object in the body has the same name twice")


def _count_keys(document: Any, deep: bool = False) -> int:
    """Return the number of keys; unless `deep`, without those in lists that begin with a scalar."""
    count, pending = 0, [document]
    for value in pending:
        if type(value) is dict:
            count += len(value)
            pending += value.values()
        elif type(value) is list and value and (deep or type(value[0]) in (dict, list)):
            pending += value
    return count
