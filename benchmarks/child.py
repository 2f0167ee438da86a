"""One fresh process with one case in it: `python -P child.py MODE FD …`.

A script that imports almost nothing: `python -m` alone would add 2 ms to every cold start. What it
finds is written to the descriptor FD; stdout is left to the records of the handler.
"""

import os
import sys
import time
from typing import Any


class Context:
    """What Lambda passes beside the event, as far as anybody here reads it."""

    function_name = "benchmark"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:benchmark"
    aws_request_id = "52fdfc07-2182-454f-963f-5f0f9a621d72"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 29_000


def case(module: str, path: str) -> tuple[Any, Any]:
    """The case's handler, and the events for it."""
    import marshal  # built in, so that no case has to pay for reading the events

    with open(path, "rb") as file:
        events, rows = marshal.load(file)
    loaded = __import__(module, fromlist=["lambda_handler"])
    if hasattr(loaded, "prepare"):
        events = [loaded.prepare(each) for each in rows]
    return loaded.lambda_handler, events


def cold(out: int, module: str, path: str) -> None:
    """Write when the first event was answered, on the clock that the parent reads too."""
    handle, events = case(module, path)
    answer = handle(events[0], Context())
    os.write(out, f"{time.monotonic()} {peak_mb()}\n".encode())
    if isinstance(answer, dict) and answer["statusCode"] != 200:
        sys.exit(answer["body"])


def warm(out: int, module: str, path: str) -> None:
    """For each number read from stdin, time so many calls; write their median, the last answer."""
    import json

    handle, events = case(module, path)
    context, clock = Context(), time.perf_counter
    for line in sys.stdin:
        seconds = []
        for i in range(int(line)):
            event = dict(events[i % len(events)])
            start = clock()
            answer = handle(event, context)
            seconds.append(clock() - start)
        seconds.sort()
        if isinstance(answer, dict) and "batchItemFailures" in answer:
            values = written()
        elif isinstance(answer, dict):
            values = [row["progression"] for row in json.loads(answer["body"])["predictions"]]
        else:
            values = answer[0].ravel().tolist()
        found = {"seconds": seconds[len(seconds) // 2], "values": values}
        os.write(out, json.dumps(found).encode() + b"\n")


def written() -> list[float]:
    """What the results say that a batch has put into the peers' bucket, which is emptied."""
    import json

    from benchmarks.peers import bucket

    results = [json.loads(text) for _, text in sorted(bucket.objects.items())]
    bucket.objects.clear()
    results = [each.get("result", each) for each in results]  # ours is the job with its result
    return [row["progression"] for each in results for row in each["predictions"]]


def load(out: int, kind: str, original: str, packed: str) -> None:
    """Write when a model is ready: with the import of onnxruntime, after it, after a first run."""
    from pathlib import Path

    import numpy as np

    from handler import manifest, session  # before the clock starts: leaves only onnxruntime

    feeds = {"image": np.zeros((1, 3, 224, 224), np.float32)}
    start = time.perf_counter()
    if kind != "packed":
        import onnxruntime as ort
    imported = time.perf_counter()
    loaded: Any = None
    if kind == "default":
        loaded = ort.InferenceSession(original, providers=["CPUExecutionProvider"])
    elif kind != "import":
        loaded = session.Session(Path(packed), manifest.read(packed))
    ready = time.perf_counter()
    peak = peak_mb()
    if kind == "default":
        loaded.run(None, feeds)
    elif kind != "import":
        loaded.run(feeds)
    answered = time.perf_counter()
    os.write(out, f"{ready - start} {ready - imported} {answered - start} {peak}\n".encode())


def refuse(out: int, path: str) -> None:
    """Write the status of the first answer, its seconds, and the MB it took beside the event."""
    os.environ |= {"JOBS_BUCKET": "b", "JOBS_QUEUE_URL": "q"}
    handle, (event,) = case("handler.function", path)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew, at what is resident now
    before = peak_mb()
    start = time.process_time()  # nothing here waits, and a busy machine does not stretch it
    answer = handle(event, Context())
    took = time.process_time() - start
    os.write(out, f"{answer['statusCode']} {took} {peak_mb() - before}\n".encode())


def peak_mb() -> float:
    """Peak resident memory. Not from getrusage, which starts with what the parent had."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except OSError:  # not Linux
        return 0.0


MODES: dict[str, Any] = {"cold": cold, "warm": warm, "load": load, "refuse": refuse}
MODES[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
