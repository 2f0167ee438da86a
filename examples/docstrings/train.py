"""How the docstrings model was made: `python examples/docstrings/train.py OUT_DIR`.

The first lines of the docstrings of NumPy, pandas and scikit-learn, as they are installed: about a
thousand sentences, each with the library that it documents. Writes to OUT_DIR:

    model.onnx      `input_ids` and `attention_mask` [N, tokens] -> `library`, `probabilities`
    tokenizer.json  byte pairs, trained on the sentences, in the format of Hugging Face's tokenizers
    reference.csv   the sentences: the sample for `answerable pack`
    metrics.json    the accuracy of model.onnx on held-out sentences

The network has one layer: the mean of the tokens' weights, fitted by scikit-learn. A transformer
that was exported with the same two inputs is packed in the same way.
"""

import argparse
import csv
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SEED, VOCABULARY, MAX_TOKENS = 3, 1500, 64
MODULES = {
    "NumPy": ["numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.ma"],
    "pandas": ["pandas", "pandas.DataFrame", "pandas.Series", "pandas.Index", "pandas.api.types"],
    "scikit-learn": [
        "sklearn.cluster", "sklearn.datasets", "sklearn.decomposition", "sklearn.ensemble",
        "sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.metrics",
        "sklearn.model_selection", "sklearn.neighbors", "sklearn.preprocessing", "sklearn.svm",
    ],
}  # fmt: skip
LIBRARIES = list(MODULES)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

Array = NDArray[Any]


def sentences() -> dict[str, str]:
    """Return the library by sentence; a sentence of two libraries is left out."""
    libraries: dict[str, str] = {}
    shared = set()
    for library, names in MODULES.items():
        for sentence in {text for name in names for text in _first_lines(name)}:
            if libraries.setdefault(sentence, library) != library:
                shared.add(sentence)
    return {text: libraries[text] for text in sorted(libraries) if text not in shared}


def _first_lines(name: str) -> Iterator[str]:
    try:
        owner = importlib.import_module(name)
    except ModuleNotFoundError:  # a class
        module, _, attribute = name.rpartition(".")
        owner = getattr(importlib.import_module(module), attribute)
    for attribute in dir(owner):
        if attribute.startswith("_"):
            continue
        member = inspect.getattr_static(owner, attribute)
        text = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
        if 20 <= len(text) <= 300 and "(" not in text:
            yield text


def tokenizer(texts: list[str]) -> Tokenizer:
    """Return a tokenizer that is trained on texts."""
    built = Tokenizer(models.BPE(unk_token=SPECIAL[1]))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False
    )
    built.train_from_iterator(texts, trainer)
    built.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    built.enable_padding(pad_id=0, pad_token="[PAD]")
    built.enable_truncation(MAX_TOKENS)
    return built


def feeds(encoder: Tokenizer, texts: list[str]) -> dict[str, Array]:
    """Return the model's inputs."""
    encodings = encoder.encode_batch(texts)
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings]),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
    }


def shares(inputs: dict[str, Array], size: int) -> Array:
    """Return the share of each token in each text, shape [N, size]."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    counts = np.zeros((len(ids), size))
    np.add.at(counts, (np.arange(len(ids))[:, None], ids), mask)
    return np.asarray(counts / mask.sum(axis=1, keepdims=True))


def graph(weights: Array, bias: Array) -> bytes:
    """Return the network as ONNX; `weights` [tokens, libraries], `bias` [libraries]."""
    constants = {
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
        "libraries": np.array(LIBRARIES, object),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    make = helper.make_node
    nodes = [
        make("Gather", ["weights", "input_ids"], ["looked_up"]),
        make("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["mask", "two"], ["mask_of_weights"]),
        make("Mul", ["looked_up", "mask_of_weights"], ["masked"]),
        make("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        make("ReduceSum", ["mask_of_weights", "one"], ["count"], keepdims=0),
        make("Div", ["sum", "count"], ["mean"]),
        make("Add", ["mean", "bias"], ["scores"]),
        make("Softmax", ["scores"], ["probabilities"]),
        make("ArgMax", ["scores"], ["number"], axis=1, keepdims=0),
        make("Gather", ["libraries", "number"], ["library"]),
    ]
    value = helper.make_tensor_value_info
    names = ("input_ids", "attention_mask")
    body = helper.make_graph(
        nodes,
        "docstrings",
        [value(name, TensorProto.INT64, ["N", "tokens"]) for name in names],
        [
            value("library", TensorProto.STRING, ["N"]),
            value("probabilities", TensorProto.FLOAT, ["N", len(LIBRARIES)]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description="Train and export the docstrings example.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="made if it is not there")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    rows = sentences()
    train, held_out = train_test_split(list(rows), test_size=0.2, random_state=SEED)
    encoder = tokenizer(train)
    size = encoder.get_vocab_size()
    layer = LogisticRegression(C=100, max_iter=1000)
    layer.fit(shares(feeds(encoder, train), size), [LIBRARIES.index(rows[t]) for t in train])
    content = graph(layer.coef_.T, layer.intercept_)
    session = onnxruntime.InferenceSession(content)
    answers = session.run(["library"], feeds(encoder, held_out))[0]
    correct = [answer == rows[text] for answer, text in zip(answers, held_out, strict=True)]
    metrics = {
        "held_out_accuracy": round(float(np.mean(correct)), 4),
        "held_out_rows": len(held_out),
    }
    (out / "model.onnx").write_bytes(content)
    encoder.save(str(out / "tokenizer.json"))
    with open(out / "reference.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["sentence"])
        lines.writerows([text] for text in rows)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: " + ", ".join(f"{name} {value}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
