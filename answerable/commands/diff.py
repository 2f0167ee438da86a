"""`answerable diff A B`: what a caller, an operator and a reviewer want to know of B."""

import argparse
import io
import math
import subprocess
import tarfile
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from handler import manifest as manifests
from handler import scoring
from handler.errors import ApiError, ArtifactError
from handler.manifest import Distribution, Manifest
from handler.release import compatibility, golden

ARTIFACTS = "model_artifacts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `changes`."""
    what = "an artifact's folder, or REV:NAME for the model NAME as it was at a git revision"
    parser.add_argument("a", metavar="A", help=f"the earlier version: {what}")
    parser.add_argument("b", metavar="B", help="the later one, in the same way")
    parser.epilog = "example:\n  answerable diff main:churn model_artifacts/churn"


def main(args: argparse.Namespace) -> int:
    """Explain; 2 and one line on stderr where a version cannot be had."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            a, b = (folder(word, Path(scratch, str(i))) for i, word in enumerate((args.a, args.b)))
            explain(Console(), a, b)
        except ArtifactError as error:
            Console(stderr=True).print(f"changes: {error}", style="red", markup=False)
            return 2
    return 0


def folder(word: str, scratch: Path) -> Path:
    """The artifact that `word` means, taken out of git into `scratch` if it is a revision's."""
    revision, colon, name = word.partition(":")
    if not colon or Path(word).exists():
        return Path(word)
    command = ["git", "archive", "--format=tar", f"{revision}:{ARTIFACTS}/{name}"]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        raise ArtifactError(f"{word}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(scratch, filter="data")
    return scratch


def explain(console: Console, a: Path, b: Path) -> None:
    """Print all differences of the artifacts in two folders. Raises ArtifactError."""
    old, new = manifests.read(a), manifests.read(b)
    console.print(f"[bold]{old.name} {old.version} -> {new.name} {new.version}[/bold]")
    console.print(new.lineage.reason, markup=False, highlight=False)
    changes = [
        (compatibility.LEVELS[c.level], c.what) for c in compatibility.changes(old, new)
    ] or [("patch", "the contract is the same")]
    _table(console, "Contract", ("level", "change"), changes)
    for reason in compatibility.semver_violations(old, new):
        console.print(f"  refused: {reason}", style="red", markup=False)
    answers = answered(golden.read(a), b, golden.tolerance(old, golden.TOLERANCE))
    _table(console, f"{new.version} on the golden rows of {old.version}", ("", ""), answers)
    _table(console, "Baseline", ("of", "shift", "missing"), shifts(old, new))
    for name in ("metrics", "versions"):
        before, after = getattr(old.lineage, name), getattr(new.lineage, name)
        rows = [
            (key, f"{before.get(key, '-')}", f"{after.get(key, '-')}") for key in before | after
        ]
        _table(console, name.title(), (name, old.version, new.version), rows)


def answered(rows: list[golden.Row], directory: Path, tolerance: float) -> list[tuple[str, str]]:
    """What the model in `directory` makes of another's golden rows."""
    scorer = scoring.load(directory)
    deviations, refused = [], 0
    for row in rows:
        try:
            body = orjson.dumps({"instances": [row.instance]})
            found = orjson.loads(scorer.score(body).predictions[0])
            deviations.append(golden.deviation(row.prediction, found))
        except ApiError:
            refused += 1
    beyond = [value for value in deviations if value > tolerance]
    largest = max((value for value in deviations if math.isfinite(value)), default=0.0)
    return [
        ("other answers", f"{len(beyond)} of {len(rows)}, by more than {tolerance:g}"),
        ("largest difference", f"{largest:.3g} of max(1, what it was)"),
        ("of another kind", f"{deviations.count(math.inf)}"),
        ("refused", f"{refused}"),
    ]


def shifts(old: Manifest, new: Manifest) -> Iterator[tuple[str, str, str]]:
    """How far apart the baselines are: the most that any share of the values has moved."""
    if not old.baseline or not new.baseline:
        return
    before = old.baseline.features | old.baseline.outputs
    for name, now in (new.baseline.features | new.baseline.outputs).items():
        if name in before:
            was = before[name]
            missing = (
                f"{was.missing_share:.1%} -> {now.missing_share:.1%}"
                if was.missing_share or now.missing_share
                else ""
            )
            yield name, f"{distance(was, now):.1%}", missing


def distance(a: Distribution, b: Distribution) -> float:
    """Kolmogorov's distance of numbers; of categories, half the sum of what their shares moved."""
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
    at = d.cdf_right[i - 1] + (d.cdf_left[i] - d.cdf_right[i - 1]) * (x - low) / (high - low)
    return at, at


def _table(
    console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]
) -> None:
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.show_header = any(columns)
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        console.print(table)
