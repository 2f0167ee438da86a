"""Every datatype at every rank, through the protocol: the bytes of onnxruntime's own answer."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from handler import app
from handler.settings import Settings
from tests.fixtures import artifact, events, protocols
from tests.fixtures.events import Context

STRINGS = ["", "é", "a\nb", "日本", "x" * 300, '"', " ", "end"]
DTYPES = [
    *("bool", "float16", "float32", "float64", "object"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
]
SHAPES: list[tuple[int | None, ...]] = [(), (5,), (2, 3), (2, 3, 4), (1, 2, 3, 2)]
FREE: list[tuple[int | None, ...]] = [(None,), (None, 3), (None, 2, None), (None, 2, 3, None)]


def values(dtype: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(sum(shape, 7))
    size = int(np.prod(shape))
    if dtype == "object":
        return rng.choice(np.array(STRINGS, object), size).reshape(shape)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind == "f":
        flat = rng.normal(0, 100, size).astype(kind)
        info = np.finfo(kind)
        extremes = [-0.0, info.max, info.min, info.tiny, info.smallest_subnormal, 0.1]
    else:
        limits = np.iinfo(kind)
        flat = rng.integers(limits.min, limits.max, size, kind, endpoint=True)
        extremes = [limits.max, limits.min]
    flat[: len(extremes)] = np.array(extremes, kind)[:size]
    return flat.reshape(shape)


def write(directory: Path, dtype: str, shape: tuple[int | None, ...], batch: str) -> Path:
    """x in; x itself, x turned around, its shape and its size out. With rows: x and x turned."""
    kind = TensorProto.STRING if dtype == "object" else helper.np_dtype_to_tensor_dtype(
        np.dtype(dtype)
    )  # fmt: skip
    name = "string" if dtype == "object" else dtype
    axes = list(range(len(shape)))
    order = axes[::-1] if batch == "none" else axes[:1] + axes[:0:-1]
    turned = [shape[i] for i in order]
    permutation: dict[str, Any] = {"perm": order} if order else {}
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Transpose", ["x"], ["turned"], **permutation),
    ]
    outputs: list[tuple[str, int, list[Any], str]] = [
        ("same", kind, list(shape), name), ("turned", kind, turned, name)
    ]  # fmt: skip
    if batch == "none":
        nodes += [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Size", ["x"], ["size"]),
        ]
        outputs += [("shape", TensorProto.INT64, [len(shape)], "int64")]
        outputs += [("size", TensorProto.INT64, [], "int64")]
    model = artifact.graph(nodes, [("x", kind, list(shape))], [o[:3] for o in outputs])
    return artifact.write(
        directory,
        model,
        inputs=[{"name": "x", "dtype": name, "shape": list(shape)}],
        outputs=[
            {"name": n, "tensor": n, "dtype": d, "shape": s, "kind": "tensor"}
            for n, _, s, d in outputs
        ],
        execution={"batch": batch},
    )


def check(directory: Path, x: Any, capsys: pytest.CaptureFixture[str]) -> None:
    session = ort.InferenceSession(directory / "model.onnx")
    names = [output.name for output in session.get_outputs()]

    expected = dict(zip(names, map(np.asarray, session.run(None, {"x": x})), strict=True))
    handler = app.create(Settings(directory))
    for event in (
        protocols.as_json({"x": x}),
        protocols.as_json({"x": x}, nested=True),
        protocols.as_binary({"x": x}),
    ):
        status, document, arrays = protocols.ask(handler, event)
        assert status == 200, document
        assert list(arrays) == names
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype
            assert array.shape == expected[name].shape
            assert protocols.raw(array) == protocols.raw(expected[name])
    capsys.readouterr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank{len(shape)}")
def test_a_graph_without_rows(
    dtype: str, shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write(tmp_path, dtype, shape, "none")
    check(directory, values(dtype, shape), capsys)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", FREE, ids=lambda shape: f"rank{len(shape)}")
@pytest.mark.parametrize("batch", ["dynamic", "single"])
def test_a_graph_of_rows(
    dtype: str, shape: Any, batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write(tmp_path, dtype, shape, batch)
    sizes = iter((3, 4))
    check(directory, values(dtype, tuple(n or next(sizes) for n in shape)), capsys)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("shape", [(), (None, 3), (None, 1, 2)])
def test_a_tensor_whose_rows_interact_is_one_instance_for_every_protocol(
    tmp_path: Path, shape: Any
) -> None:
    sent = tuple(4 if size is None else size for size in shape)
    x = np.arange(1, 1 + int(np.prod(sent)), dtype=np.float32).reshape(sent)
    value, result = ("x", artifact.FLOAT, list(shape)), ("y", artifact.FLOAT, list(shape))
    if shape:
        axis = helper.make_node("Constant", [], ["axis"], value_int=0)
        nodes = [axis, helper.make_node("CumSum", ["x", "axis"], ["y"])]
    else:
        nodes = [helper.make_node("Neg", ["x"], ["y"])]
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": shape, "kind": "tensor"}
    directory = artifact.write(
        tmp_path,
        artifact.graph(nodes, [value], [result]),
        inputs=artifact.tensors([value]),
        outputs=[output],
        execution={"batch": "none"},
    )
    (expected,) = ort.InferenceSession(directory / "model.onnx").run(None, {"x": x})
    handler = app.create(Settings(directory))

    def predict(path: str, body: Any, content_type: str = "application/json") -> Any:
        text = body if isinstance(body, bytes) else json.dumps(body)
        event = events.rest(text, path, headers={"content-type": content_type})
        answer = handler(event, Context())
        assert answer["statusCode"] == 200, answer["body"]
        return [row["y"] for row in json.loads(answer["body"])["predictions"]]

    whole, y = x.tolist(), expected.tolist()
    for path in ("/invocations", "/v1/models/test:predict"):
        for body in (
            {"instances": [whole]},
            {"instances": [{"x": whole}]},
            {"inputs": whole},
            {"inputs": {"x": whole}},
        ):
            assert predict(path, body) == [y], body
        assert predict(path, npy(x), "application/x-npy") == [y]
        assert predict(path, {"instances": [whole, whole]}) == [y, y]
    assert predict("/predict", {"instances": [{"x": whole}]}) == [y]
    for made in (protocols.as_json, protocols.as_binary):
        status, _, arrays = protocols.ask(handler, made({"x": x}))
        assert (status, arrays["y"].tolist()) == (200, y)
