"""One CSV dialect: what packing reads, `/invocations` reads alike."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from answerable.packing import table
from answerable.packing.errors import PackError
from handler import app, csv_dialect
from handler.manifest import Tensor
from handler.settings import Settings
from tests.fixtures import events
from tests.fixtures.events import Context

NAMES = "ratio,count,colour,open,note/~,serum"
ROW = "0.5,3,red,true,a,0.25"


@pytest.fixture(scope="module")
def handler(echo_dir: Path) -> app.Handler:
    return app.create(Settings(echo_dir))


def post(handler: app.Handler, body: str | bytes) -> tuple[int, Any]:
    event = events.rest(body, "/invocations", headers={"Content-Type": "text/csv"})
    answer = handler(event, Context())
    document = json.loads(answer["body"])
    for prediction in document.get("predictions", ()):
        del prediction["id"]
    return answer["statusCode"], document


@pytest.mark.parametrize("delimiter", list(csv_dialect.DELIMITERS))
def test_the_delimiter_is_found(handler: app.Handler, tmp_path: Path, delimiter: str) -> None:
    text = f"{NAMES}\n{ROW}\n{ROW}\n".replace(",", delimiter)
    path = tmp_path / "data.csv"
    path.write_text(text)
    assert table.read(path)["colour"] == ["red", "red"]
    assert post(handler, text) == post(handler, f"{NAMES}\n{ROW}\n{ROW}\n")
    assert post(handler, text)[0] == 200


@pytest.mark.parametrize("spelling", ["", "NaN", " nan ", "NA", "n/a", "NULL", "None"])
def test_missing_numbers_have_the_same_spellings(
    handler: app.Handler, tmp_path: Path, spelling: str
) -> None:
    row = ROW.replace("0.25", spelling)
    assert post(handler, f"{NAMES}\n{row}\n")[1]["predictions"][0]["serum"] == [True]  # is missing
    path = tmp_path / "data.csv"
    cell = spelling or '""'
    path.write_text(f"x\n1\n2\n{cell}\n")
    types, columns = table.features(table.read(path), [Tensor("x", "float32", (None, 1))], {}, "")
    assert columns["x"] == [1, 2, None]
    assert types[0].feature.nullable


@pytest.mark.parametrize("spelling", ["true", "TRUE", " True ", "1", "1.0"])
def test_flags_have_the_same_spellings(handler: app.Handler, tmp_path: Path, spelling: str) -> None:
    status, document = post(handler, f"{NAMES}\n{ROW.replace('true', spelling)}\n")
    assert (status, document["predictions"][0]["open"]) == (200, [True])
    path = tmp_path / "data.csv"
    path.write_text(f"x\n{spelling}\nfalse\n")
    inputs = [Tensor("x", "bool", (None, 1))]
    assert table.features(table.read(path), inputs, {}, "")[1]["x"] == [True, False]


@pytest.mark.parametrize("spelling", ["1_0", "٣", "０", "0x1", "1,5"])  # noqa: RUF001
def test_numbers_have_ascii_digits(handler: app.Handler, tmp_path: Path, spelling: str) -> None:
    row = ROW.replace(",3,", f',"{spelling}",')
    assert post(handler, f"{NAMES}\n{row}\n")[1]["errors"][0]["code"] == "type"
    path = tmp_path / "data.csv"
    path.write_text(f'x\n1\n"{spelling}"\n')
    with pytest.raises(PackError, match="row 3 is no integer"):
        table.features(table.read(path), [Tensor("x", "int64", (None, 1))], {}, "")


def test_blanks_around_names_are_trimmed(handler: app.Handler, tmp_path: Path) -> None:
    text = f"{NAMES.replace(',', ' , ')}\n{ROW}\n{ROW}\n"
    assert post(handler, text)[0] == 200
    path = tmp_path / "data.csv"
    path.write_text(text)
    assert list(table.read(path)) == NAMES.split(",")


@pytest.mark.parametrize("name", csv_dialect.INDEX_NAMES)
def test_the_index_of_pandas_is_left_out(handler: app.Handler, tmp_path: Path, name: str) -> None:
    text = f"{name},{NAMES}\n0,{ROW}\n1,{ROW}\n"
    assert post(handler, text) == post(handler, f"{NAMES}\n{ROW}\n{ROW}\n")
    path = tmp_path / "data.csv"
    path.write_text(text)
    assert list(table.read(path)) == NAMES.split(",")


def test_lines_without_a_header_are_in_the_order_of_the_contract(handler: app.Handler) -> None:
    assert post(handler, f"{ROW}\n{ROW}\n") == post(handler, f"{NAMES}\n{ROW}\n{ROW}\n")
    assert post(handler, ROW)[0] == 200  # SageMaker sends one line without an end
    status, problem = post(handler, "1,2\n3,4\n")
    assert (status, problem["errors"][0]["code"]) == (422, "ragged")
    assert "6 cells in the contract's order" in problem["errors"][0]["message"]


def test_a_sample_without_a_header_is_refused_by_that_name(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("1.5,2\n3,4\n5,6\n")
    with pytest.raises(PackError, match="has no header"):
        table.read(path)
    path.write_text("0,1\n3,4\n5,6\n")  # the names that pandas gives
    assert list(table.read(path)) == ["0", "1"]


@pytest.mark.parametrize(("start", "name"), [
    (b"PAR1", "Parquet"), (b"PK\x03\x04", "Excel"), (b"\xd0\xcf\x11\xe0", "Excel"),
    (b"\x1f\x8b", "gzip"),
])  # fmt: skip
def test_other_formats_are_named(
    handler: app.Handler, tmp_path: Path, start: bytes, name: str
) -> None:
    content = start + b"\xff\x00" * 20
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(PackError, match=name):
        table.read(path)
    status, problem = post(handler, content)
    assert (status, name in problem["detail"]) == (400, True)


def test_a_compressed_sample_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    assert table.read(path) == {"a": ["1", "3"], "b": ["2", "4"]}
    path.write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n")[:-4])
    with pytest.raises(PackError, match="gzip"):
        table.read(path)
