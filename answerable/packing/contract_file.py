"""The contract file: what a human states about a model and the data cannot say.

description = "…"                  runbook = "…"
[features.age]                     any field of handler.manifest.Feature but name, input, column
[outputs.progression]              name, unit, description, kind, classes, decision
[limits]                           rows, body_bytes, response_bytes, elements
[alarms]                           any field of handler.manifest.Alarms
[outcome_value]                    any field of handler.manifest.OutcomeValue
"""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from answerable.packing.errors import PackError
from handler.manifest import Alarms, Decision, Feature, Limits, OutcomeValue

TOP = ("description", "runbook", "features", "outputs", "limits", "alarms", "outcome_value")
FEATURE = tuple(name for name in Feature._fields if name not in ("name", "input", "column"))
OUTPUT = ("name", "unit", "description", "kind", "classes", "decision")

Fields = dict[str, Any]


class ContractFile(NamedTuple):
    """A contract file's content, its keys known to be ours; the values are yet to be checked."""

    description: str = ""
    runbook: str = ""
    features: dict[str, Fields] = {}
    outputs: dict[str, Fields] = {}
    limits: Fields = {}
    alarms: Fields = {}
    outcome_value: Fields = {}


def read(path: Path) -> ContractFile:
    """Read TOML or YAML, by suffix. Raises PackError, naming the first key that is unknown."""
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise PackError(f"{path}: the contract file must be .toml, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text) or {}
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise PackError(f"{path}: {' '.join(str(error).split())}") from None

    def table(value: Any, where: str, known: tuple[str, ...] | None = None) -> Fields:
        if not isinstance(value, dict):
            raise PackError(f"{path}: {where or 'the file'} must be a table of names and values")
        for key in value:
            if known is not None and key not in known:
                place = f"{where}.{key}" if where else key
                raise PackError(f"{path}: unknown key {place}; known are {', '.join(known)}")
        return {str(key): _frozen(item) for key, item in value.items()}

    document = table(document, "", TOP)
    for part, known in (("features", FEATURE), ("outputs", OUTPUT)):
        tables = table(document.get(part, {}), part)
        document[part] = {
            name: table(value, f"{part}.{name}", known) for name, value in tables.items()
        }
    for name, fields in document["outputs"].items():
        if "decision" in fields:
            where = f"outputs.{name}.decision"
            decision = table(fields["decision"], where, Decision._fields)
            if "threshold" not in decision:
                raise PackError(f"{path}: {where} has no threshold")
            fields["decision"] = Decision(**decision)
    for part, kind in (("limits", Limits), ("alarms", Alarms), ("outcome_value", OutcomeValue)):
        document[part] = table(document.get(part, {}), part, kind._fields)
    return ContractFile(**document)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
