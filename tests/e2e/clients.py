"""What runs in the clients' own environment: `python clients.py CLIENT ADDRESS KIND FOLDER`.

MLServer's client (`mlserver infer` and its codecs) and KServe's (InferenceRESTClient), metadata and
inference. Each in its own process: both register the same protobuf messages. Strings are stored as
fixed-width text; nothing here imports the product.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np

Arrays = dict[str, Any]
DATATYPES = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}


def load(path: Path) -> Arrays:
    with np.load(path) as file:
        return {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in file.items()}


def check(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected), (list(found), list(expected))
    for name, array in expected.items():
        values = np.asarray(found[name])
        # MLServer knows no vectors: `mlserver infer` makes them [N, 1]
        assert values.shape in (array.shape, (*array.shape, 1)), (name, values.shape)
        if array.dtype.kind == "O":
            texts = [v.decode() if isinstance(v, bytes) else v for v in values.ravel().tolist()]
            assert texts == array.ravel().tolist()
        else:
            assert values.astype(array.dtype).tobytes() == array.tobytes(), name


def mlserver(address: str, kind: str, folder: Path) -> None:
    """JSON has no NaN, and its codecs write one where the protocol has null: so there is none."""
    from mlserver import types
    from mlserver.codecs import NumpyCodec, StringCodec

    feeds, expected = load(folder / "plain.npz"), load(folder / "plain-answers.npz")
    url = f"http://{address}/v2"
    types.MetadataServerResponse.model_validate(httpx.get(url).json())
    answer = httpx.get(f"{url}/models/{kind}").json()
    metadata = types.MetadataModelResponse.model_validate(answer)
    assert [tensor.name for tensor in metadata.inputs or []] == list(feeds)
    inputs = []
    for name, array in feeds.items():
        text = array.dtype.kind == "O"
        codec, values = (StringCodec, array.ravel().tolist()) if text else (NumpyCodec, array)
        part = codec.encode_input(name, values)
        part.shape = list(array.shape)
        inputs.append(part)
    request = types.InferenceRequest(inputs=inputs)

    def arrays(response: Any) -> Arrays:
        found = {}
        for output in response.outputs:
            codec = StringCodec if output.datatype == "BYTES" else NumpyCodec
            values = np.asarray(codec.decode_output(output))
            found[output.name] = values.reshape(output.shape)
        return found

    document = request.model_dump(mode="json", exclude_none=True)
    answer = httpx.post(f"{url}/models/{kind}/infer", json=document).raise_for_status().json()
    check(arrays(types.InferenceResponse.model_validate(answer)), expected)
    asked, answered = folder / "in", folder / "out"
    asked.write_text(json.dumps(document) + "\n")
    command = [
        "mlserver",
        "infer",
        "-u",
        address,
        "-m",
        kind,
        "-i",
        str(asked),
        "-o",
        str(answered),
    ]
    subprocess.run([Path(sys.executable).parent / "mlserver", *command[1:]], check=True)
    line = json.loads(answered.read_text())
    check(arrays(types.InferenceResponse.model_validate(line)), expected)


async def kserve(address: str, kind: str, folder: Path) -> None:
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.constants.constants import PredictorProtocol

    url = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V2))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, kind)
    for name, binary in (("feeds", True), ("plain", False)):
        feeds, expected = load(folder / f"{name}.npz"), load(folder / f"{name}-answers.npz")
        inputs = []
        for tensor, array in feeds.items():
            part = InferInput(tensor, list(array.shape), DATATYPES[array.dtype.name])
            part.set_data_from_numpy(array, binary_data=binary)
            inputs.append(part)
        response = await client.infer(url, InferRequest(kind, inputs), model_name=kind)
        check({output.name: output.as_numpy() for output in response.outputs}, expected)
    try:
        await client.infer(url, InferRequest("other", inputs), model_name="other")
    except httpx.HTTPStatusError as error:
        assert "the model is" in str(error)
    else:
        raise AssertionError("another model was answered for")
    first = InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V1))
    assert await first.is_model_ready(url, kind)
    rows = json.loads((folder / "rows.json").read_text())
    answer = await first.infer(url, {"instances": rows}, model_name=kind)
    assert len(answer["predictions"]) == len(rows)


def main(client: str, address: str, kind: str, folder: str) -> None:
    if client == "mlserver":
        mlserver(address, kind, Path(folder))
    else:
        asyncio.run(kserve(address, kind, Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
