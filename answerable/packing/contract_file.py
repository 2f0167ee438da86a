"""The contract file: what a person states about a model because the data cannot show it.

description = "…"                  runbook = "…"
[features.age]                     any field of handler.manifest.Feature but name, input, column
[features.review.tokenizer]        file, max_tokens
[features.photo.image]             any field of handler.manifest.Image but input
[outputs.progression]              name, unit, description, kind, classes, targets, top_k,
                                   decision
[limits]                           rows, body_bytes, response_bytes, elements
[alarms]                           any field of handler.manifest.Alarms
[outcome_value]                    any field of handler.manifest.OutcomeValue
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from answerable.packing.errors import PackError
from handler import manifest as manifests
from handler.manifest import BY_CLASS, Alarms, Decision, Manifest, OutcomeValue

FEATURE_KEYS = tuple(
    name for name in manifests.Feature._fields if name not in ("name", "input", "column")
)
ENCODER_KEYS = {
    "tokenizer": ("file", "max_tokens"),
    "image": tuple(name for name in manifests.Image._fields if name != "input"),
}
OUTPUT_KEYS = ("name", "unit", "description", "kind", "classes", "targets", "top_k", "decision")
DECISION_KEYS = dict.fromkeys(Decision._fields)

Fields = dict[str, Any]

# of each table, its keys; "*" is any; None if the value is no table
KEYS: Fields = {
    "description": None,
    "runbook": None,
    "features": {
        "*": dict.fromkeys(FEATURE_KEYS)
        | {key: dict.fromkeys(names) for key, names in ENCODER_KEYS.items()}
    },
    "outputs": {"*": dict.fromkeys(OUTPUT_KEYS) | {"decision": DECISION_KEYS}},
    "limits": dict.fromkeys(manifests.Limits._fields),
    "alarms": dict.fromkeys(Alarms._fields),
    "outcome_value": dict.fromkeys(OutcomeValue._fields),
}


class ContractFile(NamedTuple):
    """A contract file's content. Its keys are checked, its values are not yet."""

    description: str = ""
    runbook: str = ""
    features: dict[str, Fields] = {}
    outputs: dict[str, Fields] = {}
    limits: Fields = {}
    alarms: Fields = {}
    outcome_value: Fields = {}


def read(path: Path) -> ContractFile:
    """Read TOML or YAML, by suffix. Raise PackError, naming the first unknown key."""
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise PackError(f"{path}: the contract file must be .toml, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text) or {}
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise PackError(f"{path}: {' '.join(str(error).split())}") from None

    return parse(document, str(path))


def parse(document: Any, source: str) -> ContractFile:
    """Return the content of the file, or else of the `source`. Raise PackError."""
    try:
        return ContractFile(**_checked(document, "", KEYS))
    except PackError as error:
        raise PackError(f"{source}: {error}") from None


def _checked(value: Any, where: str, keys: Fields | None) -> Any:
    """Return a value with lists as tuples, dates as ISO 8601 text and decisions as Decision.

    `keys`: as in KEYS. Raise PackError.
    """
    if keys is not None and not isinstance(value, dict):
        raise PackError(f"{where or 'the file'} must be a table of names and values")
    if isinstance(value, dict):
        fields = {}
        for key, item in value.items():
            name = f"{where}.{key}" if where else str(key)
            if keys is not None and not {key, "*"} & keys.keys():
                raise PackError(f"unknown key {name}; known are {', '.join(keys)}")
            fields[str(key)] = _checked(item, name, keys and keys.get(key, keys.get("*")))
        if keys is DECISION_KEYS:
            if "threshold" not in fields:
                raise PackError(f"{where} has no threshold")
            return Decision(**fields)
        return fields
    if isinstance(value, float) and not math.isfinite(value):
        raise PackError(f"{where} is {value}, which is not a finite number")
    if isinstance(value, time):
        raise PackError(f"{where} is a time of day: put it in quotes, as text")
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return tuple(_checked(item, where, None) for item in value)
    return value


def render(manifest: Manifest) -> str:
    """Return a contract file that states nothing: inferred values and defaults are comments.

    A value that may be stated and has no default is an example.
    """
    lines = [
        f"# The contract of {manifest.name} {manifest.version}, as inferred from the sample.",
        "# Remove a # to state a line. What is stated is enforced.",
        "",
        *_comments(("description", "runbook"), {"description": "", "runbook": ""}),
    ]
    for feature in manifest.features:
        keys = [key for key in FEATURE_KEYS if key not in ENCODER_KEYS]
        if feature.fill_value is None:
            feature = feature._replace(fill_value=feature.example)
        lines += ["", f"[features.{toml_key(feature.name)}]", *_comments(keys, feature._asdict())]
    for output in manifest.outputs:
        table = f"outputs.{toml_key(output.tensor)}"
        lines += ["", f"[{table}]", *_comments(OUTPUT_KEYS[:5], output._asdict())]
        if output.kind in ("value", *BY_CLASS):
            label = output.classes[0] if output.classes else None
            decision = Decision(0.5, class_label=label, review=(0.4, 0.6))
            fields = _comments(Decision._fields, decision._asdict())
            lines += ["", f"# [{table}.decision]", *fields]
    for table, values in (
        ("limits", manifest.limits),
        ("alarms", Alarms(min_daily_impact=0.0)),
        ("outcome_value", OutcomeValue()),
    ):
        lines += ["", f"[{table}]", *_comments(values._fields, values._asdict())]
    return "\n".join(lines) + "\n"


def _comments(keys: Sequence[str], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key that the feature, output or table can have."""
    for key in keys:
        if values[key] is not None:
            yield f"# {key} = {toml_value(manifests.to_plain(values[key]))}"


def toml_key(name: str) -> str:
    """Return a key of TOML, in quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def toml_value(value: Any) -> str:
    """Return a value of JSON as TOML."""
    if isinstance(value, dict):
        pairs = [f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    return json.dumps(value, ensure_ascii=False)
