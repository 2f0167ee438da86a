"""The HTTP door: `handler.api.lambda_handler`.

Loads the model when it is imported, which is Lambda's init phase. A model that cannot be loaded is
logged loudly and then answered for: readiness says why, with 503, instead of the crash loop that
an exception here would start.
"""

import gc

gc.disable()  # imports allocate a lot and free little: 12 ms of a cold start

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import orjson  # noqa: E402

from handler import gateways, lineage, monitoring, scoring, settings, wire  # noqa: E402
from handler.errors import (  # noqa: E402
    ArtifactError,
    Fault,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Refusal,
)
from handler.gateways import Event, Reply, Request  # noqa: E402
from handler.scoring import Scored, Scorer  # noqa: E402

Handler = Callable[[Any, Any], Event]
JSON = {"content-type": "application/json"}
PROBLEM = {"content-type": "application/problem+json"}
# what is left of the function's time for the answer after a stopped run
MARGIN_SECONDS = 0.25


class Answer(NamedTuple):
    """A reply and what the record says of it."""

    reply: Reply
    rows: int = 0
    unusual: dict[str, int] = {}
    seconds: dict[str, float] = {}
    watched: dict[str, Any] = {}


class Serving(NamedTuple):
    """What the routes work with. `issue` names predictions; `tell` takes outcomes; `store` connects
    to where jobs are kept.
    """

    scorer: Scorer
    issue: lineage.Issue
    tell: Callable[[str | bytes], Any]
    store: Callable[[], Any]
    has_jobs: bool


Route = Callable[[Serving, Request, float | None], Answer]


def predict(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`POST /predict`."""
    body = wire.json_body(request, serving.scorer.manifest.limits.body_bytes)
    return _predicted(serving, request, serving.scorer.score(body, deadline))


def _predicted(serving: Serving, request: Request, scored: Scored) -> Answer:
    ids = serving.issue(scored.outputs, len(scored.predictions))
    named = lineage.attach(ids, scored.predictions)
    reply = Reply(200, serving.scorer.contract.answer(named), JSON)
    first = ids[0][: lineage.PREFIX].decode()
    watched = {"scored": scored, "predictions": named, "prediction": first}
    return Answer(reply, len(named), scored.unusual, scored.seconds, watched)


def feedback(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`POST /feedback`: how predictions turned out."""
    body = wire.json_body(request, serving.scorer.manifest.limits.body_bytes)
    told = serving.tell(body)
    return Answer(Reply(202, told.answer, JSON), watched={"outcomes": told.records})


def model(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`GET /model`: contract and lineage."""
    from handler import openapi

    return Answer(Reply(200, orjson.dumps(openapi.describe(serving.scorer.manifest)), JSON))


def document(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`GET /openapi.json`."""
    from handler import openapi

    told = openapi.document(serving.scorer.manifest, serving.has_jobs)
    return Answer(Reply(200, orjson.dumps(told), JSON))


def ping(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`GET /ping`: ready, or a 503 that says why not."""
    return Answer(Reply(200, b'{"status":"ready"}', JSON))


def submit(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`POST /jobs`: as `/predict`, but answered later."""
    body = wire.json_body(request, serving.scorer.manifest.limits.body_bytes)
    serving.scorer.contract.columns(body)  # refused here and now, not as the job's result
    from handler import jobs

    body = body.encode() if isinstance(body, str) else body
    ticket = jobs.submit(
        serving.store(), body, request.caller, request.headers.get("idempotency-key")
    )
    # relative, because the path that the client used may begin with a stage
    return Answer(Reply(202, ticket.document, {**JSON, "location": f"jobs/{ticket.id}"}))


def result(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`GET /jobs/{id}`: queued, succeeded with the result, or failed with the problem."""
    from handler import jobs

    text, finished = jobs.find(serving.store(), request.parameters["id"], request.caller)
    return Answer(Reply(200, text, JSON if finished else {**JSON, "retry-after": "2"}))


def invocations(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`POST /invocations` and `POST /v1/models/{name}:predict`."""
    from handler.protocols import invocations, oip

    scorer = serving.scorer
    oip.found(scorer.manifest, request)
    start = time.perf_counter()
    columns = invocations.columns(scorer, request)
    validated = time.perf_counter() - start
    scored = scorer.score_columns(columns, deadline)
    scored.seconds["validate"] = validated
    return _predicted(serving, request, scored)


def infer(serving: Serving, request: Request, deadline: float | None) -> Answer:
    """`POST /v2/models/{name}/infer`."""
    from handler.protocols import oip

    scorer = serving.scorer
    oip.found(scorer.manifest, request)
    start = time.perf_counter()
    asked = oip.read(scorer, request)
    validated = time.perf_counter() - start
    scored = scorer.infer(asked.columns, deadline)
    scored.seconds["validate"] = validated
    whole = scorer.manifest.execution.batch == "none"  # one instance, without an axis for rows
    outputs = [output[0, ...] for output in scored.outputs] if whole else [*scored.outputs]
    rows, watched = len(asked.columns[0]), dict[str, Any](scored=scored)
    if any(i == len(outputs) for i, _ in asked.outputs):
        ids = serving.issue(scored.outputs, rows)
        outputs.append(oip.texts(ids))
        watched["prediction"] = ids[0][: lineage.PREFIX].decode()
    reply = oip.write(scorer.manifest, request, asked, outputs)
    return Answer(reply, rows, scored.unusual, scored.seconds, watched)


def about(what: str) -> Route:
    """A GET of the Open Inference Protocol, or of MLflow's: a function of handler.protocols.oip."""

    def answer(serving: Serving, request: Request, deadline: float | None) -> Answer:
        from handler.protocols import oip

        manifest = oip.found(serving.scorer.manifest, request)
        return Answer(Reply(200, orjson.dumps(getattr(oip, what)(manifest)), JSON))

    return answer


ROUTES: dict[str, dict[str, Route]] = {
    "/predict": {"POST": predict},
    "/feedback": {"POST": feedback},
    "/jobs": {"POST": submit},
    "/jobs/{id}": {"GET": result},
    "/model": {"GET": model},
    "/openapi.json": {"GET": document},
    "/ping": {"GET": ping},
    "/version": {"GET": about("version")},
    "/invocations": {"POST": invocations},
    "/v1/models/{name}:predict": {"POST": invocations},  # before what it would match
    "/v1/models/{name}": {"GET": about("ready")},
    "/v2": {"GET": about("server")},
    "/v2/health/live": {"GET": about("live")},
    "/v2/health/ready": {"GET": about("server_ready")},
    "/v2/models/{name}": {"GET": about("metadata")},
    "/v2/models/{name}/ready": {"GET": about("ready")},
    "/v2/models/{name}/infer": {"POST": infer},
    "/v2/models/{name}/versions/{version}": {"GET": about("metadata")},
    "/v2/models/{name}/versions/{version}/ready": {"GET": about("ready")},
    "/v2/models/{name}/versions/{version}/infer": {"POST": infer},
}
JOBS = ("/jobs", "/jobs/{id}")  # which only a deployment with jobs has


def create(config: settings.Settings) -> Handler:
    """Load the model and return the Lambda handler that serves it."""
    scorer, failure = _load(config)
    record = monitoring.recorder(config, scorer.manifest if scorer else None)
    serving = _serving(config, scorer) if scorer else None
    cold = True

    def serve(request: Request, context: Any) -> Answer:
        if request.synthetic and request.path.startswith("/golden/") and scorer is not None:
            return _golden(config, request.path.rpartition("/")[2])
        pattern, parameters = _find(request.path)
        methods = ROUTES.get(pattern)
        if methods is None or (pattern in JOBS and not _has_jobs(config)):
            raise NotFound("the paths are listed at /openapi.json")
        if request.method not in methods:
            allow = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"send {allow}", headers={"allow": allow})
        if serving is None:
            raise NotReady(f"the model could not be loaded: {failure}")
        if parameters:
            request = request._replace(parameters=parameters)
        return methods[request.method](serving, request, _deadline(context))

    def lambda_handler(event: Any, context: Any) -> Event:
        gc.disable()  # a call leaves little garbage, and a large body millions of lists to look at
        try:
            return answered(event, context)
        finally:
            gc.enable()

    def answered(event: Any, context: Any) -> Event:
        nonlocal cold
        start = time.perf_counter()
        request, problem = None, None
        request_id = getattr(context, "aws_request_id", "")
        try:
            request = gateways.request(event)
            request_id = request.request_id or request_id
            answer = serve(request, context)
        except Refusal as refusal:
            problem = refusal
        except Exception as error:
            where = {"error": type(error).__name__, "trace": monitoring.trace(error)}
            monitoring.event("error", "unexpected", request_id=request_id, **where)
            problem = Fault("an unexpected error; it has been logged")
        if problem is not None:
            answer = Answer(_problem(problem, request_id, request))
        record(
            request_id=request_id,
            route=_route(request),
            status=answer.reply.status,
            problem=problem.kind if problem else None,
            rows=answer.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            timings_ms={step: value * 1e3 for step, value in answer.seconds.items()},
            cold=cold,
            unusual=answer.unusual,
            **answer.watched,
            synthetic=request is not None and request.synthetic,
        )
        cold = False
        return gateways.response(event, wire.packed(request, answer.reply))

    return lambda_handler


def _load(config: settings.Settings) -> tuple[Scorer | None, ArtifactError | None]:
    try:
        return scoring.load(settings.model_dir(config)), None
    except ArtifactError as error:
        monitoring.event("critical", "the model could not be loaded", reason=str(error))
        return None, error


def _serving(config: settings.Settings, scorer: Scorer) -> Serving:
    issue = lineage.issuer(scorer.manifest, config.function_version, config.secret)
    taker: Any = None

    def tell(body: str | bytes) -> Any:  # a cold start of /predict does not wait for it
        nonlocal taker
        if taker is None:
            from handler import feedback

            taker = feedback.taker(scorer.manifest, config)
        return taker(body)

    def store() -> Any:  # nor for boto3
        from handler import jobs

        return jobs.connect(config)

    return Serving(scorer, issue, tell, store, _has_jobs(config))


def _has_jobs(config: settings.Settings) -> bool:
    return bool(config.jobs_bucket and config.jobs_queue_url)


def _golden(config: settings.Settings, number: str) -> Answer:
    """A golden row: the version's own proof, for those who may invoke it past the gateway."""
    from handler import golden

    lines = golden.content(settings.model_dir(config)).splitlines()
    if not number.isdecimal() or int(number) >= len(lines):
        raise NotFound(f"there are {len(lines)} golden rows")
    return Answer(Reply(200, lines[int(number)], JSON))


def _deadline(context: Any) -> float | None:
    """When a run must be stopped, on time.monotonic()'s clock; None without a Lambda context."""
    if context is None:
        return None
    remaining: int = context.get_remaining_time_in_millis()
    return time.monotonic() + remaining / 1e3 - MARGIN_SECONDS


def _find(path: str) -> tuple[str, dict[str, str]]:
    """The route of a path, and what its {parts} stand for; "" for a path that is none of ours."""
    if path in ROUTES and "{" not in path:
        return path, {}
    parts = path.split("/")
    for route, pattern in _PATTERNS:
        if len(pattern) != len(parts):
            continue
        found = {}
        for known, part in zip(pattern, parts, strict=True):
            name, _, action = known.partition("}")
            if name[:1] == "{" and part.endswith(action) and len(part) > len(action):
                found[name[1:]] = part[: len(part) - len(action)]
            elif known != part:
                break
        else:
            return route, found
    return "", {}


_PATTERNS = [(route, route.split("/")) for route in ROUTES if "{" in route]


def _route(request: Request | None) -> str:
    """The route that was asked for if it is one of ours: an unknown path is the client's text."""
    if request is None:
        return "-"
    pattern, _ = _find(request.path)
    return f"{request.method} {pattern}" if request.method in ROUTES.get(pattern, ()) else "-"


def _problem(refusal: Refusal, request_id: str, request: Request | None) -> Reply:
    # KServe's client reads the `error` of nothing but application/json
    kserve = request is not None and request.path.startswith(("/v1/", "/v2/"))
    headers = {**(JSON if kserve else PROBLEM), **refusal.headers}
    return Reply(refusal.status, orjson.dumps(refusal.problem(request_id)), headers)


lambda_handler = create(settings.read())
gc.freeze()  # what was imported stays; the collector need not look at it again
gc.enable()
