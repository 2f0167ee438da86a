"""The SQS door: `handler.jobs.function.lambda_handler`.

A message is a claim check, `{"job": id}`, or a producer's own `{"instances": […]}`, whose message
id is then the job's. Each is validated on its own, all that are valid are scored stacked, and the
messages that have to come again are named in a partial batch response:
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html

Whose fault it is decides: a body that breaks the contract would break it again, so it is a failed
result and done; a `Fault` is ours, so the message goes back, and after the last receive into the
dead-letter queue. A model that cannot be loaded stops the function at init: Lambda then slows down
instead of using up the messages' receives.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, NamedTuple

import orjson

from handler import http_body, prediction_id, request_log, scoring, settings
from handler.contract import Row, rows_to_columns
from handler.errors import ApiError, DeadlineExceeded, JobInputExpired, ServerError, Unavailable
from handler.jobs import storage
from handler.jobs.storage import JobStore
from handler.scoring import Scored, Scorer

# of the function's time: kept for writing results, for the response, and what it has unless told
WRITING_SECONDS, MARGIN_SECONDS, DEFAULT_SECONDS = 15.0, 0.25, 60.0


class Job(NamedTuple):
    """A job and the `messages` that ask for it; `body` is None where it has to be fetched."""

    id: str
    body: str | None
    group: str  # of a FIFO queue
    receives: int
    sent: int
    messages: list[str]


class Work(NamedTuple):
    """A job that was begun: its `rows`, or why there are none."""

    job: Job
    rows: list[Row]
    refusal: ApiError | None
    caller: str = storage.ANONYMOUS
    until: int = 0


def parse_sqs_event(event: Any) -> list[Job]:
    """The jobs of an event. Raises TypeError, which returns the whole batch, for another's event
    and for a message without an id: without one, it could not be named in the response.
    """
    found: dict[tuple[str, bool], Job] = {}
    again = False
    try:
        for record in event["Records"]:
            message, body, attributes = record["messageId"], record["body"], record["attributes"]
            if not (type(message) is type(body) is str and storage.is_job_id(message)):
                raise TypeError
            claim = storage.parse_claim_check(body)
            id = claim[1] if claim else message
            job = found.get((id, claim is None))
            if job:
                job.messages.append(message)
                continue
            receives = int(attributes["ApproximateReceiveCount"])
            again = again or receives > 1
            # a standard queue's groups are for fairness alone
            fifo = record["eventSourceARN"].endswith(".fifo")
            group = attributes["MessageGroupId"] if fifo else ""
            sent = int(attributes["SentTimestamp"]) // 1000
            if not 0 <= sent < 1 << 40:  # what no date can be made of
                raise ValueError
            found[id, claim is None] = Job(
                id, None if claim else body, group, receives, sent, [message]
            )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise TypeError("the event is not one of SQS") from None
    # what has failed before comes last, so that it cannot take the others' time again
    ordered = list(found.values())
    return sorted(ordered, key=lambda job: 0 if job.group else job.receives) if again else ordered


class SqsBatch:
    """The state of one invocation. `pace`: the seconds that a row took last, 0 if unknown."""

    def __init__(
        self,
        scorer: Scorer,
        issue: prediction_id.JobIdGenerator,
        store: JobStore,
        pool: ThreadPoolExecutor,
        seconds: float,
        pace: float,
    ) -> None:
        self._scorer, self._issue, self._store, self._pool = scorer, issue, store, pool
        self.pace = pace
        self._end = time.monotonic() + seconds - MARGIN_SECONDS
        self._deadline = self._end - min(WRITING_SECONDS, seconds / 4)
        self._stack: list[Work] = []
        self._stopped: set[str] = set()
        self.rows = self.succeeded = 0
        self.scored: Scored | None = None  # the largest run
        self.failed: dict[str, str] = {}
        self.retries: dict[str, ApiError] = {}

    def run(self, found: list[Job], receives: int) -> None:
        """Score all jobs; `receives` is how often the queue delivers a message."""
        room, limit, waiting = 0, self._scorer.manifest.limits.rows, len(found)
        for job, fetch in self._fetched(found):
            waiting -= 1
            work = self._begin(job, fetch, receives)
            count = len(work.rows)
            # whatever made a message fail before, it shall not do so to others: it runs alone
            if self._stack and (count > room or job.receives > 1):
                self._flush(waiting + 1)
            if not self._stack:  # the first run of all shows the pace
                seconds = (self._deadline - time.monotonic()) / 4
                room = min(limit, int(seconds / self.pace)) if self.pace else 1
            self._stack.append(work)
            room = 0 if job.receives > 1 else room - count
        self._flush(0)

    def _fetched(self, found: list[Job]) -> Iterator[tuple[Job, Future[Any] | None]]:
        """Each job, the requests of a few claim checks being fetched ahead."""
        claims = iter([job.id for job in found if job.body is None])
        ahead: deque[Future[Any]] = deque()

        def more(count: int) -> None:
            for _, id in zip(range(count), claims, strict=False):
                ahead.append(self._pool.submit(storage.get_request, self._store, id))

        more(self._store.threads)
        for job in found:
            yield job, ahead.popleft() if job.body is None else None
            if job.body is None:
                more(1)

    def _begin(self, job: Job, fetch: Future[Any] | None, receives: int) -> Work:
        """Validate a job's body, which is fetched first where it has to be."""
        caller, until = storage.ANONYMOUS, job.sent + self._store.seconds
        rows: list[Row] = []
        refusal: ApiError | None = None
        try:
            if job.group in self._stopped:
                raise Unavailable("an earlier message of its group failed")
            if time.monotonic() >= self._deadline:
                raise DeadlineExceeded("there was no time left to begin")
            body: str | bytes
            if fetch:
                stored = fetch.result(self._deadline - time.monotonic())
                if stored is None:
                    gone = JobInputExpired if job.receives >= receives else Unavailable
                    raise gone("the job's request was not there when its turn came")
                caller = stored.metadata.get("caller", caller)
                body, until = stored.body, storage.expires(stored.metadata, self._store)
            else:
                body = http_body.check_size(job.body or "", self._scorer.manifest.limits.body_bytes)
            rows = self._scorer.contract.rows(body)
        except TimeoutError:
            refusal = Unavailable("the job's request was not read in time")
        except Exception as error:
            refusal = _refusal(error)
        return Work(job, rows, refusal, caller, until)

    def _flush(self, waiting: int) -> None:
        """Score what is stacked in one run and write the results."""
        stack, self._stack = self._stack, []
        answers = iter(self._score([work for work in stack if not work.refusal], waiting))
        done: list[tuple[Work, str, bytes]] = []
        chains: dict[str, list[int]] = {}  # what must be written one after another
        for work in stack:
            answer = work.refusal or next(answers)
            job, status, part = work.job, "succeeded", b',"result":'
            if job.group in self._stopped or isinstance(answer, ServerError):
                self._return(job, answer)
                continue
            if isinstance(answer, ApiError):
                status, part = "failed", b',"problem":'
                self.failed[job.id] = answer.kind
                answer = orjson.dumps(answer.problem(job.id))
            text = storage.render_job(job.id, status, work.until, part + answer)
            chains.setdefault(job.group or job.id, []).append(len(done))
            done.append((work, status, text))
        if not done:
            return
        for (work, status, _), refusal in zip(done, self._write(done, chains), strict=True):
            if refusal:
                self.failed.pop(work.job.id, None)
                self._return(work.job, refusal)
            else:
                self.succeeded += status == "succeeded"

    def _return(self, job: Job, why: ApiError | bytes) -> None:
        """Have the queue deliver a job's messages again, and what follows them in their group."""
        if not isinstance(why, ServerError):
            why = Unavailable("an earlier message of its group failed")
        self.retries.update(dict.fromkeys(job.messages, why))
        if job.group:
            self._stopped.add(job.group)

    def _score(self, works: list[Work], waiting: int) -> list[bytes | ApiError]:
        """Each job's answer or refusal: from one run, or from one each where that fails."""
        if not works:
            return []
        start = time.monotonic()
        left = self._deadline - start
        # half of the time, where that would otherwise be nothing for those who wait
        until = start + (left if len(works) == 1 and not waiting else left / 2)
        columns = rows_to_columns(chain.from_iterable([work.rows for work in works]))
        try:
            scored = self._scorer.score_columns(columns, until)
            # the ids are of when a job was submitted, so that it gets the same each time
            age = self._store.seconds
            parts = [(len(work.rows), work.job.id, (work.until - age) * 1000) for work in works]
            ids = self._issue(scored.outputs, parts)
            named = iter(prediction_id.attach_ids(ids, scored.predictions))
        except Exception as error:
            if len(works) == 1:
                return [_refusal(error)]
            return [
                self._score([work], waiting + len(works) - i)[0] for i, work in enumerate(works, 1)
            ]
        rows = len(scored.predictions)
        self.pace = (time.monotonic() - start) / rows
        self.rows += rows
        if self.scored is None or rows > len(self.scored.predictions):
            self.scored = scored
        return [self._answer(list(islice(named, len(work.rows)))) for work in works]

    def _answer(self, predictions: list[bytes]) -> bytes | ApiError:
        try:
            return self._scorer.contract.answer(predictions)
        except ApiError as refusal:
            return refusal

    def _write(
        self, done: list[tuple[Work, str, bytes]], chains: dict[str, list[int]]
    ) -> list[ApiError | None]:
        """Write results in parallel; what is not written when the time is over counts as failed."""
        late: ApiError | None = Unavailable("the result was not written in time")
        outcomes = [late] * len(done)
        todo, ended, finished = list(chains.values())[::-1], deque[None](), threading.Event()

        def write(until: float) -> None:
            if len(todo) > 1 < self._store.threads:  # who finds work left calls another first
                self._pool.submit(write, self._end)
            while todo and time.monotonic() < until:
                try:
                    places = todo.pop()
                except IndexError:
                    return
                for i in places:
                    work, status, text = done[i]
                    try:
                        storage.write_result(
                            self._store, work.job.id, status, text, work.caller, work.until
                        )
                    except Exception as error:
                        outcomes[i] = _refusal(error)
                        break
                    outcomes[i] = None
                ended.append(None)
                if len(ended) == len(chains):
                    finished.set()

        write(self._deadline)  # not to the end: a call may take that long until it is given up
        if todo:
            self._pool.submit(write, self._end)
        finished.wait(max(0.0, self._end - time.monotonic()))
        return list(outcomes)


def create(config: settings.Settings, store: JobStore | None = None) -> Callable[[Any, Any], Any]:
    """Load the model and return the Lambda handler that scores batches with it."""
    scorer = scoring.load(settings.model_dir(config))
    issue = prediction_id.make_job_id_generator(
        scorer.manifest, config.function_version, config.secret
    )
    record = request_log.make_batch_log(config, scorer.manifest)
    pool = ThreadPoolExecutor(storage.THREADS, "storage")
    pace, cold = 0.0, True

    def lambda_handler(event: Any, context: Any) -> Any:
        nonlocal pace, cold
        start = time.perf_counter()
        found = parse_sqs_event(event)
        if not found:  # somebody asks whether this version starts: handler/release/rollback.py
            return {"batchItemFailures": []}
        seconds = context.get_remaining_time_in_millis() / 1e3 if context else DEFAULT_SECONDS
        batch = SqsBatch(scorer, issue, store or storage.connect(config), pool, seconds, pace)
        batch.run(found, config.jobs_receives)
        pace = batch.pace
        record(
            request_id=getattr(context, "aws_request_id", ""),
            messages=len(event["Records"]),
            succeeded=batch.succeeded,
            failed=batch.failed,
            retries=batch.retries,
            rows=batch.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            cold=cold,
            scored=batch.scored,
        )
        cold = False
        return {"batchItemFailures": [{"itemIdentifier": message} for message in batch.retries]}

    return lambda_handler


def _refusal(error: Exception) -> ApiError:
    """What is no refusal is logged, without its text."""
    if isinstance(error, ApiError):
        return error
    where = {"error": type(error).__name__, "trace": request_log.trace(error)}
    request_log.log("error", "unexpected", **where)
    return ServerError("an unexpected error; it has been logged")
