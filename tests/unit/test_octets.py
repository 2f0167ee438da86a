import base64
from binascii import a2b_base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import octets, wire
from handler.errors import BadRequest
from handler.gateways import Request


@given(st.binary(max_size=200))
def test_it_is_the_inverse_of_encoding(data: bytes) -> None:
    assert octets.decode(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 99_998, 99_999, 100_000, 602_112])
def test_large_data(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert octets.decode(base64.b64encode(data)) == data


@given(st.binary(min_size=24, max_size=60), st.integers(0, 80), st.characters())
def test_it_refuses_what_binascii_does(data: bytes, place: int, wrong: str) -> None:
    text = base64.b64encode(data).decode()
    text = text[:place] + wrong + text[place + 1 :]
    try:
        expected = a2b_base64(text, strict_mode=True)
    except ValueError:
        with pytest.raises((UnicodeError, ValueError)):
            octets.decode(text)
    else:
        assert octets.decode(text) == expected


@pytest.mark.parametrize("wrong", ["=", "-", " ", "\n", "é", "\0"])
def test_a_large_body_that_is_not_base64(wrong: str) -> None:
    text = "A" * wire.LARGE
    for place in (0, wire.LARGE // 2, wire.LARGE - 1):
        request = Request("POST", "/", {}, f"{text[:place]}{wrong}{text[place + 1 :]}", True, "")
        if place == wire.LARGE - 1 and wrong == "=":
            assert len(wire.body(request, wire.LARGE)) == wire.LARGE // 4 * 3 - 1
        else:
            with pytest.raises(BadRequest):
                wire.body(request, wire.LARGE)
