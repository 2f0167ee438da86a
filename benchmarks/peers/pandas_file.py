"""Score a file by hand: `python pandas_file.py MODEL INPUT OUTPUT`. It validates nothing.

MODEL is an ONNX file, or a folder that mlflow_model.py saved.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CHUNK_ROWS = 100_000
model, source, target = sys.argv[1:]


def chunks() -> Iterator[pd.DataFrame]:
    if source.endswith(".parquet"):
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(source).iter_batches(CHUNK_ROWS):
            yield batch.to_pandas()
    elif source.endswith(".jsonl"):
        yield from pd.read_json(source, lines=True, chunksize=CHUNK_ROWS, dtype={"sex": str})
    else:
        yield from pd.read_csv(source, chunksize=CHUNK_ROWS, dtype={"sex": str})


if Path(model).is_dir():
    import mlflow  # type: ignore[import-not-found]

    pyfunc = mlflow.pyfunc.load_model(model)

    def predict(frame: pd.DataFrame) -> Any:
        return pyfunc.predict(frame)["progression"].to_numpy()
else:
    import onnxruntime

    session = onnxruntime.InferenceSession(model)

    def predict(frame: pd.DataFrame) -> Any:
        feeds = {
            name: frame[[name]].to_numpy(object if name == "sex" else np.float32) for name in frame
        }
        return session.run(None, feeds)[0].ravel()


tables = []
with open(target, "w") as file:
    first = 0
    for frame in chunks():
        rows = np.arange(first, first + len(frame))
        output = pd.DataFrame({"row": rows, "progression": predict(frame)})
        if source.endswith(".parquet"):
            tables.append(output)
        elif source.endswith(".jsonl"):
            output.to_json(file, orient="records", lines=True)
        else:
            output.to_csv(file, header=not first, index=False)
        first += len(frame)
if tables:
    pd.concat(tables).to_parquet(target)
