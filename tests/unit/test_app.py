import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import helper

from handler import app, gateway_events, http_body, request_log
from handler.http import Response
from handler.settings import Settings
from tests.fixtures import artifact, events
from tests.fixtures.artifact import ECHO_FEATURES
from tests.fixtures.events import Context

GOOD = {"instances": [{f["name"]: f["example"] for f in ECHO_FEATURES}]}
BODY = json.dumps(GOOD)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def handler(echo_dir: Path) -> app.Handler:
    return app.create(Settings(echo_dir))


def body(answer: dict[str, Any]) -> Any:
    return json.loads(answer["body"])


def lines(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("event_source", [events.rest, events.http, events.alb])
def test_every_event_source_gets_its_predictions(handler: app.Handler, event_source: Any) -> None:
    answer = handler(event_source(BODY), Context())
    assert answer["statusCode"] == 200
    assert body(answer)["model"] == {"name": "test", "version": "1.2.3"}
    assert body(answer)["predictions"][0]["count"] == 3


@pytest.mark.parametrize(
    ("event", "status", "kind"),
    [
        (events.rest("{"), 400, "malformed-body"),
        (events.rest("{}"), 422, "contract-violation"),
        (events.rest(BODY, path="/nope"), 404, "not-found"),
        (events.rest(None, method="GET"), 405, "method-not-allowed"),
        (events.rest(BODY, headers={"content-type": "text/csv"}), 415, "unsupported-media-type"),
        (events.rest("x" * 1_000_001), 413, "payload-too-large"),
        ({"Records": []}, 400, "malformed-body"),
        (None, 400, "malformed-body"),
    ],
)
def test_an_error_is_a_problem_document(
    handler: app.Handler, event: Any, status: int, kind: str
) -> None:
    answer = handler(event, Context())
    problem = body(answer)
    assert answer["statusCode"] == problem["status"] == status
    assert answer["headers"]["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:answerable:problem:{kind}"
    assert problem["error"].startswith(problem["detail"])
    assert problem["instance"] in ("rest-1", Context().aws_request_id)
    if status == 405:
        assert answer["headers"]["allow"] == "POST"


def test_the_other_routes_answer(handler: app.Handler) -> None:
    assert body(handler(events.rest(None, "/ping", "GET"), Context())) == {"status": "ready"}
    model = body(handler(events.rest(None, "/model", "GET"), Context()))
    assert model["version"] == "1.2.3"
    assert "baseline" not in model
    document = body(handler(events.rest(None, "/openapi.json", "GET"), Context()))
    assert set(document["paths"]) == {
        route for route in app.ROUTES if not route.startswith(("/jobs", "/batches"))
    }


@pytest.mark.parametrize(
    "path",
    ["/v1/models/test%3Apredict", "/v1/models/test%3apredict", "/v1/models/test:predict/"],
)
def test_an_encoded_colon_and_a_trailing_slash_lead_to_the_route(
    handler: app.Handler, path: str
) -> None:
    answer = handler(events.rest(BODY, path), Context())
    assert answer["statusCode"] == 200, answer["body"]


@pytest.mark.parametrize("path", ["/%70redict", "/predict%2F", "//predict", "/x/predict"])
def test_nothing_else_of_a_path_is_decoded(handler: app.Handler, path: str) -> None:
    assert handler(events.rest(BODY, path), Context())["statusCode"] == 404


@pytest.mark.parametrize("mapping", ["/ml", "/v1", "/orders/v1/items"])
def test_an_api_mapping_is_skipped(handler: app.Handler, mapping: str) -> None:
    event = events.rest(BODY, f"{mapping}/predict") | {"version": "1.0", "resource": "$default"}
    assert handler(event, Context())["statusCode"] == 200


@pytest.mark.fault(
    "A path of thousands of segments behind the API mapping of a custom domain",
    "404, after as many steps as the longest route has segments",
)
def test_a_path_of_many_segments_is_matched_at_its_end(
    handler: app.Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = Mock(side_effect=app._match)
    monkeypatch.setattr(app, "_match", match)
    mapped = {"version": "1.0", "resource": "$default"}
    event = events.rest(BODY, "/a" * 5000) | mapped
    assert handler(event, Context())["statusCode"] == 404
    assert match.call_count < 10
    longest = "/a/b/v2/models/test/versions/1.2.3/ready"
    assert handler(events.rest(None, longest, "GET") | mapped, Context())["statusCode"] == 200


def test_head_is_get_without_a_body(handler: app.Handler, capsys: Capture) -> None:
    for event_source in (events.rest, events.http, events.alb):
        answer = handler(event_source(None, "/model", "HEAD"), Context())
        assert (answer["statusCode"], answer["body"]) == (200, "")
        assert answer["headers"]["content-type"] == "application/json"
        assert lines(capsys)[0]["route"] == "GET /model"
    assert handler(events.rest(None, "/predict", "HEAD"), Context())["statusCode"] == 405
    assert handler(events.rest(None, "/nope", "HEAD"), Context())["body"] == ""


def test_the_root_links_to_paths_that_there_are(handler: app.Handler) -> None:
    root = body(handler(events.rest(None, "/", "GET"), Context()))
    assert root["model"] == {"name": "test", "version": "1.2.3"}
    assert {f"/{link}" for link in root["links"].values()} <= set(app.ROUTES)


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models"])
def test_the_models_are_listed(handler: app.Handler, path: str) -> None:
    assert body(handler(events.rest(None, path, "GET"), Context())) == {"models": ["test"]}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_no_explain_and_no_other_model(handler: app.Handler, method: str) -> None:
    for path in ("/v1/models/test:explain", "/v1/models/other", "/v2/models/other/infer"):
        assert handler(events.rest(BODY, path, method), Context())["statusCode"] == 404


def test_a_request_is_one_record_of_one_line(handler: app.Handler, capsys: Capture) -> None:
    handler(events.rest(BODY), Context())
    (line,) = lines(capsys)
    assert line["route"] == "POST /predict"
    assert (line["status"], line["Rows"], line["Requests"]) == (200, 1, 1)
    assert (line["ClientErrors"], line["ServerErrors"]) == (0, 0)
    assert set(line["timings_ms"]) == {"validate", "convert", "run"}
    assert line["request_id"] == "rest-1"
    handler(events.rest("{}"), Context())
    (line,) = lines(capsys)
    assert (line["ClientErrors"], line["problem"]) == (1, "contract-violation")


def test_the_metrics_keep_to_the_embedded_format(handler: app.Handler, capsys: Capture) -> None:
    handler(events.rest(BODY), Context())
    (line,) = lines(capsys)
    by_version, by_service = line["_aws"]["CloudWatchMetrics"]
    assert isinstance(line["_aws"]["Timestamp"], int)
    assert by_version["Dimensions"] == [["service", "version"]]
    assert by_service["Dimensions"] == [["service"]]
    assert {m["Name"] for m in by_service["Metrics"]} == {
        "Requests",
        "ClientErrors",
        "ServerErrors",
    }
    for directive in (by_version, by_service):
        for metric in directive["Metrics"]:
            assert isinstance(line[metric["Name"]], int | float)
        for dimensions in directive["Dimensions"]:
            assert all(isinstance(line[name], str) and line[name] for name in dimensions)
    handler(events.rest(None, "/ping", "GET"), Context())
    assert "_aws" not in lines(capsys)[0]


def test_only_the_first_request_is_a_cold_start(echo_dir: Path, capsys: Capture) -> None:
    fresh = app.create(Settings(echo_dir))
    fresh(events.rest(BODY), Context())
    fresh(events.rest(BODY), Context())
    assert [line.get("cold_start") for line in lines(capsys)] == [True, None]


def test_accepted_but_unusual_values_are_counted(handler: app.Handler, capsys: Capture) -> None:
    rows = [{**GOOD["instances"][0], "serum": value} for value in (5, 0.5, None, -1)]
    assert handler(events.rest(json.dumps({"instances": rows})), Context())["statusCode"] == 200
    assert lines(capsys)[0]["out_of_range_counts"] == {"serum": 2}


def test_a_model_that_cannot_be_loaded_logs_the_reason(tmp_path: Path, capsys: Capture) -> None:
    directory = artifact.echo(tmp_path)
    (directory / "model.onnx").write_bytes(b"x")
    broken = app.create(Settings(directory))
    (line,) = lines(capsys)
    assert line["level"] == "ERROR"
    assert "model.onnx" in line["reason"]
    for event in (events.rest(BODY), events.rest(None, "/ping", "GET")):
        answer = broken(event, Context())
        assert answer["statusCode"] == 503
        assert "model.onnx" in body(answer)["detail"]
    assert broken(events.rest(BODY, "/nope"), Context())["statusCode"] == 404


@pytest.mark.fault(
    "No model, or more than one, in the image",
    "503 that says so",
)
def test_no_artifact_to_choose_is_said_too() -> None:
    answer = app.create(Settings(None))(events.rest(None, "/ping", "GET"), Context())
    assert answer["statusCode"] == 503
    assert "MODEL_DIR" in body(answer)["detail"]


def test_a_run_over_the_deadline_is_504_and_the_next_call_works(tmp_path: Path) -> None:
    endless = app.create(Settings(artifact.endless(tmp_path)))
    event = events.rest('{"instances":[{"x":1}]}')
    answer = endless(event, Context(milliseconds=400))
    assert answer["statusCode"] == 504
    good = events.rest('{"instances":[{"x":-1}]}')
    assert endless(good, Context())["statusCode"] == 200
    # no time would be left to render the response
    assert endless(good, Context(milliseconds=200))["statusCode"] == 504


def test_a_row_without_a_finite_answer_is_a_422_and_strict_json(
    tmp_path: Path, capsys: Capture
) -> None:
    log = app.create(Settings(artifact.ratio(tmp_path, helper.make_node("Log", ["x"], ["y"]))))
    answer = log(events.rest('{"instances":[{"x":0}]}'), Context())
    assert answer["statusCode"] == 422
    assert body(answer)["errors"][0]["code"] == "model_rejected"
    assert lines(capsys)[-1]["ClientErrors"] == 1


@pytest.mark.fault(
    "The handler meets an error that nobody foresaw",
    "500, logged by where it was; neither says what the error said",
)
def test_an_unexpected_error_is_answered_and_logged_without_its_text(
    handler: app.Handler, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def explode(*_: Any) -> Any:
        raise ValueError("SENTINEL")

    monkeypatch.setattr(http_body, "read_json", explode)
    answer = handler(events.rest(BODY), Context())
    assert answer["statusCode"] == 500
    printed = capsys.readouterr().out
    assert "SENTINEL" not in answer["body"] + printed
    event, record = map(json.loads, printed.splitlines())
    assert event["error"] == "ValueError"
    assert any("explode" in place for place in event["trace"])
    assert (record["ServerErrors"], record["level"]) == (1, "ERROR")


@pytest.mark.fault(
    "Whatever is done with a response that is ready (compression, the record) fails",
    "The caller gets the response, and the failure is counted",
)
@pytest.mark.parametrize(
    "name", ["handler.http_body.maybe_gzip", "handler.request_log._round_3", "orjson.Fragment"]
)
def test_nothing_fails_after_the_response(
    echo_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str
) -> None:
    handler = app.create(Settings(echo_dir, log_payloads="full"))
    failures = iter([ValueError("SENTINEL")])

    def explode(*args: Any) -> Any:
        for error in failures:
            raise error
        return args[-1]

    monkeypatch.setattr(name, explode)
    answer = handler(events.rest(BODY), Context())
    assert answer["statusCode"] == 200
    (record,) = lines(capsys)
    assert (record["status"], record["LogErrors"], record["log_error"]) == (200, 1, "ValueError")
    assert "SENTINEL" not in json.dumps(record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "body": st.just(BODY) | st.text(max_size=20) | JSON,
    "headers": st.none()
    | st.dictionaries(st.sampled_from(["content-type", "Content-Encoding"]), JSON),
    "isBase64Encoded": st.booleans() | JSON,
    "requestContext": JSON | st.just({"requestId": "a"}) | st.just({"elb": {}}),
    "path": st.sampled_from(list(app.ROUTES)) | JSON,
    "httpMethod": st.sampled_from(["GET", "POST"]) | JSON,
}


@pytest.mark.fault(
    "Any event at all",
    "A problem document in strict JSON",
)
@given(st.fixed_dictionaries({}, optional=PARTS) | JSON, st.booleans())
@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_event_is_answered_in_strict_json(handler: app.Handler, event: Any, rest: bool) -> None:
    if rest and isinstance(event, dict):
        event = {**events.rest(BODY), **event}
    answer = handler(event, Context())
    assert set(answer) >= {"statusCode", "body", "isBase64Encoded"}
    json.loads(answer["body"], parse_constant=pytest.fail)
    json.dumps(answer, allow_nan=False)


def test_the_trace_and_the_front_are_only_names() -> None:
    try:
        raise KeyError("SENTINEL")
    except KeyError as error:
        assert "SENTINEL" not in "".join(request_log.stack_trace(error))
    assert gateway_events.to_gateway_response(None, Response(200, b"{}", {}))["statusCode"] == 200


TRACE = "0af7651916cd43dd8448eb211c80319c"
XRAY = "1-0af76519-16cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, TRACE),
        ({"X-Amzn-Trace-Id": f"Self=1-2;Root={XRAY};Sampled=1"}, TRACE),
        ({"x-amzn-trace-id": f"Root={XRAY}"}, TRACE),
        ({"traceparent": "00-SENTINEL-b7ad6b7169203331-01", "x-amzn-trace-id": XRAY}, None),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01 SENTINEL"}, None),
        ({}, None),
    ],
)
def test_the_trace_of_a_request_is_in_its_record(
    handler: app.Handler, capsys: Capture, headers: dict[str, str], expected: str | None
) -> None:
    handler(events.rest("{", headers=headers), Context())
    (line,) = lines(capsys)
    assert line.get("trace_id") == expected
    assert "SENTINEL" not in json.dumps(line)


@pytest.mark.parametrize(
    ("allowed", "origin", "readable"),
    [
        ("https://a.example https://b.example", "https://b.example", True),
        ("https://a.example", "https://b.example", False),
        ("https://a.example", None, False),
        ("*", "https://b.example", True),
        ("", "https://b.example", False),
    ],
)
@pytest.mark.parametrize("content", ["{", '{"instances":[]}'], ids=["error", "answer"])
def test_a_page_of_an_allowed_origin_may_read_answers_and_errors(
    echo_dir: Path, allowed: str, origin: str | None, readable: bool, content: str
) -> None:
    handler = app.create(Settings(echo_dir, cors_origins=frozenset(allowed.split())))
    headers = {"Origin": origin} if origin else {}
    sent = handler(events.rest(content, headers=headers), Context())["headers"]
    assert sent.get("access-control-allow-origin") == (origin if readable else None)
    assert ("origin" in sent.get("vary", "")) == readable
