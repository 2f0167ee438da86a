"""Which number a change of the contract asks for."""

from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from handler import manifest
from handler.manifest import Decision, Manifest
from handler.release import compatibility
from handler.release.compatibility import MAJOR, MINOR, PATCH
from tests.fixtures import artifact


@pytest.fixture(scope="module")
def echo(echo_dir: Path) -> Manifest:
    """Features ratio, count, colour, open, note/~ and serum (nullable), and as many outputs."""
    return manifest.read(echo_dir)


@pytest.fixture(scope="module")
def tensor(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    node = helper.make_node("Identity", ["x"], ["y"])
    directory = artifact.ratio(tmp_path_factory.mktemp("tensor"), node, features=[])
    return manifest.read(directory)


def feature(old: Manifest, name: str, **fields: Any) -> Manifest:
    changed = (f._replace(**fields) if f.name == name else f for f in old.features)
    return old._replace(features=tuple(changed))


def output(old: Manifest, name: str, **fields: Any) -> Manifest:
    changed = (o._replace(**fields) if o.name == name else o for o in old.outputs)
    return old._replace(outputs=tuple(changed))


def level(old: Manifest, new: Manifest) -> int:
    return max((change.level for change in compatibility.changes(old, new)), default=PATCH)


@pytest.mark.parametrize(
    ("name", "fields", "expected", "back"),
    [
        ("ratio", {"maximum": 20}, MINOR, MAJOR),
        ("ratio", {"minimum": -1}, MINOR, MAJOR),
        ("ratio", {"maximum": None}, MINOR, MAJOR),
        ("ratio", {"minimum": -1, "maximum": 5}, MAJOR, MAJOR),
        ("ratio", {"out_of_range": "accept"}, MINOR, MAJOR),
        ("ratio", {"type": "integer"}, MAJOR, MINOR),
        ("ratio", {"type": "boolean"}, MAJOR, MAJOR),
        ("ratio", {"unit": "m"}, MINOR, MAJOR),
        ("ratio", {"nullable": True}, MINOR, MAJOR),
        ("ratio", {"nullable": True, "fill_value": 1.0, "description": "x"}, MINOR, MAJOR),
        ("ratio", {"description": "another", "example": 0.7}, PATCH, PATCH),
        ("serum", {"maximum": 0.5}, PATCH, PATCH),  # not enforced, only counted
        ("serum", {"fill_value": 0.5}, PATCH, PATCH),
        ("serum", {"out_of_range": "reject"}, MAJOR, MINOR),
        ("colour", {"categories": ("red", "blue", "green")}, MINOR, MAJOR),
        ("colour", {"categories": ("blue", "red")}, PATCH, PATCH),
        ("colour", {"categories": ("red", "green")}, MAJOR, MAJOR),
        ("colour", {"unknown_category": "accept"}, MINOR, MAJOR),
        ("colour", {"unknown_category": "accept", "categories": ("green",)}, MINOR, MAJOR),
        ("note/~", {"max_length": 10}, MAJOR, MINOR),
        ("note/~", {"max_length": None}, MINOR, MAJOR),
    ],
)
def test_a_feature(
    echo: Manifest, name: str, fields: dict[str, Any], expected: int, back: int
) -> None:
    new = feature(echo, name, **fields)
    assert (level(echo, new), level(new, echo)) == (expected, back)
    for change in compatibility.changes(echo, new):
        assert change.text.startswith(f"{name}: ")


def test_known_categories_of_an_open_feature_are_no_contract(echo: Manifest) -> None:
    old = feature(echo, "colour", unknown_category="accept")
    assert level(old, feature(old, "colour", categories=("green",))) == PATCH


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("ratio", {"unit": "points"}, MINOR),
        ("ratio", {"kind": "tensor"}, MAJOR),
        ("ratio", {"dtype": "float64"}, PATCH),  # JSON knows no difference
        ("ratio", {"dtype": "int64"}, MAJOR),
        ("ratio", {"shape": (None, 2)}, MAJOR),
        ("ratio", {"tensor": "other", "description": "other"}, PATCH),
        ("ratio", {"classes": ("a", "b")}, MINOR),
        ("ratio", {"decision": Decision(0.5)}, MINOR),
    ],
)
def test_an_output(echo: Manifest, name: str, fields: dict[str, Any], expected: int) -> None:
    new = output(echo, name, **fields)
    assert level(echo, new) == expected
    assert level(new, echo) == (MAJOR if expected else PATCH)


def test_a_decision_threshold_is_a_minor_change_and_its_words_a_major_one(echo: Manifest) -> None:
    old = output(echo, "ratio", decision=Decision(0.5))
    other = output(echo, "ratio", decision=Decision(0.1))
    assert [(change.level, change.text) for change in compatibility.changes(old, other)] == [
        (MINOR, "ratio: decision rule >= 0.5 -> >= 0.1")
    ]
    assert level(old, output(echo, "ratio", decision=Decision(0.5, above="ja"))) == MAJOR
    assert level(old, output(echo, "ratio", decision=Decision(0.5, review=(0.4, 0.6)))) == MAJOR


def test_what_is_gone_or_new(echo: Manifest) -> None:
    less = echo._replace(features=echo.features[1:], outputs=echo.outputs[1:])
    assert [c.text for c in compatibility.changes(echo, less)] == [
        "feature ratio is gone",
        "output ratio is gone",
    ]
    assert compatibility.changes(less, echo) == [
        (MAJOR, "feature ratio is new and required"),
        (MINOR, "output ratio is new"),
    ]
    assert level(less, feature(echo._replace(outputs=less.outputs), "ratio", nullable=True)) == 1


@pytest.mark.parametrize("name", ["rows", "body_bytes", "response_bytes", "elements"])
def test_limits(echo: Manifest, name: str) -> None:
    lower = echo._replace(limits=echo.limits._replace(**{name: 999}))
    assert (level(echo, lower), level(lower, echo)) == (MAJOR, MINOR)
    assert compatibility.changes(echo, lower)[0].text.startswith(f"limits: {name} ")


def test_the_tensors_of_a_tensor_contract(tensor: Manifest, echo: Manifest) -> None:
    (x,) = tensor.inputs
    fixed = tensor._replace(inputs=(x._replace(shape=(None, 3)),))
    free = tensor._replace(inputs=(x._replace(shape=(None, None)),))
    assert (level(fixed, free), level(free, fixed), level(tensor, fixed)) == (MINOR, MAJOR, MAJOR)
    assert level(tensor, tensor._replace(inputs=(x._replace(dtype="float64"),))) == MAJOR
    assert level(tensor, tensor._replace(inputs=(x, x._replace(name="z")))) == MAJOR
    assert level(tensor, echo) == MAJOR
    batched = tensor._replace(inputs=(x._replace(shape=(1, 1)),))
    assert level(tensor, batched) == PATCH  # an instance has no leading axis


@pytest.mark.parametrize(
    ("version", "number", "expected"),
    [
        ("1.2.3", MAJOR, "2.0.0"),
        ("1.2.3", MINOR, "1.3.0"),
        ("1.2.3", PATCH, "1.2.4"),
        ("0.2.3", MAJOR, "0.3.0"),
        ("0.2.3", MINOR, "0.3.0"),
        ("0.2.3", PATCH, "0.2.4"),
        ("1.2.3+build.7", PATCH, "1.2.4"),
        ("2.0.0-rc.1", MAJOR, "2.0.0"),
    ],
)
def test_the_least_right_version(version: str, number: int, expected: str) -> None:
    assert compatibility.minimum_next_version(version, number) == expected


@pytest.mark.parametrize(
    ("old", "new", "fields", "right"),
    [
        ("1.0.0", "1.0.1", {}, True),
        ("1.0.0", "3.0.0", {}, True),
        ("1.0.0", "1.0.1", {"maximum": 5}, False),
        ("1.0.0", "1.9.0", {"maximum": 5}, False),
        ("1.0.0", "2.0.0", {"maximum": 5}, True),
        ("1.0.0", "2.0.0-rc.1", {"maximum": 5}, True),
        ("2.0.0-rc.1", "2.0.0-rc.2", {"maximum": 5}, True),
        ("2.0.0-rc.2", "2.0.0-rc.1", {}, False),
        ("2.0.0-rc.10", "2.0.0", {"maximum": 5}, True),
        ("1.0.0", "1.1.0", {"maximum": 50}, True),
        ("1.0.0", "1.0.1", {"maximum": 50}, False),
        ("0.1.0", "0.2.0", {"maximum": 5}, True),
        ("0.1.0", "0.1.1", {"maximum": 5}, False),
        ("1.0.1", "1.0.0", {}, False),
        ("1.0.0", "1.0.0", {}, True),
        ("1.0.0", "1.0.0", {"description": "other"}, False),
    ],
)
def test_who_may_follow(
    echo: Manifest, old: str, new: str, fields: dict[str, Any], right: bool
) -> None:
    after = feature(echo, "ratio", **fields)._replace(version=new)
    refusals = compatibility.semver_violations(echo._replace(version=old), after)
    assert (not refusals) == right, refusals


def test_the_reasons_name_the_minimum_next_version(echo: Manifest) -> None:
    new = feature(feature(echo, "ratio", maximum=5), "count", minimum=-9)
    assert compatibility.semver_violations(echo, new._replace(version="1.2.4")) == [
        "ratio: maximum 10 -> 5",
        "2.0.0 is the least version after 1.2.3",
    ]


def test_the_same_may_be_packed_again(echo: Manifest) -> None:
    again = echo._replace(lineage=echo.lineage._replace(packed_at="later"))
    again = again._replace(execution=again.execution._replace(intra_op_threads=2))
    assert compatibility.semver_violations(echo, again) == []


def test_versions_are_ordered_as_semver_orders_them() -> None:
    # https://semver.org/#spec-item-11
    text = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11"
    versions = [*text.split(), "1.0.0-rc.1", "1.0.0", "2.0.0", "2.1.0", "2.1.1", "10.0.0"]
    assert sorted(set(versions), key=compatibility.semver_key) == versions
    with pytest.raises(ValueError, match="v1"):
        compatibility.semver_key("v1.0.0")
