"""The CSV dialect that packing and `/invocations` share. What a cell means is a feature type's.

UTF-8, with or without BOM; quotes as RFC 4180 has them; the delimiter is the one of , ; tab | that
splits the first line into the most cells. Blanks around names are trimmed. A first column without
a name is the index that pandas writes.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TextIO

from handler.feature_types import parse_number

DELIMITERS = ",;\t|"
INDEX_NAMES = ("", "Unnamed: 0")  # of pandas' index: as written, and as read and written again
# first bytes of formats that are sent or packed instead of CSV
SIGNATURES = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "gzip",
    b"\x93NUMPY": "an .npy array",
}


def other_format(data: bytes) -> str:
    """Return the name of the format that `data` is in instead of CSV; "" if it may be CSV."""
    return next((name for start, name in SIGNATURES.items() if data.startswith(start)), "")


def lines(text: str | TextIO) -> Iterator[list[str]]:
    """Yield the cells of each line, names trimmed. Raise csv.Error for broken quotes."""
    file = io.StringIO(text, newline="") if isinstance(text, str) else text
    chosen = delimiter(file.readline())
    file.seek(0)
    reader = csv.reader(file, strict=True, delimiter=chosen)
    first = next(reader, None)
    if first is not None:
        yield [name.strip() for name in first]
        yield from reader


def delimiter(text: str) -> str:
    """Return the delimiter that splits the first line into the most cells."""
    first = text[: text.find("\n") + 1 or None]

    def count(candidate: str) -> int:
        try:
            return len(next(csv.reader([first], delimiter=candidate), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=count)  # of equals the first


def is_numeric(names: Sequence[str]) -> bool:
    """Return whether all names are numbers, but not pandas' 0, 1, 2 …: a header is missing."""
    if list(names) == [str(i) for i in range(len(names))]:
        return False
    try:
        return all(parse_number(name) is not None for name in names)
    except ValueError:
        return False
