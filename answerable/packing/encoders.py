"""Text and picture features: what the contract file states about them, and the graph's inputs."""

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from answerable.packing import graph
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.execution import Samples
from answerable.packing.graph import Source
from answerable.packing.reference import PICTURES, Reference
from handler import feature_types
from handler import manifest as manifests
from handler.core_schema import SchemaValidator, ValidationError
from handler.errors import ArtifactError
from handler.feature_types import FeatureType
from handler.manifest import Feature, Image, Tensor, Tokenizer

TOKENIZER = "tokenizer.json"
LIBRARIES = {"tokenizer": ("tokenizers", "text"), "image": ("PIL", "images")}  # with their extra
MASKS = ("attention_mask", "token_type_ids")


class Encoders(NamedTuple):
    """A model behind the encoders of its text and picture features.

    `inputs`: the tensors of a request. `stated`: the contract file's features, completed.
    """

    source: Source
    inputs: tuple[Tensor, ...]
    stated: dict[str, Fields]
    types: tuple[FeatureType, ...] = ()

    def session(self, session: Any) -> Any:
        """Return a session that takes the tensors of a request."""
        if not self.types:
            return session

        def run(names: Any, feeds: Samples, options: Any = None) -> Any:
            return session.run(names, self.encode(feeds), options)

        return SimpleNamespace(run=run)

    def encode(self, feeds: Samples) -> Samples:
        """Return the graph's inputs."""
        feeds = dict(feeds)
        for kind in self.types:
            feeds |= kind.encode(feeds.pop(kind.feature.input))
        return feeds

    def name_pictures(self, data: Reference | None) -> Reference | None:
        """Return a folder of pictures as the column of the only feature. Raise PackError."""
        if data is None or PICTURES not in data.columns:
            return data
        if len(self.inputs) != 1 or not self.types:
            raise PackError(f"{data.name}: a folder is the sample of a model of one picture")
        return data._replace(columns={self.inputs[0].name: data.columns[PICTURES]})

    def copy_files(self, directory: Path, types: Sequence[FeatureType]) -> None:
        """Copy a tokenizer into the artifact, which the `types` of the sample then load it from."""
        for kind in self.types:
            if kind.feature.tokenizer and kind.directory:
                file = kind.directory / kind.feature.tokenizer.file
                shutil.copyfile(file, directory / TOKENIZER)
        for kind in types:
            kind.directory = directory


def prepare(source: Source, stated: dict[str, Fields], folder: Path) -> Encoders:
    """Return the model with the encoders that the contract file states. Raise PackError."""
    stated, types = dict(stated), []
    inputs = {tensor.name: tensor for tensor in graph.inputs(source.model)}
    for name, fields in stated.items():
        keys = [key for key in LIBRARIES if key in fields]
        if not keys:
            continue
        library, extra = LIBRARIES[keys[0]]
        if find_spec(library) is None:
            raise PackError(f"feature {name}: install {library}: pip install 'answerable[{extra}]'")
        try:
            if keys == ["tokenizer"]:
                tokenizer, names = _tokenizer(fields["tokenizer"], inputs, folder)
                encoding: Fields = {"type": "text", "tokenizer": tokenizer}
            else:
                source, image, names = _image(source, fields["image"], inputs)
                encoding = {"type": "image", "image": image}
            feature = Feature(name, name, **encoding)
            kind = feature_types.make(feature, "string")
        except (PackError, ArtifactError, TypeError, ValueError) as error:
            reason = str(error).removeprefix(f"feature {name}: ")
            raise PackError(f"feature {name}: {reason}") from None
        kind.directory = folder
        types.append(kind)
        if keys == ["tokenizer"]:
            encoding["tokenizer"] = tokenizer._replace(file=TOKENIZER)
        stated[name] = fields | encoding
        leading = inputs[names[0]].shape[:1]
        inputs = {key: tensor for key, tensor in inputs.items() if key not in names}
        inputs[name] = Tensor(name, "string", leading)
    return Encoders(source, tuple(inputs.values()), stated, tuple(types))


def _checked(kind: Any, stated: Fields) -> Any:
    """Return stated fields as the manifest's. Raise PackError for a value of the wrong type."""
    try:
        return SchemaValidator(manifests.schema(kind)).validate_python(stated)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise PackError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _tokenizer(
    stated: Fields, inputs: dict[str, Tensor], folder: Path
) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer's fields, and the names of the inputs that it feeds."""
    fields: Tokenizer = _checked(Tokenizer, stated)
    try:
        document = json.loads((folder / fields.file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackError(f"{fields.file} is no tokenizer.json ({type(error).__name__})") from None
    integers = [t.name for t in inputs.values() if "int" in t.dtype and len(t.shape) == 2]
    ids = [name for name in integers if name not in MASKS]
    if fields.input_ids in integers:
        ids = [fields.input_ids]
    if len(ids) != 1:
        raise PackError("the graph has no input [rows, tokens] of integers called input_ids")
    masks = {name: name for name in MASKS if name in integers}
    length = inputs[ids[0]].shape[1]
    padding, truncation = document.get("padding") or {}, document.get("truncation") or {}
    unknown = document["model"].get("unk_token")
    vocabulary = {token["content"]: token["id"] for token in document.get("added_tokens", ())}
    if isinstance(document["model"].get("vocab"), dict):
        vocabulary = document["model"]["vocab"] | vocabulary
    pads = [vocabulary[token] for token in ("[PAD]", "<pad>") if token in vocabulary]
    max_tokens = fields.max_tokens
    if "max_tokens" not in stated:
        max_tokens = length or truncation.get("max_length") or max_tokens
    if length and max_tokens > length:
        raise PackError(f"max_tokens {max_tokens} is over the graph's {length}")
    return fields._replace(
        max_tokens=max_tokens,
        input_ids=ids[0],
        dtype=inputs[ids[0]].dtype,
        length=length,
        pad_id=padding.get("pad_id", next(iter(pads), 0)),
        unknown_id=document["model"].get("unk_id", vocabulary.get(unknown)),
        **masks,
    ), [*ids, *masks]


def _image(
    source: Source, stated: Fields, inputs: dict[str, Tensor]
) -> tuple[Source, Image, list[str]]:
    """Return the graph that takes resized pictures, the image's fields and the replaced input."""
    pictures = [tensor for tensor in inputs.values() if len(tensor.shape) == 4]
    tensors = pictures or [tensor for tensor in inputs.values() if len(tensor.shape) == 2]
    if len(tensors) != 1:
        raise PackError("the graph has no single input for pictures, of four axes or of two")
    (tensor,) = tensors
    if len(tensor.shape) == 2:
        layout, (height, width, channels) = "flat", (None, None, None)
    else:
        first = tensor.shape[1] in (1, 3)
        layout = stated.get("layout", "NCHW" if first else "NHWC")
        axes = (2, 3, 1) if layout == "NCHW" else (1, 2, 3)
        height, width, channels = (tensor.shape[axis] for axis in axes)
    size = stated.get("size", (height, width))
    mode = stated.get("mode", "L" if channels == 1 else "RGB")
    if None in size:
        raise PackError("the graph does not fix the size: state size = [height, width]")
    fields: Image = _checked(Image, {**stated, "size": size, "mode": mode, "layout": layout})
    count = 1 if mode == "L" else 3
    numbers = size[0] * size[1] * count
    if layout == "flat" and tensor.shape[1] not in (None, numbers):
        raise PackError(f"{list(size)} in {mode} are {numbers} numbers, not {tensor.shape[1]}")
    if layout != "flat" and ((height or size[0], width or size[1]) != size or channels != count):
        raise PackError(f"{list(size)} in {mode} is not the graph's {list(tensor.shape)}")
    if any(len(values) not in (0, 1, count) for values in (fields.mean, fields.std)):
        raise PackError(f"mean and std have one number for each of {count} channels")
    if fields.resize is not None and fields.resize < max(size):
        raise PackError(f"resize {fields.resize} is smaller than the size {list(size)}")
    name = fields.input
    while name in inputs:
        name += "_"
    fields = fields._replace(input=name)
    return source._replace(model=_preprocessed(source.model, tensor, fields)), fields, [tensor.name]


def _preprocessed(model: ModelProto, tensor: Tensor, fields: Image) -> ModelProto:
    """Return the graph behind scale, mean, std and layout, with the input of resized pictures."""
    copy = ModelProto()
    copy.CopyFrom(model)
    (value,) = [value for value in copy.graph.input if value.name == tensor.name]
    kind, channels = value.type.tensor_type.elem_type, 1 if fields.mode == "L" else 3
    steps: list[tuple[str, Any, dict[str, Any]]] = [  # operator, constant and attributes
        ("Cast", None, {"to": TensorProto.FLOAT}),
        ("Mul", np.array([fields.scale], np.float32), {}),
    ]
    if fields.mean:
        steps.append(("Sub", np.array(fields.mean, np.float32), {}))
    if fields.std:
        steps.append(("Div", np.array(fields.std, np.float32), {}))
    if fields.layout == "NCHW":
        steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
    if fields.layout == "flat":
        steps.append(("Reshape", np.array([0, -1]), {}))
    steps.append(("Cast", None, {"to": kind}))
    nodes, last = list[NodeProto](), fields.input
    for i, (operator, constant, attributes) in enumerate(steps):
        names, last = [last], f"{fields.input}.{operator.lower()}{i}"
        if constant is not None:
            names.append(f"{last}.constant")
            copy.graph.initializer.append(numpy_helper.from_array(constant, names[1]))
        nodes.append(helper.make_node(operator, names, [last], **attributes))
    nodes[-1].output[0] = tensor.name
    rows = tensor.shape[0] or "rows"
    value.CopyFrom(
        helper.make_tensor_value_info(
            fields.input, TensorProto.UINT8, [rows, *fields.size, channels]
        )
    )
    nodes += copy.graph.node
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy
