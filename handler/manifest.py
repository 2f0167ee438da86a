"""`model_artifacts/<name>/manifest.json` as one frozen object: the only source of the contract.

NamedTuples instead of dataclasses: creating a class costs 0.2 ms instead of 1 ms on every cold
start. pydantic-core validates them strictly from their own annotations, so a damaged or misspelt
manifest stops the function at init and not in the middle of a request.
"""

import errno
import os
import stat
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from handler import core_schema as cs
from handler.core_schema import SchemaValidator, ValidationError, from_json
from handler.errors import ArtifactError

FORMAT = 2
FILE_NAME = "manifest.json"
# holds the SHA-256 of manifest.json in lower-case hex; delete it after editing by hand
DIGEST_FILE_NAME = "manifest.sha256"
OPENAPI_FILE_NAME = "openapi.json"
MODEL_FILE_NAME = "model.onnx"
DTYPES = {
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "string",
}  # fmt: skip

EXTENSION_DOMAINS = frozenset(("ai.onnx.contrib", "com.microsoft.extensions"))

FeatureTypeName = Literal["number", "integer", "category", "boolean", "text", "date", "image"]
OutputKind = Literal["value", "label", "probabilities", "scores", "tensor"]
BY_CLASS = ("probabilities", "scores")  # kinds of outputs that have one number per class
BatchMode = Literal["dynamic", "single", "none"]
Policy = Literal["reject", "accept"]
LogPolicy = Literal["keep", "hash", "drop"]
Shape = tuple[int | None, ...]
Bound = int | float | str | None  # of a date, an ISO 8601 string


def row_shape(shape: Shape, batch: BatchMode) -> Shape:
    """Return the shape of one row of a tensor: without the leading axis, where that is the rows."""
    return shape if batch == "none" else shape[1:]


class File(NamedTuple):
    """A file of the artifact: lower-case hex SHA-256 and size in bytes."""

    sha256: str
    bytes: int


class Tensor(NamedTuple):
    """An ONNX graph input. `dtype` is numpy's name, or "string"; None in `shape` is a free axis.

    `axes` names the axes, "" for one without a name. Free axes of one name have one length, in all
    inputs of a request. `minimum` and `maximum` are inclusive bounds of the elements, `min_shape`
    and `max_shape` of the lengths of free axes; None and () are no bound.
    """

    name: str
    dtype: str
    shape: Shape
    axes: tuple[str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    min_shape: Shape = ()
    max_shape: Shape = ()


class Tokenizer(NamedTuple):
    """The tokenizer of a text feature, and the graph's inputs that its tokens feed.

    `file` is a `tokenizer.json` of Hugging Face's `tokenizers`. A text of more than `max_tokens`
    tokens, special ones included, is cut at its end. `length` is the number of tokens that the
    graph is fixed to. "" is an input that the graph does not have. `dtype` is that of the inputs.
    """

    file: str = "tokenizer.json"
    max_tokens: int = 512
    input_ids: str = "input_ids"
    attention_mask: str = ""
    token_type_ids: str = ""
    dtype: str = "int64"
    length: int | None = None
    pad_id: int = 0
    unknown_id: int | None = None


class Image(NamedTuple):
    """The preprocessing of a picture.

    Decoding, EXIF orientation, `resize` and crop are Pillow's. With `resize`, the shorter side gets
    that length and the centre of `size` (height, width) is kept; without, the picture is stretched
    to `size`. `scale`, `mean`, `std` and `layout` are operators of the packed graph: a pixel of 0
    to 255 becomes (pixel * scale - mean) / std. `input` is the graph's, [rows, height, width,
    channels] of uint8. A picture of more than `max_bytes` or `max_pixels` is not decoded.
    """

    size: tuple[int, int]
    mode: Literal["RGB", "L"] = "RGB"
    resize: int | None = None
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    exif_orientation: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NCHW", "NHWC", "flat"] = "NCHW"
    input: str = "pixels"
    max_bytes: int = 4_000_000
    max_pixels: int = 8_000_000


class Feature(NamedTuple):
    """One named field of a tabular instance, and its column in one of the graph's inputs.

    `minimum` and `maximum` are inclusive. `fill_value` replaces a null or absent value of a
    nullable feature before the model runs; None means NaN, or "" in a string tensor. `log_policy`
    says what a record with payload keeps of the value. `hash` makes equal values recognisable;
    it needs the secret, without which values could be guessed. A feature with a `tokenizer` or an
    `image` is encoded: its `input` is no input of the graph, but a tensor of strings that becomes
    the graph's inputs.
    """

    name: str
    input: str
    type: FeatureTypeName
    column: int = 0
    unit: str = ""
    description: str = ""
    minimum: Bound = None
    maximum: Bound = None
    out_of_range: Policy = "reject"
    categories: tuple[str | int | float, ...] = ()
    unknown_category: Policy = "reject"
    max_length: int | None = None
    nullable: bool = False
    fill_value: str | bool | int | float | None = None
    log_policy: LogPolicy = "keep"
    example: str | bool | int | float | None = None
    tokenizer: Tokenizer | None = None
    image: Image | None = None


class Decision(NamedTuple):
    """A threshold on an output: `above` means at least `threshold`, `below` means under it.

    Values within `review`, both ends included, need a human. For probabilities, `class_label`
    names the class whose probability is compared.
    """

    threshold: float
    above: str = "yes"
    below: str = "no"
    class_label: str | int | None = None
    review: tuple[float, float] | None = None


class Output(NamedTuple):
    """One field of a prediction, read from the ONNX output `tensor`."""

    name: str
    tensor: str
    dtype: str
    shape: Shape
    kind: OutputKind
    unit: str = ""
    description: str = ""
    classes: tuple[str | int, ...] = ()
    decision: Decision | None = None


class Limits(NamedTuple):
    """Rows per request, bytes of the decoded body and of the response, elements per tensor."""

    rows: int
    body_bytes: int
    response_bytes: int
    elements: int


class Distribution(NamedTuple):
    """An empirical distribution function F of `rows` values that are not null.

    `cdf_left` is F just below each of `values`, `cdf_right` is F at it. Numbers ascend, and F is
    linear between neighbours. Categories have their frequencies as steps. `missing_share` is the
    share of null values among all.
    """

    rows: int
    missing_share: float
    values: tuple[str | bool | int | float, ...]
    cdf_left: tuple[float, ...]
    cdf_right: tuple[float, ...]


class Baseline(NamedTuple):
    """The distributions of inputs and outputs at pack time, by feature or output name.

    Probabilities have one distribution per class, under `output.class`. A text feature has the
    distribution of its length in characters, a date that of its days since 1970-01-01. A raw
    tensor has the distributions of summaries (handler/drift/summaries.py), under `tensor.summary`.
    """

    rows: int
    features: dict[str, Distribution]
    outputs: dict[str, Distribution]


class Execution(NamedTuple):
    """The settings of a graph's run.

    `batch` is "dynamic" if the leading axis of every tensor is the rows,
    "single" if it is fixed at 1 (one run per row), "none" if there is none (one run per instance).
    `external_data`: the graph may read other files. `value_dependent_shapes`: the time of a run may
    depend on its inputs' values, not on their shapes alone.
    """

    intra_op_threads: int = 1
    batch: BatchMode = "dynamic"
    external_data: bool = True
    value_dependent_shapes: bool = True


class Parity(NamedTuple):
    """The packed model's predictions on the reference, compared with the original model's.

    `source` is the framework and its version, or the file with the predictions. A difference is
    |a - b| / max(1, |b|). `flipped_labels` counts labels that differ.
    """

    source: str
    rows: int
    max_difference: float
    mean_difference: float
    flipped_labels: int
    tolerance: float


class Lineage(NamedTuple):
    """The origin and the reason of this version. `packed_at` is UTC, ISO 8601."""

    reason: str
    packed_at: str
    source_sha256: str
    data_sha256: str | None = None
    git_commit: str | None = None
    versions: dict[str, str] = {}
    metrics: dict[str, int | float] = {}
    parity: Parity | None = None


class Alarms(NamedTuple):
    """Alarm thresholds.

    `availability`: minimum percentage of requests without a server error.
    `latency_ms`: maximum 99th percentile of the latency.
    `client_error_max_percent`: maximum percentage of requests with a client error.
    `drift_threshold`: maximum drift score (handler/drift/decision.py) over `drift_hours`, which
    are 1 to 24, with at least `drift_min_rows` values.
    `unseen_max_percent`: maximum percentage of rows with a value that the baseline does not know.
    `max_days_without_outcomes`: 1 to 7, or 0 for no alarm.
    `min_daily_impact`: minimum mean outcome value of a day, in the unit of `outcome_value`.
    `queue_minutes`: maximum wait of a job.
    """

    availability: float = 99.9
    latency_ms: float = 1000.0
    client_error_max_percent: float = 20.0
    drift_threshold: float = 0.05
    drift_hours: int = 24
    drift_min_rows: int = 50
    unseen_max_percent: float = 1.0
    max_days_without_outcomes: int = 0
    min_daily_impact: float | None = None
    queue_minutes: float = 15.0


class OutcomeValue(NamedTuple):
    """The value of an outcome in `unit`, where the caller does not state it.

    Of a number: `value` less `cost` per unit of absolute error. Of a class: `outcomes` by predicted
    and then by actual class, if it has both; else `value` if they agree and -`cost` if not.
    Outcomes later than `max_outcome_age_days` after their prediction are refused.
    """

    unit: str = ""
    value: float = 0.0
    cost: float = 0.0
    outcomes: dict[str, dict[str, float]] = {}
    max_outcome_age_days: int = 365


class Manifest(NamedTuple):
    """One packed model version."""

    format: int
    name: str
    version: str
    owner: str
    contract: Literal["tabular", "tensor"]
    files: dict[str, File]
    opset: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Output, ...]
    limits: Limits
    execution: Execution
    lineage: Lineage
    description: str = ""
    runbook: str = ""
    producer: str = ""
    features: tuple[Feature, ...] = ()
    baseline: Baseline | None = None
    alarms: Alarms = Alarms()
    outcome_value: OutcomeValue | None = None

    @property
    def has_batch_axis(self) -> bool:
        """Return whether the leading axis of every tensor is the rows."""
        return self.execution.batch != "none"

    @property
    def takes_picture(self) -> bool:
        """Return whether a picture is a whole instance, and so may be a request's body."""
        return [bool(feature.image) for feature in self.features] == [True]

    @property
    def uses_extensions(self) -> bool:
        """Return whether the graph has operators of onnxruntime-extensions."""
        return not EXTENSION_DOMAINS.isdisjoint(self.opset)

    def row_shape(self, tensor: Tensor | Output) -> Shape:
        """Return the shape of one row of an input or an output."""
        return row_shape(tensor.shape, self.execution.batch)


def to_plain(value: Any) -> Any:
    """Return a manifest, or a part of one, as JSON holds it, without fields at their default."""
    if hasattr(value, "_fields"):
        defaults = value._field_defaults
        pairs = zip(value._fields, value, strict=True)
        return {k: to_plain(v) for k, v in pairs if k not in defaults or v != defaults[k]}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def schema(hint: Any) -> cs.CoreSchema:
    """Return the pydantic-core schema of a type hint used above."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return cs.none_schema()
    if origin in (typing.Union, types.UnionType):
        return cs.union_schema([schema(arg) for arg in args])
    if origin is Literal:
        return cs.literal_schema(list(args))
    if origin is dict:
        return cs.dict_schema(schema(args[0]), schema(args[1]))
    if origin is tuple and args[-1] is Ellipsis:
        return cs.tuple_schema([schema(args[0])], variadic_item_index=0)
    if origin is tuple:
        return cs.tuple_schema([schema(arg) for arg in args])
    if hint in _SCALARS:
        return _SCALARS[hint]
    defaults = hint._field_defaults
    parameters = []
    for name, kind in typing.get_type_hints(hint).items():
        field = schema(kind)
        if name in defaults:
            field = cs.default_schema(field, defaults[name])
        parameters.append({"name": name, "schema": field})
    return cs.call_schema(cs.arguments_schema(parameters), hint)


_SCALARS: dict[Any, cs.CoreSchema] = {
    str: cs.str_schema(strict=True),
    bool: cs.bool_schema(strict=True),
    int: cs.int_schema(strict=True),
    float: cs.float_schema(strict=True, allow_inf_nan=False),
}


def parse(text: bytes | str) -> Manifest:
    """Read a manifest's JSON. Raise ArtifactError, naming the field, if it is not valid."""
    try:
        manifest: Manifest = SchemaValidator(schema(Manifest)).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise ArtifactError(f"{FILE_NAME}: {where or 'document'}: {first['msg']}") from None
    for problem in _problems(manifest):
        raise ArtifactError(f"{FILE_NAME}: {problem}")
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield what the types cannot express: where parts of the manifest contradict each other."""
    if manifest.format != FORMAT:
        yield f"format {manifest.format} is not {FORMAT}"
    if (manifest.contract == "tabular") != bool(manifest.features):
        yield f"a {manifest.contract} contract with {len(manifest.features)} features"
    if not manifest.inputs or not manifest.outputs:
        yield "no inputs or no outputs"
    if min(manifest.limits) < 1:
        yield "a limit below 1"
    if MODEL_FILE_NAME not in manifest.files:
        yield f"no {MODEL_FILE_NAME} among the files"
    yield from _tensor_problems(manifest)
    yield from _feature_problems(manifest)
    yield from _baseline_problems(manifest.baseline)
    if manifest.outcome_value and manifest.outcome_value.max_outcome_age_days < 1:
        yield "outcome_value: max_outcome_age_days is below 1"
    for output in manifest.outputs:
        review = output.decision.review if output.decision else None
        if review and review[0] > review[1]:
            yield f"output {output.name}: review from {review[0]:g} to {review[1]:g}"
    alarms = manifest.alarms
    if not 0 < alarms.availability < 100 or not 0 < alarms.client_error_max_percent <= 100:
        yield "alarms: a percentage that is out of range"
    if alarms.latency_ms <= 0:
        yield "alarms: latency_ms is not above 0"
    if alarms.drift_hours not in range(1, 25) or alarms.drift_min_rows < 20:
        yield "alarms: drift_hours is 1 to 24, and drift_min_rows at least 20"
    if alarms.max_days_without_outcomes not in range(8):
        yield "alarms: max_days_without_outcomes is 0 to 7"


def _tensor_problems(manifest: Manifest) -> Iterator[str]:
    tensors: list[Tensor | Output] = [*manifest.inputs, *manifest.outputs]
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            yield f"{tensor.name}: {tensor.dtype} is not a dtype"
        if manifest.has_batch_axis and not tensor.shape:
            yield f"{tensor.name}: its shape has no axis for the rows"
        if any(size is not None and size < 0 for size in tensor.shape):
            yield f"{tensor.name}: a negative size"
    if len({tensor.name for tensor in manifest.inputs}) < len(manifest.inputs):
        yield "two inputs of one name"
    for source in manifest.inputs:
        if source.axes and len(source.axes) != len(source.shape):
            yield f"input {source.name}: {len(source.axes)} axes for {len(source.shape)} sizes"
        if source.dtype in ("bool", "string") and (source.minimum, source.maximum) != (None, None):
            yield f"input {source.name}: bounds of {source.dtype}"
    for output in manifest.outputs:
        sizes, classes = manifest.row_shape(output), output.classes
        if output.kind in ("value", "label") and any(size not in (1, None) for size in sizes):
            yield f"output {output.name}: a {output.kind} of shape {list(output.shape)}"
        if output.kind in BY_CLASS:
            if not classes or len(sizes) != 1 or sizes[-1] not in (None, len(classes)):
                yield f"output {output.name}: {len(classes)} classes, shape {list(output.shape)}"
            if output.decision and output.decision.class_label not in classes:
                yield f"output {output.name}: the decision is about none of the classes"
        elif output.decision and output.kind != "value":
            yield f"output {output.name}: a decision on a {output.kind}"


def _feature_problems(manifest: Manifest) -> Iterator[str]:
    if not manifest.features:
        return
    columns: dict[str, list[int]] = {tensor.name: [] for tensor in manifest.inputs}
    for feature in manifest.features:
        if feature.input not in columns:
            yield f"feature {feature.name}: no input {feature.input}"
        else:
            columns[feature.input].append(feature.column)
    if len({feature.name for feature in manifest.features}) < len(manifest.features):
        yield "two features of one name"
    for tensor in manifest.inputs:
        # [rows] or [rows, width]: the features are its columns, each once
        width = tensor.shape[1] if len(tensor.shape) == 2 else 1
        taken = sorted(columns[tensor.name])
        if len(tensor.shape) not in (1, 2) or taken != list(range(width or len(taken))):
            yield f"input {tensor.name}: its columns are not those of the features"


def _baseline_problems(baseline: Baseline | None) -> Iterator[str]:
    if baseline is None:
        return
    for name, distribution in (*baseline.features.items(), *baseline.outputs.items()):
        _, missing_share, values, cdf_left, cdf_right = distribution
        if not len(values) == len(cdf_left) == len(cdf_right):
            yield f"baseline of {name}: its lists differ in length"
        if not all(0 <= share <= 1 for share in (missing_share, *cdf_left)):
            yield f"baseline of {name}: a share that is not within 0 and 1"


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading. Raise OSError for a FIFO or a device, which could block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return open(descriptor, "rb")


def read(directory: Path | str) -> Manifest:
    """Return the manifest of the artifact in `directory`. Raise ArtifactError if it is unusable."""
    path, digest_path = Path(directory, FILE_NAME), Path(directory, DIGEST_FILE_NAME)
    try:
        with open_regular(path) as file:
            text = file.read()
        digest = None
        if digest_path.exists():
            with open_regular(digest_path) as file:
                digest = file.read()
    except OSError as error:
        raise ArtifactError(f"{FILE_NAME}: {error.strerror}") from None
    if digest is not None:
        from handler.hashes import sha256  # not for those who only parse manifests

        if sha256(text).hexdigest().encode() + b"\n" != digest:
            raise ArtifactError(f"{FILE_NAME}: it is not the packed one ({DIGEST_FILE_NAME})")
    return parse(text)


def public_document(directory: Path) -> Any:
    """Return the manifest's JSON without the baseline, which shows the data."""
    document = from_json(Path(directory, FILE_NAME).read_bytes())
    document.pop("baseline", None)
    return document
