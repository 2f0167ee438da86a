"""`python -m tests.soak`: clients call two versions of a model for a time, and check every answer.

Each environment is a process with AWS's own runtime client (tests/runtime/environment.py), and
serves one call at a time, as in Lambda. In the middle the new version gets a tenth of the calls,
then all of them, and the old environments end. It answers twice the old one's predictions, so an
answer shows which version made it. Every answer must equal what the version answers in this
process; outcomes of both versions must be accepted. The memory of each environment must not grow by
more than 5 % from the first quarter of its life, after a warm-up, to the last. That is its memory
between calls, the lower tenth of the samples: a call with a body of 2 MB takes 20 MB for a moment,
and the C library gives them back late.
"""

import argparse
import itertools
import json
import queue
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx

from answerable.packing import artifact as packed
from handler import app, manifest
from handler.settings import Settings
from handler.validate import example
from tests.fixtures import events, protocols
from tests.fixtures.artifact import DIABETES
from tests.runtime.environment import Environment

SECRET = "of the soak"
OLD, NEW = "7", "8"  # versions of the function
CANARY_SHARE = 0.1  # of the calls, for a tenth of the time
MAX_GROWTH = 0.05
MAX_IDS = 1000  # that wait for their outcome
SAMPLE_SECONDS = 2.0


class Call(NamedTuple):
    """An event and what each version must answer it, by the version."""

    event: Any
    expected: dict[str, Any]


class Report(NamedTuple):
    """What a soak has seen. `growth`: of each environment's memory, as a share."""

    calls: Counter[str]
    wrong: list[str]
    growth: dict[str, list[float]]

    @property
    def is_good(self) -> bool:
        return not self.wrong and max(itertools.chain(*self.growth.values())) <= MAX_GROWTH


def doubled(directory: Path) -> Path:
    """Write the shipped model with twice its predictions, as another version."""
    shutil.copytree(DIABETES, directory)
    model = onnx.load(str(directory / "model.onnx"))
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["half" if name == output.name else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], [output.name]))
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    files = packed.files(directory)
    packed.write(directory, manifest.read(DIABETES)._replace(version="99.0.0", files=files))
    return directory


def requests() -> list[Any]:
    """Return events of all protocols, good and bad."""
    contract = manifest.read(DIABETES)
    row = example(contract)
    names, cells = ",".join(row), ",".join(map(str, row.values()))
    rng = random.Random(1)
    rows = [{**row, "age": rng.randint(20, 79), "bmi": rng.uniform(18, 42)} for _ in range(1000)]
    frame = {"columns": [*row], "data": [[*one.values()] for one in rows[:10]]}
    arrays = {
        tensor.name: np.array([[row[tensor.name]]] * 5, numpy_dtype(tensor.dtype))
        for tensor in contract.inputs
    }
    infer = {"rawPath": f"/v2/models/{contract.name}/infer"}

    def predict(rows: Sequence[Any]) -> Any:
        return events.rest(json.dumps({"instances": rows}))

    def invocation(body: str, kind: str = "application/json") -> Any:
        return events.rest(body, "/invocations", headers={"content-type": kind})

    return [
        *(predict([one]) for one in rows[:20]),
        *(predict(rows[start : start + 20]) for start in range(0, 100, 20)),
        predict(rows),
        invocation(json.dumps({"dataframe_split": frame})),
        invocation(f"{names}\n{cells}\n", "text/csv"),
        {**protocols.as_json(arrays), **infer},
        {**protocols.as_binary(arrays), **infer},
        predict([{**row, "bmi": "SENTINEL"}]),
        predict([{}] * 1000),
        events.rest('{"instances":['),
        events.rest("[" * 2_000_000),
        events.rest(None, "/model", "GET"),
        events.rest(None, "/openapi.json", "GET"),
        events.rest(None, "/nowhere", "GET"),
    ]


def numpy_dtype(name: str) -> Any:
    return object if name == "string" else name


def comparable(answer: Any) -> Any:
    """Return an answer without what differs by call: ids and the request's own id."""
    body = answer["body"]
    if answer["isBase64Encoded"]:
        return answer["statusCode"], body
    document = json.loads(body)
    if not isinstance(document, dict):
        return answer["statusCode"], document
    document.pop("instance", None)
    for prediction in document.get("predictions", ()):
        del prediction["id"]
    return answer["statusCode"], document


class Service:
    """Environments of two versions, and the share of calls that the new version gets."""

    def __init__(self, stack: ExitStack, directories: dict[str, Path], size: int) -> None:
        self._stack, self._directories, self._size = stack, directories, size
        self.free: dict[str, queue.Queue[Environment]] = {}
        self.environments: dict[str, list[Environment]] = {}
        self.new_share = 0.0
        self._rng = random.Random(2)

    def start(self, version: str) -> None:
        """Start the environments of a version."""
        self.free[version] = queue.Queue()
        self.environments[version] = []
        for _ in range(self._size):
            environment = self._stack.enter_context(
                Environment(
                    self._directories[version],
                    AWS_LAMBDA_FUNCTION_VERSION=version,
                    PREDICTION_ID_SECRET=SECRET,
                    LOG_PAYLOADS="full",
                )
            )
            self.environments[version].append(environment)
            self.free[version].put(environment)

    def call(self, event: Any) -> tuple[str, Any]:
        """Return the version that answered, and its answer."""
        version = NEW if self._rng.random() < self.new_share else OLD
        environment = self.free[version].get()
        try:
            told = environment.invoke(event)
        finally:
            self.free[version].put(environment)
        with environment.records.mutex:
            environment.records.queue.clear()
        return version, told.content if told.what == "response" else {"statusCode": told.what}

    def memory(self, version: str) -> list[int]:
        """Return the resident kB of each environment of a version."""
        return [
            int(line.split()[1])
            for environment in self.environments[version]
            for line in Path(f"/proc/{environment.process.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        ]


def growth(samples: Sequence[Sequence[int]]) -> list[float]:
    """Return by how much each environment's memory grew from its first quarter to its last.

    The first tenth of the samples is the warm-up. Of a quarter the lower tenth counts, because
    other samples fall into calls with large bodies.
    """
    samples = samples[len(samples) // 10 :]
    quarter = max(1, len(samples) // 4)

    def low(values: Sequence[int]) -> int:
        return sorted(values)[len(values) // 10]

    return [
        low(values[-quarter:]) / low(values[:quarter]) - 1 for values in zip(*samples, strict=True)
    ]


def soak(
    seconds: float,
    clients: int,
    pause: tuple[float, float] = (1.0, 2.0),
    environments: int = 4,
    say: Callable[[str], None] = print,
) -> Report:
    """Run the soak. `pause`: the least and the most seconds between two calls of a client.

    `environments`: of each version.
    """
    report = Report(Counter(), [], {})
    ids: queue.Queue[str] = queue.Queue(MAX_IDS)
    stop = threading.Event()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        directories = {OLD: DIABETES, NEW: doubled(Path(folder) / "new")}
        calls = make_calls(directories)
        service = Service(stack, directories, environments)

        def client(seed: int) -> None:
            rng = random.Random(seed)
            while not stop.wait(rng.uniform(*pause)):
                try:
                    problem = one_call(service, rng.choice(calls), ids, report.calls)
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    report.wrong.append(problem)

        service.start(OLD)
        threads = [threading.Thread(target=client, args=[seed]) for seed in range(clients)]
        for thread in threads:
            thread.start()
        samples: dict[str, list[list[int]]] = {OLD: [], NEW: []}
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            if service.new_share == 0 and elapsed > 0.45 * seconds:
                service.start(NEW)
                service.new_share = CANARY_SHARE
                say(f"{elapsed:.0f} s: the new version gets {CANARY_SHARE:.0%} of the calls")
            elif service.new_share == CANARY_SHARE and elapsed > 0.55 * seconds:
                service.new_share = 1.0
                say(f"{elapsed:.0f} s: the new version gets all calls")
            version = OLD if service.new_share < 1 else NEW
            samples[version].append(service.memory(version))
            stop.wait(min(SAMPLE_SECONDS, seconds / 50))
        stop.set()
        for thread in threads:
            thread.join()
    for version, sampled in samples.items():
        report.growth[version] = growth(sampled)
        peak = max(map(max, sampled)) / 1024
        say(
            f"version {version}: peak {peak:.0f} MB, grown by "
            + ", ".join(f"{share:.1%}" for share in report.growth[version])
        )
    return report


def make_calls(directories: dict[str, Path]) -> list[Call]:
    """Return the calls with the answers that each version gives in this process."""
    calls = [Call(event, {}) for event in requests()]
    for version, directory in directories.items():
        handle = app.create(Settings(directory, prediction_id_secret=SECRET))
        for call in calls:
            with redirect_stdout(StringIO()):
                answer = handle(call.event, events.Context())
            call.expected[version] = comparable(answer)
    return calls


def one_call(service: Service, call: Call, ids: "queue.Queue[str]", counts: Counter[str]) -> str:
    """Make a call, and one to /feedback if predictions wait for it; return what is wrong, or ""."""
    version, answer = service.call(call.event)
    counts[f"version {version}"] += 1
    if answer["statusCode"] != call.expected[version][0]:
        return f"{call.event.get('path')}: {answer['statusCode']}"
    if comparable(answer) != call.expected[version]:
        return f"{call.event.get('path')}: another answer than version {version} gives"
    if answer["statusCode"] == 200 and not answer["isBase64Encoded"]:
        for prediction in json.loads(answer["body"]).get("predictions", ())[:2]:
            try:
                ids.put_nowait(prediction["id"])
            except queue.Full:
                break
    try:
        outcome = {"prediction_id": ids.get_nowait(), "actual": 100}
    except queue.Empty:
        return ""
    body = json.dumps({"outcomes": [outcome]})
    version, answer = service.call(events.rest(body, "/feedback"))
    counts[f"feedback {version}"] += 1
    return "" if answer["statusCode"] == 202 else f"/feedback: {answer['statusCode']}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=50)
    args = parser.parse_args()
    report = soak(args.minutes * 60, args.clients, say=partial(print, flush=True))
    print(dict(report.calls), f"{len(report.wrong)} wrong", *report.wrong[:20], sep="\n")
    sys.exit(not report.is_good)


if __name__ == "__main__":
    main()
