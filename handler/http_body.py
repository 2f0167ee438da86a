"""Bodies: content type, base64, gzip, and the size limit, both encoded and decoded."""

import re
import zlib
from binascii import a2b_base64
from collections.abc import Iterator

from handler.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from handler.http import IMAGE_TYPES, JSON, OCTET_STREAM, Request, Response
from handler.manifest import Manifest

GZIP_MIN_BYTES = 4096  # infra sets the same for the REST API
ITEM_COUNT_MIN_CHARS = 250_000  # a smaller body cannot have too many items
# "," before an item and ";" before a parameter, the name, the value, which may be quoted
_ITEM_OR_PARAMETER = r'(?:([,;])\s*)?([^\s,;="]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?'
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s\";]*)", re.IGNORECASE).search


def read_json(request: Request, limit: int) -> str | bytes:
    """Return the decoded body of a JSON request, at most `limit` bytes; UTF-8 is not yet checked.

    Raise UnsupportedMediaType, PayloadTooLarge or BadRequest.
    """
    media_type = content_type(request)
    if media_type != JSON and not (
        media_type.startswith("application/") and media_type[-5:] == "+json"
    ):
        raise UnsupportedMediaType("send application/json")
    charset = _CHARSET(request.headers.get("content-type", ""))
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("send JSON as UTF-8")
    body = read(request, limit)
    check_item_count(body)
    return body


def check_item_count(body: str | bytes) -> None:
    """Raise PayloadTooLarge if the items of a JSON text would take too much memory when parsed.

    An array or object takes about 100 bytes and a string 60, and validators copy arrays. Ten times
    the body and 40 MB are allowed.
    """
    if len(body) < ITEM_COUNT_MIN_CHARS:
        return
    from handler.fast_bytes import count

    nested, quotes = count(body, "[") + count(body, "{"), count(body, '"')
    if nested * 200 + quotes * 35 > 10 * len(body) + 40_000_000:
        raise PayloadTooLarge("the body has too many arrays, objects and texts; send fewer rows")


def content_type(request: Request) -> str:
    """Return the media type of the body, lower-case. The default is JSON."""
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


def is_picture(request: Request, manifest: Manifest) -> bool:
    """Return whether the body is a picture, of a contract that is one."""
    return manifest.takes_picture and content_type(request) in IMAGE_TYPES


def read_binary(request: Request, limit: int) -> bytes:
    """Return the body as bytes, also where the event has it as text. Raise as `read` does."""
    body = read(request, limit)
    try:
        return body.encode() if isinstance(body, str) else body
    except UnicodeEncodeError:
        raise BadRequest("the body is not valid UTF-8") from None


def read(request: Request, limit: int) -> str | bytes:
    """Return the body without base64 and compression, at most `limit` bytes."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "deflate"):
        raise UnsupportedMediaType("the supported content codings are gzip and deflate")
    text = request.body
    if not request.is_base64:
        if coding != "identity":
            raise BadRequest(f"a {coding} body did not reach the function as binary")
        return check_size(text, limit)
    if len(text) > (limit + 2) // 3 * 4:
        raise PayloadTooLarge.request(limit)
    try:
        data = a2b_base64(text, strict_mode=True)
    except ValueError:
        raise BadRequest("the body is not valid base64") from None
    if coding != "identity":
        data = _decompress(data, coding, limit)
    if len(data) > limit:
        raise PayloadTooLarge.request(limit)
    return data


def check_size(text: str, limit: int) -> str:
    """Return the text. Raise PayloadTooLarge if its UTF-8 is over `limit` bytes."""
    # a character is one to four bytes, so most texts need not be encoded
    if len(text) > limit or (
        not text.isascii()
        and len(text) * 4 > limit
        and len(text.encode(errors="surrogatepass")) > limit
    ):
        raise PayloadTooLarge.request(limit)
    return text


def _decompress(data: bytes, coding: str, limit: int) -> bytes:
    """Decompress one gzip member or zlib stream, to at most one byte over the limit."""
    decompressor = zlib.decompressobj(wbits=31 if coding == "gzip" else 15)
    try:
        content = decompressor.decompress(data, limit + 1)
    except zlib.error:
        raise BadRequest(f"the body is not valid {coding}") from None
    if len(content) <= limit and (not decompressor.eof or decompressor.unused_data):
        raise BadRequest(f"the {coding} body is truncated or has trailing data")
    return content


def client_accepts_binary(request: Request) -> bool:
    """Return whether bytes arrive: a REST API decodes base64 for a first accepted binary type."""
    if request.supports_binary_response:
        return True
    media_type, _, weight = next(parse_accepted(request.headers.get("accept", "")), ("", {}, 0))
    return media_type == OCTET_STREAM and weight > 0


def client_prefers_base64(request: Request) -> bool:
    """Return whether the client accepts BASE64_JSON at least as much as JSON with numbers.

    JSON is the answer if the client accepts neither (RFC 9110, section 12.5.1, allows that).
    """
    header = request.headers.get("accept", "")
    if "tensors" not in header.lower():
        return False
    weights = {"base64": 0.0}
    ranges = list(parse_accepted(header))
    for pattern in ("*/*", "application/*", JSON):  # a more specific range wins
        for media_range, parameters, weight in ranges:
            if media_range == pattern:
                weights[parameters.get("tensors", "")] = weight
    return 0 < weights["base64"] >= weights.get("", 0)


def maybe_gzip(request: Request | None, response: Response) -> Response:
    """Return the response, compressed if large and accepted. A REST API compresses by itself."""
    if (
        request is None
        or not request.supports_binary_response
        or len(response.body) < GZIP_MIN_BYTES
        or response.headers.get("content-type") == OCTET_STREAM  # tensors hardly compress
        or not _accepts_gzip(request.headers.get("accept-encoding", ""))
    ):
        return response
    compressor = zlib.compressobj(1, wbits=31)
    data = compressor.compress(response.body) + compressor.flush()
    headers = {**response.headers, "content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(response.status, data, headers)


def _accepts_gzip(accept_encoding: str) -> bool:
    weights = {coding: weight for coding, _, weight in parse_accepted(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0)) > 0


def parse_accepted(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield the items of an `Accept…` header: lower-case, with parameters and weight 0 to 1.

    An item whose weight is no number has weight 0. See RFC 9110, sections 5.6.6 and 12.4.2.
    """
    items: list[tuple[str, dict[str, str]]] = []
    for separator, name, value in re.findall(_ITEM_OR_PARAMETER, header.lower()):
        if separator != ";":
            items.append((name, {}))
        elif items:
            items[-1][1][name] = value.strip('"').replace("\\", "")
    for name, parameters in items:
        try:
            yield name, parameters, float(parameters.get("q", 1))
        except ValueError:
            yield name, parameters, 0
