"""`answerable diff A B`: what a caller, an operator and a reviewer want to know about B."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from answerable import comparison
from answerable.comparison import Diff
from answerable.terminal import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    word = "a model's name, NAME@VERSION of a version packed before, REV:NAME at a git revision, "
    word += "or the path of an artifact's folder"
    parser.add_argument("a", metavar="A", help=f"the earlier version: {word}")
    parser.add_argument("b", metavar="B", help="the later version, in the same way")
    parser.epilog = "examples:\n  answerable diff churn@1.0.0 churn\n"
    parser.epilog += "  answerable diff main:churn churn"


def main(args: argparse.Namespace) -> int:
    """Print the differences."""
    show(Console(highlight=False), comparison.diff(args.a, args.b))
    return 0


def show(console: Console, diff: Diff) -> None:
    """Print the tables of a diff."""
    old, new, answers = diff.old, diff.new, diff.answers
    console.print(Text(f"{old.name} {old.version} -> {new.name} {new.version}", "bold"))
    console.print(Text(new.lineage.reason))
    changes = diff.contract or [("patch", "the contract is the same")]
    _table(console, "Contract", ("level", "change"), changes)
    for violation in diff.violations:
        console.print(Text(f"  refused: {violation}", "red"))
    rows = [
        ("other answers", f"{answers.differing} of {answers.rows}, by more than "
                          f"{answers.tolerance:g}"),
        ("largest difference", f"{answers.largest:.3g} of max(1, the old number)"),
        ("of another kind", f"{answers.of_another_kind}"),
        ("other decisions", f"{answers.decisions}"),
        ("refused", f"{answers.refused}"),
    ]  # fmt: skip
    _table(console, f"{new.version} on the golden rows of {old.version}", ("", ""), rows)
    shifts = [
        (
            shift.name,
            f"{shift.distance:.1%}",
            f"{shift.missing_before:.1%} -> {shift.missing_after:.1%}"
            if shift.missing_before or shift.missing_after
            else "",
        )
        for shift in diff.baseline
    ]
    _table(console, "Baseline", ("of", "shift", "missing"), shifts)
    for name in ("metrics", "versions"):
        before, after = getattr(old.lineage, name), getattr(new.lineage, name)
        facts = [
            (key, f"{before.get(key, '-')}", f"{after.get(key, '-')}") for key in before | after
        ]
        _table(console, name.title(), (name, old.version, new.version), facts)


def _table(
    console: Console, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> None:
    if rows:
        console.print(table(columns, rows, title))
