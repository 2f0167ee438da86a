"""A version asked whether it is what it says, through the handler itself."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import helper

from handler import app, manifest
from handler.release import golden, version_client
from handler.release.smoke_cases import smoke_cases
from handler.release.version_client import VersionClient
from handler.settings import Settings
from tests.fixtures import artifact, events, release
from tests.fixtures.events import Context
from tests.fixtures.release import FUNCTION, SHIPPED, Lambda

MANIFEST = manifest.read(SHIPPED)
ROWS = len(golden.read(SHIPPED))
GOOD = golden.read(SHIPPED)[0].instance
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def shipped() -> VersionClient:
    return VersionClient(Lambda({"1": SHIPPED}), f"{FUNCTION}:1")


def changed(version: VersionClient, change: Any) -> VersionClient:
    """The same version with something done to its answers: change(event, answer)."""
    handlers = version._client.handlers
    original = handlers["1"]
    handlers["1"] = lambda event, context: change(event, original(event, context))
    return version


def test_a_good_version_replays_all_of_its_golden_rows(shipped: VersionClient) -> None:
    outcome = version_client.check_golden_rows(shipped, MANIFEST, budget_ms=1000)
    assert (outcome.reasons, outcome.rows) == ([], ROWS)
    assert 0 < outcome.slowest_ms < 1000


def test_it_shows_its_manifest_but_for_the_baseline(shipped: VersionClient) -> None:
    assert shipped.manifest() == (MANIFEST._replace(baseline=None), "")


def test_synthetic_requests_are_recorded_as_such_and_in_no_metric(
    shipped: VersionClient, capsys: Capture
) -> None:
    capsys.readouterr()
    shipped.call("POST", "/predict", "{}")
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["synthetic"] is True
    assert (line["status"], line["route"]) == (422, "POST /predict")
    assert "_aws" not in line


def test_what_a_prober_sends_is_not_captured(capsys: Capture) -> None:
    function = app.create(Settings(SHIPPED, log_payloads="full"))
    event = events.rest(json.dumps({"instances": [golden.read(SHIPPED)[0].instance]}))
    for synthetic in (False, True):
        event["requestContext"]["synthetic"] = synthetic
        capsys.readouterr()
        assert function(event, Context())["statusCode"] == 200
        assert ("instances" in json.loads(capsys.readouterr().out)) != synthetic


def test_no_client_can_be_synthetic_or_read_golden_rows(capsys: Capture) -> None:
    function = Lambda({"1": SHIPPED}).handlers["1"]
    capsys.readouterr()
    event = {
        "path": "/golden/0",
        "httpMethod": "GET",
        "headers": {"synthetic": "true", "x-answerable-synthetic": "true"},
        "queryStringParameters": {"synthetic": "true"},
        "requestContext": {"requestId": "a", "authorizer": {"synthetic": True}},
    }
    assert function(event, Context())["statusCode"] == 404
    assert "synthetic" not in capsys.readouterr().out


def predict(event: Any) -> bool:
    return bool(event["path"] == "/predict")


def test_a_wrong_golden_answer_is_a_reason(shipped: VersionClient) -> None:
    def worse(event: Any, answer: Any) -> Any:
        body = json.loads(answer["body"])
        if predict(event):
            body["predictions"][0]["progression"] *= 1.001
        return {**answer, "body": json.dumps(body)}

    outcome = version_client.check_golden_rows(changed(shipped, worse), MANIFEST, 1000)
    assert len(outcome.reasons) == version_client.MAX_REASONS  # and no more is asked
    assert outcome.rows == version_client.MAX_REASONS
    assert outcome.reasons[0] == "row 1 of the sample: 0.001 from its golden answer, allowed 0.0001"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"statusCode": 500, "body": "{}"}, "row 1 of the sample: 500"),
        ({"statusCode": 200, "body": "no json"}, "row 1 of the sample: 200"),
        ({"statusCode": 200, "body": '{"predictions":[]}'}, "row 1 of the sample: inf from"),
        ({"something": "else"}, "row 1 of the sample: crashed or timed out"),
        (None, "row 1 of the sample: crashed or timed out"),
    ],
)
def test_an_unusable_answer_is_a_reason(shipped: VersionClient, answer: Any, reason: str) -> None:
    version = changed(shipped, lambda event, good: answer if predict(event) else good)
    assert version_client.check_golden_rows(version, MANIFEST, 1000).reasons[0].startswith(reason)


def test_a_crash_is_a_reason(shipped: VersionClient) -> None:
    def crash(event: Any, good: Any) -> Any:
        raise MemoryError

    version = changed(shipped, crash)
    assert version.manifest() == (None, "GET /model: crashed or timed out")
    assert version_client.check_golden_rows(version, MANIFEST, 1000).reasons == [
        "golden row 1: crashed or timed out"
    ]


def test_another_model_s_answer_is_a_reason(shipped: VersionClient) -> None:
    other = MANIFEST._replace(version="9.9.9")
    reason = "row 1 of the sample: answered by another model"
    assert version_client.check_golden_rows(shipped, other, 1000).reasons[0] == reason


def test_slow_once_is_a_hiccup_and_slow_twice_a_reason(
    shipped: VersionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GET a row and POST it; the first row's answer is slow once, the second's twice
    took = iter([0.0, 5.0, 0.0, 0.0, 5.0, 5.0])
    ends = iter(t for seconds in took for t in (0.0, seconds))
    clock = SimpleNamespace(perf_counter=lambda: next(ends, 0.0))
    monkeypatch.setattr("handler.release.version_client.time", clock)
    outcome = version_client.check_golden_rows(shipped, MANIFEST, 1000)
    assert outcome.reasons == [f"{golden.read(SHIPPED)[1].name}: took 5000 ms twice, allowed 1000"]


def test_other_golden_rows_than_were_packed_are_a_reason(shipped: VersionClient) -> None:
    def fewer(event: Any, good: Any) -> Any:
        return {**good, "statusCode": 404} if event["path"] == "/golden/3" else good

    outcome = version_client.check_golden_rows(changed(shipped, fewer), MANIFEST, 1000)
    assert outcome == ([*outcome.reasons], 3, outcome.slowest_ms)
    assert outcome.reasons == ["its golden rows are not the ones that were packed"]


def test_the_contract_s_own_refusals(shipped: VersionClient) -> None:
    outcome = version_client.check_refusals(shipped, MANIFEST, GOOD)
    assert outcome.reasons == []
    assert outcome.rows >= 8


def test_every_feature_is_refused_a_wrong_value_and_none(echo_dir: Path) -> None:
    packed = manifest.read(echo_dir)
    version = VersionClient(Lambda({"1": echo_dir}), f"{FUNCTION}:1")
    good = {feature.name: feature.example for feature in packed.features}
    assert version_client.check_refusals(version, packed, good).reasons == []
    small = packed._replace(limits=packed.limits._replace(rows=2))
    cases = list(smoke_cases(packed, good))
    assert len(list(smoke_cases(small, good))) > len(cases)
    pointers = Counter(p.rpartition("/")[2] for case in cases for p in case.pointers)
    for feature in packed.features:
        name = feature.name.replace("~", "~0").replace("/", "~1").rpartition("/")[2]
        bounded = feature.maximum is not None and feature.out_of_range == "reject"
        assert pointers[name] == 1 + (not feature.nullable) + bounded, name


def test_a_tensor_contract_s_refusals(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    directory = artifact.ratio(tmp_path, node, features=[])
    version = VersionClient(Lambda({"1": directory}), f"{FUNCTION}:1")
    outcome = version_client.check_refusals(version, manifest.read(directory), {"x": [1.0]})
    assert outcome.reasons == []
    assert outcome.rows >= 8


def test_a_version_that_accepts_anything_is_refused(shipped: VersionClient) -> None:
    version = changed(shipped, lambda event, good: {"statusCode": 200, "body": "{}"})
    reasons = version_client.check_refusals(version, MANIFEST, GOOD).reasons
    assert reasons[0] == "GET: 200 instead of 405"
    assert len(reasons) == version_client.MAX_REASONS


def test_a_version_that_enforces_no_maximum_is_refused(tmp_path: Path) -> None:
    def unbounded(fields: dict[str, Any]) -> None:
        for feature in fields["features"]:
            feature.pop("maximum", None)

    loose = release.artifact(tmp_path / "loose", unbounded)
    version = VersionClient(Lambda({"1": loose}), f"{FUNCTION}:1")
    assert version_client.check_refusals(version, manifest.read(loose), GOOD).reasons == []
    reasons = version_client.check_refusals(version, MANIFEST, GOOD).reasons
    assert reasons
    assert reasons[0].endswith("and so on: other violations")


def test_two_versions_are_compared(tmp_path: Path) -> None:
    def narrow(fields: dict[str, Any]) -> None:
        fields["features"][0]["maximum"] = 100

    other = release.artifact(tmp_path / "other", narrow, version="2.0.0")
    functions = Lambda({"1": other, "2": SHIPPED})
    old, new = (VersionClient(functions, f"{FUNCTION}:{number}") for number in "12")
    instances = list(version_client.golden_instances(new, ROWS))
    assert instances == [row.instance for row in golden.read(SHIPPED)]
    assert version_client.compare_versions(new, new, instances) == (0, 0)
    assert version_client.compare_versions(old, new, instances) == (
        1,
        0,
    )  # `maximum of age` is refused by one


def test_nothing_is_asked_when_the_check_forbids_it() -> None:
    def check() -> None:
        raise version_client.OutOfTimeError

    functions = Lambda({"1": SHIPPED})
    with pytest.raises(version_client.OutOfTimeError):
        VersionClient(functions, f"{FUNCTION}:1", check).call("GET", "/model")
    assert functions.calls == []
