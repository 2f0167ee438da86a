"""base64 of large bodies, by numpy: twice as fast as `binascii`, which goes byte by byte."""

from binascii import a2b_base64

import numpy as np

from handler.model_inputs import Array

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_tables: list[Array] = []


def decode(text: str | bytes) -> bytes:
    """The bytes of base64 with its padding. Raises ValueError for anything else.

    `wire.LARGE` says from when on the making of the table is worth it.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    if len(raw) < 32:
        return a2b_base64(raw, strict_mode=True)
    most = len(raw) // 16 * 16 - 16  # the rest has the padding
    values = _table().take(np.frombuffer(raw, "<u2", most // 2))
    if values.max() > 0xFFF:
        raise ValueError("not base64")
    # two characters are 12 bits; four times 24 are three words of the result, big-endian
    pairs = values.view("<u4")
    bits = (pairs & 0xFFF) << 12 | pairs >> 16
    a, b, c, d = bits.reshape(-1, 4).T
    words = np.empty((len(a), 3), ">u4")
    words[:, 0] = a << 8 | b >> 16
    words[:, 1] = b << 16 | c >> 8
    words[:, 2] = c << 24 | d
    return words.tobytes() + a2b_base64(raw[most:], strict_mode=True)


def _table() -> Array:
    """The 12 bits of every two characters, as they lie in memory; more than those for the rest."""
    if not _tables:
        one = np.full(256, 1 << 12, np.uint32)
        one[np.frombuffer(_ALPHABET, np.uint8)] = np.arange(64)
        first, second = one[None, :], one[:, None]
        both = np.where((first | second) >> 12, 0xFFFF, first << 6 | second)
        _tables.append(both.astype(np.uint16).ravel())
    return _tables[0]
