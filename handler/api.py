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


def document(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
    """`GET /openapi.json`."""
    from handler import openapi

    return Answer(Reply(200, orjson.dumps(openapi.document(scorer.manifest)), JSON))


def ping(scorer: Scorer, request: Request, deadline: float | None) -> Answer:
    """`GET /ping`: ready, or a 503 that says why not."""
    return Answer(Reply(200, b'{"status":"ready"}', JSON))


ROUTES: dict[str, dict[str, Callable[[Scorer, Request, float | None], Answer]]] = {
    "/predict": {"POST": predict},
    "/model": {"GET": model},
    "/openapi.json": {"GET": document},
    "/ping": {"GET": ping},
}


def create(config: settings.Settings) -> Handler:
    """Load the model and return the Lambda handler that serves it."""
    scorer, failure = _load(config)
    record = monitoring.recorder(config, scorer.manifest if scorer else None)
    cold = True

    def serve(request: Request, context: Any) -> Answer:
        if request.synthetic and request.path.startswith("/golden/") and scorer is not None:
            return _golden(config, request.path.rpartition("/")[2])
        methods = ROUTES.get(request.path)
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
            route=_route(request),
            status=answer.reply.status,
            problem=problem.kind if problem else None,
            rows=answer.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            timings_ms={step: value * 1e3 for step, value in answer.seconds.items()},
            cold=cold,
            unusual=answer.unusual,
            synthetic=request is not None and request.synthetic,
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


def _route(request: Request | None) -> str:
    """The route that was asked for if it is one of ours: an unknown path is the client's text."""
    known = request is not None and request.method in ROUTES.get(request.path, ())
    return f"{request.method} {request.path}" if request and known else "-"


def _problem(refusal: Refusal, request_id: str) -> Reply:
    return Reply(
        refusal.status, orjson.dumps(refusal.problem(request_id)), {**PROBLEM, **refusal.headers}
    )


lambda_handler = create(settings.read())
gc.freeze()  # what was imported stays; the collector need not look at it again
gc.enable()
