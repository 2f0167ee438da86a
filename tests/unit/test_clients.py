"""Triton's own client, with its defaults, against `answerable serve`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.fixtures import server


class Served:
    """A client of a served model, and onnxruntime with the same graph."""

    def __init__(self, kind: str, directory: Path, address: str) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.kind, self.session = kind, ort.InferenceSession(directory / "model.onnx", options)
        self.client = triton.InferenceServerClient(address)
        self.feeds = server.feeds(kind)

    def inputs(self, **binary: bool) -> list[Any]:
        inputs = []
        for name, array in self.feeds.items():
            part = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            part.set_data_from_numpy(array, **binary)
            inputs.append(part)
        return inputs

    def check(self, result: Any, names: list[str] | None = None) -> None:
        names = names or [output.name for output in self.session.get_outputs()]
        for name, expected in zip(names, self.session.run(names, self.feeds), strict=True):
            found = result.as_numpy(name)
            assert found.shape == expected.shape
            if expected.dtype.kind == "O":
                found = np.array([v.decode() if isinstance(v, bytes) else v for v in found.ravel()])
                assert found.tolist() == expected.ravel().tolist()
            else:
                assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: server.pack(kind, tmp_path_factory.mktemp(kind)) for kind in server.KINDS}


@pytest.fixture(scope="module", params=server.KINDS)
def model(request: Any, artifacts: dict[str, Path]) -> Iterator[Served]:
    with server.serve(artifacts[request.param], "url") as address:
        yield Served(request.param, artifacts[request.param], address)


def test_health_and_metadata(model: Served) -> None:
    client, kind = model.client, model.kind
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(kind)
    assert client.is_model_ready(kind, "1.0.0")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(kind)
    assert [tensor["name"] for tensor in metadata["inputs"]] == list(model.feeds)
    for tensor in metadata["inputs"]:
        assert tensor["datatype"] == np_to_triton_dtype(model.feeds[tensor["name"]].dtype)
        assert tensor["shape"][0] == -1


def test_inference_with_the_defaults(model: Served) -> None:
    result = model.client.infer(model.kind, model.inputs(), request_id="1")
    assert result.get_response()["id"] == "1"
    assert "binary_data_size" in result.get_response()["outputs"][0]["parameters"]
    model.check(result)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_inference_in_other_ways(model: Served, compression: str | None) -> None:
    name = model.session.get_outputs()[-1].name
    outputs = [triton.InferRequestedOutput(name, binary_data=compression is None)]
    json_too = not (model.kind == "text" and compression)  # JSON has no NaN
    result = model.client.infer(
        model.kind,
        model.inputs(**({} if model.kind == "text" else {"binary_data": not json_too})),
        model_version="1.0.0",
        outputs=outputs,
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == [name]
    model.check(result, [name])


def test_classification_by_the_client(model: Served) -> None:
    name = model.session.get_outputs()[-1].name
    outputs = [triton.InferRequestedOutput(name, class_count=2)]
    texts = model.client.infer(model.kind, model.inputs(), outputs=outputs).as_numpy(name)
    (scores,) = model.session.run([name], model.feeds)
    for row, (best, *_) in zip(scores, texts.tolist(), strict=True):
        value, index, *_ = best.decode().split(":")
        assert int(index) == row.argmax()
        assert float(value) == pytest.approx(row.max(), abs=1e-6)


def test_the_violations_are_reported_to_the_client(model: Served) -> None:
    with pytest.raises(InferenceServerException, match="the model is"):
        model.client.infer("other", model.inputs())
    name = next(iter(model.feeds))
    part = triton.InferInput(name, [1, 1], "FP64")
    part.set_data_from_numpy(np.zeros((1, 1)))
    with pytest.raises(InferenceServerException, match="inputs"):
        model.client.infer(model.kind, [part])


def test_behind_a_rest_api_the_answer_is_json_unless_bytes_are_accepted(
    artifacts: dict[str, Path],
) -> None:
    with server.serve(artifacts["image"], "rest") as address:
        model = Served("image", artifacts["image"], address)
        result = model.client.infer("image", model.inputs())
        assert "data" in result.get_response()["outputs"][0]
        model.check(result)
        accept = {"Accept": "application/octet-stream"}
        result = model.client.infer("image", model.inputs(), headers=accept)
        assert "data" not in result.get_response()["outputs"][0]
        model.check(result)
