"""`model_artifacts/<name>/manifest.json` as one frozen object: the contract's single source.

NamedTuples rather than dataclasses: a class costs 0.2 ms to create instead of 1 ms, on every
cold start. They are validated by pydantic-core, strictly, from their own annotations, so a damaged
or misspelt manifest stops the function at init instead of in the middle of a request.
"""

import errno
import os
import stat
import types
import typing
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from handler import core_schema as cs
from handler.core_schema import SchemaValidator, ValidationError, from_json
from handler.errors import ArtifactError

FORMAT = 2
FILE_NAME = "manifest.json"
OPENAPI_FILE_NAME = "openapi.json"
DIGEST_FILE_NAME = (
    "manifest.sha256"  # of that file, lower-case hex; whoever edits by hand takes it away
)

FeatureType = Literal["number", "integer", "category", "boolean", "text"]
OutputKind = Literal["value", "label", "probabilities", "scores", "tensor"]
BY_CLASS = ("probabilities", "scores")  # kinds of outputs that have one number per class
Policy = Literal["reject", "accept"]
LogPolicy = Literal["keep", "hash", "drop"]


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
    shape: tuple[int | None, ...]
    axes: tuple[str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    min_shape: tuple[int | None, ...] = ()
    max_shape: tuple[int | None, ...] = ()


class Feature(NamedTuple):
    """One named field of a tabular instance, and the place it takes in the graph's inputs.

    `minimum` and `maximum` are inclusive. `missing` is what a null or absent value of a nullable
    feature becomes before the model sees it; None stands for NaN (or "" in a string tensor).
    `log_policy` is what a record keeps of the value where payloads are logged at all: `hash` makes
    equal values recognisable, but needs the secret, without which they could be guessed.
    """

    name: str
    input: str
    type: FeatureType
    column: int = 0
    unit: str = ""
    description: str = ""
    minimum: int | float | None = None
    maximum: int | float | None = None
    out_of_range: Policy = "reject"
    categories: tuple[str | int | float, ...] = ()
    unknown_category: Policy = "reject"
    max_length: int | None = None
    nullable: bool = False
    fill_value: str | bool | int | float | None = None
    log_policy: LogPolicy = "keep"
    example: str | bool | int | float | None = None


class Decision(NamedTuple):
    """A threshold on an output (`>=` is `above`); the band around it, inclusive, asks for a human.

    For probabilities, `of` names the class that is compared.
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
    shape: tuple[int | None, ...]
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
    """An empirical distribution F: at each of `values`, F just below it and F up to and with it.

    Numbers ascend and F is linear between neighbours; categories have their frequencies as steps.
    `missing` is the share of null values; the rest, `rows` of them, is what F describes.
    """

    rows: int
    missing_share: float
    values: tuple[str | bool | int | float, ...]
    cdf_left: tuple[float, ...]
    cdf_right: tuple[float, ...]


class Baseline(NamedTuple):
    """What inputs and outputs looked like when the model was packed, by feature or output name.

    Probabilities have one distribution per class, under `output.class`; a text feature has the
    distribution of its length in characters.
    """

    rows: int
    features: dict[str, Distribution]
    outputs: dict[str, Distribution]


class Execution(NamedTuple):
    """How the graph is run. `batch`: "dynamic" (the leading axis of every tensor is the rows),
    "single" (it is fixed at 1, so one run per row), "none" (there is none, one run per instance).
    """

    intra_op_threads: int = 1
    batch: Literal["dynamic", "single", "none"] = "dynamic"


class Lineage(NamedTuple):
    """Where this version comes from and why it exists. `packed_at` is UTC, ISO 8601."""

    reason: str
    packed_at: str
    source_sha256: str
    data_sha256: str | None = None
    git_commit: str | None = None
    versions: dict[str, str] = {}
    metrics: dict[str, int | float] = {}


class Alarms(NamedTuple):
    """When a person is called. Percent of requests: `availability` is what must be answered
    without a fault of ours, `rejects` what may be refused before the callers need help.
    `latency_ms`: the slowest 1 % may take this long.

    `drift` is the score (handler/drift/statistic.py) that matters, over a window of `drift_hours` with at
    least `drift_min_rows` values; `unseen` percent of rows may have a value of a kind that the baseline
    does not know. Within `max_days_without_outcomes` (at most 7, or 0 for never) some outcome should be told;
    outcomes should be worth `impact` in the mean of a day, in the unit of `business`. No job should
    wait for longer than `queue_minutes`.
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
    """What an outcome is worth in `unit`, where the caller does not say it.

    Of numbers: `value` less `cost` per unit of absolute error. Of classes: `outcomes`, by what was
    predicted and then by what came, where it has both; else `value` if they agree, less `cost` if
    not. Outcomes that come more than `days` after their prediction are refused.
    """

    unit: str = ""
    value: float = 0.0
    cost: float = 0.0
    outcomes: dict[str, dict[str, float]] = {}
    max_outcome_age_days: int = 365


class Manifest(NamedTuple):
    """Everything that is known about one packed model version."""

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


def _schema(hint: Any) -> cs.CoreSchema:
    """The pydantic-core schema of a type hint used above."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return cs.none_schema()
    if origin in (typing.Union, types.UnionType):
        return cs.union_schema([_schema(arg) for arg in args])
    if origin is Literal:
        return cs.literal_schema(list(args))
    if origin is dict:
        return cs.dict_schema(_schema(args[0]), _schema(args[1]))
    if origin is tuple and args[-1] is Ellipsis:
        return cs.tuple_schema([_schema(args[0])], variadic_item_index=0)
    if origin is tuple:
        return cs.tuple_schema([_schema(arg) for arg in args])
    if hint in _SCALARS:
        return _SCALARS[hint]
    defaults = hint._field_defaults
    fields = [
        cs.arguments_parameter(
            name,
            cs.default_schema(_schema(kind), defaults[name]) if name in defaults else _schema(kind),
        )
        for name, kind in typing.get_type_hints(hint).items()
    ]
    return cs.call_schema(cs.arguments_schema(fields), hint)


_SCALARS: dict[Any, cs.CoreSchema] = {
    str: cs.str_schema(strict=True),
    bool: cs.bool_schema(strict=True),
    int: cs.int_schema(strict=True),
    float: cs.float_schema(strict=True, allow_inf_nan=False),
}


def parse(text: bytes | str) -> Manifest:
    """Read a manifest's JSON. Raises ArtifactError, naming the field, where it breaks its form."""
    try:
        manifest: Manifest = SchemaValidator(_schema(Manifest)).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise ArtifactError(f"{FILE_NAME}: {where or 'document'}: {first['msg']}") from None
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """What the types cannot say: the parts of a manifest agree with each other."""
    problems = []
    if manifest.format != FORMAT:
        problems.append(f"format {manifest.format} is not {FORMAT}")
    inputs = {tensor.name: tensor for tensor in manifest.inputs}
    taken: set[tuple[str, int]] = set()
    for feature in manifest.features:
        if feature.input not in inputs:
            problems.append(f"feature {feature.name}: no input {feature.input}")
        if (feature.input, feature.column) in taken:
            problems.append(f"feature {feature.name}: its place in {feature.input} is taken")
        taken.add((feature.input, feature.column))
        if feature.type == "category" and not feature.categories:
            problems.append(f"feature {feature.name}: a category without categories")
    if (manifest.contract == "tabular") != bool(manifest.features):
        problems.append(f"a {manifest.contract} contract with {len(manifest.features)} features")
    if not manifest.inputs or not manifest.outputs:
        problems.append("no inputs or no outputs")
    if min(manifest.limits) < 1:
        problems.append("a limit below 1")
    if (
        not 0 < manifest.alarms.availability < 100
        or not 0 < manifest.alarms.client_error_max_percent <= 100
    ):
        problems.append("alarms: a percentage that is out of range")
    if manifest.alarms.latency_ms <= 0:
        problems.append("alarms: latency_ms is not above 0")
    if manifest.alarms.drift_hours not in range(1, 25) or manifest.alarms.drift_min_rows < 20:
        problems.append("alarms: drift_hours is 1 to 24, and drift_min_rows at least 20")
    if manifest.alarms.max_days_without_outcomes not in range(8):
        problems.append("alarms: max_days_without_outcomes is 0 to 7")
    if "model.onnx" not in manifest.files:
        problems.append("no model.onnx among the files")
    for problem in problems:
        raise ArtifactError(f"{FILE_NAME}: {problem}")


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading. Raise OSError for a FIFO or a device, which could block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return open(descriptor, "rb")


def read(directory: Path | str) -> Manifest:
    """The manifest of the artifact in `directory`. Raises ArtifactError if it cannot be had."""
    try:
        with open_regular(Path(directory, FILE_NAME)) as file:
            text = file.read()
        digest = None
        if Path(directory, DIGEST_FILE_NAME).exists():
            with open_regular(Path(directory, DIGEST_FILE_NAME)) as file:
                digest = file.read()
    except OSError as error:
        raise ArtifactError(f"{FILE_NAME}: {error.strerror}") from None
    if digest is not None:
        from hashlib import sha256  # as `model` does: what only parses manifests goes without

        if sha256(text).hexdigest().encode() + b"\n" != digest:
            raise ArtifactError(
                f"{FILE_NAME}: it is not the one that was packed ({DIGEST_FILE_NAME})"
            )
    return parse(text)


def public_document(directory: Path) -> Any:
    """Return the manifest's JSON without the baseline, which shows the data."""
    document = from_json(Path(directory, FILE_NAME).read_bytes())
    document.pop("baseline", None)
    return document
