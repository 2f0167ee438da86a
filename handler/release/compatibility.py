"""The differences of two manifests' contracts, and the version number that they require.

A change is major if the new version refuses what the old one accepted, or if an output is gone or
means something else. It is minor if the new version only accepts or returns more, else a patch.
Before 1.0.0 a minor number may break the contract, and so may the release after a pre-release.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from handler import feature_types
from handler.feature_types import FeatureType
from handler.manifest import Decision, Execution, Lineage, Manifest

LEVELS = ("patch", "minor", "major")
PATCH, MINOR, MAJOR = range(3)
INFINITE = 3e38  # about float32's largest number; no bound is meant beyond it
Accepts = Callable[[Any, Any], bool]  # (old, new): whether the new value accepts all the old did
Aspects = Mapping[str, tuple[Any, Accepts]]  # name -> value and rule


class Change(NamedTuple):
    """One difference of the contract; `level` is PATCH, MINOR or MAJOR."""

    level: int
    text: str


at_least: Accepts = operator.le  # of limits; of sets, if the new one contains the old one
at_most: Accepts = operator.ge  # of minimums


def stated_once(old: str, new: str) -> bool:
    """Compare words that clients rely on: only an empty one may be replaced."""
    return old in (new, "")


def covers(old: tuple[int | None, ...], new: tuple[int | None, ...]) -> bool:
    """Compare shapes: a free axis, None, accepts every size."""
    return len(old) == len(new) and all(n in (None, o) for o, n in zip(old, new, strict=True))


def semver_key(version: str) -> tuple[Any, ...]:
    """Return a sort key for a semantic version. Raises ValueError for anything else."""
    core, _, pre = version.partition("+")[0].partition("-")
    major, minor, patch = map(int, core.split("."))
    labels = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pre.split(".") if pre]
    return major, minor, patch, not pre, labels


def minimum_next_version(version: str, level: int) -> str:
    """Return the lowest version that may differ from `version` by `level`."""
    major, minor, patch, released, _ = semver_key(version)
    if not released:
        return f"{major}.{minor}.{patch}"
    if level == MAJOR and major:
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if level else f"{major}.{minor}.{patch + 1}"


def semver_violations(old: Manifest, new: Manifest) -> list[str]:
    """Return why `new` may not follow `old` under its number, or nothing. Raises ValueError."""
    if old.version == new.version:
        same = _content(old) == _content(new)
        return [] if same else [f"{old.version} is there already, with other content"]
    differences = changes(old, new)
    level = max((change.level for change in differences), default=PATCH)
    minimum = minimum_next_version(old.version, level)
    needed, actual, before = map(semver_key, (minimum, new.version, old.version))
    if actual[:3] >= needed[:3] and actual > before:  # 2.0.0-rc.1 may differ as 2.0.0 may
        return []
    reasons = [change.text for change in differences if change.level == level > PATCH]
    return [*reasons, f"{minimum} is the least version after {old.version}"]


def _content(manifest: Manifest) -> Manifest:
    """Return the manifest without what differs when the same model is packed again."""
    return manifest._replace(lineage=Lineage("", "", ""), execution=Execution())


def changes(old: Manifest, new: Manifest) -> list[Change]:
    """Return the differences of the contract that clients can notice, major ones first."""
    return sorted(_changes(old, new), key=lambda change: -change.level)


def _changes(old: Manifest, new: Manifest) -> Iterator[Change]:
    if (old.name, old.contract) != (new.name, new.contract):
        yield Change(MAJOR, f"{old.name}, {old.contract} -> {new.name}, {new.contract}")
        return
    before, after = (
        {name: (limit, at_least) for name, limit in manifest.limits._asdict().items()}
        for manifest in (old, new)
    )
    yield from _compare("limits", before, after)
    categories = frozenset(c for f in (*old.features, *new.features) for c in f.categories)
    optional = {f.name for f in new.features if f.nullable}
    accepted, accepts = (
        {kind.feature.name: _feature(kind, categories) for kind in feature_types.of(manifest)}
        for manifest in (old, new)
    )
    yield from _compare_all("feature", accepted, accepts, optional)
    if not old.features:
        yield from _compare_all("input", _inputs(old), _inputs(new), set())
    yield from _compare_all("output", _outputs(old), _outputs(new), {o.name for o in new.outputs})


def _compare_all(
    kind: str, old: Mapping[str, Aspects], new: Mapping[str, Aspects], optional: set[str]
) -> Iterator[Change]:
    for name in old:
        if name in new:
            yield from _compare(name, old[name], new[name])
        else:
            yield Change(MAJOR, f"{kind} {name} is gone")
    for name in [name for name in new if name not in old]:
        needed = name not in optional
        yield Change(MAJOR if needed else MINOR, f"{kind} {name} is new" + " and required" * needed)


def _compare(name: str, old: Aspects, new: Aspects) -> Iterator[Change]:
    for aspect, (before, accepts) in old.items():
        after = new[aspect][0]
        if before != after:
            text = f"{name}: {aspect} {_text(before)} -> {_text(after)}"
            yield Change(MINOR if accepts(before, after) else MAJOR, text)


def _text(value: Any) -> str:
    if isinstance(value, frozenset):
        return "/".join(sorted(map(str, value)))
    return f"{value:g}" if isinstance(value, float) else str(value) or "unstated"


def _feature(kind: FeatureType, categories: frozenset[Any]) -> Aspects:
    """Return what a feature accepts; `categories` are those of both versions."""
    low, high = kind.stated_bounds() if kind.ranged else (-math.inf, math.inf)
    closed = frozenset(kind.feature.categories)
    image = kind.feature.image
    accepted = closed if kind.known_categories is None else categories | {"any other"}
    return {
        "type": ("number" if kind.is_number else kind.name, stated_once),
        "unit": (kind.feature.unit, stated_once),
        "fractions": (kind.is_number and not kind.whole, at_least),
        "minimum": (-math.inf if low < -INFINITE else float(low), at_most),
        "maximum": (math.inf if high > INFINITE else float(high), at_least),
        "categories": (accepted, at_least),
        "max_length": (kind.max_length or math.inf, at_least),
        "max_bytes": (image.max_bytes if image else math.inf, at_least),
        "max_pixels": (image.max_pixels if image else math.inf, at_least),
        "may be missing": (kind.feature.nullable, at_least),
    }


def _inputs(manifest: Manifest) -> dict[str, Aspects]:
    return {
        tensor.name: {
            "dtype": (tensor.dtype, stated_once),
            "shape": (manifest.row_shape(tensor), covers),
        }
        for tensor in manifest.inputs
    }


def _outputs(manifest: Manifest) -> dict[str, Aspects]:
    return {
        output.name: {
            aspect: (value, stated_once)
            for aspect, value in (
                ("kind", output.kind),
                ("type", "float" if output.dtype.startswith("float") else output.dtype),
                ("shape", str(manifest.row_shape(output))),
                ("classes", ", ".join(map(str, output.classes))),
                ("unit", output.unit),
                ("decision", ", ".join(_words(output.decision))),
            )
        }
        | {"decision rule": (_rule(output.decision), lambda old, new: True)}
        for output in manifest.outputs
    }


def _rule(decision: Decision | None) -> str:
    """Return the numbers of a decision: another threshold decides otherwise for the same caller."""
    if decision is None:
        return ""
    subject = "" if decision.class_label is None else f"{decision.class_label} "
    review = "" if decision.review is None else ", review {:g} to {:g}".format(*decision.review)
    return f"{subject}>= {decision.threshold:g}{review}"


def _words(decision: Decision | None) -> list[str]:
    if decision is None:
        return []
    return [decision.above, decision.below, *(["review"] if decision.review else [])]
