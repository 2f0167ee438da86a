"""Modules of torch, and models of MLflow's registry.

`make frameworks` does not install torch, which takes 3 GB: an environment with `answerable[torch]`,
`answerable[sklearn]` and `mlflow` runs these tests.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="torch takes 3 GB: not in make frameworks")
mlflow: Any = pytest.importorskip("mlflow", reason="not in make frameworks")
import pandas as pd  # noqa: E402
import skl2onnx  # noqa: E402
from skl2onnx.common.data_types import FloatTensorType  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

import answerable  # noqa: E402
from answerable.packing.pack import Packed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own
nn: Any = torch.nn
RNG = np.random.default_rng(1)
X = RNG.normal(size=(30, 4)).astype(np.float32)
FRAME = pd.DataFrame(X, columns=list("abcd"))


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pack(model: Any, sample: Any, **options: Any) -> Packed:
    facts: dict[str, Any] = {"name": "model", "version": "1.0.0", "owner": "t", "reason": "t"}
    packed = answerable.pack(model, sample, **facts, threads=1, replace=True, **options)
    return packed


def refused(model: Any, sample: Any, **options: Any) -> str:
    with pytest.raises(answerable.PackError) as caught:
        pack(model, sample, **options)
    return str(caught.value)


class Embedding(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 6)

    def forward(self, ids: Any) -> Any:
        return {"vector": self.table(ids).mean(1), "length": None}


class Two(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any, y: Any) -> Any:
        return [x.softmax(-1), (y * 2, (x + y).sum(1))]


def mlp() -> Any:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


def convolution() -> Any:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 10))


# name -> (module, sample, number of outputs)
MODULES: dict[str, tuple[Callable[[], Any], Any, int]] = {
    "mlp": (mlp, {"x": X}, 1),
    "array": (mlp, X, 1),
    "table": (mlp, FRAME, 1),
    "one row": (mlp, {"x": X[:1]}, 1),
    "float64": (lambda: mlp().double(), {"x": X.astype(np.float64)}, 1),
    "pictures": (convolution, {"image": RNG.normal(size=(3, 3, 9, 9)).astype(np.float32)}, 1),
    "dict": (Embedding, {"ids": RNG.integers(0, 50, (20, 7))}, 1),
    "nested": (Two, {"x": X, "y": X[::-1]}, 3),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_predicts_as_torch(name: str) -> None:
    module, sample, n_outputs = MODULES[name]
    manifest = pack(module(), sample).manifest
    parity = manifest.lineage.parity
    assert parity is not None
    assert parity.source.startswith("torch")
    assert parity.max_difference <= 1e-6
    assert manifest.execution.batch == "dynamic"
    assert len(manifest.outputs) == n_outputs
    if name == "table":
        assert [feature.name for feature in manifest.features] == list("abcd")
    if name == "dict":
        assert manifest.outputs[0].name == "vector"


def test_module_has_targets_or_the_best_classes() -> None:
    names = [output.name for output in pack(mlp(), X, targets=["p", "q"]).manifest.outputs]
    assert names == ["p", "q"]
    stated = {"top_k": 3, "classes": [f"c{i}" for i in range(10)], "kind": "scores"}
    sample = MODULES["pictures"][1]
    packed = pack(convolution(), sample, contract={"outputs": {"linear": stated}})
    assert packed.manifest.outputs[2].name == "linear_label"


def test_table_of_text_and_no_sample_are_refused() -> None:
    assert "has text, and a torch module takes numbers" in refused(mlp(), FRAME.assign(d="x"))
    assert "give one" in refused(mlp(), None)


def test_registry_s_models_are_packed_by_alias() -> None:
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    model = LogisticRegression().fit(FRAME, (FRAME["a"] > 0).astype(int))
    types = [("X", FloatTensorType([None, 4]))]
    graph = skl2onnx.to_onnx(model, initial_types=types)
    pickle = {"serialization_format": "cloudpickle"}
    with mlflow.start_run():
        mlflow.sklearn.log_model(model, name="a", registered_model_name="skops")
        mlflow.sklearn.log_model(model, name="b", registered_model_name="pickle", **pickle)
        mlflow.onnx.log_model(graph, name="c", registered_model_name="onnx")
        mlflow.pytorch.log_model(
            mlp().eval(), name="d", registered_model_name="program", input_example=X
        )
        mlflow.pytorch.log_model(
            mlp(), name="e", registered_model_name="module", serialization_format="pickle"
        )
    for name in ("skops", "pickle", "onnx", "program", "module"):
        mlflow.MlflowClient().set_registered_model_alias(name, "live", 1)
    assert pack("models:/skops@live", FRAME).manifest.lineage.parity
    assert pack("models:/onnx@live", FRAME).manifest.lineage.parity is None
    for name in ("pickle", "program", "module"):
        assert "runs any code in it" in refused(f"models:/{name}@live", FRAME)
        assert pack(f"models:/{name}@live", FRAME, trust=True).manifest.lineage.parity
    message = refused("models:/skops@nobody", FRAME)
    assert message.startswith("MLflow cannot read models:/skops@nobody")
