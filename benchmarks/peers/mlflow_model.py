"""Save an ONNX file as an MLflow pyfunc with a signature: `python mlflow_model.py ONNX CSV DIR`.

MLflow's own ONNX flavour passes a column of a DataFrame as [N]; the example's inputs are [N, 1].
"""

import sys
from typing import Any

import mlflow  # type: ignore[import-not-found]
import numpy as np
import onnxruntime
import pandas as pd


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The ONNX session on the columns of a DataFrame."""

    def load_context(self, context: Any) -> None:
        self.session = onnxruntime.InferenceSession(context.artifacts["onnx"])

    def predict(self, context: Any, model_input: Any, params: Any = None) -> pd.DataFrame:
        feeds = {
            name: model_input[[name]].to_numpy(object if name == "sex" else np.float32)
            for name in model_input
        }
        return pd.DataFrame({"progression": self.session.run(None, feeds)[0].ravel()})


if __name__ == "__main__":
    onnx_file, sample, target = sys.argv[1:]
    signature = mlflow.models.infer_signature(pd.read_csv(sample, nrows=1000, dtype={"sex": str}))
    mlflow.pyfunc.save_model(
        target, python_model=Model(), artifacts={"onnx": onnx_file}, signature=signature,
        pip_requirements=[],
    )  # fmt: skip
