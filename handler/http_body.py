"""Bytes: content type, base64, gzip, and the size cap, which holds before and after each step."""

import zlib
from binascii import a2b_base64

from handler.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from handler.gateway_events import OCTET_STREAM, Request, Response

GZIP_MIN_BYTES = 4096  # bytes, as infra tells the REST API
FAST_BASE64_MIN_CHARS = 100_000  # characters of base64 from which on numpy is faster


def read_json(request: Request, limit: int) -> str | bytes:
    """The decoded body of a JSON request, at most `limit` bytes; UTF-8 is not yet checked.

    Raises UnsupportedMediaType, PayloadTooLarge or BadRequest.
    """
    parameters = request.headers.get("content-type", "").partition(";")[2]
    kind = content_type(request)
    if kind != "application/json" and not (
        kind.startswith("application/") and kind[-5:] == "+json"
    ):
        raise UnsupportedMediaType("send application/json")
    if parameters and "charset" in parameters.lower() and "utf-8" not in parameters.lower():
        raise UnsupportedMediaType("send JSON as UTF-8")
    return read(request, limit)


def content_type(request: Request) -> str:
    """The media type of the body, JSON where nothing is said."""
    kind = request.headers.get("content-type", "application/json")
    return kind.partition(";")[0].strip().lower()


def read_binary(request: Request, limit: int) -> bytes:
    """The body as bytes; a front may have taken it for text. Raises as `body` does."""
    data = read(request, limit)
    try:
        return data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError:
        raise BadRequest("the body is not valid UTF-8") from None


def client_accepts_binary(request: Request) -> bool:
    """Whether a reply of OCTETS reaches the client: a REST API decodes it for those who accept it
    first, and hands the base64 itself to all others.
    """
    accepted = request.headers.get("accept", "").partition(",")[0].partition(";")[0]
    return request.binary or accepted.strip().lower() == OCTET_STREAM


def maybe_gzip(request: Request | None, reply: Response) -> Response:
    """The reply with gzip on it, where the client takes that, the front does not do it itself, and
    it pays.
    """
    if (
        request is None
        or not request.binary
        or len(reply.body) < GZIP_MIN_BYTES
        or reply.headers.get("content-type") == OCTET_STREAM  # tensors hardly get smaller
        or not _accepts_gzip(request.headers.get("accept-encoding", ""))
    ):
        return reply
    packer = zlib.compressobj(1, wbits=31)
    data = packer.compress(reply.body) + packer.flush()
    headers = {**reply.headers, "content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(reply.status, data, headers)


def _accepts_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            return not weight or any(digit in weight for digit in "123456789")
    return False


def read(request: Request, limit: int) -> str | bytes:
    """The body with base64 and gzip taken off, at most `limit` bytes."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip"):
        raise UnsupportedMediaType("the only content coding taken is gzip")
    text = request.body
    if not request.is_base64:
        if coding == "gzip":
            raise BadRequest("a gzip body did not reach the function as binary")
        return check_size(text, limit)
    if len(text) > (limit + 2) // 3 * 4:
        raise PayloadTooLarge(f"the body is over {limit} bytes")
    try:
        data = decode_base64(text)
    except ValueError:
        raise BadRequest("the body is not base64, though it is marked so") from None
    if coding == "gzip":
        data = _gunzip(data, limit)
    if len(data) > limit:
        raise PayloadTooLarge(f"the body is over {limit} bytes")
    return data


def check_size(text: str, limit: int) -> str:
    """The text, at most `limit` bytes of it. Raises PayloadTooLarge."""
    # a character is one byte of ASCII and at most four of the rest, so few need a second look
    if len(text) > limit or (
        not text.isascii()
        and len(text) * 4 > limit
        and len(text.encode(errors="surrogatepass")) > limit
    ):
        raise PayloadTooLarge(f"the body is over {limit} bytes")
    return text


def decode_base64(text: str) -> bytes:
    """What base64 stands for. Raises ValueError for anything else."""
    if len(text) < FAST_BASE64_MIN_CHARS:
        return a2b_base64(text, strict_mode=True)
    from handler import fast_base64

    return fast_base64.decode(text)


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
