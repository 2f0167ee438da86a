"""Score jobs: the messages of an SQS queue in batches.

Each message is validated by itself, all valid ones are scored in one run, and the messages that
must be delivered again are named in a partial batch response:
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html

A body that breaks the contract would break it again, so its job ends as a failed result. After a
server error the message returns to the queue. When its receives are used up, a job whose run fails
ends as a failed result too. A job that could not begin becomes a dead letter, which a redrive
scores: its storage was not available, or another service wrapped it without a valid body.

A model that cannot be loaded stops the function at init. Lambda then delivers less, and the
messages keep their receives.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from handler import http_body, prediction_id, request_log, scoring, settings
from handler.errors import ApiError, JobInputExpired, ServerError, Unavailable
from handler.jobs import storage
from handler.jobs.messages import Job, parse_sqs_event
from handler.jobs.storage import JobStore
from handler.model_inputs import Columns
from handler.request_log import FinishedJob
from handler.scoring import Scored
from handler.settings import RESPONSE_MARGIN_SECONDS

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

WRITE_SECONDS = 15.0  # at most, of the function's time, for writing results
DEFAULT_SECONDS = 60.0  # of the function's time, without a Lambda context


class Work(NamedTuple):
    """A job that was begun, with its validated columns, or with the error that it had instead."""

    job: Job
    columns: Columns
    error: ApiError | None
    caller: str
    until: int

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0]) if self.columns else 0


class Result(NamedTuple):
    """The result of a job, ready to be written, and what the log holds of it."""

    work: Work
    document: bytes
    finished: FinishedJob


class Worker:
    """The worker of one environment. `seconds_per_row`: of the last run, 0 if unknown."""

    def __init__(self, config: settings.Settings, store: JobStore | None) -> None:
        self.config, self._store = config, store
        self.scorer = scoring.load(settings.model_dir(config))
        manifest, version = self.scorer.manifest, config.function_version
        self.make_ids = prediction_id.make_id_generator(
            manifest, version, config.prediction_id_secret, prediction_id.WORKER
        )
        self.log_payloads = request_log.make_payload_logger(config, manifest)
        self.pool = ThreadPoolExecutor(storage.THREADS, "storage")
        self.seconds_per_row = 0.0
        self._record = request_log.make_batch_log(config, manifest)
        self._is_cold = True

    def handle(self, event: Any, context: "LambdaContext | None") -> Any:
        """Score a batch. Return the messages that must be delivered again."""
        start = time.perf_counter()
        jobs = parse_sqs_event(event)
        if not jobs:  # handler/release/rollback.py tests whether this version starts
            return {"batchItemFailures": []}
        seconds = context.get_remaining_time_in_millis() / 1e3 if context else DEFAULT_SECONDS
        batch = SqsBatch(self, self._store or storage.connect(self.config), seconds)
        batch.run(jobs)
        self._record(
            request_id=getattr(context, "aws_request_id", ""),
            messages=len(event["Records"]),
            finished=batch.finished,
            retries=batch.retries,
            rows=batch.rows,
            latency_ms=(time.perf_counter() - start) * 1e3,
            cold=self._is_cold,
            scored=batch.scored,
        )
        self._is_cold = False
        return {"batchItemFailures": [{"itemIdentifier": message} for message in batch.retries]}


class SqsBatch:
    """The state of one invocation."""

    def __init__(self, worker: Worker, store: JobStore, seconds: float) -> None:
        self._worker, self._scorer, self._store = worker, worker.scorer, store
        self._end = time.monotonic() + seconds - RESPONSE_MARGIN_SECONDS
        self._deadline = self._end - min(WRITE_SECONDS, seconds / 4)
        self._pending: list[Work] = []
        self._stopped_groups: set[str] = set()
        self.rows = 0
        self.scored: Scored | None = None  # the largest run
        self.finished: list[FinishedJob] = []
        self.retries: dict[str, ApiError] = {}

    def run(self, jobs: list[Job]) -> None:
        """Score all jobs and write their results."""
        remaining_rows, waiting = 0, len(jobs)
        for job, request in self._requests(jobs):
            waiting -= 1
            work = self._begin(job, request)
            # a job that failed before runs alone, so that it cannot fail others
            if self._pending and (work.rows > remaining_rows or job.receives > 1):
                self._flush(waiting + 1)
            if not self._pending:
                remaining_rows = self._max_rows()
            self._pending.append(work)
            remaining_rows = 0 if job.receives > 1 else remaining_rows - work.rows
        self._flush(0)

    def _max_rows(self) -> int:
        """Return the rows of the next run: one of unknown duration, later a quarter of the time."""
        if not self._worker.seconds_per_row:
            return 1
        seconds = (self._deadline - time.monotonic()) / 4
        return min(self._scorer.manifest.limits.rows, int(seconds / self._worker.seconds_per_row))

    def _requests(self, jobs: list[Job]) -> Iterator[tuple[Job, Future[Any] | None]]:
        """Yield each job with the read of its request; a few claim checks are read ahead."""
        claims = iter([job.id for job in jobs if job.body is None])
        reads: deque[Future[Any]] = deque()

        def start(count: int) -> None:
            for id in islice(claims, count):
                reads.append(self._worker.pool.submit(storage.get_request, self._store, id))

        start(self._store.threads)
        for job in jobs:
            yield job, reads.popleft() if job.body is None else None
            if job.body is None:
                start(1)

    def _begin(self, job: Job, request: Future[Any] | None) -> Work:
        """Validate a job's body, which is read first where it has to be."""
        caller, until = storage.ANONYMOUS, job.sent + self._store.seconds
        columns: Columns = []
        error: ApiError | None = job.error
        try:
            if error:
                raise error
            if job.group in self._stopped_groups:
                raise Unavailable("an earlier message of its group failed")
            if time.monotonic() >= self._deadline:
                raise Unavailable("there was no time left to begin")
            body: str | bytes
            if request:
                stored = request.result(self._deadline - time.monotonic())
                if stored is None:
                    missing = JobInputExpired if self._is_last_receive(job) else Unavailable
                    raise missing("the job's request was not there when its turn came")
                caller = stored.metadata.get("caller", caller)
                body, until = stored.body, storage.expires(stored.metadata, self._store)
            else:
                body = http_body.check_size(job.body or "", self._scorer.manifest.limits.body_bytes)
            columns = self._scorer.validator.parse(body)
        except TimeoutError:
            error = Unavailable("the job's request was not read in time")
        except Exception as raised:
            error = _as_api_error(raised)
        return Work(job, columns, error, caller, until)

    def _is_last_receive(self, job: Job) -> bool:
        return job.receives >= self._worker.config.jobs_max_receive_count

    def _flush(self, waiting: int) -> None:
        """Score the pending jobs in one run and write the results; `waiting` jobs come after."""
        pending, self._pending = self._pending, []
        scored = iter(self._score([work for work in pending if not work.error], waiting))
        results: list[Result] = []
        chains: dict[str, list[int]] = {}  # the results of a FIFO group are written in order
        for work in pending:
            outcome = work.error or next(scored)
            may_retry = work.error or not self._is_last_receive(work.job)
            is_retry = isinstance(outcome, ServerError) and may_retry
            if is_retry or work.job.group in self._stopped_groups:
                self._return(work.job, outcome)
                continue
            chains.setdefault(work.job.group or work.job.id, []).append(len(results))
            results.append(self._result(work, outcome))
        if not results:
            return
        errors = self._write(results, list(chains.values()))
        for result, error in zip(results, errors, strict=True):
            if error:
                self._return(result.work.job, error)
            else:
                self.finished.append(result.finished)

    def _result(self, work: Work, outcome: ApiError | list[bytes]) -> Result:
        """Return the result of a job: its predictions, or the problem."""
        id = work.job.id
        try:
            if isinstance(outcome, ApiError):
                raise outcome
            answer = self._scorer.renderer.render_response(outcome)
        except ApiError as error:
            problem = orjson.dumps(error.problem(id))
            document = storage.render_job(id, "failed", work.until, b',"problem":' + problem)
            return Result(work, document, FinishedJob(id, error.slug, 0, "", {}))
        document = storage.render_job(id, "succeeded", work.until, b',"result":' + answer)
        prefix = prediction_id.prefix_of(outcome[0])
        payload = self._worker.log_payloads(work.columns, outcome)
        return Result(work, document, FinishedJob(id, "", work.rows, prefix, payload))

    def _return(self, job: Job, outcome: ApiError | list[bytes]) -> None:
        """Have the queue deliver a job's messages again, and what follows them in their group."""
        if not isinstance(outcome, ServerError):
            outcome = Unavailable("an earlier message of its group failed")
        self.retries.update(dict.fromkeys(job.messages, outcome))
        if job.group:
            self._stopped_groups.add(job.group)

    def _score(self, works: list[Work], waiting: int) -> list[list[bytes] | ApiError]:
        """Return each job's predictions or error: from one run, or from one each if that fails."""
        if not works:
            return []
        start = time.monotonic()
        left = self._deadline - start
        # half of the time, so that the jobs that wait have some
        until = start + (left if len(works) == 1 and not waiting else left / 2)
        by_feature = zip(*(work.columns for work in works), strict=True)
        columns = [list(chain.from_iterable(columns)) for columns in by_feature]
        try:
            scored = self._scorer.score_columns(columns, until)
            # a job's ids are of when it was submitted, so they do not change when it is repeated
            requests = [
                prediction_id.job_request(work.rows, work.job.id, work.until - self._store.seconds)
                for work in works
            ]
            ids = self._worker.make_ids(scored.outputs, requests)
            predictions = iter(self._scorer.renderer.render_predictions(scored.runs, ids))
        except Exception as error:
            if len(works) == 1:
                return [_as_api_error(error)]
            return [
                self._score([work], waiting + len(works) - i)[0] for i, work in enumerate(works, 1)
            ]
        self._worker.seconds_per_row = (time.monotonic() - start) / scored.rows
        self.rows += scored.rows
        if self.scored is None or scored.rows > self.scored.rows:
            self.scored = scored
        return [list(islice(predictions, work.rows)) for work in works]

    def _write(self, results: list[Result], chains: list[list[int]]) -> list[ApiError | None]:
        """Write results in parallel, those of one chain in order; return the error of each.

        A result that is not written in time counts as failed, though its write may still succeed.
        """
        late: ApiError | None = Unavailable("the result was not written in time")
        errors = [late] * len(results)
        todo, done, finished = chains[::-1], deque[None](), threading.Event()

        def write(until: float) -> None:
            if len(todo) > 1 < self._store.threads:  # one more writer for the remaining work
                self._worker.pool.submit(write, self._end)
            while todo and time.monotonic() < until:
                try:
                    chain = todo.pop()
                except IndexError:
                    return
                for i in chain:
                    errors[i] = self._write_result(results[i])
                    if errors[i]:
                        break
                done.append(None)
                if len(done) == len(chains):
                    finished.set()

        write(self._deadline)  # not until the end, because a call may take that long to fail
        if todo:
            self._worker.pool.submit(write, self._end)
        finished.wait(max(0.0, self._end - time.monotonic()))
        return list(errors)

    def _write_result(self, result: Result) -> ApiError | None:
        work, status = result.work, "failed" if result.finished.problem else "succeeded"
        try:
            storage.write_result(
                self._store, work.job.id, status, result.document, work.caller, work.until
            )
        except Exception as error:
            return _as_api_error(error)
        return None


def create(config: settings.Settings, store: JobStore | None = None) -> Callable[[Any, Any], Any]:
    """Load the model and return the Lambda handler that scores batches with it."""
    return Worker(config, store).handle


def _as_api_error(error: Exception) -> ApiError:
    """Return an error as an ApiError; any other is logged, without its text."""
    if isinstance(error, ApiError):
        return error
    request_log.log(
        "ERROR", "unexpected", error=type(error).__name__, trace=request_log.stack_trace(error)
    )
    return ServerError("an unexpected error; it has been logged")
