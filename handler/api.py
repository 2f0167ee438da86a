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

from handler import gateways, monitoring, scoring, settings, wire  # noqa: E402
from handler.errors import (  # noqa: E402
    ArtifactError,
    Fault,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Refusal,
)
from handler.gateways import Event, Reply, Request  # noqa: E402
from handler.scoring import Scorer  # noqa: E402

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


def predict(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
    """`POST /predict`."""
    body = wire.json_body(request, scorer.manifest.limits.body_bytes)
    scored = scorer.score(body, deadline)
    reply = Reply(200, scorer.contract.answer(scored.predictions), JSON)
    return Answer(reply, len(scored.predictions), scored.unusual, scored.seconds)


def model(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
    """`GET /model`: contract and lineage."""
    from handler import openapi

    return Answer(Reply(200, orjson.dumps(openapi.describe(scorer.manifest)), JSON))


def document(
    scorer: Scorer, request: Request, deadline: float | None, jobs: bool = False
) -> Answer:
    """`GET /openapi.json`."""
    from handler import openapi

    return Answer(Reply(200, orjson.dumps(openapi.document(scorer.manifest, jobs)), JSON))


def ping(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
    """`GET /ping`: ready, or a 503 that says why not."""
    return Answer(Reply(200, b'{"status":"ready"}', JSON))


Route = Callable[[Scorer, Request, float | None], Answer]
ROUTES: dict[str, dict[str, Route]] = {
    "/predict": {"POST": predict},
    "/model": {"GET": model},
    "/openapi.json": {"GET": document},
    "/ping": {"GET": ping},
}


def job_routes(config: settings.Settings) -> dict[str, dict[str, Route]]:
    """What a deployment with jobs has besides; boto3 is imported by the first who asks for it."""

    def submit(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
        body = wire.json_body(request, scorer.manifest.limits.body_bytes)
        scorer.contract.rows(body)  # refused here and now, rather than as the job's result
        from handler import jobs

        body = body.encode() if isinstance(body, str) else body
        key = request.headers.get("idempotency-key")
        ticket = jobs.submit(jobs.connect(config), body, request.caller, key)
        # relative, because the path that the client used may begin with a stage
        return Answer(Reply(202, ticket.document, {**JSON, "location": f"jobs/{ticket.id}"}))

    def result(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
        from handler import jobs

        id = request.path.rpartition("/")[2]
        text, finished = jobs.find(jobs.connect(config), id, request.caller)
        return Answer(Reply(200, text, JSON if finished else {**JSON, "retry-after": "2"}))

    def with_jobs(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
        return document(scorer, request, deadline, jobs=True)

    return {
        "/openapi.json": {"GET": with_jobs},
        "/jobs": {"POST": submit},
        "/jobs/{id}": {"GET": result},
    }


def create(config: settings.Settings) -> Handler:
    """Load the model and return the Lambda handler that serves it."""
    scorer, failure = _load(config)
    has_jobs = config.jobs_bucket and config.jobs_queue_url
    routes = {**ROUTES, **job_routes(config)} if has_jobs else ROUTES
    record = monitoring.recorder(config, scorer.manifest if scorer else None)
    cold = True

    def serve(request: Request, context: Any) -> Answer:
        methods = routes.get(_pattern(request.path, routes))
        if methods is None:
            raise NotFound("the paths are listed at /openapi.json")
        if request.method not in methods:
            allow = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"send {allow}", headers={"allow": allow})
        if scorer is None:
            raise NotReady(f"the model could not be loaded: {failure}")
        return methods[request.method](scorer, request, _deadline(context))

    def lambda_handler(event: Any, context: Any) -> Event:
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
            answer = Answer(_problem(problem, request_id))
        record(
            request_id=request_id,
            route=_route(request, routes),
            status=answer.reply.status,
            problem=problem.kind if problem else None,
            rows=answer.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            timings_ms={step: value * 1e3 for step, value in answer.seconds.items()},
            cold=cold,
            unusual=answer.unusual,
        )
        cold = False
        return gateways.response(event, answer.reply)

    return lambda_handler


def _load(config: settings.Settings) -> tuple[Scorer | None, ArtifactError | None]:
    try:
        return scoring.load(settings.model_dir(config)), None
    except ArtifactError as error:
        monitoring.event("critical", "the model could not be loaded", reason=str(error))
        return None, error


def _deadline(context: Any) -> float | None:
    """When a run must be stopped, on time.monotonic()'s clock; None without a Lambda context."""
    if context is None:
        return None
    remaining: int = context.get_remaining_time_in_millis()
    return time.monotonic() + remaining / 1e3 - MARGIN_SECONDS


def _pattern(path: str, routes: dict[str, dict[str, Route]]) -> str:
    """The route that a path belongs to: its own, or that of what is below its parent."""
    return path if path in routes else path.rpartition("/")[0] + "/{id}"


def _route(request: Request | None, routes: dict[str, dict[str, Route]]) -> str:
    """The route that was asked for if it is one of ours: an unknown path is the client's text."""
    if request is None:
        return "-"
    pattern = _pattern(request.path, routes)
    return f"{request.method} {pattern}" if request.method in routes.get(pattern, ()) else "-"


def _problem(refusal: Refusal, request_id: str) -> Reply:
    return Reply(
        refusal.status, orjson.dumps(refusal.problem(request_id)), {**PROBLEM, **refusal.headers}
    )


lambda_handler = create(settings.read())
gc.freeze()  # what was imported stays; the collector need not look at it again
gc.enable()
