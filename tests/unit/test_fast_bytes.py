import base64
from binascii import a2b_base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import fast_bytes, http_body
from handler.errors import BadRequest
from handler.http import Request


@given(st.binary(max_size=200))
def test_it_is_the_inverse_of_encoding(data: bytes) -> None:
    assert fast_bytes.decode_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 99_998, 99_999, 100_000, 602_112])
def test_large_data(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert fast_bytes.decode_base64(base64.b64encode(data)) == data


@given(st.binary(min_size=24, max_size=60), st.integers(0, 80), st.characters())
def test_it_refuses_what_binascii_does(data: bytes, place: int, wrong: str) -> None:
    text = base64.b64encode(data).decode()
    text = text[:place] + wrong + text[place + 1 :]
    try:
        expected = a2b_base64(text, strict_mode=True)
    except ValueError:
        with pytest.raises((UnicodeError, ValueError)):
            fast_bytes.decode_base64(text)
    else:
        assert fast_bytes.decode_base64(text) == expected


@pytest.mark.parametrize("wrong", ["=", "-", " ", "\n", "é", "\0"])
def test_a_large_body_that_is_not_base64(wrong: str) -> None:
    text = "A" * http_body.FAST_BASE64_MIN_CHARS
    for place in (0, http_body.FAST_BASE64_MIN_CHARS // 2, http_body.FAST_BASE64_MIN_CHARS - 1):
        request = Request("POST", "/", {}, f"{text[:place]}{wrong}{text[place + 1 :]}", True, "")
        if place == http_body.FAST_BASE64_MIN_CHARS - 1 and wrong == "=":
            assert (
                len(http_body.read(request, http_body.FAST_BASE64_MIN_CHARS))
                == http_body.FAST_BASE64_MIN_CHARS // 4 * 3 - 1
            )
        else:
            with pytest.raises(BadRequest):
                http_body.read(request, http_body.FAST_BASE64_MIN_CHARS)
