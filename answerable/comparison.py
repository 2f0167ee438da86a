"""Two versions of a model compared: contract, answers, decisions, baseline, lineage."""

import io
import math
import subprocess
import tarfile
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from answerable.git import git
from handler import manifest as manifests
from handler import scoring
from handler.errors import ApiError, ArtifactError
from handler.manifest import Distribution, Manifest
from handler.release import compatibility, golden
from infra.project import ARTIFACTS, find_model


class Answers(NamedTuple):
    """The new version's answers to the golden rows of the old one.

    `differing`: rows whose numbers differ by more than `tolerance`, or whose other values differ at
    all. `largest`: the largest difference of numbers, relative to max(1, the old one).
    `decisions`: rows whose decision differs. `refused`: rows that the new contract refuses.
    """

    rows: int
    tolerance: float
    differing: int
    largest: float
    of_another_kind: int
    decisions: int
    refused: int


class Shift(NamedTuple):
    """The shift of a feature's or an output's baseline: a distance and shares, 0 to 1."""

    name: str
    distance: float
    missing_before: float
    missing_after: float


class Diff(NamedTuple):
    """Everything that differs between the versions `old` and `new`.

    `contract`: the level (patch, minor, major) and the text of each change. `violations`: why the
    number of `new` may not follow that of `old`.
    """

    old: Manifest
    new: Manifest
    contract: list[tuple[str, str]]
    violations: list[str]
    answers: Answers
    baseline: list[Shift]


def diff(a: Path | str, b: Path | str) -> Diff:
    """Compare version `b` with the earlier `a`. Raise ArtifactError.

    Each is a model's name, NAME@VERSION for a version that was packed before, REV:NAME for the
    model at a git revision, or the path of an artifact's folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        old_dir, new_dir = (
            find_version(word, Path(folder, str(i))) if isinstance(word, str) else word
            for i, word in enumerate((a, b))
        )
        old, new = manifests.read(old_dir), manifests.read(new_dir)
        changes = compatibility.changes(old, new)
        return Diff(
            old,
            new,
            [(compatibility.LEVELS[change.level], change.text) for change in changes],
            compatibility.semver_violations(old, new),
            compare_answers(old, old_dir, new_dir),
            list(shifts(old, new)),
        )


def find_version(word: str, scratch: Path) -> Path:
    """Return the folder of the artifact that `word` names. Raise ArtifactError.

    `word`: as `find_model` takes it, or REV:NAME for the model NAME at a git revision, which is
    written to `scratch`.
    """
    revision, colon, name = word.partition(":")
    if not colon or Path(word).exists():
        return find_model(word)
    try:
        archived = git("archive", "--format=tar", f"{revision}:./{ARTIFACTS / name}")
    except subprocess.CalledProcessError as error:
        raise ArtifactError(f"{word}: {error.stderr.decode().strip()}") from None
    with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
        for member in archive:  # extractall has `filter` since Python 3.11.4 only
            if file := archive.extractfile(member):
                path = scratch / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read())
    return scratch


def compare_answers(old: Manifest, old_dir: Path, new_dir: Path) -> Answers:
    """Return how the model in `new_dir` answers the golden rows of `old`."""
    scorer, rows = scoring.load(new_dir), golden.read(old_dir)
    tolerance = golden.tolerance(old, golden.TOLERANCE)
    decisions = [f"{output.name}_decision" for output in old.outputs if output.decision]
    deviations, flipped, refused = [], 0, 0
    for row in rows:
        try:
            body = orjson.dumps({"instances": [row.instance]})
            answer = orjson.loads(scorer.predict(body)[0])
        except ApiError:
            refused += 1
            continue
        flipped += any(row.prediction.get(key) != answer.get(key) for key in decisions)
        deviations.append(golden.deviation(row.prediction, answer))
    return Answers(
        rows=len(rows),
        tolerance=tolerance,
        differing=sum(value > tolerance for value in deviations),
        largest=max((value for value in deviations if math.isfinite(value)), default=0.0),
        of_another_kind=deviations.count(math.inf),
        decisions=flipped,
        refused=refused,
    )


def shifts(old: Manifest, new: Manifest) -> Iterator[Shift]:
    """Yield how far each baseline that both versions have has moved."""
    if not old.baseline or not new.baseline:
        return
    before = old.baseline.features | old.baseline.outputs
    for name, after in (new.baseline.features | new.baseline.outputs).items():
        if name in before:
            b = before[name]
            yield Shift(name, distance(b, after), b.missing_share, after.missing_share)


def distance(a: Distribution, b: Distribution) -> float:
    """Return Kolmogorov's distance; of categories, half the sum of their shares' changes."""
    values = {*a.values, *b.values}
    if any(isinstance(value, (str, bool)) for value in values):
        shares = [
            {
                v: upto - below
                for v, below, upto in zip(d.values, d.cdf_left, d.cdf_right, strict=True)
            }
            for d in (a, b)
        ]
        return sum(abs(shares[0].get(v, 0) - shares[1].get(v, 0)) for v in values) / 2
    pairs = [(_share(a, float(v)), _share(b, float(v))) for v in values]
    return max((abs(was[i] - now[i]) for was, now in pairs for i in (0, 1)), default=0.0)


def _share(d: Distribution, x: float) -> tuple[float, float]:
    """F just below x, and up to and with it."""
    i = bisect_left(d.values, x)
    if i == len(d.values):
        return 1.0, 1.0
    if d.values[i] == x:
        return d.cdf_left[i], d.cdf_right[i]
    if not i:
        return 0.0, 0.0
    low, high = float(d.values[i - 1]), float(d.values[i])
    share = d.cdf_right[i - 1] + (d.cdf_left[i] - d.cdf_right[i - 1]) * (x - low) / (high - low)
    return share, share
