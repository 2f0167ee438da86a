"""Models behind a tokenizer or behind pictures, with their own preprocessing in plain Python."""

import base64
import io
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.zoo.registry import Arrays, Built, accepted, misread, refused, zoo

TEXTS = [
    "good film, really great fun", "a bad, boring film", "great acting and good music",
    "boring plot, bad music", "Good", "awful and bad and boring",
    "a film that nobody has words for", "so bad it hurts",
    "fun and great and good and a film that does not end, so it goes on and on and on",
]  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD, BAD = {"good", "great", "fun"}, {"bad", "boring", "awful"}
WORDS = sorted({word.strip(",").lower() for text in TEXTS[:6] for word in text.split()} | {","})


def tokenizer() -> Tokenizer:
    """Return a tokenizer of whole words, whose vocabulary lacks some words of the sample."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


def encode(texts: list[str], max_tokens: int, length: int | None, dtype: str) -> Arrays:
    """Return input_ids and attention_mask, padded by the tokenizer itself."""
    padding = tokenizer()
    padding.enable_truncation(max_tokens)
    padding.enable_padding(pad_id=0, pad_token="[PAD]", length=length)
    encodings = padding.encode_batch(texts)
    return {
        "input_ids": np.array([e.ids for e in encodings], dtype),
        "attention_mask": np.array([e.attention_mask for e in encodings], dtype),
    }


def mean_of_words(length: int | str, kind: int) -> bytes:
    """Return a model: the logistic function of the mean weight of the words."""
    weights = np.zeros((len(SPECIAL) + len(WORDS), 1), np.float32)
    for i, word in enumerate(WORDS, len(SPECIAL)):
        weights[i] = 4.0 if word in GOOD else -4.0 if word in BAD else 0.25
    make = helper.make_node
    nodes = [
        make("Gather", ["weights", "input_ids"], ["looked_up"]),
        make("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["mask", "two"], ["mask3"]),
        make("Mul", ["looked_up", "mask3"], ["masked"]),
        make("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        make("ReduceSum", ["mask3", "one"], ["count"], keepdims=0),
        make("Div", ["sum", "count"], ["mean"]),
        make("Sigmoid", ["mean"], ["positive"]),
    ]
    value = helper.make_tensor_value_info
    inputs = [value(n, kind, ["batch", length]) for n in ("input_ids", "attention_mask")]
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array([2]), "two"),
    ]
    outputs = [value("positive", TensorProto.FLOAT, ["batch", 1])]
    graph = helper.make_graph(nodes, "zoo", inputs, outputs, constants)
    return _serialize(graph)


def _serialize(graph: Any, *opsets: Any) -> bytes:
    opsets = (helper.make_opsetid("", 17), *opsets)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


@zoo(
    "text",
    contract='[features.review.tokenizer]\nfile = "tokenizer.json"\n',
    files={"tokenizer.json": lambda: tokenizer().to_str().encode()},
    encode=lambda cells: encode(cells["review"], 512, None, "int64"),
    requests=(
        accepted("a longer text than any of the sample", review="good " * 50),
        accepted("words that the vocabulary lacks", review="É 很 👍"),
        accepted("no word", review=""),
        refused("a number", review=1),
    ),
)
def tokens_of_any_length() -> Built:
    """A text classifier behind a tokenizer, with input_ids and attention_mask of any length."""
    return Built(mean_of_words("sequence", TensorProto.INT64), {"review": TEXTS})


@zoo(
    "text",
    fast=False,
    contract='[features.review]\nmax_length = 200\ntokenizer = {file = "tokenizer.json"}\n',
    files={"tokenizer.json": lambda: tokenizer().to_str().encode()},
    encode=lambda cells: encode(cells["review"], 12, 12, "int32"),
    requests=(
        accepted("a text that is cut", review="good " * 40),
        misread("a text that is too long", review="good " * 41),
    ),
)
def tokens_of_fixed_length() -> Built:
    """A text classifier behind a tokenizer: twelve tokens of int32, padded or cut."""
    return Built(mean_of_words(12, TensorProto.INT32), {"review": TEXTS})


def pictures(count: int, mode: str, kind: str, seed: int = 18) -> list[str]:
    """Return seeded smooth pictures of many sizes in base64."""
    rng, texts = np.random.default_rng(seed), []
    for _ in range(count):
        width, height = rng.integers(20, 90, 2).tolist()
        small = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((width, height)).convert(mode).save(file, kind)
        texts.append(base64.b64encode(file.getvalue()).decode())
    return texts


def decode(text: str, mode: str) -> Image.Image:
    """Return a picture as a training script opens it."""
    return Image.open(io.BytesIO(base64.b64decode(text))).convert(mode)


def stretched(cells: dict[str, list[str]]) -> Arrays:
    """Return grey pictures of 8 x 8, flat, from 0 to 1."""
    arrays = [np.asarray(decode(t, "L").resize((8, 8), Image.Resampling.BILINEAR)) for t in
              cells["picture"]]  # fmt: skip
    return {"x": np.stack(arrays).reshape(len(arrays), 64).astype(np.float32) / 255}


def cropped(cells: dict[str, list[str]]) -> Arrays:
    """Return colour pictures: shorter side 20, centre of 16 x 12, normalised, channels first."""
    arrays = []
    for text in cells["picture"]:
        image = decode(text, "RGB")
        scale = 20 / min(image.size)
        size = [20 if n == min(image.size) else int(n * scale) for n in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        left, top = round((size[0] - 12) / 2), round((size[1] - 16) / 2)
        pixels = np.asarray(image.crop((left, top, left + 12, top + 16)), np.float32) / 255
        arrays.append((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    return {"image": np.stack(arrays).transpose(0, 3, 1, 2).astype(np.float32)}


@zoo(
    "picture",
    contract='[features.picture.image]\nsize = [8, 8]\nmode = "L"\n',
    encode=stretched,
    requests=(
        refused("no picture", picture="AAAA"),
        refused("no base64", picture="a picture"),
        refused("a number", picture=1),
    ),
)
def picture_flat() -> Built:
    """A linear model of 64 grey pixels, as scikit-learn exports one."""
    weights = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "zoo",
        [value("x", TensorProto.FLOAT, [None, 64])],
        [value("scores", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return Built(_serialize(graph), {"picture": pictures(9, "L", "PNG")})


@zoo(
    "picture",
    fast=False,
    contract="""
[features.picture.image]
resize = 20
filter = "bicubic"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
""",
    encode=cropped,
)
def picture_cnn() -> Built:
    """A CNN of [N, 3, 16, 12] with torchvision's preprocessing, from JPEG pictures."""
    rng = np.random.default_rng(2)
    value = helper.make_tensor_value_info
    kernel = rng.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"]),
        helper.make_node("Relu", ["convolved"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "zoo",
        [value("image", TensorProto.FLOAT, ["N", 3, 16, 12])],
        [value("features", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return Built(_serialize(graph), {"picture": pictures(9, "RGB", "JPEG")})


@zoo("text", fast=False)
def extension_operator() -> Built:
    """A graph with an operator of onnxruntime-extensions: texts in upper case."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("StringUpper", ["text"], ["upper"], domain="ai.onnx.contrib")]
    graph = helper.make_graph(
        nodes,
        "zoo",
        [value("text", TensorProto.STRING, [None])],
        [value("upper", TensorProto.STRING, [None])],
    )
    model = _serialize(graph, helper.make_opsetid("ai.onnx.contrib", 1))
    return Built(model, {"text": TEXTS})
