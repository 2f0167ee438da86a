"""Two manifests of one model: what of the contract has changed, and which number that asks for.

What the old version took and the new one refuses, and an answer that is missing or means something
else, is major; what is only more is minor; all else is a patch. Of 0.y.z semver promises less:
there a minor number may break. So may whatever follows a pre-release.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from handler import feature_types
from handler.feature_types import FeatureType
from handler.manifest import Decision, Execution, Lineage, Manifest

LEVELS = ("patch", "minor", "major")
PATCH, MINOR, MAJOR = range(3)
INFINITE = 3e38  # about where float32 ends; nothing that anybody measures lies beyond


class Change(NamedTuple):
    """One difference of the contract; `level` is one of PATCH, MINOR, MAJOR."""

    level: int
    what: str


class Only(str):
    """A word whose change surprises whoever knew it; where there was none, nobody did."""

    def __ge__(self, other: object) -> bool:
        return other in (self, "")


class Shape(tuple[int | None, ...]):
    """The sizes of the axes; a free one, None, takes every size."""

    def __ge__(self, other: Any) -> bool:
        sizes = zip(self, other, strict=False)
        return len(self) == len(other) and all(mine in (None, theirs) for mine, theirs in sizes)


def semver_key(version: str) -> tuple[Any, ...]:
    """A semantic version as something to compare. Raises ValueError for anything else."""
    core, _, pre = version.partition("+")[0].partition("-")
    major, minor, patch = map(int, core.split("."))
    parts = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pre.split(".") if pre]
    return major, minor, patch, not pre, parts


def minimum_next_version(version: str, level: int) -> str:
    """The least version after `version` that may differ from it by `level`."""
    major, minor, patch, released, _ = semver_key(version)
    if not released:
        return f"{major}.{minor}.{patch}"
    if level == MAJOR and major:
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if level else f"{major}.{minor}.{patch + 1}"


def semver_violations(old: Manifest, new: Manifest) -> list[str]:
    """Why `new` may not follow `old` under its number; empty if it may. Raises ValueError."""
    if old.version == new.version:
        same = _content(old) == _content(new)
        return [] if same else [f"{old.version} is there already, with other content"]
    found = changes(old, new)
    level = max((change.level for change in found), default=PATCH)
    needed, given, before = map(
        semver_key, (minimum_next_version(old.version, level), new.version, old.version)
    )
    if given[:3] >= needed[:3] and given > before:  # 2.0.0-rc.1 may differ as 2.0.0 may
        return []
    reasons = [change.what for change in found if change.level == level > PATCH]
    return [
        *reasons,
        f"{minimum_next_version(old.version, level)} is the least version after {old.version}",
    ]


def _content(manifest: Manifest) -> Manifest:
    """Packed at another time, or measured to run best on other threads, it is the same."""
    return manifest._replace(lineage=Lineage("", "", ""), execution=Execution())


def changes(old: Manifest, new: Manifest) -> list[Change]:
    """Every difference of the contract that callers can notice, the gravest first."""
    return sorted(_changes(old, new), key=lambda change: -change.level)


def _changes(old: Manifest, new: Manifest) -> Iterator[Change]:
    if (old.name, old.contract) != (new.name, new.contract):
        yield Change(MAJOR, f"{old.name}, {old.contract} -> {new.name}, {new.contract}")
        return
    yield from _aspects("limits", old.limits._asdict(), new.limits._asdict())
    every = frozenset(c for f in (*old.features, *new.features) for c in f.categories)
    optional = {f.name for f in new.features if f.nullable}
    yield from _parts("feature", _features(old, every), _features(new, every), optional)
    if not old.features:
        yield from _parts("input", _tensors(old), _tensors(new), set())
    yield from _parts("output", _outputs(old), _outputs(new), {o.name for o in new.outputs})


Parts = Mapping[str, Mapping[str, Any]]


def _parts(kind: str, old: Parts, new: Parts, optional: set[str]) -> Iterator[Change]:
    for name in old:
        if name in new:
            yield from _aspects(name, old[name], new[name])
        else:
            yield Change(MAJOR, f"{kind} {name} is gone")
    for name in [name for name in new if name not in old]:
        needed = name not in optional
        yield Change(MAJOR if needed else MINOR, f"{kind} {name} is new" + " and required" * needed)


def _aspects(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Aspect by aspect: a new value that is >= the old one leaves nobody out."""
    for aspect, was in old.items():
        if was != (now := new[aspect]):
            what = f"{name}: {aspect} {_shown(aspect, was)} -> {_shown(aspect, now)}"
            yield Change(MINOR if now >= was else MAJOR, what)


def _shown(aspect: str, value: Any) -> str:
    if isinstance(value, frozenset):
        return "/".join(sorted(map(str, value)))
    return f"{-value:g}" if aspect == "minimum" else str(value) or "unstated"


def _features(manifest: Manifest, every: frozenset[Any]) -> Parts:
    return {kind.feature.name: _feature(kind, every) for kind in feature_types.of(manifest)}


def _feature(kind: FeatureType, every: frozenset[Any]) -> Mapping[str, Any]:
    """Return what a feature takes, in terms of which more is greater; `every` known category."""
    low, high = kind.stated_bounds() if kind.ranged else (None, None)
    categories: frozenset[Any] = frozenset()
    if kind.allowed is not None or kind.known is not None:
        closed = frozenset(kind.feature.categories)
        categories = closed if kind.known is None else every | {"any other"}
    return {
        "type": Only("number" if kind.is_number else kind.name),
        "unit": Only(kind.feature.unit),
        "fractions": kind.is_number and not kind.whole,
        "minimum": math.inf if low is None or low < -INFINITE else -low,
        "maximum": math.inf if high is None or high > INFINITE else high,
        "categories": categories,
        "max_length": kind.max_length or math.inf,
        "may be missing": kind.feature.nullable,
    }


def _tensors(manifest: Manifest) -> Parts:
    return {
        tensor.name: {"dtype": Only(tensor.dtype), "shape": Shape(manifest.row_shape(tensor))}
        for tensor in manifest.inputs
    }


def _outputs(manifest: Manifest) -> Parts:
    return {
        output.name: {
            "kind": Only(output.kind),
            "type": Only("float" if output.dtype.startswith("float") else output.dtype),
            "shape": Only(manifest.row_shape(output)),
            "classes": Only(", ".join(map(str, output.classes))),
            "unit": Only(output.unit),
            "decision": Only(", ".join(_words(output.decision))),
        }
        for output in manifest.outputs
    }


def _words(decision: Decision | None) -> list[str]:
    if decision is None:
        return []
    return [decision.above, decision.below, *(["review"] if decision.review else [])]
