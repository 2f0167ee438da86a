"""The record: what is in it, what never is, and CloudWatch's limits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable import contract_cases
from answerable.local import event_sources
from handler import app, request_log, settings
from handler import manifest as manifests
from handler.drift import bins
from handler.drift.targets import fingerprint
from handler.prediction_id import derive_key
from handler.scoring import Scorer
from handler.settings import Settings
from tests.fixtures import adversarial, artifact, emf, events, protocols
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.unit import test_protocols_graphs as graphs

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((DIABETES / "golden.jsonl").read_text().splitlines()[0])["instance"]
Capture = pytest.CaptureFixture[str]


def record(capsys: Capture, settings: Settings, rows: list[Any], status: int = 200) -> Any:
    handler = app.create(settings)
    answer = handler(events.rest(json.dumps({"instances": rows})), Context())
    assert answer["statusCode"] == status
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line) < request_log.MAX_LINE_BYTES
    line = json.loads(line)
    emf.validate(line)
    return line


@pytest.mark.parametrize("count", [1, 8, 9, 100, 1000])
def test_every_target_has_bins_and_none_is_a_metric(capsys: Capture, count: int) -> None:
    line = record(capsys, Settings(DIABETES), [GOLDEN] * count)
    sampled = min(count, max(bins.ALWAYS_BINNED_ROWS, min(count // 10, bins.MAX_BINNED_ROWS)))
    assert len(line["bins"]) == len(GOLDEN) + 1
    for numbers in line["bins"]:
        values = numbers if count > 1 else [numbers]
        assert len(values) == sampled
        assert set(values) <= set(range(1, 11))
    names = [m["Name"] for d in line["_aws"]["CloudWatchMetrics"] for m in d["Metrics"]]
    assert set(names) == {"Requests", "Rows", "ClientErrors", "ServerErrors", "Latency"}
    assert line["model"]["fingerprint"] == fingerprint(manifests.read(DIABETES))
    assert line.get("sampled_rows") == (sampled if count > sampled else None)
    assert len(line["prediction_id_prefix"]) == 28


def test_a_refusal_has_no_bins(capsys: Capture) -> None:
    line = record(capsys, Settings(DIABETES), [{}], 422)
    assert "bins" not in line
    assert line["ClientErrors"] == 1


@pytest.mark.parametrize("log_payloads", ["off", "outputs", "full"])
def test_log_payloads_selects_what_is_kept(capsys: Capture, log_payloads: Any) -> None:
    rows = [GOLDEN | {"bmi": 31.41592}, GOLDEN | {"glucose": None}]
    line = record(capsys, Settings(DIABETES, log_payloads=log_payloads), rows)
    text = json.dumps(line)
    assert ("31.41592" in text) == (log_payloads == "full")
    assert ("progression" in line.get("predictions", [{}])[0]) == (log_payloads != "off")
    if log_payloads == "full":
        assert line["instances"] == rows
        assert line["missing_counts"] == {"glucose": 1}
    if log_payloads != "off":
        assert line["logged_rows"] == 2
        assert line["predictions"][0]["id"].startswith(line["prediction_id_prefix"])


@pytest.mark.parametrize("secret", ["", "key"])
def test_features_are_hashed_or_dropped(capsys: Capture, tmp_path: Path, secret: str) -> None:
    features = [
        {
            **f,
            "log_policy": {"note/~": "drop", "colour": "hash", "serum": "hash"}.get(
                f["name"], "keep"
            ),
        }
        for f in artifact.ECHO_FEATURES
    ]
    directory = artifact.echo(tmp_path, features=features)
    row = {f["name"]: f["example"] for f in features} | {"note/~": "SENTINEL"}
    rows = [row, row | {"serum": None}, row | {"colour": "blue"}]
    config = Settings(directory, log_payloads="full", prediction_id_secret=secret)
    kept = record(capsys, config, rows)["instances"]
    assert "SENTINEL" not in json.dumps(kept)
    assert "red" not in json.dumps(kept)
    assert kept[1]["serum"] is None
    assert kept[0]["ratio"] == row["ratio"]
    if secret:
        assert kept[0]["colour"] == kept[1]["colour"] != kept[2]["colour"]
        assert kept[0]["colour"].startswith("hash:")
        assert (
            kept[0]["colour"]
            != record(capsys, config._replace(prediction_id_secret="x"), rows)["instances"][0][
                "colour"
            ]
        )
    else:  # without a key a hash would be guessed
        assert "colour" not in kept[0]


ACCEPTED = [
    *adversarial.KINDS,
    *((dtype, shape, batch)
      for dtype in ("bool", "float16", "float64", "object", "uint8")
      for shape, batch in (((), "none"), ((2, 3), "none"), ((None, 3), "dynamic"),
                           ((None, 2, None), "single"))),
]  # fmt: skip


@pytest.mark.fault(
    "Payloads are logged, and the request is `.npy`, CSV, `inputs` or binary tensors",
    "200, and the record holds the instances and predictions of every protocol",
)
@pytest.mark.parametrize("kind", ACCEPTED, ids=str)
def test_the_payload_of_every_protocol_is_logged(
    tmp_path: Path, capsys: Capture, kind: Any
) -> None:
    if isinstance(kind, str):
        directory = adversarial.directory(kind, tmp_path)
    else:
        directory = graphs.write(tmp_path, *kind)
    handler = app.create(Settings(directory, log_payloads="full", prediction_id_secret="key"))
    for case in contract_cases.accepted(manifests.read(directory)):
        request = event_sources.HttpRequest(
            case.method, case.path, list(case.headers.items()), case.body
        )
        answer = handler(event_sources.make_event("rest", request, "id"), Context())
        assert answer["statusCode"] == 200, (case.kind, case.path, answer["body"])
        line = json.loads(capsys.readouterr().out)
        emf.validate(line)
        assert "log_error" not in line
        assert len(line["instances"]) == len(line["predictions"]) == line["logged_rows"]
        if len(case.body.strip()) < request_log.MAX_PAYLOAD_BYTES // 3:
            assert line["logged_rows"] == line["Rows"] > 0


@pytest.mark.fault(
    "A record cannot be made after the answer is ready",
    "The answer goes out; a shorter record counts the request and one log error",
)
def test_a_record_that_cannot_be_made_fails_no_request(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> Any:
        raise ValueError("SENTINEL")

    monkeypatch.setattr(request_log, "_dump", explode)
    rows = [GOLDEN | {"bmi": 31.41592}]
    line = record(capsys, Settings(DIABETES, log_payloads="full"), rows)
    assert (line["log_error"], line["LogErrors"]) == ("ValueError", 1)
    assert (line["Requests"], line["Rows"], line["ClientErrors"]) == (1, 1, 0)
    assert "31.41592" not in json.dumps(line)
    assert "SENTINEL" not in json.dumps(line)


def test_a_server_error_has_its_callers_hash_and_no_name(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> Any:
        raise ValueError("SENTINEL")

    def hash_of(caller: dict[str, Any], secret: str = "key", status: int = 500) -> Any:
        handler = app.create(Settings(DIABETES, prediction_id_secret=secret))
        with monkeypatch.context() as patch:
            if status == 500:
                patch.setattr(Scorer, "score", explode)
            event = events.rest(json.dumps({"instances": [GOLDEN] * (status != 422)}))
            event["requestContext"] |= caller
            assert handler(event, Context())["statusCode"] == status
        *_, line = capsys.readouterr().out.splitlines()
        assert "SENTINEL" not in line
        return json.loads(line).get("caller_hash")

    one, other = ({"identity": {"apiKeyId": f"SENTINEL{i}"}} for i in (1, 2))
    hashes = {hash_of(one), hash_of(other), hash_of(one, secret="other"), hash_of(one)}
    assert len(hashes) == 3
    assert all(isinstance(value, str) and len(value) == 16 for value in hashes)
    assert hash_of({}) is None
    assert hash_of(one, secret="") is None
    assert hash_of(one, status=200) is hash_of(one, status=422) is None


def test_no_key_serves_two_purposes() -> None:
    purposes = (b"id", b"redact", b"caller")
    keys = {derive_key(secret, purpose) for purpose in purposes for secret in ("a", "b")}
    assert len(keys) == 6
    assert derive_key("new old", b"id") == derive_key("new", b"id")


def test_a_record_never_exceeds_an_event(capsys: Capture) -> None:
    rows = [GOLDEN | {"bmi": 30 + i / 50} for i in range(1000)]
    line = record(capsys, Settings(DIABETES, log_payloads="full"), rows)
    assert 300 < line["logged_rows"] <= 1000
    assert len(line["instances"]) == len(line["predictions"]) == line["logged_rows"]


@pytest.mark.fault(
    "A record is longer than CloudWatch takes",
    "It is shortened, and its counts stay",
)
def test_a_record_that_would_be_too_long_keeps_its_metrics(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MAX_LINE_BYTES", 1500)
    line = record(capsys, Settings(DIABETES), [GOLDEN] * 100)
    assert line["truncated"] is True
    assert (line["Requests"], line["Rows"]) == (1, 100)


def test_hundreds_of_features_have_bins_in_a_short_record(capsys: Capture, tmp_path: Path) -> None:
    count = 260
    features = [
        {"name": f"x{i}", "input": "x", "type": "number", "column": i, "example": 1.0}
        for i in range(count)
    ]
    step = {"rows": 9, "missing_share": 0.0, "values": [1.0], "cdf_left": [0.0], "cdf_right": [1.0]}
    baseline = {"rows": 9, "features": {f["name"]: step for f in features}, "outputs": {}}
    from onnx import helper

    model = artifact.graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1, noop_with_empty_axes=0)],
        [("x", artifact.FLOAT, [None, count])],
        [("y", artifact.FLOAT, [1, 1])],
    )
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [1, 1], "kind": "value"}
    directory = artifact.write(
        tmp_path,
        model,
        features=features,
        inputs=[{"name": "x", "dtype": "float32", "shape": [None, count]}],
        outputs=[output],
        baseline=baseline,
        execution={"batch": "single"},
    )
    rows = [{f["name"]: 1.0 for f in features}] * 300
    line = record(capsys, Settings(directory), rows)
    assert len(line["bins"]) == count
    assert {len(numbers) for numbers in line["bins"]} == {line["sampled_rows"]} == {32}
    one = record(capsys, Settings(directory), rows[:1])
    assert len(json.dumps(one["bins"], separators=(",", ":"))) < 3 * count + 10


def test_settings_are_read_from_the_environment() -> None:
    line = settings.read({"LOG_PAYLOADS": "full", "PREDICTION_ID_SECRET": "x"})
    assert (line.log_payloads, line.prediction_id_secret, line.invalid) == ("full", "x", "")


@pytest.mark.fault(
    "An environment variable has no valid value",
    "503 that names the variable, and nothing more is logged than by default",
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "foo"),
        ("LOG_PAYLOADS", "everything"),
        ("JOB_RETENTION_DAYS", "foo"),
        ("JOB_RETENTION_DAYS", "0"),
        ("JOBS_MAX_RECEIVE_COUNT", "9" * 5000),
    ],
)
def test_an_invalid_setting_is_a_503_with_its_reason(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    config = settings.read({"MODEL_DIR": str(DIABETES), name: value})
    assert config.log_payloads == "off"
    answer = app.create(config)(events.rest(json.dumps({"instances": [GOLDEN]})), Context())
    assert answer["statusCode"] == 503
    assert f"{name} must be" in json.loads(answer["body"])["detail"]
    failure, record = map(json.loads, capsys.readouterr().out.splitlines())
    assert f"{name} must be" in failure["reason"]
    assert record["ServerErrors"] == 1


def test_the_manifest_states_what_is_kept_and_what_it_is_worth(tmp_path: Path) -> None:
    directory = artifact.echo(
        tmp_path, outcome_value={"unit": "EUR", "cost": 2.0, "outcomes": {"a": {"b": 1.5}}}
    )
    business = manifests.read(directory).outcome_value
    assert business is not None
    assert (business.unit, business.outcomes) == ("EUR", {"a": {"b": 1.5}})
    for hours in (0, 25):
        with pytest.raises(Exception, match="drift_hours"):
            manifests.read(artifact.echo(tmp_path, alarms={"drift_hours": hours}))


@pytest.mark.fault(
    "Drift bins cannot be computed",
    "The answer goes out, the record says `drift_error`",
)
def test_bins_that_fail_do_not_fail_the_request(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> Any:
        raise ValueError("SENTINEL")

    monkeypatch.setattr(bins.Binner, "bin", explode)
    line = record(capsys, Settings(DIABETES), [GOLDEN])
    assert line["drift_error"] == "ValueError"
    assert "SENTINEL" not in json.dumps(line)


@pytest.mark.parametrize("path", ["/predict", "/invocations", "/v2/models/test/infer"])
def test_the_times_of_a_record_add_up(
    echo_dir: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    features, tensors = artifact.ECHO_FEATURES, artifact.tensors(artifact.ECHO_INPUTS)
    row = {feature["name"]: feature["example"] for feature in features}
    dtypes = {t["name"]: t["dtype"].replace("string", "object") for t in tensors}
    arrays = {f["input"]: np.array([[f["example"]]], dtypes[f["input"]]) for f in features}
    event = {
        "/predict": events.rest(json.dumps({"instances": [row]})),
        "/invocations": events.rest(json.dumps({"instances": [row]}), path),
        "/v2/models/test/infer": protocols.as_json(arrays),
    }[path]
    app.create(Settings(echo_dir))(event, Context())
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["timings_ms"].keys() == {"validate", "run", "convert"}
    assert min(line["timings_ms"].values()) > 0
    assert sum(line["timings_ms"].values()) <= line["Latency"]
