import base64
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from answerable.packing import openapi
from handler import app, gateway_events, settings
from handler.errors import BadRequest, Conflict, NotFound, Unavailable
from handler.jobs import storage
from handler.settings import Settings
from tests.fixtures import events, memory_store
from tests.fixtures.artifact import ECHO_FEATURES
from tests.fixtures.events import Context
from tests.fixtures.memory_store import Memory

BODY = json.dumps({"instances": [{f["name"]: f["example"] for f in ECHO_FEATURES}]})
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="module")
def handler(echo_dir: Path) -> app.Handler:
    return app.create(Settings(echo_dir, jobs_bucket="bucket", jobs_queue_url="queue"))


@pytest.fixture(autouse=True)
def connected(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    use(memory, monkeypatch)


def use(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = memory_store.store(client)
    monkeypatch.setattr(storage, "connect", lambda config: kept)


def post(handler: app.Handler, body: str | bytes = BODY, **fields: Any) -> dict[str, Any]:
    event = events.rest(body, "/jobs")
    event["headers"] = {**event["headers"], **fields.pop("headers", {})}
    event["requestContext"] |= fields
    return handler(event, Context())


def get(handler: app.Handler, id: str, **fields: Any) -> dict[str, Any]:
    event = events.rest(None, f"/jobs/{id}", "GET")
    event["requestContext"] |= fields
    return handler(event, Context())


def body(answer: dict[str, Any]) -> Any:
    return json.loads(answer["body"])


def key(value: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": value}}


def test_a_job_is_stored_queued_and_found(handler: app.Handler, memory: Memory) -> None:
    answer = post(handler)
    job = body(answer)["job"]
    assert (answer["statusCode"], job["status"]) == (202, "queued")
    assert answer["headers"]["location"] == f"jobs/{job['id']}"
    assert memory.objects[f"jobs/{job['id']}/request.json"][0] == BODY.encode()
    assert [json.loads(sent) for sent in memory.sent] == [{"job": job["id"]}]
    ends = time.mktime(time.strptime(job["expires_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert memory_store.DAY - 5 < ends - time.time() <= memory_store.DAY
    response = get(handler, job["id"])
    assert (response["statusCode"], body(response)) == (200, body(answer))
    assert response["headers"]["retry-after"] == "2"


def test_a_finished_job_is_answered_as_it_was_written(handler: app.Handler, memory: Memory) -> None:
    id = body(post(handler))["job"]["id"]
    text = storage.render_job(
        id, "succeeded", int(time.time()) + 9, b',"result":{"predictions":[]}'
    )
    storage.write_result(
        memory_store.store(memory), id, "succeeded", text, storage.ANONYMOUS, int(time.time()) + 9
    )
    response = get(handler, id)
    assert (response["statusCode"], response["body"]) == (200, text.decode())
    assert "retry-after" not in response["headers"]


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        ("{", 400, "malformed-body"),
        ('{"instances":[{}]}', 422, "contract-violation"),
        ("x" * 1_000_001, 413, "payload-too-large"),
    ],
)
def test_a_body_is_refused_before_anything_is_kept(
    handler: app.Handler, memory: Memory, sent: str, status: int, kind: str
) -> None:
    answer = post(handler, sent)
    assert (answer["statusCode"], body(answer)["type"]) == (
        status,
        f"urn:answerable:problem:{kind}",
    )
    assert not memory.written
    assert not memory.sent


def test_the_wire_rules_are_those_of_predict(handler: app.Handler, memory: Memory) -> None:
    assert post(handler, headers={"Content-Type": "text/csv"})["statusCode"] == 415
    packed = post(handler, gzip.compress(BODY.encode()), headers={"Content-Encoding": "gzip"})
    id = body(packed)["job"]["id"]
    assert memory.objects[f"jobs/{id}/request.json"][0] == BODY.encode()


@pytest.mark.parametrize("path", ["/jobs/x", "/jobs/{id}", "/jobs/a/b", "/jobs/%2e", "/x"])
def test_what_is_no_job_is_not_found(handler: app.Handler, path: str) -> None:
    assert handler(events.rest(None, path, "GET"), Context())["statusCode"] == 404


def test_other_methods_get_405_with_the_allowed_ones(handler: app.Handler) -> None:
    for path, method, allow in (("/jobs", "GET", "POST"), ("/jobs/x", "DELETE", "GET, HEAD")):
        answer = handler(events.rest(None, path, method), Context())
        assert (answer["statusCode"], answer["headers"]["allow"]) == (405, allow)


def test_a_deployment_without_jobs_has_no_such_paths(echo_dir: Path) -> None:
    bare = app.create(Settings(echo_dir, jobs_bucket="bucket"))
    assert bare(events.rest(BODY, "/jobs"), Context())["statusCode"] == 404
    assert bare(events.rest(None, "/jobs/x", "GET"), Context())["statusCode"] == 404
    document = body(bare(events.rest(None, "/openapi.json", "GET"), Context()))
    assert "/jobs" not in document["paths"]


def test_openapi_has_every_path_of_a_whole_deployment(echo_dir: Path, echo: Any) -> None:
    config = Settings(echo_dir, jobs_bucket="b", jobs_queue_url="q", batch_state_machine="m")
    document = body(app.create(config)(events.rest(None, "/openapi.json", "GET"), Context()))
    assert document == openapi.document(echo.manifest)
    assert set(document["paths"]) == set(app.ROUTES)


def test_the_record_has_the_pattern_and_never_the_id(handler: app.Handler, capsys: Capture) -> None:
    id = body(post(handler))["job"]["id"]
    get(handler, id)
    get(handler, "SENTINEL")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["route"] for line in lines] == ["POST /jobs", "GET /jobs/{id}", "GET /jobs/{id}"]
    assert "SENTINEL" not in json.dumps(lines)
    assert id not in json.dumps(lines)


def test_the_environment_says_where_jobs_are_kept() -> None:
    environ = {"JOBS_BUCKET": "b", "JOBS_QUEUE_URL": "q"}
    environ |= {"JOB_RETENTION_DAYS": "3", "JOBS_MAX_RECEIVE_COUNT": "4"}
    assert settings.read(environ)[6:10] == ("b", "q", 3, 4)
    assert settings.read({})[6:10] == ("", "", 7, 5)


# Idempotency


def test_fifty_at_once_with_one_key_are_one_job(handler: app.Handler, memory: Memory) -> None:
    barrier = threading.Barrier(50)

    def send(i: int) -> dict[str, Any]:
        barrier.wait()
        return post(handler, **key("order-1"))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert {answer["statusCode"] for answer in answers} == {202}
    assert len({answer["body"] for answer in answers}) == 1
    id = body(answers[0])["job"]["id"]
    assert memory.written.count(f"jobs/{id}/request.json") == 1
    assert {json.loads(sent)["job"] for sent in memory.sent} == {id}


def test_each_caller_has_a_message_group(handler: app.Handler, memory: Memory) -> None:
    """A fair queue serves the groups in turn, so one caller's many jobs delay nobody else's."""
    for name in ("SENTINEL-a", "SENTINEL-a", "SENTINEL-b"):
        post(handler, identity={"apiKeyId": name})
    one, same, other = memory.groups[-3:]
    assert one == same != other
    assert "SENTINEL" not in one


def test_another_body_under_the_same_key_is_a_conflict(
    handler: app.Handler, memory: Memory
) -> None:
    caller: dict[str, Any] = {"identity": {"apiKeyId": "a"}}
    first = post(handler, **key("order-1"), **caller)
    other = post(handler, BODY.replace("red", "blue"), **key("order-1"), **caller)
    assert (other["statusCode"], body(other)["type"]) == (409, "urn:answerable:problem:conflict")
    assert body(first)["job"]["id"] not in other["body"]
    assert post(handler, **key("order-2"), **caller)["statusCode"] == 202
    assert len(memory.sent) == 2


@pytest.mark.fault(
    "Two callers who are not authenticated choose the same `Idempotency-Key`",
    "Each has a job of its own, unless both sent the same body",
)
def test_keys_of_unknown_callers_do_not_meet(handler: app.Handler, memory: Memory) -> None:
    first = post(handler, **key("order-1"))
    other = post(handler, BODY.replace("red", "blue"), **key("order-1"))
    assert (first["statusCode"], other["statusCode"]) == (202, 202)
    assert body(first)["job"]["id"] != body(other)["job"]["id"]
    assert post(handler, **key("order-1"))["body"] == first["body"]


def test_a_key_is_its_callers_own(handler: app.Handler) -> None:
    ids = {
        body(post(handler, **key("order-1"), identity={"apiKeyId": name}))["job"]["id"]
        for name in ("a", "b", "a")
    }
    assert len(ids) == 2


@pytest.mark.fault(
    "The function dies between storing a job and queueing it",
    "The same `Idempotency-Key` again queues it; nobody had been told of a job",
)
def test_a_repeat_sends_what_was_lost_between_the_two_steps(
    handler: app.Handler, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(**_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(memory, "send_message", crash)
        with pytest.raises(SystemExit):
            post(handler, **key("order-1"))
    assert not memory.sent
    answer = post(handler, **key("order-1"))
    assert answer["statusCode"] == 202
    assert json.loads(memory.sent[0])["job"] == body(answer)["job"]["id"]


def test_a_repeat_of_a_finished_job_is_not_sent_again(memory: Memory) -> None:
    store = memory_store.store(memory)
    ticket = storage.submit(store, b"{}", idempotency_key="k")
    storage.write_result(store, ticket.id, "failed", b"{}", storage.ANONYMOUS, int(time.time()) + 9)
    again = storage.submit(store, b"{}", idempotency_key="k")
    assert (again.id, json.loads(again.document)["job"]["status"]) == (ticket.id, "failed")
    assert len(memory.sent) == 1


@pytest.mark.parametrize("wrong", ["", "a b", "a\n", "ä", "x" * 256])
def test_a_key_that_is_none_is_refused(handler: app.Handler, memory: Memory, wrong: str) -> None:
    assert post(handler, **key(wrong))["statusCode"] == 400
    assert not memory.written


# Expiry


def test_an_expired_job_is_gone_whether_or_not_it_was_removed(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory_store.store(memory)
    ticket = storage.submit(store, b"1", "me", "k")
    owner = memory.objects[f"jobs/{ticket.id}/request.json"][1]["caller"]
    storage.write_result(
        store,
        ticket.id,
        "succeeded",
        b"old",
        owner,
        int(time.time()) + memory_store.DAY,
    )
    now = time.time() + memory_store.DAY + 1
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(NotFound):
        storage.get_job(store, ticket.id, "me")
    assert storage.get_request(store, ticket.id) is None
    # the key is free, for another body as well, and the old result is not taken for its
    again = storage.submit(store, b"2", "me", "k")
    assert again.id == ticket.id
    assert json.loads(again.document)["job"]["status"] == "queued"
    assert len(memory.sent) == 2
    assert not storage.get_job(store, ticket.id, "me")[1]
    storage.write_result(store, ticket.id, "succeeded", b"new", owner, int(now) + 9)
    assert storage.get_job(store, ticket.id, "me") == (b"new", True)


def test_what_is_there_is_left_alone(memory: Memory) -> None:
    store, until = memory_store.store(memory), int(time.time()) + 9
    storage.write_result(store, "x", "succeeded", b"first", storage.ANONYMOUS, until)
    storage.write_result(store, "x", "failed", b"second", storage.ANONYMOUS, until)
    assert storage.get_job(store, "x") == (b"first", True)


# Ids and callers

IAM = "arn:aws:sts::123456789012:assumed-role/Scorer/session-1"
CALLERS: list[dict[str, Any]] = [
    {"identity": {"userArn": IAM}},
    {"identity": {"userArn": "arn:aws:iam::123456789012:user/somebody"}},
    {"identity": {"userArn": IAM.replace("Scorer", "Other")}},
    {"identity": {"apiKeyId": "abc123"}},
    {"identity": {"apiKeyId": "abc12"}},
    {"authorizer": {"claims": {"iss": "https://pool", "sub": "1-2-3"}}},
    {"authorizer": {"claims": {"iss": "https://pool", "sub": "1-2-4"}}},
    {"authorizer": {"claims": {"iss": "https://other-pool", "sub": "1-2-3"}}},
    {"authorizer": {"jwt": {"claims": {"iss": "https://pool", "sub": "4-5-6"}}}},
    {"authorizer": {"iam": {"userArn": "arn:aws:iam::123456789012:user/other"}}},
    {"authorizer": {"principalId": "someone"}},
]


@pytest.mark.parametrize("caller", CALLERS)
def test_a_job_is_its_callers_alone(
    handler: app.Handler, memory: Memory, caller: dict[str, Any]
) -> None:
    id = body(post(handler, **caller))["job"]["id"]
    unknown = get(handler, "A" * 32)

    others: list[dict[str, Any]] = [{}, *(other for other in CALLERS if other != caller)]

    def check() -> None:
        assert get(handler, id, **caller)["statusCode"] == 200
        for other in others:
            answer = get(handler, id, **other)
            assert (answer["statusCode"], answer["body"]) == (404, unknown["body"])

    check()
    owner = memory.objects[f"jobs/{id}/request.json"][1]["caller"]
    until = int(time.time()) + 9
    storage.write_result(memory_store.store(memory), id, "succeeded", b"{}", owner, until)
    check()
    assert "123456789012" not in str(memory.objects)
    assert "abc123" not in str(memory.objects)


def test_the_sessions_of_a_role_are_one_caller(handler: app.Handler) -> None:
    id = body(post(handler, identity={"userArn": IAM}))["job"]["id"]
    later = {"userArn": IAM.replace("session-1", "session-2")}
    other = {"userArn": IAM.replace("Scorer", "Other")}
    assert get(handler, id, identity=later)["statusCode"] == 200
    assert get(handler, id, identity=other)["statusCode"] == 404


@pytest.mark.parametrize(
    "trick",
    ["..", "../secret", "%2e%2e%2fsecret", "..%2fsecret", "secret", "{}/request.json",
     "x/../{}", "{}%00", "{}%2frequest", "{}\u0000", "{}\u200b", "\uff58{}", "{} ",
     "*", "{}?x"],
)  # fmt: skip
@pytest.mark.parametrize("event_source", [events.rest, events.http, events.alb])
def test_no_path_leads_to_another_object(
    handler: app.Handler, memory: Memory, trick: str, event_source: Any
) -> None:
    post(handler, headers={"Idempotency-Key": "order-1"})  # so that there is a secret
    id = body(post(handler))["job"]["id"]
    for document in (trick.format(id), id[:-1], id + "A", id.swapcase()):
        answer = handler(event_source(None, f"/jobs/{document}", "GET"), Context())
        assert answer["statusCode"] == 404
        assert memory.objects["secret"][0].hex() not in answer["body"]


def test_no_front_lets_a_client_name_itself() -> None:
    event = events.alb(None, "/jobs/x", "GET")
    event["headers"] |= {"x-amzn-oidc-identity": "somebody", "x-api-key": "secret"}
    assert gateway_events.parse_event(event).caller == ""
    keyed = {**events.rest(None), "requestContext": {"identity": {"apiKey": "secret"}}}
    assert gateway_events.parse_event(keyed).caller == ""


def test_an_anonymous_job_is_readable_by_its_id(handler: app.Handler) -> None:
    id = body(post(handler))["job"]["id"]
    assert get(handler, id, identity={"apiKeyId": "any"})["statusCode"] == 200


def test_ids_have_192_bits_and_show_neither_key_nor_order(memory: Memory) -> None:
    store = memory_store.store(memory)
    ids = [storage.submit(store, b"", "me", name).id for name in (None, None, "order-1", "order-2")]
    assert len(set(ids)) == 4
    assert all(len(base64.urlsafe_b64decode(id)) == 24 for id in ids)
    # under another deployment's secret, the same caller's same key is another job
    assert storage.submit(memory_store.store(Memory()), b"", "me", "order-1").id not in ids


def test_the_secret_of_the_ids_is_kept(memory: Memory) -> None:
    first = storage.submit(memory_store.store(memory), b"", idempotency_key="k").id
    # as another environment of the function would find it
    assert (
        storage.submit(memory_store.store(memory, seconds=99), b"", idempotency_key="k").id == first
    )
    assert memory.written.count("secret") == 1


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=300) | st.none())
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_caller_and_key(caller: str, other: str, name: str | None) -> None:
    store = memory_store.store(Memory())
    try:
        ticket = storage.submit(store, b"{}", caller, name)
    except BadRequest:
        assert name is not None
        return
    assert storage.get_job(store, ticket.id, caller)[0] == ticket.document
    if caller and other != caller:
        with pytest.raises(NotFound):
            storage.get_job(store, ticket.id, other)
    if name is not None:
        assert storage.submit(store, b"{}", caller, name) == ticket
        if caller:
            with pytest.raises(Conflict):
                storage.submit(store, b"[]", caller, name)
        else:
            assert storage.submit(store, b"[]", caller, name).id != ticket.id


# A storage that fails


def refuse(name: str, number: int) -> None:
    raise memory_store.error("AccessDenied", 403)


def throttle(name: str, number: int) -> None:
    raise memory_store.error("SlowDown", 503)


def time_out(name: str, number: int) -> None:
    raise ReadTimeoutError(endpoint_url="s3")


@pytest.mark.fault(
    "S3 or SQS is out when a job is submitted or asked for",
    "503 with `Retry-After`, without the services' words",
)
@pytest.mark.parametrize("fault", [refuse, throttle, time_out])
def test_storage_that_fails_is_a_503_and_loses_nothing(
    handler: app.Handler,
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[str, int], None],
) -> None:
    id = body(post(handler))["job"]["id"]
    sent = len(memory.sent)
    use(memory_store.Faulty(memory, fault), monkeypatch)
    for answer in (post(handler, **key("k")), get(handler, id)):
        assert answer["statusCode"] == 503
        assert answer["headers"]["retry-after"] == "5"
        assert body(answer)["type"] == "urn:answerable:problem:unavailable"
    assert len(memory.sent) == sent  # nothing was promised
    use(memory, monkeypatch)
    assert get(handler, id)["statusCode"] == 200
    assert post(handler, **key("k"))["statusCode"] == 202


@pytest.mark.fault(
    "Any one step of a submission fails",
    "The same key again makes it whole: one job, one effect",
)
@pytest.mark.parametrize("failing", ["put_object", "send_message"])
def test_whatever_step_fails_the_same_key_repairs_it(
    handler: app.Handler, memory: Memory, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fault(name: str, number: int) -> None:
        if name == failing:
            raise memory_store.error("ServiceUnavailable", 503)

    use(memory_store.Faulty(memory, fault), monkeypatch)
    assert post(handler, **key("k"))["statusCode"] == 503
    use(memory, monkeypatch)
    answer = post(handler, **key("k"))
    assert answer["statusCode"] == 202
    assert {json.loads(text)["job"] for text in memory.sent} == {body(answer)["job"]["id"]}


@pytest.mark.fault(
    "S3's answer breaks off in the middle",
    "503, and no half of a result",
)
def test_a_body_that_breaks_off_is_a_503(handler: app.Handler, memory: Memory) -> None:
    class Broken:
        def read(self) -> bytes:
            raise ConnectionResetError

    id = body(post(handler))["job"]["id"]
    memory.get_object = lambda **_: {"Body": Broken(), "Metadata": {}}  # type: ignore[method-assign]
    assert get(handler, id)["statusCode"] == 503


@pytest.mark.fault(
    "Two conditional writes meet",
    "One wins, the other finds that it was done; what never settles is a 503",
)
def test_conditional_writes_that_meet_are_settled(memory: Memory) -> None:
    def meet(name: str, number: int) -> None:
        if name == "put_object" and number < 4:
            raise memory_store.error("ConditionalRequestConflict", 409)

    storage.write_result(
        memory_store.store(memory_store.Faulty(memory, meet)), "x", "failed", b"", "-", 1 << 40
    )
    assert memory.written == ["jobs/x/result.json"]

    def always(name: str, number: int) -> None:
        if name == "put_object":
            raise memory_store.error("ConditionalRequestConflict", 409)

    with pytest.raises(Unavailable):
        storage.write_result(
            memory_store.store(memory_store.Faulty(memory, always)),
            "y",
            "failed",
            b"",
            "-",
            1 << 40,
        )


def client(name: str, endpoint: str, config: Config | None = None) -> Any:
    connect: Any = boto3.client
    return connect(
        name,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=config,
    )


@pytest.mark.parametrize("code", ["NoSuchBucket", "AccessDenied", "SlowDown", "InternalError"])
def test_what_the_real_client_raises_is_understood(code: str) -> None:
    s3 = client("s3", "http://127.0.0.1:9")
    with Stubber(s3) as stub:
        stub.add_client_error("get_object", code, http_status_code=404 if "Such" in code else 503)
        with pytest.raises(Unavailable, match=code):
            storage.get_job(storage.JobStore(s3, None, "bucket", "", 9), "x" * 32)
        stub.add_client_error("get_object", "NoSuchKey", http_status_code=404)
        stub.add_client_error("head_object", "404", http_status_code=404)
        with pytest.raises(NotFound):
            storage.get_job(storage.JobStore(s3, None, "bucket", "", 9), "x" * 32)


@pytest.mark.fault(
    "The storage's endpoint is silent or gone",
    "503, before the function's own time is over",
)
def test_an_endpoint_that_never_answers_or_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = Config(connect_timeout=1, read_timeout=0.1, retries={"total_max_attempts": 1})
        store = storage.JobStore(client("s3", endpoint, options), None, "bucket", "", 9)
        with pytest.raises(Unavailable, match="ReadTimeoutError"):
            storage.submit(store, b"")
    with pytest.raises(Unavailable, match="EndpointConnectionError"):
        storage.submit(store, b"")


@pytest.mark.parametrize("name", ["s3", "sqs"])
def test_the_clients_give_up_before_the_function_must(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real `connect`
    for variable in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "us-east-1")
    storage.connect.cache_clear()
    config = Settings(None, jobs_bucket="b", jobs_queue_url="q", job_retention_days=2)
    store = storage.connect(config)
    assert storage.connect(config) is store  # made once
    assert store.seconds == 2 * memory_store.DAY
    options = getattr(store, name).meta.config
    seconds = (options.connect_timeout + options.read_timeout) * 3
    assert options.retries == {"mode": "standard", "total_max_attempts": 3}
    assert seconds <= 15
    storage.connect.cache_clear()
