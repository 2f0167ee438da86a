"""The HTTP door: `handler.function.lambda_handler`.

Loads the model when it is imported, which is Lambda's init phase. A model that cannot be loaded is
logged loudly and then answered for: readiness says why, with 503, instead of the crash loop that
an exception here would start.
"""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from handler import (
    gateway_events,
    http_body,
    prediction_id,
    request_log,
    scoring,
    settings,
)
from handler.errors import (
    ApiError,
    ArtifactError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    ServerError,
)
from handler.gateway_events import (
    Event,
    Request,
    Response,
)
from handler.manifest import FILE_NAME
from handler.scoring import Scored, Scorer

Handler = Callable[[Any, Any], Event]
JSON = {"content-type": "application/json"}
PROBLEM = {"content-type": "application/problem+json"}


class HandlerResult(NamedTuple):
    """A reply and what the record says of it."""

    reply: Response
    rows: int = 0
    unusual: dict[str, int] = {}
    seconds: dict[str, float] = {}
    watched: dict[str, Any] = {}


class AppState(NamedTuple):
    """What the routes work with. `issue` names predictions; `tell` takes outcomes; `store` connects
    to where jobs are kept.
    """

    scorer: Scorer
    issue: prediction_id.IdGenerator
    tell: Callable[[str | bytes], Any]
    store: Callable[[], Any]
    has_jobs: bool


Route = Callable[[AppState, Request, float | None], HandlerResult]


def predict(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /predict`."""
    body = http_body.read_json(request, serving.scorer.manifest.limits.body_bytes)
    return _prediction_response(serving, request, serving.scorer.score(body, deadline))


def _prediction_response(serving: AppState, request: Request, scored: Scored) -> HandlerResult:
    ids = serving.issue(scored.outputs, [prediction_id.new_request(len(scored.predictions))])
    named = prediction_id.attach_ids(ids, scored.predictions)
    reply = Response(200, serving.scorer.contract.answer(named), JSON)
    first = ids[0][: prediction_id.REQUEST_PREFIX_CHARS].decode()
    watched = {"scored": scored, "predictions": named, "prediction_id_prefix": first}
    return HandlerResult(reply, len(named), scored.unusual, scored.seconds, watched)


def feedback(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /feedback`: how predictions turned out."""
    from handler.feedback import MAX_BODY_BYTES

    result = serving.tell(http_body.read_json(request, MAX_BODY_BYTES))
    return HandlerResult(Response(202, result.body, JSON), watched={"outcomes": result.lines})


def model(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /model`: contract and lineage."""
    from handler import openapi

    return HandlerResult(
        Response(200, orjson.dumps(openapi.describe(serving.scorer.manifest)), JSON)
    )


def openapi_document(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /openapi.json`."""
    from handler import openapi

    told = openapi.document(serving.scorer.manifest, serving.has_jobs)
    return HandlerResult(Response(200, orjson.dumps(told), JSON))


def ping(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /ping`: ready, or a 503 that says why not."""
    return HandlerResult(Response(200, b'{"status":"ready"}', JSON))


def submit_job(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /jobs`: as `/predict`, but answered later."""
    body = http_body.read_json(request, serving.scorer.manifest.limits.body_bytes)
    serving.scorer.contract.columns(body)  # refused here and now, not as the job's result
    from handler.jobs import storage

    body = body.encode() if isinstance(body, str) else body
    ticket = storage.submit(
        serving.store(), body, request.caller, request.headers.get("idempotency-key")
    )
    # relative, because the path that the client used may begin with a stage
    return HandlerResult(Response(202, ticket.document, {**JSON, "location": f"jobs/{ticket.id}"}))


def get_job(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /jobs/{id}`: queued, succeeded with the result, or failed with the problem."""
    from handler.jobs import storage

    text, finished = storage.get_job(serving.store(), request.parameters["id"], request.caller)
    return HandlerResult(Response(200, text, JSON if finished else {**JSON, "retry-after": "2"}))


def invocations(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /invocations` and `POST /v1/models/{name}:predict`."""
    from handler.protocols import invocations, open_inference

    scorer = serving.scorer
    open_inference.check_model(scorer.manifest, request)
    start = time.perf_counter()
    columns = invocations.columns(scorer, request)
    validated = time.perf_counter() - start
    scored = scorer.score_columns(columns, deadline)
    scored.seconds["validate"] = validated
    return _prediction_response(serving, request, scored)


def infer(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /v2/models/{name}/infer`."""
    from handler.protocols import open_inference

    scorer = serving.scorer
    open_inference.check_model(scorer.manifest, request)
    start = time.perf_counter()
    asked = open_inference.parse_request(scorer, request)
    validated = time.perf_counter() - start
    scored = scorer.infer(asked.columns, deadline)
    scored.seconds["validate"] = validated
    whole = scorer.manifest.execution.batch == "none"  # one instance, without an axis for rows
    outputs = [output[0, ...] for output in scored.outputs] if whole else [*scored.outputs]
    rows, watched = len(asked.columns[0]), dict[str, Any](scored=scored)
    if any(i == len(outputs) for i, _ in asked.outputs):
        ids = serving.issue(scored.outputs, [prediction_id.new_request(rows)])
        outputs.append(open_inference.string_tensor(ids))
        watched["prediction_id_prefix"] = ids[0][: prediction_id.REQUEST_PREFIX_CHARS].decode()
    reply = open_inference.render_response(scorer.manifest, request, asked, outputs)
    return HandlerResult(reply, rows, scored.unusual, scored.seconds, watched)


def about(what: str) -> Route:
    """A GET of the Open Inference Protocol, or of MLflow's: a function of handler.protocols.open_inference."""

    def answer(serving: AppState, request: Request, deadline: float | None) -> HandlerResult:
        from handler.protocols import open_inference

        manifest = open_inference.check_model(serving.scorer.manifest, request)
        return HandlerResult(
            Response(200, orjson.dumps(getattr(open_inference, what)(manifest)), JSON)
        )

    return answer


ROUTES: dict[str, dict[str, Route]] = {
    "/predict": {"POST": predict},
    "/feedback": {"POST": feedback},
    "/jobs": {"POST": submit_job},
    "/jobs/{id}": {"GET": get_job},
    "/model": {"GET": model},
    "/openapi.json": {"GET": openapi_document},
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
JOB_ROUTES = ("/jobs", "/jobs/{id}")  # which only a deployment with jobs has


def create(config: settings.Settings) -> Handler:
    """Load the model and return the Lambda handler that serves it."""
    scorer, failure = _load(config)
    record = request_log.make_request_log(config, scorer.manifest if scorer else None)
    serving = _serving(config, scorer) if scorer else None
    cold = True

    def serve(request: Request, context: Any) -> HandlerResult:
        if request.synthetic and request.path.startswith("/golden/") and scorer is not None:
            return _golden(config, request.path.rpartition("/")[2])
        if request.synthetic and request.path == "/manifest" and scorer is not None:
            return HandlerResult(Response(200, _manifest(config), JSON))
        pattern, parameters = match_route(request.path)
        methods = ROUTES.get(pattern)
        if methods is None or (pattern in JOB_ROUTES and not _has_jobs(config)):
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
            request = gateway_events.parse_event(event)
            request_id = request.request_id or request_id
            answer = serve(request, context)
        except ApiError as refusal:
            problem = refusal
        except Exception as error:
            where = {"error": type(error).__name__, "trace": request_log.stack_trace(error)}
            request_log.log("ERROR", "unexpected", request_id=request_id, **where)
            problem = ServerError("an unexpected error; it has been logged")
        if problem is not None:
            answer = HandlerResult(_problem(problem, request_id, request))
        record(
            request_id=request_id,
            route=route_label(request),
            status=answer.reply.status,
            problem=problem.kind if problem else None,
            rows=answer.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            timings_ms={step: value * 1e3 for step, value in answer.seconds.items()},
            cold=cold,
            out_of_range_counts=answer.unusual,
            **answer.watched,
            synthetic=request is not None and request.synthetic,
        )
        cold = False
        return gateway_events.to_gateway_response(
            event, http_body.maybe_gzip(request, answer.reply)
        )

    return lambda_handler


def _load(config: settings.Settings) -> tuple[Scorer | None, ArtifactError | None]:
    try:
        return scoring.load(settings.model_dir(config)), None
    except ArtifactError as error:
        request_log.log("ERROR", "the model could not be loaded", reason=str(error))
        return None, error


def _serving(config: settings.Settings, scorer: Scorer) -> AppState:
    issue = prediction_id.make_id_generator(
        scorer.manifest, config.function_version, config.prediction_id_secret
    )
    taker: Any = None

    def tell(body: str | bytes) -> Any:  # a cold start of /predict does not wait for it
        nonlocal taker
        if taker is None:
            from handler import feedback

            taker = feedback.make_feedback_handler(scorer.manifest, config)
        return taker(body)

    def store() -> Any:  # nor for boto3
        from handler.jobs import storage

        return storage.connect(config)

    return AppState(scorer, issue, tell, store, _has_jobs(config))


def _has_jobs(config: settings.Settings) -> bool:
    return bool(config.jobs_bucket and config.jobs_queue_url)


def _golden(config: settings.Settings, number: str) -> HandlerResult:
    """A golden row: the version's own proof, for those who may invoke it past the gateway."""
    from handler.release import golden

    lines = golden.content(settings.model_dir(config)).splitlines()
    if not number.isdecimal() or int(number) >= len(lines):
        raise NotFound(f"there are {len(lines)} golden rows")
    return HandlerResult(Response(200, lines[int(number)], JSON))


def _manifest(config: settings.Settings) -> bytes:
    """Return the whole manifest, with the baseline that `GET /model` keeps from clients."""
    return (settings.model_dir(config) / FILE_NAME).read_bytes()


def _deadline(context: Any) -> float | None:
    """When a run must be stopped, on time.monotonic()'s clock; None without a Lambda context."""
    if context is None:
        return None
    remaining: int = context.get_remaining_time_in_millis()
    return time.monotonic() + remaining / 1e3 - settings.RESPONSE_MARGIN_SECONDS


def match_route(path: str) -> tuple[str, dict[str, str]]:
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


def route_label(request: Request | None) -> str:
    """The route that was asked for if it is one of ours: an unknown path is the client's text."""
    if request is None:
        return "-"
    pattern, _ = match_route(request.path)
    return f"{request.method} {pattern}" if request.method in ROUTES.get(pattern, ()) else "-"


def _problem(refusal: ApiError, request_id: str, request: Request | None) -> Response:
    # KServe's client reads the `error` of nothing but application/json
    kserve = request is not None and request.path.startswith(("/v1/", "/v2/"))
    headers = {**(JSON if kserve else PROBLEM), **refusal.headers}
    return Response(refusal.status, orjson.dumps(refusal.problem(request_id)), headers)
