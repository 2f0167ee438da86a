"""MLServer's REST application in process, without sockets: V2 request in, response out.

Runs in MLServer's own environment: `python mlserver_app.py FOLDER`; for each line `case calls` of
stdin it writes the median seconds. What an ASGI server would add is left out, and the run costs
nothing: its answer is ready.
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from mlserver import MLModel, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.registry import MultiModelRegistry
from mlserver.repository import ModelRepositoryFactory
from mlserver.rest.app import create_app
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):  # type: ignore[misc]
    """Decodes and encodes as MLServer's own runtimes do."""

    expected: Any = None  # shapes of the input and of the output

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        shape, answer = self.expected
        (part,) = payload.inputs
        if part.datatype == "BYTES":
            (data,) = Base64Codec.decode_input(part)
            array = np.frombuffer(data, np.float32).reshape(shape)
        else:
            array = NumpyCodec.decode_input(part)
        assert array.shape == tuple(shape)
        output = NumpyCodec.encode_output("y", np.ones(answer, np.float32))
        return InferenceResponse(model_name="m", outputs=[output])


async def call(app: Any, body: bytes) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v2/models/m/infer",
        "raw_path": b"/v2/models/m/infer",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent


async def main(folder: Path) -> None:
    settings = Settings(debug=False, parallel_workers=0)
    registry = MultiModelRegistry()
    repository = ModelRepositoryFactory.resolve_model_repository(settings)
    plane = DataPlane(settings=settings, model_registry=registry)
    app = create_app(settings, plane, ModelRepositoryHandlers(repository, registry))
    await registry.load(ModelSettings(name="m", implementation=Runtime))
    for line in sys.stdin:
        name, calls = line.split()
        body = (folder / f"{name}.body").read_bytes()
        Runtime.expected = orjson.loads((folder / f"{name}.shapes").read_bytes())
        seconds = []
        for _ in range(int(calls)):
            start = time.perf_counter()
            await call(app, body)
            seconds.append(time.perf_counter() - start)
        print(statistics.median(seconds), flush=True)


asyncio.run(main(Path(sys.argv[1])))
