from typing import Any

import pytest

from handler import fast_bytes


@pytest.mark.parametrize("size", [10, fast_bytes.COUNT_MIN_CHARS])
@pytest.mark.parametrize("filler", ["a", "é", "\ud800", b"\xff"])
def test_characters_are_counted_in_short_and_in_long_texts(size: int, filler: Any) -> None:
    one, two = (b"[", b"]") if isinstance(filler, bytes) else ("[", "]")
    text = one * 3 + filler * size + two + one
    assert (fast_bytes.count(text, "["), fast_bytes.count(text, "]")) == (4, 1)
