"""How the digits model was made: `python examples/digits/train.py OUT_DIR`.

scikit-learn's bundled digits (Alpaydin and Kaynak 1998): 1,797 pictures of handwritten digits, 8 x
8 pixels. Writes to OUT_DIR:

    model.onnx      a small convolutional network: `image` [N, 1, 8, 8] -> `digit`, `probabilities`
    pictures/       200 of the pictures as PNG: the sample for `answerable pack`
    metrics.json    the accuracy of model.onnx on held-out pictures

The filters are seeded and fixed, and scikit-learn fits the layer behind them, so no framework for
networks is needed. A network trained elsewhere is packed in the same way.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

SEED, FILTERS, PICTURES = 8, 48, 200
FEATURES = "features"

Array = NDArray[Any]


def graph(weights: Array, bias: Array) -> Any:
    """Return the network; `weights` [features, 10] and `bias` [10] are those of its last layer."""
    kernel = np.random.default_rng(SEED).normal(size=(FILTERS, 1, 3, 3)).astype(np.float32)
    constants = {"kernel": kernel, "weights": weights, "bias": bias}
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"]),
        helper.make_node("Relu", ["convolved"], ["active"]),
        helper.make_node(
            "AveragePool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]
        ),
        helper.make_node("Flatten", ["pooled"], [FEATURES]),
        helper.make_node("Gemm", [FEATURES, "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
        helper.make_node("ArgMax", ["scores"], ["digit"], axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    outputs = [
        value("digit", TensorProto.INT64, ["N"]),
        value("probabilities", TensorProto.FLOAT, ["N", 10]),
    ]
    body = helper.make_graph(
        nodes,
        "digits",
        [value("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def features(images: Array) -> Array:
    """Return what the last layer gets, shape [N, features]."""
    model = graph(np.zeros((FILTERS * 9, 10), np.float32), np.zeros(10, np.float32))
    model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run([FEATURES], {"image": scaled(images)})[0])


def scaled(images: Array) -> Array:
    """Return pictures of 0 to 255 as the network takes them: from 0 to 1, [N, 1, 8, 8]."""
    return (images[:, None] / 255).astype(np.float32)


def main() -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description="Train and export the digits example.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="made if it is not there")
    out = parser.parse_args().out
    (out / "pictures").mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    train, held_out, train_labels, held_out_labels = train_test_split(
        images, digits.target, test_size=0.2, random_state=SEED
    )
    layer = LogisticRegression(C=0.1, max_iter=1000).fit(features(train), train_labels)
    model = graph(layer.coef_.T.astype(np.float32), layer.intercept_.astype(np.float32))
    content = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content)
    answers = session.run(["digit"], {"image": scaled(held_out)})[0]
    metrics = {
        "held_out_accuracy": round(float(np.mean(answers == held_out_labels)), 4),
        "held_out_rows": len(held_out),
    }
    (out / "model.onnx").write_bytes(content)
    for i, image in enumerate(images[:PICTURES]):
        Image.fromarray(image).save(out / f"pictures/{i:03}-{digits.target[i]}.png")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: " + ", ".join(f"{name} {value}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
