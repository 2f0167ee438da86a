import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from handler import validate
from handler.errors import BadRequest, ContractViolation
from handler.scoring import Scorer, load
from handler.validate import example
from tests.fixtures import artifact
from tests.fixtures.artifact import ECHO_FEATURES

GOOD = {f["name"]: f["example"] for f in ECHO_FEATURES}
NOTE = "/instances/0/note~1~0"


def refused(echo: Scorer, body: str | bytes) -> list[tuple[str, str]]:
    with pytest.raises(ContractViolation) as caught:
        echo.validator.parse(body)
    return [(v.pointer, v.code) for v in caught.value.violations]


def one(**changes: Any) -> str:
    row = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    return json.dumps({"instances": [row]})


def test_a_row_comes_in_the_contract_s_order_with_its_nulls_filled(echo: Scorer) -> None:
    shuffled = dict(reversed(GOOD.items()))
    del shuffled["serum"]
    for count in (1, 1000):  # both ways of reading
        columns = echo.validator.parse(json.dumps({"instances": [shuffled] * count}))
        expected = [None if name == "serum" else value for name, value in GOOD.items()]
        assert [list(column) for column in columns] == [[value] * count for value in expected]


def test_an_unknown_key_in_place_of_an_optional_one_is_refused(echo: Scorer) -> None:
    row = {name: value for name, value in GOOD.items() if name != "serum"} | {"unknown": 1}
    for count in (1, 1000):  # both ways of reading
        body = json.dumps({"instances": [row] * count})
        assert refused(echo, body)[0] == ("/instances/0", "unknown_field")


def test_rows_of_different_key_order_are_the_same_columns(echo: Scorer) -> None:
    rows = [GOOD, dict(reversed(GOOD.items()))] * 500
    columns = echo.validator.parse(json.dumps({"instances": rows}))
    assert [list(column) for column in columns] == [[value] * 1000 for value in GOOD.values()]


def test_a_whole_float_is_an_integer(echo: Scorer) -> None:
    assert echo.validator.parse(one(count=3.0))[1][0] == 3


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"ratio": ...}, "/instances/0/ratio", "missing"),
        ({"ratio": None}, "/instances/0/ratio", "type"),
        ({"ratio": "1"}, "/instances/0/ratio", "type"),
        ({"ratio": True}, "/instances/0/ratio", "type"),
        ({"ratio": [1]}, "/instances/0/ratio", "type"),
        ({"ratio": {}}, "/instances/0/ratio", "type"),
        ({"ratio": math.nan}, "/instances/0/ratio", "non_finite"),
        ({"ratio": -math.inf}, "/instances/0/ratio", "non_finite"),
        ({"ratio": -0.001}, "/instances/0/ratio", "out_of_range"),
        ({"ratio": 10.001}, "/instances/0/ratio", "out_of_range"),
        ({"ratio": 10**400}, "/instances/0/ratio", "non_finite"),
        ({"count": 3.5}, "/instances/0/count", "type"),
        ({"count": 3.0000001}, "/instances/0/count", "type"),
        ({"count": "3"}, "/instances/0/count", "type"),
        ({"count": True}, "/instances/0/count", "type"),
        ({"count": -6}, "/instances/0/count", "out_of_range"),
        ({"count": 2**63}, "/instances/0/count", "out_of_range"),
        ({"colour": "green"}, "/instances/0/colour", "unknown_category"),
        ({"colour": 1}, "/instances/0/colour", "unknown_category"),
        ({"colour": None}, "/instances/0/colour", "unknown_category"),
        ({"open": 1}, "/instances/0/open", "type"),
        ({"open": "true"}, "/instances/0/open", "type"),
        ({"note/~": 5}, NOTE, "type"),
        ({"note/~": "x" * 21}, NOTE, "too_long"),
        ({"serum": "0"}, "/instances/0/serum", "type"),
        ({"serum": 1e39}, "/instances/0/serum", "out_of_range"),  # no float32 holds it
        ({"extra": 1}, "/instances/0", "unknown_field"),
    ],
)
def test_a_violation_has_pointer_and_code(
    echo: Scorer, changes: dict[str, Any], pointer: str, code: str
) -> None:
    assert refused(echo, one(**changes)) == [(pointer, code)]


def test_what_an_integer_must_be_is_said_so(echo: Scorer) -> None:
    for value in ("3", 3.5, None):
        with pytest.raises(ContractViolation) as caught:
            echo.validator.parse(one(count=value))
        assert caught.value.violations[0].message == "must be an integer"
    with pytest.raises(ContractViolation) as caught:
        echo.validator.parse(one(count=-6))
    assert caught.value.violations[0].message == "must be at least -5"


def test_all_violations_of_a_row_are_reported_at_once(echo: Scorer) -> None:
    found = refused(echo, one(ratio="x", colour="green", open=..., extra=1, more=2))
    assert found == [
        ("/instances/0", "unknown_field"),
        ("/instances/0/ratio", "type"),
        ("/instances/0/colour", "unknown_category"),
        ("/instances/0/open", "missing"),
    ]


def test_at_most_twenty_violations_of_all_rows_are_reported(echo: Scorer) -> None:
    found = refused(echo, json.dumps({"instances": [GOOD, *[{**GOOD, "ratio": "x"}] * 50]}))
    assert len(found) == 20
    assert found[0] == ("/instances/1/ratio", "type")
    assert found[-1] == ("/instances/20/ratio", "type")


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ("[]", "", "type"),
        ("null", "", "type"),
        ("{}", "/instances", "missing"),
        ('{"instances":{}}', "/instances", "type"),
        ('{"instances":[]}', "/instances", "wrong_length"),
        ('{"instances":[1]}', "/instances/0", "type"),
        ('{"instances":[[]]}', "/instances/0", "type"),
        (json.dumps({"instances": [GOOD], "more": 1}), "", "unknown_field"),
        (json.dumps({"instances": [GOOD] * 1001}), "/instances", "wrong_length"),
    ],
)
def test_the_envelope_has_a_contract_too(echo: Scorer, body: str, pointer: str, code: str) -> None:
    assert refused(echo, body) == [(pointer, code)]


@pytest.mark.parametrize(
    "body",
    ["", " ", "{", "{]", '{"instances":[}', "{}x", "\ufeff{}", b"\xff", b"\xef\xbb\xbf{}",
     "{}".encode("utf-16"), "\ud800", '{"a":"\ud800"}', "[" * 100_000, '{"a":' + "9" * 5000 + "}"],
)  # fmt: skip
def test_what_is_not_json_is_malformed(echo: Scorer, body: str | bytes) -> None:
    with pytest.raises(BadRequest):
        echo.validator.parse(body)


@pytest.mark.parametrize("name", [*GOOD, "extra"])
@pytest.mark.parametrize(
    "value", [..., None, True, "x", "red", 0.5, 3, 3.0, 1e39, -1, 2**70, [], {}]
)
def test_both_ways_of_reading_agree(
    echo: Scorer, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    """What one takes, the other takes with the same values; what it refuses is refused alike."""
    row = {key: item for key, item in {**GOOD, name: value}.items() if item is not ...}
    body = json.dumps({"instances": [GOOD, row, GOOD]})
    found: list[Any] = []
    for limit in (0, 10**9):
        monkeypatch.setattr(validate, "COLUMNAR_MIN_CHARS", limit)
        try:
            found.append([list(column) for column in echo.validator.parse(body)])
        except ContractViolation as refusal:
            found.append(refusal.violations)
    assert found[0] == found[1]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*GOOD, "instances", "SENTINEL"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_rows_or_a_refusal_without_the_client_s_text(echo: Scorer, value: Any) -> None:
    for document in (value, {"instances": [value]}, {"instances": [{**GOOD, "ratio": value}]}):
        try:
            columns = echo.validator.parse(json.dumps(document))
        except ContractViolation as refusal:
            assert refusal.violations
            assert "SENTINEL" not in json.dumps(refusal.problem("id"))
        else:
            assert [len(column) for column in columns] == [len(columns[0])] * len(GOOD)


def test_the_packed_example_is_in_the_contract(echo: Scorer) -> None:
    row = example(echo.manifest)
    columns = echo.validator.parse(json.dumps({"instances": [row]}))
    assert list(zip(*columns, strict=True)) == [tuple(row.values())]


@pytest.mark.fault("a name stands twice in an object", "400, whatever is null, left out, or text")
@given(st.data())
def test_a_name_that_stands_twice_is_refused(echo: Scorer, data: st.DataObject) -> None:
    row: dict[str, Any] = {"ratio": 1, "count": 2, "colour": "red", "open": True}
    row["note/~"] = data.draw(st.sampled_from(["", "null", ":", '"a":1', "x: null"]))
    for serum in data.draw(st.lists(st.sampled_from([None, 0.5]), max_size=1)):
        row["serum"] = serum
    count = data.draw(st.sampled_from([1, 2, 3, 90]))  # 90 are read by column
    rows = [dict(row) for _ in range(count)]
    good = json.dumps({"instances": rows})
    assert len(echo.validator.parse(good)[0]) == len(rows)
    name = data.draw(st.sampled_from([*row, "instances"]))
    value = good[good.index("[") : good.rindex("]") + 1] if name == "instances" else row[name]
    twice = f'"{name}": {value if name == "instances" else json.dumps(value)}, '
    at = data.draw(st.integers(0, len(rows) - 1)) if name != "instances" else -1
    place = [i for i, c in enumerate(good) if c == "{"][at + 1] + 1
    with pytest.raises(BadRequest):
        echo.validator.parse(good[:place] + twice + good[place:])


def test_brackets_in_names_and_categories_are_no_nesting(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["c"], ["y"])
    tensors = [[(name, TensorProto.STRING, [None, 1])] for name in ("c", "y")]
    value = "[[{[{" + "x" * 300
    category = {"name": "c[[", "input": "c", "type": "category", "example": "b"}
    artifact.write(
        tmp_path,
        artifact.graph([node], *tensors),
        inputs=artifact.tensors(tensors[0]),
        features=[category | {"categories": [value, "b"]}],
        outputs=[
            {"name": "y", "tensor": "y", "dtype": "string", "shape": [None, 1], "kind": "value"}
        ],
    )
    rows = [{"c[[": value}] * 1000
    (column,) = load(tmp_path).validator.parse(json.dumps({"instances": rows}))
    assert [*column] == [value] * 1000


@given(st.data())
def test_nor_where_nulls_are_counted(shipped: Scorer, data: st.DataObject) -> None:
    full = example(shipped.manifest)
    gaps = {f.name for f in shipped.manifest.features if f.nullable}
    choice = st.sampled_from([None, 1.0, ...])
    row = {k: data.draw(choice) if k in gaps else v for k, v in full.items()}
    row = {k: full[k] if v == 1.0 else v for k, v in row.items() if v is not ...}
    good = json.dumps({"instances": [row]})
    assert shipped.validator.parse(good) == [(row.get(name),) for name in full]
    name = data.draw(st.sampled_from([*row]))
    with pytest.raises(BadRequest):
        shipped.validator.parse(good.replace("[{", f'[{{"{name}": {json.dumps(row[name])}, '))
