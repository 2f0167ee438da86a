"""Bytes: content type, base64, gzip, and the size cap, which holds before and after each step."""

import zlib
from binascii import a2b_base64

from handler.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from handler.gateways import Request


def json_body(request: Request, limit: int) -> str | bytes:
    """The decoded body of a JSON request, at most `limit` bytes; UTF-8 is not yet checked.

    Raises UnsupportedMediaType, PayloadTooLarge or BadRequest.
    """
    kind, _, parameters = request.headers.get("content-type", "application/json").partition(";")
    kind = kind.strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind[-5:] == "+json"
    ):
        raise UnsupportedMediaType("send application/json")
    if parameters and "charset" in parameters.lower() and "utf-8" not in parameters.lower():
        raise UnsupportedMediaType("send JSON as UTF-8")
    return body(request, limit)


def body(request: Request, limit: int) -> str | bytes:
    """The body with base64 and gzip taken off, at most `limit` bytes."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip"):
        raise UnsupportedMediaType("the only content coding taken is gzip")
    text = request.body
    if not request.is_base64:
        if coding == "gzip":
            raise BadRequest("a gzip body did not reach the function as binary")
        return sized(text, limit)
    if len(text) > (limit + 2) // 3 * 4:
        raise PayloadTooLarge(f"the body is over {limit} bytes")
    try:
        data = a2b_base64(text, strict_mode=True)
    except ValueError:
        raise BadRequest("the body is not base64, though it is marked so") from None
    if coding == "gzip":
        data = _gunzip(data, limit)
    if len(data) > limit:
        raise PayloadTooLarge(f"the body is over {limit} bytes")
    return data


def sized(text: str, limit: int) -> str:
    """The text, at most `limit` bytes of it. Raises PayloadTooLarge."""
    # a character is one byte of ASCII and at most four of the rest, so few need a second look
    if len(text) > limit or (
        not text.isascii()
        and len(text) * 4 > limit
        and len(text.encode(errors="surrogatepass")) > limit
    ):
        raise PayloadTooLarge(f"the body is over {limit} bytes")
    return text


def _gunzip(data: bytes, limit: int) -> bytes:
    """One gzip member, inflated no further than a byte over the limit."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise BadRequest("the body is not gzip, though it is marked so") from None
    if len(plain) <= limit and (not inflater.eof or inflater.unused_data):
        raise BadRequest("the gzip body is cut off, or something follows it")
    return plain
