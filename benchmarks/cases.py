"""Who is compared, on what, and how one of them is started."""

import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handler.manifest import Feature, Manifest

ROOT = Path(__file__).parent.parent
CHILD = Path(__file__).with_name("child.py")
MISSING = 0.03  # share of the nullable values that are null


class Case(NamedTuple):
    """`module` has a `lambda_handler`."""

    title: str
    module: str


CASES = {
    "floor": Case("onnxruntime alone (the floor)", "benchmarks.peers.floor"),
    "stdlib": Case("hand-written, no validation, no logs", "benchmarks.peers.stdlib"),
    "answerable": Case("**Answerable**, everything on", "handler.function"),
    "mangum_fastapi": Case("Mangum + FastAPI, no logs", "benchmarks.peers.mangum_fastapi"),
    "powertools": Case(
        "Powertools resolver, validation on", "benchmarks.peers.powertools_resolver"
    ),
}

# of queue messages
BATCH = {
    "worker": Case("**Answerable**, stacked, everything on", "benchmarks.peers.worker"),
    "batch_processor": Case(
        "Powertools' BatchProcessor, a run per message", "benchmarks.peers.powertools_batch"
    ),
}


def start(fd: int, *arguments: str, model_dir: Path, threads: int) -> subprocess.Popen[bytes]:
    """A child in a clean environment, its records thrown away, its findings written to `fd`."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "MODEL_DIR": str(model_dir),
        "INTRA_OP_THREADS": str(threads),
        # as in the image, and in every peer's favour: without them numpy and onnxruntime are slower
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
    )


def ask(*arguments: str, model_dir: Path, threads: int = 1) -> str:
    """What a child that runs once has to say."""
    read, write = os.pipe()
    child = start(write, *arguments, model_dir=model_dir, threads=threads)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    child.communicate()
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed")
    return text


def write_events(path: Path, manifest: Manifest, count: int, different: int) -> str:
    """So many different events of `count` rows, where a child finds them; returns the path."""
    found = rows(manifest, count, different)
    path.write_bytes(marshal.dumps(([event(each) for each in found], found)))
    return str(path)


def rows(manifest: Manifest, count: int, different: int) -> list[list[dict[str, Any]]]:
    """So many different lists of `count` rows."""
    rng = np.random.default_rng(count)
    return [
        [{f.name: _value(f, rng) for f in manifest.features} for _ in range(count)]
        for _ in range(different)
    ]


def _value(feature: Feature, rng: np.random.Generator) -> Any:
    if feature.nullable and rng.random() < MISSING:
        return None
    if feature.categories:
        return feature.categories[rng.integers(len(feature.categories))]
    low, high = feature.minimum or 0, 1 if feature.maximum is None else feature.maximum
    value = rng.uniform(float(low), float(high))
    return round(value) if feature.type == "integer" else round(value, 2)


def event(instances: list[dict[str, Any]]) -> dict[str, Any]:
    """A POST as API Gateway's REST API hands it to a function."""
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
