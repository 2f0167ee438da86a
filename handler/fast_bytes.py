"""Large bodies by numpy: base64 twice as fast as `binascii`, counts five times as `str.count`."""

from binascii import a2b_base64

import numpy as np

from handler.model_inputs import Array

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_tables: list[Array] = []
COUNT_MIN_CHARS = 10_000


def count(text: str | bytes, character: str) -> int:
    """Return how often an ASCII character occurs in a text."""
    if len(text) < COUNT_MIN_CHARS:
        return text.count(character) if isinstance(text, str) else text.count(character.encode())
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord(character)))


def decode_base64(text: str | bytes) -> bytes:
    """Return the bytes of padded base64. Raise ValueError if it is invalid.

    The first call builds a table of 128 KB: see `http_body.FAST_BASE64_MIN_CHARS`.
    """
    encoded = text.encode("ascii") if isinstance(text, str) else text
    if len(encoded) < 32:
        return a2b_base64(encoded, strict_mode=True)
    n_fast = len(encoded) // 16 * 16 - 16  # the rest has the padding
    values = _table().take(np.frombuffer(encoded, "<u2", n_fast // 2))
    if values.max() > 0xFFF:
        raise ValueError("not base64")
    # two characters are 12 bits; four times 24 bits are three big-endian words of the result
    pairs = values.view("<u4")
    bits = (pairs & 0xFFF) << 12 | pairs >> 16
    a, b, c, d = bits.reshape(-1, 4).T
    words = np.empty((len(a), 3), ">u4")
    words[:, 0] = a << 8 | b >> 16
    words[:, 1] = b << 16 | c >> 8
    words[:, 2] = c << 24 | d
    return words.tobytes() + a2b_base64(encoded[n_fast:], strict_mode=True)


def _table() -> Array:
    """Return the lookup table: two base64 characters -> 12 bits; 0xFFFF for invalid pairs."""
    if not _tables:
        one = np.full(256, 1 << 12, np.uint32)
        one[np.frombuffer(_ALPHABET, np.uint8)] = np.arange(64)
        first, second = one[None, :], one[:, None]
        both = np.where((first | second) >> 12, 0xFFFF, first << 6 | second)
        _tables.append(both.astype(np.uint16).ravel())
    return _tables[0]
