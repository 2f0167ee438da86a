"""CSV columns -> features."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable.packing import contract_file, golden, table
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from handler.manifest import Feature, Tensor


def infer(cells: list[str], dtype: str, /, **fields: Any) -> tuple[Feature, list[Any]]:
    """The feature that one column becomes, in a tensor [N, 1] of dtype."""
    inputs = [Tensor("x", dtype, (None, 1))]
    features, columns = table.features({"x": cells}, inputs, {"x": fields}, "data.csv")
    return features[0].feature, columns["x"]


@pytest.mark.parametrize(
    ("cells", "dtype", "kind", "values"),
    [
        (["1", "2.5"], "float32", "number", [1.0, 2.5]),
        (["1", "2"], "float32", "number", [1.0, 2.0]),
        (["1e3", " -2 "], "float64", "number", [1000.0, -2.0]),
        (["1", "2"], "int64", "integer", [1, 2]),
        (["1.0", "2e1"], "int64", "integer", [1, 20]),
        ([str(2**63 - 1), "0"], "int64", "integer", [2**63 - 1, 0]),
        (["True", "false"], "float32", "boolean", [True, False]),
        (["true", "FALSE"], "int64", "boolean", [True, False]),
        (["1", "0"], "bool", "boolean", [True, False]),
        (["a", "b"] * 3, "string", "category", ["a", "b"] * 3),
        (["1", "2"] * 3, "string", "category", ["1", "2"] * 3),
        (["True", "False"] * 3, "string", "category", ["True", "False"] * 3),
        (["nan", " "] * 3, "string", "category", ["nan", " "] * 3),
        (["a", "b", "b"], "string", "text", ["a", "b", "b"]),
        ([f"t{i % 51}" for i in range(999)], "string", "text", [f"t{i % 51}" for i in range(999)]),
    ],
)
def test_types(cells: list[str], dtype: str, kind: str, values: list[Any]) -> None:
    feature, column = infer(cells, dtype)
    assert feature.type == kind
    assert column == values
    assert [type(value) for value in column] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("cells", "dtype", "fields", "kind", "values"),
    [
        (["1", "2"], "float32", {"type": "integer"}, "integer", [1, 2]),
        (["1", "2"], "float32", {"type": "category"}, "category", [1, 2]),
        (["1", "2.5"], "float32", {"type": "category"}, "category", [1.0, 2.5]),
        (["1", "0"], "float32", {"type": "boolean"}, "boolean", [True, False]),
        (["b", "a"], "string", {"type": "category"}, "category", ["b", "a"]),
        (["a"] * 9, "string", {"type": "text", "max_length": 5}, "text", ["a"] * 9),
    ],
)
def test_types_that_are_stated(
    cells: list[str], dtype: str, fields: Fields, kind: str, values: list[Any]
) -> None:
    feature, column = infer(cells, dtype, **fields)
    assert feature.type == kind
    assert column == values
    if kind == "category":
        assert feature.categories == tuple(sorted(values))


def test_what_is_inferred_is_counted_and_what_is_stated_is_enforced() -> None:
    cells = ["1", "2", "9"]

    def bounds(**fields: Any) -> tuple[Any, ...]:
        feature, _ = infer(cells, "float32", **fields)
        return feature.minimum, feature.maximum, feature.out_of_range

    assert bounds() == (1, 9, "accept")
    assert bounds(minimum=0) == (0, None, "reject")  # nobody has stated a maximum
    assert bounds(minimum=0, maximum=10) == (0, 10, "reject")
    assert bounds(out_of_range="reject") == (1, 9, "reject")
    assert bounds(maximum=5, out_of_range="accept") == (1, 5, "accept")


def test_missing_cells_are_no_category() -> None:
    feature, column = infer(["a", "", "b", "a", "b", "a", "b"], "string")
    assert (feature.categories, feature.nullable, column[1]) == (("a", "b"), True, None)
    feature, column = infer(["1", "", "NaN", "null", "n/a"], "float32")
    assert feature.nullable
    assert column == [1.0, None, None, None, None]
    feature, _ = infer(["1", "2"], "int64", fill_value=0)
    assert feature.nullable
    assert not infer(["1", "2"], "float32")[0].nullable


def test_examples_are_typical_values_of_the_sample() -> None:
    assert infer(["1", "100", "3", "2"], "float32")[0].example == 2
    assert infer(["b", "a", "b", "c", "c", "b"], "string", type="category")[0].example == "b"
    assert infer(["true", "false", "true"], "bool")[0].example is True
    assert infer(["a", "aaaa", "aa"], "string")[0].example == "aa"
    assert infer(["a" * 200, "aaaa"], "string")[0].max_length == 400


@pytest.mark.parametrize(
    ("cells", "dtype", "fields", "said"),
    [
        (["1", "x"], "float32", {}, "'x' in row 3 is no number that float32 can hold"),
        (["1", "inf"], "float32", {}, "'inf' in row 3"),
        (["1", "1e39"], "float32", {}, "'1e39' in row 3"),
        (["1", "2.5"], "int64", {}, "'2.5' in row 3 is no integer"),
        (["1", "300"], "uint8", {}, "'300' in row 3"),
        (["1", "-1"], "uint8", {}, "'-1' in row 3"),
        (["1", str(2**63)], "int64", {}, "in row 3"),
        (["1", "yes"], "bool", {}, "'yes' in row 3 is no boolean"),
        (["", ""], "float32", {}, "has no values"),
        (["1", ""], "int64", {}, "state what they become"),
        (["1", ""], "float32", {"nullable": False}, "not nullable"),
        (["1", "2"], "int64", {"nullable": True}, "state what they become"),
        (["1", "2"], "float32", {"minimum": 3, "maximum": 2}, "over its maximum"),
        (["1", "5"], "float32", {"maximum": 4}, "1 of its values"),
        (["a", "b"], "string", {"type": "category", "categories": ("a",)}, "1 of its values"),
        (["aaa", "b"], "string", {"max_length": 2}, "1 of its values"),
        (["1", "2"], "float32", {"example": "x"}, "wrong type"),
        (["1", "2"], "bool", {"type": "number"}, "cannot be of type number"),
        (["1", "2"], "float32", {"type": "float"}, "cannot be of type float"),
    ],
)
def test_columns_that_cannot_be(cells: list[str], dtype: str, fields: Fields, said: str) -> None:
    with pytest.raises(PackError, match="column x: ") as caught:
        infer(cells, dtype, **fields)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "tabular"),
    [
        ([(None, 4)], True),
        ([(1, 4)], True),
        ([(None, 1), (None, 1)], True),
        ([(None,), (None, 1)], True),
        ([(None, None)], False),
        ([(None, 4), (None, 1)], False),
        ([(3, 1)], False),
        ([()], False),
        ([(None, 3, 8, 8)], False),
    ],
)
def test_which_inputs_are_a_table(shapes: list[tuple[int | None, ...]], tabular: bool) -> None:
    assert table.is_tabular([Tensor(f"x{i}", "float32", s) for i, s in enumerate(shapes)]) is (
        tabular
    )


def test_feeds_are_in_the_graph_s_order_with_missing_values_filled() -> None:
    inputs = [Tensor("b", "string", (None, 1)), Tensor("a", "float32", (None,))]
    cells = {"a": ["1", ""], "b": ["", "z"]}
    features, columns = table.features(cells, inputs, {}, "data.csv")
    assert [kind.feature.name for kind in features] == ["b", "a"]
    feeds = table.feeds(features, inputs, columns)
    assert feeds["b"].tolist() == [[""], ["z"]]
    assert feeds["a"].shape == (2,)
    assert math.isnan(feeds["a"][1])
    assert feeds["a"].dtype == np.float32


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n3\n", "row 3 has 1 cells, and the header 2"),
        (b"a,a\n1,2\n3,4\n", "one name: a"),
        (b"a,\n1,2\n3,4\n", "column 2 has no name"),
        (b"a,\xc2\xa0 ,b\n1,2,3\n3,4,5\n", "column 2 has no name"),
        (b'"a\nb",c\n1,2\n3,4\n', "the name of column 1 has a line break"),
        (b"a, a\n1,2\n3,4\n", "two columns of one name: a (blanks"),
        (b"a\n1\n", "1 rows"),
        (b"", "0 rows"),
        (b"a\n\xff\n1\n", "not UTF-8"),
        (b'a\n"1\n', "row 2"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "data.csv").write_bytes(content)
    with pytest.raises(PackError) as caught:
        table.read(tmp_path / "data.csv")
    assert said in str(caught.value)


def test_files_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbfa,"b, c"\r\n1,"x\r\ny"\r\n2,""\r\n\r\n')
    assert table.read(path) == {"a": ["1", "2"], "b, c": ["x\r\ny", ""]}
    path.write_bytes(b"a\n1\n\n2\n")
    assert table.read(path) == {"a": ["1", "", "2"]}  # of one column, a blank line is a row
    with pytest.raises(PackError, match="No such file"):
        table.read(tmp_path / "none.csv")


def test_contract_files_in_yaml_say_the_same(tmp_path: Path) -> None:
    toml, yaml = tmp_path / "c.toml", tmp_path / "c.yaml"
    toml.write_text(
        '[features.a]\nunit = "m"\ncategories = [1, 2]\n[outputs.y.decision]\nthreshold = 1'
    )
    yaml.write_text(
        "features: {a: {unit: m, categories: [1, 2]}}\noutputs: {y: {decision: {threshold: 1}}}"
    )
    assert contract_file.read(toml) == contract_file.read(yaml)
    yaml.write_text("")
    assert contract_file.read(yaml) == contract_file.ContractFile()
    yaml.write_text("features: [a]")
    with pytest.raises(PackError, match="features must be a table"):
        contract_file.read(yaml)
    with pytest.raises(PackError, match=r"must be \.toml"):
        contract_file.read(tmp_path.with_suffix(".json"))


def test_golden_rows_change_one_feature_at_a_time() -> None:
    inputs = [Tensor("n", "float32", (None, 1)), Tensor("c", "string", (None, 1))]
    cells = {"n": ["1", "2", "9", ""], "c": ["u", "v", "u", "v"]}
    fields: dict[str, Fields] = {
        "c": {"type": "category"},
        "n": {"maximum": 10, "out_of_range": "accept"},
    }
    named = dict(golden.tabular(*table.features(cells, inputs, fields, "data.csv")))
    typical = {"n": 2.0, "c": "u"}
    assert named == {
        "row 1 of the sample": {"n": 1.0, "c": "u"},
        "row 2 of the sample": {"n": 2.0, "c": "v"},
        "row 4 of the sample": {"n": None, "c": "v"},
        "missing of n": typical | {"n": None},
        "minimum of n": typical | {"n": 1.0},
        "maximum of n": typical | {"n": 10},
        "category 1 of c": typical | {"c": "u"},
        "category 2 of c": typical | {"c": "v"},
    }


def test_match_columns_that_the_model_spells_otherwise_name_the_renames() -> None:
    inputs = [Tensor("plan_code", "float32", (None, 1)), Tensor("a_b", "float32", (None, 1))]
    with pytest.raises(PackError, match="rename 'plan/code' to 'plan_code', 'a b' to 'a_b'"):
        table.match(["a b", "plan/code"], inputs, "data.csv")
