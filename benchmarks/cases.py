"""The cases that are compared, their events, and how a process with one of them is started."""

import json
import marshal
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handler.manifest import Feature, Manifest
from tests.fixtures import image_packages

ROOT = Path(__file__).parent.parent
CHILD = Path(__file__).with_name("child.py")
NULL_SHARE = 0.03  # of the values of nullable features
VCPUS = 0.29  # what 512 MB buy: Lambda has one vCPU at 1,769 MB
PERIOD_MICROSECONDS = 20_000
_BUDGET = round(VCPUS * PERIOD_MICROSECONDS)
# where a cgroup is made, and what limits it
HIERARCHIES = {
    "/sys/fs/cgroup/cpu": {
        "cpu.cfs_period_us": str(PERIOD_MICROSECONDS),
        "cpu.cfs_quota_us": str(_BUDGET),
    },
    "/sys/fs/cgroup": {"cpu.max": f"{_BUDGET} {PERIOD_MICROSECONDS}"},
}


class Case(NamedTuple):
    """`module` has a `lambda_handler`. `root`: the tree of its code. `model_dir`: of its own.

    `stripped`: it runs on packages that were stripped as in its image. Peers run on what pip
    installs.
    """

    title: str
    module: str
    root: Path = ROOT
    model_dir: Path | None = None
    stripped: bool = False


CASES = {
    "floor": Case("onnxruntime alone (the floor)", "benchmarks.peers.floor"),
    "stdlib": Case("hand-written, no validation, no logs", "benchmarks.peers.stdlib"),
    "answerable": Case("**Answerable**, everything on", "handler.function", stripped=True),
    "mangum_fastapi": Case("Mangum + FastAPI, no logs", "benchmarks.peers.mangum_fastapi"),
    "powertools": Case(
        "Powertools resolver, validation on", "benchmarks.peers.powertools_resolver"
    ),
}

# of queue messages
BATCH = {
    "worker": Case(
        "**Answerable**, stacked, everything on", "benchmarks.peers.worker", stripped=True
    ),
    "batch_processor": Case(
        "Powertools' BatchProcessor, a run per message", "benchmarks.peers.powertools_batch"
    ),
}


def at_commit(root: Path, model: str) -> Case:
    """Return the product in another work tree, beside which this one is measured."""
    module = "handler.function" if (root / "handler/function.py").exists() else "handler.api"
    title = f"Answerable of {root.name}"
    stripped = (root / "infra/strip_packages.py").exists()
    return Case(title, module, root, root / "model_artifacts" / model, stripped)


def start(
    fd: int,
    *arguments: str,
    model_dir: Path,
    threads: int = 1,
    case: Case | None = None,
    cgroup: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a clean environment. It writes its figures to `fd`; its records are lost."""
    path = str(case.root if case else ROOT)
    if case and case.stripped:
        path = f"{image_packages.stripped()}:{path}"
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "PYTHONPATH": path,
        "MODEL_DIR": str(model_dir),
        "INTRA_OP_THREADS": str(threads),
        "PREDICTION_ID_SECRET": "benchmark",
        "FEEDBACK_SECRET": "benchmark",  # its name in older commits
        # as in the image, for the peers too: without them numpy and onnxruntime are slower
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    mode, *rest = arguments
    return subprocess.Popen(
        [sys.executable, "-P", str(CHILD), mode, str(fd), *rest],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        pass_fds=[fd],
        preexec_fn=(lambda: _join(cgroup)) if cgroup else None,
    )


def ask(*arguments: str, **options: Any) -> str:
    """Return what a child that runs once writes; see `start`."""
    read, write = os.pipe()
    child = start(write, *arguments, **options)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    child.communicate()
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed")
    return text


@contextmanager
def quota() -> Iterator[Path | None]:
    """Yield a cgroup (version 1 or 2) of VCPUS, None where this process may not make one."""
    parent = next((name for name in HIERARCHIES if Path(name, "cgroup.procs").exists()), "")
    cgroup = Path(parent, f"answerable-benchmark-{os.getpid()}")
    try:
        cgroup.mkdir()
        for name, value in HIERARCHIES[parent].items():
            (cgroup / name).write_text(value)
        usable = True
    except (OSError, KeyError):
        usable = False
    try:
        yield cgroup if usable else None
    finally:
        with suppress(OSError):  # the figures are worth more than an empty directory
            cgroup.rmdir()


def _join(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def write_events(path: Path, manifest: Manifest, counts: dict[int, int]) -> str:
    """Write events for a child: by number of rows, so many different ones. Return the path."""
    events = {}
    for count, different in counts.items():
        instances = rows(manifest, count, different)
        events[count] = ([event(request) for request in instances], instances)
    path.write_bytes(marshal.dumps(events))
    return str(path)


def rows(manifest: Manifest, count: int, different: int) -> list[list[dict[str, Any]]]:
    """Return so many different lists of `count` rows."""
    rng = np.random.default_rng(count)
    return [
        [{f.name: _value(f, rng) for f in manifest.features} for _ in range(count)]
        for _ in range(different)
    ]


def _value(feature: Feature, rng: np.random.Generator) -> Any:
    if feature.nullable and rng.random() < NULL_SHARE:
        return None
    if feature.categories:
        return feature.categories[rng.integers(len(feature.categories))]
    low, high = feature.minimum or 0, 1 if feature.maximum is None else feature.maximum
    value = rng.uniform(float(low), float(high))
    return round(value) if feature.type == "integer" else round(value, 2)


def event(instances: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a POST as API Gateway's REST API passes it to a function."""
    headers = {
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Host": "abcdef1234.execute-api.eu-central-1.amazonaws.com",
        "User-Agent": "curl/8.14.1",
        "X-Amzn-Trace-Id": "Root=1-68b1c2d3-0123456789abcdef01234567",
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Port": "443",
        "X-Forwarded-Proto": "https",
    }
    return {
        "resource": "/predict",
        "path": "/predict",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abcdef1234",
            "domainName": "abcdef1234.execute-api.eu-central-1.amazonaws.com",
            "domainPrefix": "abcdef1234",
            "extendedRequestId": "JKJaXmPLvHcESHA=",
            "httpMethod": "POST",
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "curl/8.14.1"},
            "path": "/live/predict",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "requestTime": "29/Aug/2025:12:34:56 +0000",
            "requestTimeEpoch": 1756470896000,
            "resourceId": "a1b2c3",
            "resourcePath": "/predict",
            "stage": "live",
        },
        "body": json.dumps({"instances": instances}),
        "isBase64Encoded": False,
    }
