"""`python -m benchmarks.protocols`: what each way to send the same tensors costs beside the run.

An image, 1x3x224x224 FP32, and a table of 1000 rows and 30 features. The figure is the overhead:
gateway event in, proxy response out, less the time in onnxruntime. Beside it MLServer's REST
application on the same tensors, in its own process and environment, called without sockets and with
a run that costs nothing. Times are the thread's own, so that what else runs here does not count.
MLServer's REST has no binary tensors, so its best way stands against them.
"""

import argparse
import base64
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from onnx import helper

from handler.session import Session
from handler.settings import Settings
from tests.fixtures import artifact, models, protocols
from tests.fixtures.server import E2E_HOME

PEER = Path(__file__).parent / "peers/mlserver_app.py"
IMAGE, TABLE = [1, 3, 224, 224], [1000, 30]


class Case(NamedTuple):
    """`event`: ours; `peer`: the body that MLServer gets, which may serve several cases."""

    title: str
    event: Any
    peer: str
    calls: int


class Context:
    """What Lambda passes."""

    aws_request_id = "52fdfc07-2182-454f-963f-5f0f9a621d72"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 29_000


def image(directory: Path) -> Path:
    """A small CNN, so that its run does not bury what is measured."""
    shape = [None, *IMAGE[1:]]
    output = {"name": "logits", "dtype": "float32", "shape": [None, 10], "kind": "tensor"}
    limits = {"rows": 4, "body_bytes": 6_000_000, "response_bytes": 6_000_000, "elements": 200_000}
    return artifact.write(
        directory,
        models.image_classifier(224),
        inputs=[{"name": "image", "dtype": "float32", "shape": shape}],
        outputs=[{"tensor": "logits", **output}],
        limits=limits,
    )


def table(directory: Path) -> Path:
    """Thirty features with ranges, in one tensor, and their sum."""
    features = [
        {"name": f"feature_{i}", "input": "x", "column": i, "type": "number", "minimum": -100,
         "maximum": 100, "example": 0.5}
        for i in range(TABLE[1])
    ]  # fmt: skip
    value = ("x", artifact.FLOAT, [None, TABLE[1]])
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[1]),
        helper.make_node("ReduceL1", ["x", "axes"], ["y"], keepdims=1),
    ]
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}
    limits = {"rows": 1000, "body_bytes": 6_000_000, "response_bytes": 6_000_000, "elements": 30}
    return artifact.write(
        directory,
        artifact.graph(nodes, [value], [("y", artifact.FLOAT, [None, 1])]),
        inputs=artifact.tensors([value]),
        features=features,
        outputs=[output],
        limits=limits,
    )


def cases(folder: Path) -> dict[str, Case]:
    """All of them; MLServer's bodies are written to the folder."""
    rng = np.random.default_rng(0)
    picture = rng.normal(size=IMAGE).astype(np.float32)
    # as many decimals as a table has
    rows = rng.uniform(-100, 100, TABLE).round(3).astype(np.float32)
    numbers = {"name": "x", "datatype": "FP32", "parameters": {"content_type": "np"}}
    packed = {"name": "x", "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    text = base64.b64encode(picture.tobytes()).decode()
    for name, array, answer, part in (
        ("numbers", picture, [1, 10], {**numbers, "data": picture.ravel()}),
        ("base64", picture, [1, 10], {**packed, "data": [text], "shape": [1]}),
        ("table", rows, [1000, 1], {**numbers, "data": rows.ravel()}),
    ):
        body = {"id": "1", "inputs": [{"shape": array.shape, **part}]}
        (folder / f"{name}.body").write_bytes(dump(body))
        (folder / f"{name}.shapes").write_bytes(dump([array.shape, answer]))

    def infer(name: str, array: Any, data: Any, **parameters: Any) -> Any:
        tensor = {**protocols.described(name, array), "data": data, "parameters": parameters}
        return protocols.event(dump({"id": "1", "inputs": [tensor]}).decode())

    named = [f"feature_{i}" for i in range(TABLE[1])]
    exact = rows.astype(float).round(3).tolist()
    instances = [dict(zip(named, row, strict=True)) for row in exact]
    split = {"columns": named, "data": exact}
    csv = "\n".join([",".join(named), *(",".join(map(str, row)) for row in exact)])
    return {
        "image binary": Case(
            "image, binary tensors", protocols.as_binary({"image": picture}), "base64", 30
        ),
        "image base64": Case(
            "image, base64 in JSON",
            infer("image", picture, [text], content_type="base64"),
            "base64",
            30,
        ),
        "image numbers": Case(
            "image, JSON numbers", infer("image", picture, picture.ravel()), "numbers", 10
        ),
        "table binary": Case(
            "table, binary tensors", protocols.as_binary({"x": rows}), "table", 100
        ),
        "table numbers": Case("table, JSON numbers", infer("x", rows, rows.ravel()), "table", 50),
        "table split": Case(
            "table, dataframe_split",
            protocols.event(dump({"dataframe_split": split}).decode(), "/invocations"),
            "table",
            30,
        ),
        "table csv": Case(
            "table, CSV",
            protocols.event(csv, "/invocations", **{"content-type": "text/csv"}),
            "table",
            30,
        ),
        "table rows": Case(
            "table, rows of `/predict`",
            protocols.event(dump({"instances": instances}).decode(), "/predict"),
            "table",
            30,
        ),
    }


def dump(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def ours(folder: Path) -> Callable[[Case, str], float]:
    """The function that times the handler: median seconds of a case's overhead."""
    running = 0.0
    run = Session.run

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal running
        start = time.thread_time()
        outputs = run(*args, **kwargs)
        running += time.thread_time() - start
        return outputs

    Session.run = timed  # type: ignore[method-assign]
    from handler import app

    handlers = {
        "image": app.create(Settings(image(folder / "image"))),
        "table": app.create(Settings(table(folder / "table"))),
    }

    def measure(case: Case, name: str) -> float:
        nonlocal running
        handler, seconds = handlers[name.partition(" ")[0]], []
        for _ in range(case.calls):
            running, event = 0.0, dict(case.event)
            start = time.thread_time()
            answer = handler(event, Context())
            seconds.append(time.thread_time() - start - running)
        assert answer["statusCode"] == 200, answer["body"]
        return statistics.median(seconds)

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocols", description=__doc__)
    default = E2E_HOME / "clients/bin/python"
    parser.add_argument("--mlserver", type=Path, default=default, help="its environment's Python")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        known = cases(folder)
        report, found = sys.stdout, {name: list[tuple[float, float]]() for name in known}
        with (
            subprocess.Popen(
                [args.mlserver, PEER, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as peer,
            open(os.devnull, "w") as sys.stdout,  # the records
        ):
            assert peer.stdin is not None
            assert peer.stdout is not None
            measure = ours(folder)
            for i in range(-1, args.rounds):  # round -1 warms up
                for name, case in known.items():
                    mine = measure(case, name)
                    peer.stdin.write(f"{case.peer} {case.calls}\n")
                    peer.stdin.flush()
                    theirs = float(peer.stdout.readline())
                    if i >= 0:
                        found[name].append((mine, theirs))
            peer.stdin.close()
        sys.stdout = report
    print("| overhead over the run, ms | Answerable | MLServer's V2 | ratio |\n|---|---|---|---|")
    for name, pairs in found.items():
        mine, theirs = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        way = {"base64": "base64", "numbers": "JSON", "table": "JSON"}[known[name].peer]
        print(f"| {known[name].title} | {mine:.2f} | {theirs:.2f} ({way}) | {ratio:.2f} |")


if __name__ == "__main__":
    main()
