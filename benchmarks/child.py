"""One fresh process with one case in it: `python -P child.py MODE FD …`.

A script that imports almost nothing: `python -m` alone would add 2 ms to every cold start. What it
finds is written to the descriptor FD; stdout is left to the records of the handler.
"""

import os
import sys
import time
from typing import Any

CACHE_BYTES = 32 << 20  # more than a core's own caches


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
    """Return the case's handler, and its events by number of rows."""
    import marshal  # built in, so that no case has to pay for reading the events

    with open(path, "rb") as file:
        contents = marshal.load(file)
    loaded = __import__(module, fromlist=["lambda_handler"])
    prepare = getattr(loaded, "prepare", None)
    return loaded.lambda_handler, {
        count: [prepare(each) for each in rows] if prepare else events
        for count, (events, rows) in contents.items()
    }


def cold(out: int, module: str, path: str) -> None:
    """Write when the first event was answered, the CPU seconds until then, and the peak MB.

    The parent reads the same clock.
    """
    handle, events = case(module, path)
    answer = handle(events[1][0], Context())
    os.write(out, f"{time.monotonic()} {time.process_time()} {peak_mb()}\n".encode())
    if isinstance(answer, dict) and answer["statusCode"] != 200:
        sys.exit(answer["body"])


def serve(out: int, module: str, path: str) -> None:
    """For each line `rows calls pause` of stdin, time calls.

    Write the median seconds, wall and CPU, and what the last call predicted. With a pause, other
    work empties the processor's caches before each call, as between two calls of a Lambda function.
    """
    import json

    handle, events_by_count = case(module, path)
    context, memory = Context(), bytearray()
    for line in sys.stdin:
        count, calls, pause = line.split()
        events = events_by_count[int(count)]
        wall, cpu = [], []
        for i in range(int(calls)):
            event = dict(events[i % len(events)])
            if float(pause):
                memory = memory or bytearray(CACHE_BYTES)
                memory.find(1)
                time.sleep(float(pause))
            cpu_start, start = time.process_time(), time.perf_counter()
            answer = handle(event, context)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - cpu_start)
        if isinstance(answer, dict) and "batchItemFailures" in answer:
            values = written()
        elif isinstance(answer, dict):
            values = [row["progression"] for row in json.loads(answer["body"])["predictions"]]
        else:
            values = answer[0].ravel().tolist()
        figures = {"wall": median(wall), "cpu": median(cpu), "values": values}
        os.write(out, json.dumps(figures).encode() + b"\n")


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def written() -> list[float]:
    """What the results say that a batch has put into the peers' bucket, which is emptied."""
    import json

    from benchmarks.peers import bucket

    results = [json.loads(text) for _, text in sorted(bucket.objects.items())]
    bucket.objects.clear()
    results = [each.get("result", each) for each in results]  # ours is the job with its result
    return [row["progression"] for each in results for row in each["predictions"]]


def load(out: int, kind: str, original: str, packed: str) -> None:
    """Write the seconds until a model is loaded, with and without onnxruntime's import, and run
    once; then the peak MB and the CPU seconds when it was loaded.
    """
    from pathlib import Path

    import numpy as np

    from handler import manifest, session  # before the clock starts: leaves only onnxruntime

    cpu_start, start = time.process_time(), time.perf_counter()
    if kind != "packed":
        import onnxruntime as ort
    imported = time.perf_counter()
    loaded: Any = None
    if kind == "default":
        loaded = ort.InferenceSession(original, providers=["CPUExecutionProvider"])
    elif kind != "import":
        loaded = session.Session(Path(packed), manifest.read(packed))
    ready, cpu, peak = time.perf_counter(), time.process_time() - cpu_start, peak_mb()
    if kind != "import":
        inputs = manifest.read(packed).inputs
        feeds = {i.name: np.zeros([n or 1 for n in i.shape], i.dtype) for i in inputs}
        loaded.run(*((None, feeds) if kind == "default" else (feeds,)))
    answered = time.perf_counter()
    os.write(out, f"{ready - start} {ready - imported} {answered - start} {peak} {cpu}\n".encode())


def refuse(out: int, path: str) -> None:
    """Write the status of the first answer, its seconds, and the MB it took beside the event."""
    os.environ |= {"JOBS_BUCKET": "b", "JOBS_QUEUE_URL": "q"}
    os.environ |= {"BATCH_BUCKET": "b", "BATCH_STATE_MACHINE": "s"}
    handle, events = case("handler.function", path)
    (event,) = events[0]
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


MODES: dict[str, Any] = {"cold": cold, "serve": serve, "load": load, "refuse": refuse}
MODES[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
