"""`POST /invocations` of SageMaker and MLflow, and `:predict` of KServe v1.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol

JSON with `dataframe_split`, `dataframe_records`, `instances` or `inputs`; `text/csv` as in
handler/csv_dialect.py, with a header or in the contract's order; `application/x-npy`, where NaN is
null; one picture, where the contract is one.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from handler import csv_dialect, http_body
from handler.duplicate_keys import reject_duplicate_keys
from handler.errors import (
    MAX_VIOLATIONS,
    BadRequest,
    ContractViolation,
    UnsupportedMediaType,
    pointer,
    violation_error,
)
from handler.http import CSV, NPY, Request
from handler.manifest import Tensor
from handler.model_inputs import Array, Columns, dtype
from handler.protocols.tensor_columns import (
    SentTensor,
    check_row_count,
    fit_shape,
    flatten,
    tensor_columns,
)
from handler.scoring import Scorer
from handler.validate import MESSAGES, PointerFor, accepts_arbitrary_text


def parse(scorer: Scorer, request: Request) -> tuple[Columns, Callable[[int], str]]:
    """Return the validated columns of a body, and its rows' pointers. Raise an ApiError."""
    limit, media_type = scorer.manifest.limits.body_bytes, http_body.content_type(request)
    if http_body.is_picture(request, scorer.manifest):
        picture = http_body.read_binary(request, limit)
        return scorer.validator.validate_columns([[picture]], lambda k, row: ""), lambda row: ""
    if media_type == CSV:
        return _parse_csv(scorer, http_body.read_binary(request, limit)), pointer
    if media_type == NPY:
        return _array_columns(scorer, _parse_npy(http_body.read_binary(request, limit))), pointer
    return _parse_json(scorer, http_body.read_json(request, limit))


def _parse_json(scorer: Scorer, body: str | bytes) -> tuple[Columns, Callable[[int], str]]:
    document = scorer.validator.parse_json(body, lists_per_row=len(scorer.manifest.features))
    reject_duplicate_keys(body, document)
    names = [name for name in FORMATS if isinstance(document, dict) and name in document]
    if len(names) != 1:
        raise violation_error("", "missing", f"must have one of {', '.join(FORMATS)}")
    content, where = document[names[0]], names
    columns = FORMATS[names[0]](scorer, content)
    if names == ["dataframe_split"]:
        where = [*names, "data"]
    elif isinstance(content, dict):  # by column: a row has no pointer
        return columns, lambda row: pointer(*where)
    return columns, lambda row: pointer(*where, row)


def _instances(format_name: str) -> Callable[[Scorer, Any], Columns]:
    """Return the parser of rows: objects as for `/predict`, or values in the contract's order."""

    def parse(scorer: Scorer, rows: Any) -> Columns:
        inputs = scorer.manifest.inputs
        if isinstance(rows, list):
            _check_row_count(scorer, [rows], pointer(format_name))
            if format_name == "dataframe_records" and _is_matrix(scorer):
                rows = _matrix_rows(inputs[0], rows)
            if not isinstance(rows[0], dict):
                if scorer.types:
                    return _unnamed_rows(scorer, rows, format_name)
                if len(inputs) == 1:
                    rows = [{inputs[0].name: row} for row in rows]
        try:
            return scorer.validator.validate_rows(rows)
        except ContractViolation as error:
            error.violations = tuple(
                v._replace(pointer=pointer(format_name) + v.pointer.removeprefix("/instances"))
                for v in error.violations
            )
            raise

    return parse


def _is_matrix(scorer: Scorer) -> bool:
    """Return whether the model's only input is a matrix, whose columns have no names."""
    ranks = [len(tensor.shape) for tensor in scorer.manifest.inputs]
    return not scorer.types and scorer.manifest.has_batch_axis and ranks == [2]


def _matrix_rows(tensor: Tensor, records: list[Any]) -> list[Any]:
    """Return a pandas frame's records as rows of a matrix, unless they name the input."""
    names = list(records[0]) if isinstance(records[0], dict) else []
    if not names or tensor.name in names or tensor.shape[1] not in (None, len(names)):
        return records
    if any(not isinstance(record, dict) or list(record) != names for record in records):
        raise violation_error("/dataframe_records", "ragged", "the records differ in their names")
    return [list(record.values()) for record in records]


def _dataframe_split(scorer: Scorer, frame: Any) -> Columns:
    """Parse a pandas frame of `orient="split"`. Its index is ignored."""
    where = ("dataframe_split", "data")
    if not isinstance(frame, dict) or not isinstance(frame.get("data"), list):
        raise violation_error(pointer(*where), "type", "must be an array")
    names = frame.get("columns")
    if _is_matrix(scorer):
        return _tensors(scorer, {scorer.manifest.inputs[0].name: frame["data"]}, *where)
    positions = list(range(len(scorer.types)))  # pandas' default names
    if names is None or (names == positions and set(map(type, names)) == {int}):
        return _unnamed_rows(scorer, frame["data"], *where)
    if not isinstance(names, list) or set(map(type, names)) - {str}:
        raise violation_error(pointer(where[0], "columns"), "type", "must be an array of strings")
    return _rows_of_columns(scorer, names, frame["data"], *where)


def _inputs(scorer: Scorer, data: Any) -> Columns:
    """Parse MLflow's `inputs`: columns or tensors by name, or one array of all rows."""
    features, inputs = scorer.manifest.features, scorer.manifest.inputs
    if not isinstance(data, dict):
        rows = data if isinstance(data, list) else [data]
        if features:
            return _unnamed_rows(scorer, rows, "inputs")
        tensor = _only_input(scorer, "inputs")
        return _tensors(scorer, {tensor.name: rows if tensor.shape else data}, "inputs")
    if features:  # numpy users send columns as [rows, 1]
        named = {name: flatten(values, "/inputs")[0] for name, values in data.items()}
        return _named_columns(
            scorer, named, "/inputs", lambda k, row: pointer("inputs", features[k].name, row)
        )
    _check_names(data, [tensor.name for tensor in inputs], "/inputs")
    return _tensors(scorer, data, "inputs", is_named=True)


FORMATS: dict[str, Callable[[Scorer, Any], Columns]] = {
    "dataframe_split": _dataframe_split,
    "dataframe_records": _instances("dataframe_records"),
    "instances": _instances("instances"),
    "inputs": _inputs,
}


def _unnamed_rows(scorer: Scorer, rows: list[Any], *where: str) -> Columns:
    """Return the columns of rows whose values are in the contract's order."""
    names = [kind.feature.name for kind in scorer.types]
    if len(names) == 1 and set(map(type, rows)) - {list}:
        _check_row_count(scorer, [rows], pointer(*where))  # before each row becomes a list
        rows = [[row] for row in rows]
    return _rows_of_columns(scorer, names, rows, *where)


def _rows_of_columns(scorer: Scorer, names: list[str], rows: list[Any], *where: str) -> Columns:
    """Return the columns of rows whose values are in the order of `names`."""
    _check_row_count(scorer, [rows], pointer(*where))
    if set(map(type, rows)) - {list} or set(map(len, rows)) - {len(names)}:
        raise violation_error(pointer(*where), "ragged", f"must be arrays of {len(names)} items")
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names):
        raise violation_error(pointer(*where), "unknown_field", "a column name is duplicated")
    named = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))

    def pointer_for(k: int, row: int) -> str:
        return pointer(*where, row, index.get(scorer.types[k].feature.name, 0))

    return _named_columns(scorer, named, pointer(*where), pointer_for)


def _named_columns(
    scorer: Scorer, named: dict[str, list[Any]], where: str, pointer_for: PointerFor
) -> Columns:
    """Return the validated columns. A nullable feature may be absent."""
    features = scorer.manifest.features
    if not features:
        raise violation_error(where, "type", "must be tensors: this model has no columns")
    rows = len(next(iter(named.values()), ()))
    if rows:
        required = [feature.name for feature in features if not feature.nullable]
        _check_names(named, [feature.name for feature in features], where, required)
    nulls = [None] * rows
    columns = [named.get(feature.name, nulls) for feature in features]
    _check_row_count(scorer, columns, where)
    return scorer.validator.validate_columns(columns, pointer_for)


def _check_names(
    named: Mapping[str, Any], expected: list[str], where: str, required: Sequence[str] | None = None
) -> None:
    """Raise ContractViolation for missing and unknown names; all are required by default."""
    for name in expected if required is None else required:
        if name not in named:
            raise violation_error(where + pointer(name), *MESSAGES["missing"])
    unknown = len(named.keys() - set(expected))
    if unknown:
        plural = "name that is" if unknown == 1 else "names that are"
        raise violation_error(where, "unknown_field", f"has {unknown} {plural} not in the contract")


def _check_row_count(scorer: Scorer, columns: Columns, where: str) -> None:
    """Raise ContractViolation for columns of unequal length, and for no or too many rows."""
    lengths = set(map(len, columns))
    if len(lengths) != 1:
        raise violation_error(where, "ragged", "the columns differ in length")
    check_row_count(scorer.manifest, lengths.pop(), where)


def _only_input(scorer: Scorer, *where: str) -> Tensor:
    """Return the input of a model that has one. Raise ContractViolation if it has more."""
    if len(scorer.manifest.inputs) > 1:
        raise violation_error(
            pointer(*where), "type", "must name the inputs: the model has several"
        )
    return scorer.manifest.inputs[0]


def _tensors(
    scorer: Scorer, data: Mapping[str, Any], *where: str, is_named: bool = False
) -> Columns:
    """Return the columns of a tensor contract from nested lists or an array for each input."""
    tensors: dict[str, SentTensor] = {}
    rows = None
    for tensor in scorer.manifest.inputs:
        tokens = (*where, tensor.name) if is_named else where
        values = data[tensor.name]
        is_array = isinstance(values, np.ndarray)
        values, nested = (values, values.shape) if is_array else flatten(values, pointer(*tokens))
        shape = fit_shape(scorer.manifest, tensor, nested, pointer(*tokens), rows)
        rows = shape[0] if scorer.manifest.has_batch_axis else None
        tensors[tensor.name] = SentTensor(values, shape, tokens, nested)
    return tensor_columns(scorer.manifest, tensors)


def _array_columns(scorer: Scorer, array: Array) -> Columns:
    """Return the columns of a body that is one array of numbers or booleans."""
    features = scorer.manifest.features
    if not features:
        tensor = _only_input(scorer)
        kinds = "iu" if array.dtype.kind in "iu" else array.dtype.kind
        if dtype(tensor.dtype).kind not in kinds:
            raise violation_error("", "type", f"must be an array of {tensor.dtype}")
        return _tensors(scorer, {tensor.name: array})
    if array.ndim != 2 or array.shape[1] != len(features):
        raise violation_error("", "shape", f"must be an array of the shape [any, {len(features)}]")
    _check_row_count(scorer, [array], "")
    return scorer.tensor_validator.columns(
        scorer.tensor_validator.split(array), lambda k, row: pointer(row, k)
    )


def _parse_npy(data: bytes) -> Array:
    """Return the array of an .npy file. Nothing is unpickled or allocated for its header."""
    file = io.BytesIO(data)
    try:
        is_version_1 = np.lib.format.read_magic(file) == (1, 0)
        reader = "read_array_header_1_0" if is_version_1 else "read_array_header_2_0"
        shape, fortran_order, npy_dtype = getattr(np.lib.format, reader)(file)
    except Exception:  # the parser of the header, a Python literal, raises many exceptions
        raise BadRequest("the body is not an .npy file") from None
    if not all(type(size) is int and size >= 0 for size in shape):  # True is an int, too
        raise BadRequest("the body is not an .npy file")
    if npy_dtype.kind not in "biuf" or npy_dtype.itemsize > 8:
        raise UnsupportedMediaType("an .npy body must hold numbers or booleans")
    try:
        array = np.frombuffer(memoryview(data)[file.tell() :], npy_dtype)
        array = array.reshape(shape, order="F" if fortran_order else "C")
    except ValueError:
        raise BadRequest("the size of the .npy body does not match its header") from None
    return array.astype(npy_dtype.newbyteorder("="), "C")


def _parse_csv(scorer: Scorer, body: bytes) -> Columns:
    types, max_lines = scorer.types, scorer.manifest.limits.rows + 1
    categories = "".join(str(category) for k in types for category in k.feature.categories)
    has_quotes = accepts_arbitrary_text(types) or not {*",;\t|\r\n"}.isdisjoint(categories)
    # before a million cells or lines become objects
    if not has_quotes and (
        max(map(body.count, (b",", b";", b"\t", b"|"))) > 1000 + max_lines * len(types)
        or body.count(b"\n") > 1000 + max_lines
    ):
        raise BadRequest("the body has more cells or lines than the contract's rows can")
    try:
        lines = filter(None, csv_dialect.lines(body.decode("utf-8-sig")))
        first, *rows = islice(lines, max_lines + 1)  # one row over the limit suffices to refuse
    except (ValueError, csv.Error):
        other = csv_dialect.other_format(body)
        raise BadRequest(
            f"the body is {other}, not CSV" if other else "the body is not CSV in UTF-8"
        ) from None
    names, cells = _csv_header(scorer, first, rows)
    if len(set(names)) < len(names) or set(map(len, cells)) - {len(names)}:
        raise violation_error(
            "", "ragged", f"must be rows of {len(names)} cells, after a row of distinct names"
        )
    by_name = {kind.feature.name: kind for kind in types}
    named = {
        name: by_name[name].parse_cells(column, MAX_VIOLATIONS) if name in by_name else [*column]
        for name, column in zip(names, zip(*cells, strict=True), strict=False)
    }
    if names[0] in csv_dialect.INDEX_NAMES and names[0] not in by_name and len(names) > 1:
        named.pop(names[0], None)
    return _named_columns(scorer, named, "", lambda k, row: pointer(row, types[k].feature.name))


def _csv_header(
    scorer: Scorer, first: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return the columns' names, the contract's without a header (SageMaker), and the values."""
    names = [kind.feature.name for kind in scorer.types]
    if not names or not set(names).isdisjoint(first):
        return first, rows
    if len(first) == len(names):
        return names, [first, *rows]
    if csv_dialect.is_numeric(first):
        message = f"must be rows of {len(names)} cells in the contract's order, or have a header"
        raise violation_error("", "ragged", message)
    return first, rows
