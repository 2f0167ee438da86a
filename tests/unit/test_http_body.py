import base64
import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import http_body
from handler.errors import ApiError, BadRequest, PayloadTooLarge, UnsupportedMediaType
from handler.http import Request


def request(body: str, *, base64: bool = False, **headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", "/predict", names, body, base64, "")


def encoded(data: bytes, **headers: str) -> Request:
    return request(base64.b64encode(data).decode(), base64=True, **headers)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/vnd.test+json",
        "application/json;charset=utf-8; profile=x",
        "application/json; charset=utf8",
        'application/json; charset = "UTF8"',
    ],
)
def test_json_is_read_by_any_of_its_names(kind: str) -> None:
    assert http_body.read_json(request("{}", content_type=kind), 10) == "{}"


def test_no_content_type_is_taken_for_json() -> None:
    assert http_body.read_json(request("{}"), 10) == "{}"


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/xml",
        "json",
        "",
        "application/json; charset=utf-16",
        "application/json;charset=xutf-8",
    ],
)
def test_other_content_types_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        http_body.read_json(request("{}", content_type=kind), 10)


def test_other_content_codings_are_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        http_body.read(encoded(b"{}", content_encoding="br"), 10)


@pytest.mark.fault(
    "A body of one byte too many, in any script",
    "413",
)
@pytest.mark.parametrize("text", ["x" * 10, "é" * 5])
def test_the_cap_counts_bytes_to_the_last(text: str) -> None:
    assert http_body.read(request(text), 10) == text
    with pytest.raises(PayloadTooLarge):
        http_body.read(request(text), 9)
    data = text.encode()
    assert http_body.read(encoded(data), 10) == data
    with pytest.raises(PayloadTooLarge):
        http_body.read(encoded(data), 9)
    packed = gzip.compress(data)
    assert http_body.read(
        encoded(packed, content_encoding="gzip"), 40
    )  # the packed form is capped too
    with pytest.raises(PayloadTooLarge):
        http_body.read(encoded(gzip.compress(b"x" * 10_000), content_encoding="gzip"), 9_999)


@pytest.mark.fault(
    "gzip that is cut off, followed by more, or none",
    "400",
)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        gzip.compress(b"{}")[:-1],
        gzip.compress(b"{}") + b"x",
        gzip.compress(b"{}") * 2,
    ],
    ids=["empty", "plain", "cut off", "trailing byte", "second member"],
)
def test_broken_gzip_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        http_body.read(encoded(data, content_encoding="gzip"), 1000)


@pytest.mark.fault(
    "base64 that is none",
    "400",
)
@pytest.mark.parametrize("text", ["e30", "e3 0=", "e30=\n", "é30=", "====", "e30=x"])
def test_broken_base64_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        http_body.read(request(text, base64=True), 1000)


def test_deflate_is_a_zlib_stream_up_to_the_cap() -> None:
    data = b"x" * 1000
    sent = encoded(zlib.compress(data), content_encoding="deflate")
    assert http_body.read(sent, 1000) == data
    with pytest.raises(PayloadTooLarge):
        http_body.read(sent, 999)
    for broken in (b"", b"x", zlib.compress(data)[:-1], zlib.compress(data) + b"x"):
        with pytest.raises(BadRequest):
            http_body.read(encoded(broken, content_encoding="deflate"), 1000)


@pytest.mark.fault(
    "Millions of empty arrays and objects, which take more memory than the body may cost",
    "413 before they are parsed",
)
@pytest.mark.parametrize("item", ["[],", "[[[[]]]],", "{},", '{"a":1},', '"x",'])
def test_more_arrays_than_memory_allows_are_refused(item: str) -> None:
    text = f"[{item * (6_000_000 // len(item))}0]"
    for sent in (request(text), encoded(text.encode())):
        with pytest.raises(PayloadTooLarge):
            http_body.read_json(sent, 6_000_100)
    rows = "[" + '{"a":[0.125,1.5,2.25]},' * 100_000 + "0]"
    assert http_body.read_json(request(rows), 6_000_100) == rows


def test_gzip_that_came_as_text_is_refused() -> None:
    with pytest.raises(BadRequest):
        http_body.read(request("{}", content_encoding="gzip"), 1000)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_come_back_or_are_refused(data: bytes, packed: bool) -> None:
    sent = gzip.compress(data) if packed else data
    coding = "gzip" if packed else "identity"
    assert http_body.read(encoded(sent, content_encoding=coding), 1000) == data


@given(st.text(max_size=60), st.booleans(), st.sampled_from(["gzip", "identity"]))
def test_any_text_comes_back_or_is_refused(text: str, marked: bool, coding: str) -> None:
    with contextlib.suppress(ApiError):
        http_body.read(request(text, base64=marked, content_encoding=coding), 50)


@pytest.mark.parametrize("wrong", ["=", "-", " ", "\n", "é", "\0"])
@pytest.mark.parametrize("index", [0, 600, 1198])
def test_a_body_that_is_not_base64(wrong: str, index: int) -> None:
    text = "A" * 1200
    with pytest.raises(BadRequest):
        http_body.read(request(f"{text[:index]}{wrong}{text[index + 1 :]}", base64=True), 1200)


@pytest.mark.parametrize(
    ("accept", "prefers"),
    [
        ("application/json;tensors=base64", True),
        ("application/json ; tensors=base64 ; q=0.1", True),
        ("Application/JSON;Tensors=Base64", True),
        ('application/json;tensors="base64"', True),
        (r'application/json;tensors="bas\e64"', True),
        ("application/json;q=0.3;charset=utf-8;tensors=base64", True),
        ("application/json;;tensors=base64,", True),
        ("text/html, application/json;tensors=base64", True),
        ("application/*;tensors=base64", True),
        ("application/json;tensors=base64, application/json", True),
        ("application/json;tensors=base64, */*;q=0.9", True),
        ("application/json;q=0.1, */*, application/json;tensors=base64;q=0.2", True),
        ("application/json;q=0, application/json;tensors=base64;q=0.001", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json;tensors=base64;q=0", False),
        ("application/json;tensors=base64;q=0.000, */*", False),
        ("application/json;q=0;tensors=base64", False),
        ("application/json;tensors=base64;q=0.5, application/json", False),
        ("application/json;tensors=base64;q=0.5, */*;q=0.8", False),
        ("application/*;tensors=base64, application/json;tensors=base64;q=0", False),
        ("application/json;tensors=foo", False),
        ("application/json;tensors=base64foo", False),
        ("application/json;tensors", False),
        ("application/json;not-tensors=base64", False),
        ('application/json;profile="tensors=base64"', False),
        ('application/json;profile=",application/json;tensors=base64"', False),
        ("text/csv;tensors=base64", False),
        ("application/json, tensors=base64", False),
        ("application/json;tensors=base64;q=high", False),
        ('tensors;";=,', False),
    ],
)
def test_base64_is_negotiated_as_rfc_9110_says(accept: str, prefers: bool) -> None:
    assert http_body.client_prefers_base64(request("", accept=accept)) is prefers


@given(st.text(alphabet='ab*/;=,"\\ q01.tensors', max_size=60))
def test_any_accept_header_is_parsed(header: str) -> None:
    items = list(http_body.parse_accepted(header))
    assert all(name and name in header for name, _, _ in items)
    assert http_body.client_prefers_base64(request("", accept=header)) in (True, False)
