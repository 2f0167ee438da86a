"""`POST /invocations`, as SageMaker and MLflow have it, and KServe's `:predict` (version 1).

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol

JSON with `dataframe_split`, `dataframe_records`, `instances` or `inputs`; `text/csv` with a header
row, in which an empty cell is null; `application/x-npy`, in which NaN is.
"""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import orjson

from handler import http_body
from handler.contract import MESSAGES, accepts_arbitrary_text, reject_duplicate_keys
from handler.errors import MAX_VIOLATIONS, ApiError, BadRequest, UnsupportedMediaType, pointer
from handler.gateway_events import Request
from handler.manifest import Feature, Tensor
from handler.model_inputs import Array, Columns
from handler.protocols.tensor_columns import Values, flatten, to_array, violation_error
from handler.scoring import Scorer

CSV, NPY = "text/csv", "application/x-npy"


def columns(scorer: Scorer, request: Request) -> Columns:
    """The validated columns of a body in any of the formats. Raises a Refusal."""
    limit, kind = scorer.manifest.limits.body_bytes, http_body.content_type(request)
    if kind == CSV:
        return _csv(scorer, http_body.read_binary(request, limit))
    if kind == NPY:
        return _array(scorer, _npy(http_body.read_binary(request, limit)))
    return _json(scorer, http_body.read_json(request, limit))


def _json(scorer: Scorer, body: str | bytes) -> Columns:
    document = scorer.contract.parsed(body, lists=len(scorer.manifest.features))
    reject_duplicate_keys(body, document)
    forms = [form for form in FORMS if isinstance(document, dict) and form in document]
    if len(forms) != 1:
        raise violation_error("", "missing", f"must have one of {', '.join(FORMS)}")
    return FORMS[forms[0]](scorer, document[forms[0]])


def _rows(form: str) -> Callable[[Scorer, Any], Columns]:
    """Rows as objects: what `/predict` takes; or without names, in the contract's order."""

    def read(scorer: Scorer, rows: Any) -> Columns:
        features, inputs = scorer.manifest.features, scorer.manifest.inputs
        if isinstance(rows, list):  # before each is made an object
            _counted(scorer, [rows], pointer(form))
        if isinstance(rows, list) and not isinstance(rows[0], dict):
            if features:
                return _positions(scorer, rows, form)
            rows = [{_only(scorer, form).name: row} for row in rows] if len(inputs) == 1 else rows
        try:
            return scorer.contract.columns(orjson.dumps({"instances": rows}))
        except ApiError as refusal:
            refusal.violations = tuple(
                told._replace(pointer=f"/{form}{told.pointer.removeprefix('/instances')}")
                for told in refusal.violations
            )
            raise

    return read


def _split(scorer: Scorer, frame: Any) -> Columns:
    """A frame as pandas splits it; its index is nothing to the model."""
    at = ("dataframe_split", "data")
    if not isinstance(frame, dict) or not isinstance(frame.get("data"), list):
        raise violation_error(pointer(*at), "type", "must be an array")
    names = frame.get("columns")
    if names is None:
        return _positions(scorer, frame["data"], *at)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise violation_error(pointer(at[0], "columns"), "type", "must be an array of strings")
    return _table(scorer, names, frame["data"], *at)


def _inputs(scorer: Scorer, data: Any) -> Columns:
    """MLflow's `inputs`: columns or tensors by name, or one array of all rows."""
    features, inputs = scorer.manifest.features, scorer.manifest.inputs
    if not isinstance(data, dict):
        rows = data if isinstance(data, list) else [data]
        if features:
            return _positions(scorer, rows, "inputs")
        return [_tensor(scorer, _only(scorer, "inputs"), rows, "inputs")]
    if features:  # a column may be [rows, 1], as numpy users have it
        each = {name: flatten(values, "/inputs")[0] for name, values in data.items()}
        return _named(
            scorer, each, "/inputs", lambda k, row: pointer("inputs", features[k].name, row)
        )
    _names(data, [tensor.name for tensor in inputs], "/inputs")
    found = [_tensor(scorer, t, data[t.name], "inputs", t.name) for t in inputs]
    _counted(scorer, found, "/inputs")
    return found


FORMS: dict[str, Callable[[Scorer, Any], Columns]] = {
    "dataframe_split": _split,
    "dataframe_records": _rows("dataframe_records"),
    "instances": _rows("instances"),
    "inputs": _inputs,
}


def _positions(scorer: Scorer, rows: list[Any], *at: str) -> Columns:
    """Rows without names."""
    names = [feature.name for feature in scorer.manifest.features]
    if len(names) == 1 and set(map(type, rows)) - {list}:
        rows = [[row] for row in rows]
    return _table(scorer, names, rows, *at)


def _table(scorer: Scorer, names: list[str], rows: list[Any], *at: str) -> Columns:
    """Rows as lists beside the names of their columns."""
    _counted(scorer, [rows], pointer(*at))  # before a column is made of each
    if set(map(type, rows)) - {list} or set(map(len, rows)) - {len(names)}:
        raise violation_error(pointer(*at), "ragged", f"must be arrays of {len(names)} items")
    order = {name: i for i, name in enumerate(names)}
    if len(order) < len(names):
        raise violation_error(pointer(*at), "unknown_field", "a column is there more than once")
    each = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    features = scorer.manifest.features
    return _named(
        scorer,
        each,
        pointer(*at),
        lambda k, row: pointer(*at, row, order.get(features[k].name, 0)),
    )


def _named(
    scorer: Scorer, each: dict[str, list[Any]], at: str, where: Callable[[int, int], str]
) -> Columns:
    """Columns by the names of features; that of a nullable feature may be left out."""
    features = scorer.manifest.features
    if not features:
        raise violation_error(at, "type", "must be tensors: this model has no columns")
    count = len(next(iter(each.values()), ()))
    if count:
        required = [feature.name for feature in features if not feature.nullable]
        _names(each, [feature.name for feature in features], at, required)
    absent = [None] * count
    found = [each.get(feature.name, absent) for feature in features]
    _counted(scorer, found, at)
    return scorer.contract.validated(found, where)


def _names(
    given: Mapping[str, Any], known: list[str], at: str, required: Sequence[str] | None = None
) -> None:
    for name in known if required is None else required:
        if name not in given:
            raise violation_error(at + pointer(name), *MESSAGES["missing"])
    unknown = len(given.keys() - set(known))
    if unknown:
        plural = "name that is" if unknown == 1 else "names that are"
        raise violation_error(at, "unknown_field", f"has {unknown} {plural} not in the contract")


def _counted(scorer: Scorer, found: Columns, at: str) -> None:
    """Refuses columns of unequal length, none and too many rows."""
    counts, most = set(map(len, found)), scorer.manifest.limits.rows
    if len(counts) != 1:
        raise violation_error(at, "ragged", "the columns differ in length")
    (count,) = counts
    if not 0 < count <= most:
        code, message = MESSAGES["too_long" if count else "too_short"]
        raise violation_error(at, code, message.format(max_length=most, min_length=1))


def _only(scorer: Scorer, *at: str) -> Tensor:
    """The one input of a model that has no more."""
    if len(scorer.manifest.inputs) > 1:
        raise violation_error(pointer(*at), "type", "must name the inputs: the model has several")
    return scorer.manifest.inputs[0]


def _tensor(scorer: Scorer, tensor: Tensor, data: Any, *at: str) -> Values:
    """One input of a tensor contract, all rows of it, from nested lists or an array."""
    where, limit = pointer(*at), scorer.manifest.limits.elements
    if isinstance(data, np.ndarray):
        if data.dtype.name != tensor.dtype:
            raise violation_error(where, "type", f"must be an array of {tensor.dtype}")
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            raise violation_error(where, *MESSAGES["finite_number"])
        array: Array = data
    else:
        values, shape = flatten(data, where)

        def place(k: int) -> str:
            return pointer(*at, *(int(i) for i in np.unravel_index(k, shape)))

        array = to_array(values, tensor.dtype, place).reshape(shape)
    whole = scorer.manifest.execution.batch == "none"
    axes = tensor.shape if whole else (None, *tensor.shape[1:])
    if array.ndim != len(axes) or any(
        size not in (None, n) for size, n in zip(axes, array.shape, strict=True)
    ):
        text = ", ".join("any" if size is None else str(size) for size in axes)
        raise violation_error(where, "shape", f"must be an array of the shape [{text}]")
    rows: Values = [array] if whole else array
    _counted(scorer, [rows], where)
    if math.prod(array.shape if whole else array.shape[1:]) > limit:
        raise violation_error(where, "too_many_elements", f"a tensor has at most {limit} elements")
    return rows


def _array(scorer: Scorer, array: Array) -> Columns:
    """A body that is one array, of numbers or flags."""
    features = scorer.manifest.features
    if not features:
        return [_tensor(scorer, _only(scorer), array)]
    if array.ndim != 2 or array.shape[1] != len(features):
        raise violation_error("", "shape", f"must be an array of the shape [any, {len(features)}]")
    _counted(scorer, [array], "")
    return scorer.table.columns(scorer.table.inputs(array), lambda k, row: pointer(row, k))


def _npy(data: bytes) -> Array:
    """The array of an .npy file. Nothing of it is unpickled, nothing allocated on its word."""
    file = io.BytesIO(data)
    try:
        first = np.lib.format.read_magic(file) == (1, 0)
        header = "read_array_header_1_0" if first else "read_array_header_2_0"
        shape, fortran, dtype = getattr(np.lib.format, header)(file)
    except Exception:  # the header is a Python literal, and its parser raises all that Python does
        raise BadRequest("the body is not an .npy file") from None
    if dtype.kind not in "biuf":
        raise UnsupportedMediaType("an .npy body holds numbers or flags")
    try:
        array = np.frombuffer(memoryview(data)[file.tell() :], dtype)
        array = array.reshape(shape, order="F" if fortran else "C")
    except ValueError:
        raise BadRequest("the .npy body has another size than its header says") from None
    return array.astype(dtype.newbyteorder("="), "C")


def _csv(scorer: Scorer, body: bytes) -> Columns:
    features, most = scorer.manifest.features, scorer.manifest.limits.rows + 1
    known = "".join(str(category) for f in features for category in f.categories)
    texts = accepts_arbitrary_text(features) or not {*",\r\n"}.isdisjoint(known)
    # a million cells or lines would be made objects, only to be refused
    if not texts and (
        body.count(b",") > 1000 + most * len(features) or body.count(b"\n") > 1000 + most
    ):
        raise BadRequest("the body has more cells or lines than the contract's rows can")
    try:
        text = io.StringIO(body.decode("utf-8-sig"), newline="")
        lines = filter(None, csv.reader(text, strict=True))
        # one row too many is enough to be refused for
        names, *cells = islice(lines, most + 1)
    except (ValueError, csv.Error):
        raise BadRequest("the body is not CSV in UTF-8 with a header row") from None
    if len(set(names)) < len(names) or set(map(len, cells)) - {len(names)}:
        raise violation_error(
            "", "ragged", f"must be rows of {len(names)} cells, the first their names"
        )
    named = {feature.name: feature for feature in features}
    each = {
        name: _cells(named[name], column) if name in named else list(column)
        for name, column in zip(names, zip(*cells, strict=True), strict=False)
    }
    return _named(scorer, each, "", lambda k, row: pointer(row, features[k].name))


def _cells(feature: Feature, column: Sequence[str]) -> list[Any]:
    """A column's values as JSON would have them; what cannot be read stays text, and is refused."""
    empty = "" if feature.type == "text" and not feature.nullable else None
    if feature.type == "boolean":
        return [_FLAGS.get(cell.lower(), cell) if cell else None for cell in column]
    if feature.type == "text" or any(isinstance(known, str) for known in feature.categories):
        return [cell or empty for cell in column]
    read: type[Any] = int if feature.type == "integer" else float
    with contextlib.suppress(ValueError):
        values = list(map(read, column))
        if math.isfinite(sum(values)) and "_" not in "".join(column):
            return values
    found: list[Any] = []
    wrong = 0
    for i, cell in enumerate(column):
        found.append(_number(cell))
        wrong += type(found[-1]) is str
        if wrong > MAX_VIOLATIONS:  # nobody is told of the rest
            return [*found, *column[i + 1 :]]
    return found


_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _number(cell: str) -> Any:
    try:
        value = int(cell) if cell.lstrip("-").isdecimal() else float(cell.replace("_", "x"))
    except ValueError:
        return cell or None
    return value if value == value else None
