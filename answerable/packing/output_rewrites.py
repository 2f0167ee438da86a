"""Outputs that the packed graph splits into named targets, or reduces to the best classes.

Operators at the end of the graph do both, so the handler serves ordinary outputs. The values of the
original model are rewritten here, to compare with.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from answerable.packing import output_fields
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.graph import Classes, Source
from answerable.packing.table import Array, Cells
from handler.manifest import BY_CLASS

OPSET = 18  # of a graph that has operators of other domains alone


class Targets(NamedTuple):
    """An output [rows, targets] becomes one tensor [rows, 1] for each target."""

    tensors: tuple[str, ...]

    def arrays(self, array: Array) -> list[Array]:
        """Return the tensors' values for values of the output."""
        return np.split(array, len(self.tensors), axis=-1)

    def nodes(self, output: str, rank: int) -> tuple[list[NodeProto], dict[str, Array]]:
        """Return the operators, and their constants by name. `rank`: axes of the output."""
        constants = {f"{name}_column": np.array([i]) for i, name in enumerate(self.tensors)}
        nodes = [
            helper.make_node("Gather", [output, column], [name], axis=rank - 1)
            for column, name in zip(constants, self.tensors, strict=True)
        ]
        return nodes, constants


class TopK(NamedTuple):
    """An output [rows, classes] becomes the labels and the numbers of the `k` largest numbers.

    A third tensor has the first label, if the model has no such output.
    """

    tensors: tuple[str, ...]
    k: int
    classes: Array

    def arrays(self, array: Array) -> list[Array]:
        """Return the tensors' values for values of the output."""
        order = np.argsort(-array, axis=-1, kind="stable")[..., : self.k]
        labels = self.classes[order]
        arrays = [labels, np.take_along_axis(array, order, axis=-1), labels[..., :1]]
        return arrays[: len(self.tensors)]

    def nodes(self, output: str, rank: int) -> tuple[list[NodeProto], dict[str, Array]]:
        """Return the operators, and their constants by name. `rank`: axes of the output."""
        labels, numbers, *first = self.tensors
        k, classes, order, zero = (f"{labels}_{word}" for word in ("k", "of", "order", "zero"))
        nodes = [
            helper.make_node("TopK", [output, k], [numbers, order], axis=rank - 1),
            helper.make_node("Gather", [classes, order], [labels]),
        ]
        nodes += [
            helper.make_node("Gather", [labels, zero], [name], axis=rank - 1) for name in first
        ]
        return nodes, {k: np.array([self.k]), classes: self.classes, zero: np.array([0])}


class Rewrites(NamedTuple):
    """The rewritten outputs of a model.

    `tensors`: the original outputs. `stated`: what is stated of the new ones, by their tensors.
    """

    tensors: tuple[str, ...]
    stated: dict[str, Fields]
    by_tensor: dict[str, Targets | TopK] = {}

    def arrays(self, originals: dict[str, Array]) -> dict[str, Array]:
        """Return values [rows, …] of the original outputs as those of the new ones."""
        arrays: dict[str, Array] = {}
        for name, array in originals.items():
            rewrite = self.by_tensor.get(name)
            if not rewrite:
                arrays[name] = array
            elif array.ndim > 1 or len(rewrite.tensors) == 1:  # not a score of two classes
                arrays |= zip(rewrite.tensors, rewrite.arrays(array), strict=True)
        return arrays

    def ties(self, originals: dict[str, Array]) -> list[Array]:
        """Return for each reduced output the rows whose best labels are decided by rounding."""
        reduced = [(name, top) for name, top in self.by_tensor.items() if isinstance(top, TopK)]
        return [output_fields.ties(originals[name], top.k) for name, top in reduced]


def rewrite(
    source: Source, stated: dict[str, Fields], targets: Sequence[str], arrays: Sequence[Array]
) -> Rewrites:
    """Change the outputs of the model to those that the contract file states. Raise PackError.

    `targets`: names for the columns of the first output with as many. `arrays`: the outputs for
    one instance, as the graph gives them.
    """
    tensors = [value.name for value in source.model.graph.output]
    outputs = dict(zip(tensors, arrays, strict=True))
    rewrites: dict[str, Targets | TopK] = {}
    stated = dict(stated)
    for tensor, array in outputs.items():
        names = (tensor, output_fields.default_name(tensor))
        fields = dict(next((stated.pop(name) for name in names if name in stated), {}))
        classes = fields.get("classes") or source.classes.get(tensor, ())
        width = array.shape[-1] if array.ndim else 0
        is_by_class = array.dtype.kind == "f" and len(classes) == width
        if targets and array.ndim == 2 and width == len(targets) and not is_by_class:
            fields, targets = {"targets": tuple(targets)} | fields, ()
        new: dict[str, Fields] = {tensor: fields}
        try:
            if "targets" in fields:
                rewrites[tensor], new = _split(source, [*outputs], fields, width)
            elif "top_k" in fields:
                rewrites[tensor], new = _reduce(source, tensor, fields, classes, outputs)
        except PackError as error:
            raise PackError(f"output {tensor}: {error}") from None
        stated |= {name: new[name] | stated.get(name, {}) for name in new}
    if targets:
        raise PackError(
            f"no output has one column for each of {', '.join(targets)}: "
            "leave columns of the reference out with --ignore, or correct the target names"
        )
    _replace_outputs(source.model, rewrites, outputs)
    return Rewrites(tuple(outputs), stated, rewrites)


def _split(
    source: Source, outputs: Sequence[str], fields: Fields, width: int
) -> tuple[Targets, dict[str, Fields]]:
    """Return one tensor for each target, and what is stated of each."""
    targets = fields.pop("targets")
    names = targets if isinstance(targets, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise PackError("targets must be a list of names")
    if len(set(names)) < len(names):
        raise PackError("two targets have one name")
    if len(names) != width:
        raise PackError(f"{len(names)} targets are stated, and it has {width} columns")
    tensors = tuple(_unused(source.model, str(target)) for target in targets)
    new: dict[str, Fields] = {}
    for i, (tensor, target) in enumerate(zip(tensors, targets, strict=True)):
        new[tensor] = {"name": target} | fields
        for listed in outputs:  # probabilities_0, …: flattened, one for each target
            base, _, index = listed.rpartition("_")
            if base and index == str(i) and listed in source.classes:
                source.classes[tensor] = source.classes[listed]
                new[listed] = {"name": f"{target}_{base}"}
    return Targets(tensors), new


def _reduce(
    source: Source, tensor: str, fields: Fields, classes: Classes, outputs: dict[str, Array]
) -> tuple[TopK, dict[str, Fields]]:
    """Return the tensors of the best classes, and what is stated of each."""
    k, kind, array = fields.pop("top_k"), fields.pop("kind", BY_CLASS[0]), outputs[tensor]
    if kind not in BY_CLASS or not array.ndim or len(classes) != array.shape[-1]:
        raise PackError(f"top_k needs one number per class, and {len(classes)} classes are stated")
    if type(k) is not int or not 0 < k <= len(classes):
        raise PackError(f"top_k is 1 to {len(classes)}")
    name = fields.pop("name", output_fields.default_name(tensor))
    if name == "probabilities" and not output_fields.are_probabilities(array):
        name = "scores"
    named = [
        {"name": f"{name}_classes", "kind": "tensor", "classes": classes},
        {"name": name} | fields | {"kind": "tensor", "classes": ()},
        {"name": f"{name}_label", "kind": "label", "classes": classes},
    ]
    others = [source.classes.get(other) for other, a in outputs.items() if a.dtype.kind != "f"]
    named = named[:2] if classes in others else named
    words = ("classes", "top", "label")
    tensors = [_unused(source.model, f"{tensor}_{word}") for word in words[: len(named)]]
    labels = np.array(classes, object if isinstance(classes[0], str) else np.int64)
    return TopK(tuple(tensors), k, labels), dict(zip(tensors, named, strict=True))


def check_order(targets: dict[str, Cells], predictions: dict[str, Array]) -> None:
    """Raise PackError if predictions fit better to another target than to their own.

    `targets`: the true values. The model does not know the names of its targets.
    """
    for one, other in combinations([name for name in targets if name in predictions], 2):
        (right, crossed), (crossed_too, right_too) = (
            [_misfit(predictions[name], targets[column]) for column in (one, other)]
            for name in (one, other)
        )
        if crossed + crossed_too < right + right_too:
            raise PackError(
                f"the predictions fit to the columns {one} and {other} in the other order: "
                "state the targets in the order of training, with --target-names"
            )


def _misfit(predicted: Array, actual: Cells) -> float:
    """Return the mean absolute error of numbers, or the share of labels that differ."""
    try:
        return float(np.nanmean(np.abs(predicted.ravel() - np.asarray(actual, float))))
    except (TypeError, ValueError):
        return float(np.mean(predicted.ravel().astype(str) != np.asarray(actual).astype(str)))


def _unused(model: ModelProto, name: str) -> str:
    """Return the name, with "_" behind it as long as the graph has a tensor of that name."""
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    while name in names:
        name += "_"
    return name


def _replace_outputs(
    model: ModelProto, rewrites: dict[str, Targets | TopK], outputs: dict[str, Array]
) -> None:
    """Add the operators of the rewrites, and make their tensors the outputs."""
    graph = model.graph
    if all(opset.domain not in ("", "ai.onnx") for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", OPSET))
    values = list(graph.output)
    del graph.output[:]
    for value in values:
        rewrite = rewrites.get(value.name)
        if rewrite is None:
            graph.output.append(value)
            continue
        array = outputs[value.name]
        nodes, constants = rewrite.nodes(value.name, array.ndim)
        graph.node.extend(nodes)
        graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in constants.items()
        )
        for name, example in zip(rewrite.tensors, rewrite.arrays(array), strict=True):
            is_text = example.dtype.kind == "O"
            dtype = (
                TensorProto.STRING if is_text else helper.np_dtype_to_tensor_dtype(example.dtype)
            )
            shape = [*(None for _ in example.shape[:-1]), example.shape[-1]]
            graph.output.append(helper.make_tensor_value_info(name, dtype, shape))
