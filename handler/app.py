"""The HTTP API: an event becomes a Request, a route handles it, the Response is returned.

`create` loads the model, in Lambda's init phase. If that fails, the failure is logged and every
route answers 503. An exception would make Lambda restart the function in a loop.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from handler import (
    __version__,
    gateway_events,
    http_body,
    prediction_id,
    request_log,
    scoring,
    settings,
)
from handler import manifest as manifests
from handler.errors import (
    ApiError,
    ArtifactError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    PayloadTooLarge,
    ServerError,
    UnsupportedMediaType,
)
from handler.gateway_events import Event
from handler.http import (
    BASE64_JSON,
    IDEMPOTENCY_KEY,
    JSON,
    OPENAPI_PATH,
    PROBLEM_JSON,
    Request,
    Response,
)
from handler.manifest import FILE_NAME, OPENAPI_FILE_NAME
from handler.scoring import Scored, Scorer

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

Handler = Callable[[Any, Any], Event]
JSON_HEADERS = {"content-type": JSON}
PROBLEM_HEADERS = {"content-type": PROBLEM_JSON}
READY = {"status": "ready"}


class HandlerResult(NamedTuple):
    """A response and what the request log says about it.

    `out_of_range_counts`: by feature. `seconds`: by step. `log_fields`: see `request_log`.
    """

    response: Response
    rows: int = 0
    out_of_range_counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    log_fields: dict[str, Any] = {}


class AppState(NamedTuple):
    """The state of the routes. The callables import modules that the cold path does not need."""

    scorer: Scorer
    artifact: Path
    make_prediction_ids: prediction_id.IdGenerator
    record_outcomes: Callable[[str | bytes], Any]
    connect_job_store: Callable[[], Any]
    config: settings.Settings


Route = Callable[[AppState, Request, float | None], HandlerResult]


def predict(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /predict`: score instances."""
    try:
        body = http_body.read_json(request, state.scorer.manifest.limits.body_bytes)
    except UnsupportedMediaType:
        if http_body.is_picture(request, state.scorer.manifest):
            return invocations(state, request, deadline)
        raise
    return _prediction_result(state, request, state.scorer.score(body, deadline))


def invocations(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /invocations` and `POST /v1/models/{name}:predict`: score other formats."""
    from handler.protocols import invocations

    start = time.perf_counter()
    columns, pointer_for_row = invocations.parse(state.scorer, request)
    validated = time.perf_counter() - start
    scored = state.scorer.score_columns(columns, deadline, pointer_for_row)
    scored.seconds["validate"] = validated
    return _prediction_result(state, request, scored)


def _prediction_result(state: AppState, request: Request, scored: Scored) -> HandlerResult:
    start, renderer = time.perf_counter(), state.scorer.renderer
    rows = len(scored.columns[0])
    ids = state.make_prediction_ids(scored.outputs, [prediction_id.new_request(rows)])
    as_base64 = renderer.has_base64 and http_body.client_prefers_base64(request)
    predictions = renderer.render_predictions(scored.runs, ids, as_base64)
    headers = {"content-type": BASE64_JSON} if as_base64 else JSON_HEADERS
    response = Response(200, renderer.render_response(predictions), headers)
    scored.seconds["convert"] += time.perf_counter() - start
    log_fields = {
        "scored": scored,
        "predictions": predictions,
        "prediction_id_prefix": _id_prefix(ids),
    }
    return HandlerResult(response, rows, scored.out_of_range_counts, scored.seconds, log_fields)


def _id_prefix(ids: list[bytes]) -> str:
    return ids[0][: prediction_id.REQUEST_PREFIX_CHARS].decode()


def infer(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /v2/models/{name}/infer`: run the graph's tensors."""
    from handler.protocols import open_inference

    scorer = state.scorer
    start = time.perf_counter()
    inference = open_inference.parse_request(scorer, request)
    validated = time.perf_counter() - start
    scored = scorer.score_columns(inference.columns, deadline, open_inference.row_pointer)
    scored.seconds["validate"] = validated
    unbatched = not scorer.manifest.has_batch_axis  # the outputs have no axis for rows
    outputs = [output[0, ...] for output in scored.outputs] if unbatched else [*scored.outputs]
    rows, log_fields = len(inference.columns[0]), dict[str, Any](scored=scored)
    if any(requested.output == len(outputs) for requested in inference.outputs):
        ids = state.make_prediction_ids(scored.outputs, [prediction_id.new_request(rows)])
        outputs.append(open_inference.string_tensor(ids))
        log_fields["prediction_id_prefix"] = _id_prefix(ids)
    response = open_inference.render_response(scorer.manifest, request, inference, outputs)
    return HandlerResult(response, rows, scored.out_of_range_counts, scored.seconds, log_fields)


def feedback(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /feedback`: record the outcomes of predictions."""
    from handler.feedback import MAX_BODY_BYTES

    result = state.record_outcomes(http_body.read_json(request, MAX_BODY_BYTES))
    response = Response(202, result.body, JSON_HEADERS)
    return HandlerResult(response, log_fields={"outcomes": result.lines})


def submit_job(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /jobs`: validate the body of a `/predict` and queue it."""
    manifest = state.scorer.manifest
    limit = manifest.limits.body_bytes
    if http_body.is_picture(request, manifest):
        from handler.encoders.image import to_json_body

        body: str | bytes = to_json_body(
            http_body.read_binary(request, limit), manifest.features[0].name
        )
        if len(body) > limit:
            raise PayloadTooLarge.request(limit)
    else:
        body = http_body.read_json(request, limit)
    state.scorer.validator.parse(body)
    from handler.jobs import storage

    body = body.encode() if isinstance(body, str) else body
    job = storage.submit(
        state.connect_job_store(), body, request.caller, request.headers.get(IDEMPOTENCY_KEY)
    )
    # relative, because the path that the client used may begin with a stage
    headers = {**JSON_HEADERS, "location": f"jobs/{job.id}"}
    return HandlerResult(Response(202, job.document, headers))


def get_job(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /jobs/{id}`: queued, succeeded with the result, or failed with the problem."""
    from handler.jobs import storage

    document, finished = storage.get_job(
        state.connect_job_store(), request.path_params["id"], request.caller
    )
    headers = JSON_HEADERS if finished else {**JSON_HEADERS, "retry-after": "2"}
    return HandlerResult(Response(200, document, headers))


def start_batch(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`POST /batches`: score a file; with `?upload`, one that the caller sends to a URL."""
    from handler.batch import api

    if request.has_upload_parameter:
        document = api.upload(state.config, request.caller)
    else:
        body = http_body.read_json(request, api.MAX_BODY_BYTES)
        document = api.start(state.config, body, request.caller)
    headers = {**JSON_HEADERS, "location": f"batches/{document['batch']['id']}"}
    return HandlerResult(Response(202, orjson.dumps(document), headers))


def get_batch(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /batches/{id}`: the progress and cost of a batch."""
    from handler.batch import api

    return _json_result(api.get(state.config, request.path_params["id"], request.caller))


def model(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /model`: the manifest without its baseline, which shows the data."""
    return _json_result(manifests.public_document(state.artifact))


def openapi(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /openapi.json`: the packed document with the API's URL and the paths deployed."""
    if OPENAPI_FILE_NAME not in state.scorer.manifest.files:
        raise NotFound("the artifact was packed without an OpenAPI document")
    document = orjson.loads((state.artifact / OPENAPI_FILE_NAME).read_bytes())
    paths = document["paths"]
    document["paths"] = {path: paths[path] for path in paths if _is_deployed(state.config, path)}
    if request.base_url:
        document["servers"] = [{"url": request.base_url}]
    return _json_result(document)


def root(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /`: the model, and links to the other paths, relative to this one."""
    manifest = state.scorer.manifest
    return _json_result(
        {
            "model": {"name": manifest.name, "version": manifest.version},
            "links": {
                "openapi": "openapi.json",
                "model": "model",
                "ready": "ping",
                "predict": "predict",
                "feedback": "feedback",
            },
        }
    )


def ping(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /ping`: ready; without a model, every route answers 503."""
    return _json_result(READY)


def server_version(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /version`, MLflow's: the version of this server."""
    return _json_result({"version": __version__})


def server_metadata(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /v2`."""
    extensions = ["binary_tensor_data", "classification"]
    return _json_result({"name": "answerable", "version": __version__, "extensions": extensions})


def server_live(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /v2/health/live`."""
    return _json_result({"live": True})


def server_ready(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /v2/health/ready`."""
    return _json_result({"ready": True})


def model_list(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /v1/models` and `GET /v2/models`: the names of the models."""
    return _json_result({"models": [state.scorer.manifest.name]})


def model_ready(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /v1/models/{name}` and `GET /v2/models/{name}/ready`."""
    return _json_result({"name": state.scorer.manifest.name, "ready": True})


def model_metadata(state: AppState, request: Request, deadline: float | None) -> HandlerResult:
    """`GET /v2/models/{name}`: the graph's tensors."""
    from handler.protocols import open_inference

    return _json_result(open_inference.model_metadata(state.scorer.manifest))


def _json_result(document: dict[str, Any]) -> HandlerResult:
    return HandlerResult(Response(200, orjson.dumps(document), JSON_HEADERS))


ROUTES: dict[str, dict[str, Route]] = {
    "/": {"GET": root},
    "/predict": {"POST": predict},
    "/feedback": {"POST": feedback},
    "/jobs": {"POST": submit_job},
    "/jobs/{id}": {"GET": get_job},
    "/batches": {"POST": start_batch},
    "/batches/{id}": {"GET": get_batch},
    "/model": {"GET": model},
    OPENAPI_PATH: {"GET": openapi},
    "/ping": {"GET": ping},
    "/version": {"GET": server_version},
    "/invocations": {"POST": invocations},
    "/v1/models/{name}:predict": {"POST": invocations},  # matched before /v1/models/{name}
    "/v1/models": {"GET": model_list},
    "/v1/models/{name}": {"GET": model_ready},
    "/v2": {"GET": server_metadata},
    "/v2/health/live": {"GET": server_live},
    "/v2/health/ready": {"GET": server_ready},
    "/v2/models": {"GET": model_list},
    "/v2/models/{name}": {"GET": model_metadata},
    "/v2/models/{name}/ready": {"GET": model_ready},
    "/v2/models/{name}/infer": {"POST": infer},
    "/v2/models/{name}/versions/{version}": {"GET": model_metadata},
    "/v2/models/{name}/versions/{version}/ready": {"GET": model_ready},
    "/v2/models/{name}/versions/{version}/infer": {"POST": infer},
}


def create(config: settings.Settings, scorer: Scorer | None = None) -> Handler:
    """Return the Lambda handler that serves a model, which is loaded unless `scorer` has it."""
    state, load_error = _load(config, scorer)
    record = request_log.make_request_log(config, state.scorer.manifest if state else None)
    is_cold = True

    def dispatch(request: Request, route: str, context: "LambdaContext | None") -> HandlerResult:
        if request.synthetic and request.path.startswith("/golden/") and state:
            return _golden_row(state, request.path.rpartition("/")[2])
        if request.synthetic and request.path == "/manifest" and state:
            # whole: the drift monitor needs the baseline, which `GET /model` leaves out
            text = (state.artifact / FILE_NAME).read_bytes()
            return HandlerResult(Response(200, text, JSON_HEADERS))
        if not route or not _is_deployed(config, route):
            raise NotFound("the paths are listed at /openapi.json")
        if state is None:
            raise NotReady(f"the model could not be loaded: {load_error}")
        if request.path_params:
            _check_model(state, request.path_params)
        methods = ROUTES[route]
        if request.method not in methods:
            allow = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            raise MethodNotAllowed(f"send {allow}", headers={"allow": allow})
        return methods[request.method](state, request, _deadline(context))

    def handle(event: Any, context: "LambdaContext | None") -> Event:
        nonlocal is_cold
        start = time.perf_counter()
        request, route, problem, is_head = None, "", None, False
        request_id = getattr(context, "aws_request_id", "")
        try:
            request = gateway_events.parse_event(event)
            request_id = request.request_id or request_id
            route, path_params = match_route(request)
            is_head = request.method == "HEAD"
            if is_head:
                request = request._replace(method="GET")
            if path_params:
                request = request._replace(path_params=path_params)
            result = dispatch(request, route, context)
        except ApiError as error:
            problem = error
        except Exception as error:
            details = {"error": type(error).__name__, "trace": request_log.stack_trace(error)}
            request_log.log("ERROR", "unexpected", request_id=request_id, **details)
            problem = ServerError("an unexpected error occurred; it has been logged")
        if problem is not None:
            result = HandlerResult(_problem_response(problem, request_id, request))
        response, log_error = result.response, ""
        try:
            response = http_body.maybe_gzip(request, response)
        except Exception as error:  # the response is ready: send it as it is
            log_error = type(error).__name__
        record(
            request_id=request_id,
            route=route_label(request, route),
            status=result.response.status,
            problem=problem.slug if problem else None,
            rows=result.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            timings_ms={step: seconds * 1e3 for step, seconds in result.seconds.items()},
            cold=is_cold,
            out_of_range_counts=result.out_of_range_counts,
            **result.log_fields,
            caller=request.caller if request else "",
            trace_id=request_log.trace_id(request.headers) if request else "",
            synthetic=request is not None and request.synthetic,
            log_error=log_error,
        )
        is_cold = False
        if is_head:
            response = response._replace(body=b"")
        if request and config.cors_origins:
            response = gateway_events.add_cors(request, response, config.cors_origins)
        return gateway_events.to_gateway_response(event, response)

    def lambda_handler(event: Any, context: "LambdaContext | None") -> Event:
        gc.disable()  # a large body makes millions of objects, which repeated scans would visit
        try:
            return handle(event, context)
        finally:
            gc.enable()

    return lambda_handler


def _load(
    config: settings.Settings, scorer: Scorer | None
) -> tuple[AppState | None, ArtifactError | None]:
    try:
        artifact = settings.model_dir(config)
        scorer = scorer or scoring.load(artifact)
    except ArtifactError as error:
        request_log.log("ERROR", "the model could not be loaded", reason=str(error))
        return None, error
    make_prediction_ids = prediction_id.make_id_generator(
        scorer.manifest, config.function_version, config.prediction_id_secret
    )
    feedback_handler: Any = None

    def record_outcomes(body: str | bytes) -> Any:
        nonlocal feedback_handler
        if feedback_handler is None:
            from handler import feedback

            feedback_handler = feedback.make_feedback_handler(scorer.manifest, config)
        return feedback_handler(body)

    def connect_job_store() -> Any:
        from handler.jobs import storage

        return storage.connect(config)

    return AppState(
        scorer, artifact, make_prediction_ids, record_outcomes, connect_job_store, config
    ), None


def _is_deployed(config: settings.Settings, route: str) -> bool:
    """Return whether a route's storage is in the deployment."""
    if route.startswith("/jobs"):
        return bool(config.jobs_bucket and config.jobs_queue_url)
    return not route.startswith("/batches") or bool(config.batch_state_machine)


def _golden_row(state: AppState, number: str) -> HandlerResult:
    """Return a golden row, for release hooks, which invoke the function without the gateway."""
    from handler.release import golden

    lines = golden.content(state.artifact).splitlines()
    if not number.isdecimal() or int(number) >= len(lines):
        raise NotFound(f"there are {len(lines)} golden rows")
    return HandlerResult(Response(200, lines[int(number)], JSON_HEADERS))


def _check_model(state: AppState, path_params: dict[str, str]) -> None:
    """Raise NotFound if the path names another model or version."""
    from urllib.parse import unquote

    manifest = state.scorer.manifest
    for name, expected in (("name", manifest.name), ("version", manifest.version)):
        if unquote(path_params.get(name, expected)) != expected:
            raise NotFound(f"the model is {manifest.name}, version {manifest.version}")


def _deadline(context: "LambdaContext | None") -> float | None:
    """Return when the run must end, on time.monotonic()'s clock; None without a Lambda context."""
    if context is None:
        return None
    remaining: int = context.get_remaining_time_in_millis()
    return time.monotonic() + remaining / 1e3 - settings.RESPONSE_MARGIN_SECONDS


def match_route(request: Request) -> tuple[str, dict[str, str]]:
    """Return the route of a request's path, "" if there is none, and its path parameters."""
    path = request.path
    if path in ROUTES and "{" not in path:
        return path, {}
    # clients encode the colon of `:predict`; nothing else of a path is decoded, because a gateway
    # may have authorized the encoded path
    path = path.replace("%3A", ":").replace("%3a", ":").rstrip("/") or "/"
    route, path_params = _match(path)
    if request.may_have_base_path and not route:
        path = "/" + "/".join(path.rsplit("/", _MAX_SEGMENTS)[1:])
    while not route and request.may_have_base_path and path.count("/") > 1:
        path = "/" + path[1:].partition("/")[2]
        route, path_params = _match(path)
    return route, path_params


def _match(path: str) -> tuple[str, dict[str, str]]:
    segments = path.split("/")
    for route, pattern in _PATTERNS:
        if len(pattern) != len(segments):
            continue
        path_params = {}
        for expected, segment in zip(pattern, segments, strict=True):
            name, _, suffix = expected.partition("}")
            if name[:1] == "{" and segment.endswith(suffix) and len(segment) > len(suffix):
                path_params[name[1:]] = segment.removesuffix(suffix)
            elif expected != segment:
                break
        else:
            return route, path_params
    return "", {}


_PATTERNS = [(route, route.split("/")) for route in ROUTES]
_MAX_SEGMENTS = max(len(pattern) for _, pattern in _PATTERNS)


def route_label(request: Request | None, route: str) -> str:
    """Return the method and the route, "-" if there is none: an unknown path is client text."""
    if request is None or request.method not in ROUTES.get(route, ()):
        return "-"
    return f"{request.method} {route}"


def _problem_response(problem: ApiError, request_id: str, request: Request | None) -> Response:
    is_json = request is not None and answers_problems_as_json(request.path)
    headers = {**(JSON_HEADERS if is_json else PROBLEM_HEADERS), **problem.headers}
    return Response(problem.status, orjson.dumps(problem.problem(request_id)), headers)


def answers_problems_as_json(path: str) -> bool:
    """Return whether a path's problems are application/json, the one type that KServe reads."""
    return path.startswith(("/v1/", "/v2/"))
