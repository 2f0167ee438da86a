"""A feature type is one class: what it infers, checks and says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline, golden, table
from answerable.packing import feature_types as packed_types
from answerable.packing.errors import PackError
from handler import app, feature_types
from handler.core_schema import SchemaValidator, ValidationError
from handler.errors import ArtifactError
from handler.feature_types import days_since_epoch, iso_date
from handler.manifest import Feature, Output, Tensor
from handler.settings import Settings
from tests.fixtures import artifact, events
from tests.fixtures.events import Context

# a good feature of each type, with the dtype of its tensor
EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "number": ("float32", {"minimum": 0, "maximum": 1, "example": 0.5}),
    "integer": ("int64", {"minimum": 0, "maximum": 9, "example": 3}),
    "category": ("string", {"categories": ("a", "b"), "example": "a"}),
    "boolean": ("bool", {"example": True}),
    "text": ("string", {"max_length": 9, "example": "hello"}),
    "date": ("int32", {"minimum": "2000-01-01", "example": "2024-02-29"}),
}


def make(name: str, dtype: str = "", **fields: Any) -> feature_types.FeatureType:
    usual, good = EXAMPLES[name]
    dtype = dtype or usual
    return feature_types.make(Feature("x", "x", name, **(good | fields)), dtype)  # type: ignore[arg-type]


def test_there_is_an_example_of_each_type() -> None:
    assert EXAMPLES.keys() == feature_types.TYPES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_type_answers_everything_that_is_asked(name: str) -> None:
    kind = make(name)
    example = kind.feature.example
    packed = packed_types.of(kind)
    assert not packed.is_outside(example)
    assert packed.span()
    assert packed.policy() in ("refused", "counted")
    assert len(json.dumps(example)) <= packed.max_json_chars()
    assert packed.json_schema()["examples"] == [example]
    assert list(packed.bad())
    assert list(packed.bad_elements())
    assert list(packed.accepted(None))
    assert all(not packed.is_outside(value) for _, value in packed.edges([example]))
    assert kind.to_json(kind.to_graph(example)) == example


@pytest.mark.parametrize(("name", "dtype"), [
    ("text", "float32"), ("boolean", "string"), ("number", "bool"), ("date", "string"),
    ("integer", "string"),
])  # fmt: skip
def test_a_type_goes_into_tensors_of_its_own(name: str, dtype: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be of type"):
        feature_types.make(Feature("x", "x", name, categories=("a",)), dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "days"), [
    ("1970-01-01", 0), ("1969-12-31", -1), ("2024-02-29", 19782), ("0001-01-01", -719162),
    ("1970-01-02T12:00", 1.5), ("1970-01-01T00:00:00+12:00", -0.5), ("1970-01-01T06:00:00Z", 0.25),
    ("1970-01-01 06:00", 0.25),
])  # fmt: skip
def test_a_date_is_days_since_1970(text: str, days: float) -> None:
    assert days_since_epoch(text) == days
    assert days_since_epoch(iso_date(days)) == days


@pytest.mark.parametrize(
    "text", ["", "x", "1970-1-1", "19700101", "1970-13-01", "1970-01-01T", "1970-01-01X10:00", "0"]
)
def test_other_texts_are_no_dates(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        days_since_epoch(text)


def test_a_date_is_inferred_packed_and_scored(tmp_path: Path) -> None:
    inputs = [Tensor("day", "float32", (None, 1))]
    cells = ["2024-01-01", "", "2024-03-01", "2024-02-01T12:00"]
    types, columns = table.features({"day": cells}, inputs, {}, "data.csv")
    feature = types[0].feature
    assert (feature.type, feature.nullable, feature.example) == ("date", True, "2024-02-01T12:00")
    assert (feature.minimum, feature.maximum) == ("2024-01-01", "2024-03-01")
    assert feature.out_of_range == "accept"
    feeds = table.feeds(types, inputs, columns)["day"]
    assert feeds[0] == 19723
    assert np.isnan(feeds[1])
    output = Output("y", "y", "float32", (None, 1), "tensor")
    known = baseline.measure(types, columns, [output], [feeds]).features["day"]
    assert known.values == (19723, 19754.5, 19783)
    rows = dict(golden.tabular(types, columns))
    assert rows["maximum of day"] == {"day": "2024-03-01"}


def test_stated_bounds_of_a_date_are_dates() -> None:
    inputs = [Tensor("day", "int64", (None, 1))]
    stated = {"day": {"minimum": "2024-01-15"}}
    with pytest.raises(PackError, match="1 of its values"):
        table.features({"day": ["2024-01-01", "2024-02-01"]}, inputs, stated, "data.csv")
    with pytest.raises(PackError, match="wrong type"):
        table.features({"day": ["2024-01-01"] * 2}, inputs, {"day": {"minimum": 5}}, "data.csv")


def test_a_date_out_of_range_is_counted_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnx import helper

    values = [("day", artifact.FLOAT, [None, 1])]
    graph = artifact.graph(
        [helper.make_node("Identity", ["day"], ["y"])], values, [("y", artifact.FLOAT, [None, 1])]
    )
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}
    for policy, status in (("accept", 200), ("reject", 422)):
        feature = {
            "name": "day", "input": "day", "type": "date", "example": "2024-01-01",
            "minimum": "2024-01-01", "maximum": "2024-12-31", "out_of_range": policy,
        }  # fmt: skip
        directory = tmp_path / policy
        directory.mkdir()
        artifact.write(
            directory, graph, inputs=artifact.tensors(values), features=[feature], outputs=[output]
        )
        handler = app.create(Settings(directory, log_payloads="full"))
        capsys.readouterr()
        answer = handler(events.rest('{"instances":[{"day":"2025-06-01"}]}', "/predict"), Context())
        record = json.loads(capsys.readouterr().out)
        document = json.loads(answer["body"])
        assert answer["statusCode"] == status
        if status == 200:
            assert document["predictions"][0]["y"] == 20240
            assert record["out_of_range_counts"] == {"day": 1}
            assert record["instances"] == [{"day": "2025-06-01"}]  # as it can be sent again
        else:
            assert document["errors"][0]["message"] == "must be at most 2024-12-31"


def test_a_text_over_its_limit_is_refused_by_every_check() -> None:
    from handler.protocols.tensor_columns import _FastCheck

    check = _FastCheck("string", [make("text")])
    assert check.accepts(np.array([["x" * 9]], object))
    assert not check.accepts(np.array([["x" * 10]], object))
    assert not check.accepts(np.array([["x"]]))  # another dtype


def test_is_sampled_value_in_a_gap_of_the_sample_is_not_sampled() -> None:
    few = baseline.numbers([-2, -1, 1, 2])
    assert [make("integer").is_sampled(value, few) for value in (-3, -2, 0, 1, 2, 3)] == [
        False, True, False, True, True, False
    ]  # fmt: skip
    many = baseline.numbers([i / 1000 for i in range(1000)])
    assert make("number").is_sampled(0.50001, many)
    assert not make("number").is_sampled(0.9999, many)


@pytest.mark.parametrize(("days", "error"), [(2**63, "date_max"), (-(2**63) - 1, "date_min")])
def test_date_days_that_no_date_has_are_out_of_range(days: int, error: str) -> None:
    kind = make("date", minimum=None)
    with pytest.raises(ValidationError) as refused:
        SchemaValidator(kind.schema()).validate_python(kind.from_numbers([days])[0])
    assert refused.value.errors()[0]["type"] == error


@pytest.mark.parametrize("name", ["number", "integer"])
def test_a_column_of_cells_has_the_values_of_its_cells(name: str) -> None:
    kind = make(name, dtype="float64", minimum=None, maximum=None, nullable=True)
    schema = SchemaValidator(kind.nullable_schema())
    good = ["3", "", "-7", "1e3", " 4 ", "3.0", "007", "+1", "nan", "NA", "null", "9" * 15]
    bad = [
        "x",
        "true",
        "[1]",
        "1,5",
        '"3"',
        "1_0",
        "\u0661",
        "1e400",
        "inf",
        "9" * 30,
        "{}",
        "[[",
        "-",
    ]
    for cells in ([*good], *([cell] for cell in good), *(["1", cell, ""] for cell in bad),
                  ["[1", "2]"], ["[1", "2]", "3,4"], ['"1', '2"', "1,5"], []):  # fmt: skip
        values = kind.parse_cells(cells, 20)
        assert len(values) == len(cells)
        for value, cell in zip(values, cells, strict=True):
            alone = feature_types.FeatureType.parse_cells(kind, [cell], 20)[0]
            assert _outcome(schema, value) == _outcome(schema, alone), cell


def _outcome(schema: SchemaValidator, value: Any) -> Any:
    """Return the validated value, or the types of the errors."""
    try:
        return schema.validate_python(value)
    except ValidationError as error:
        return {violation["type"] for violation in error.errors(include_url=False)}
