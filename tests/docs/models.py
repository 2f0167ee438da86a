"""docs/models.md: the table of the zoo's models and steps, made by running them."""

from pathlib import Path

from tests.fixtures.server import ROOT
from tests.zoo import steps
from tests.zoo.known import KNOWN
from tests.zoo.models import ZOO, ZooModel

FILE = ROOT / "docs/models.md"
HEAD = """# Models

The models that every change is tested with, and the steps that each of them passes.
Written by `make reference`; a slow test holds this page to it. To add a model, write one
function in `tests/zoo`.

"""
LEGEND = {"✓": "passes", "-": "does not apply", "✗": "fails, see below"}


def head() -> str:
    """Return the page above the models."""
    lines = [HEAD]
    lines += [
        f"- **{name}**: {(step.__doc__ or '').strip()}\n" for name, step in steps.STEPS.items()
    ]
    lines.append(f"\n{', '.join(f'{mark} {meaning}' for mark, meaning in LEGEND.items())}\n\n")
    lines.append(f"| model | | {' | '.join(steps.STEPS)} |\n|---|---|{'---|' * len(steps.STEPS)}\n")
    return "".join(lines)


def row(model: ZooModel) -> str:
    """Run every step of a model, and return its line."""
    marks = []
    for step in steps.STEPS:
        mark = "✓"
        try:
            steps.run(model, step)
        except steps.NotApplicable:
            mark = "-"
        except Exception:
            mark = "✗"
        marks.append(mark)
    return f"| {model.name} | {model.description} | {' | '.join(marks)} |\n"


def known_failures() -> str:
    """Return the page below the models."""
    lines = [f"- {name}, {step}: {reason}\n" for (name, step), reason in KNOWN.items()]
    return "\n## Known failures\n\n" + "".join(lines) if lines else ""


def files() -> dict[Path, str]:
    """Run every step of every model; return the file and what it must hold."""
    return {FILE: head() + "".join(map(row, ZOO.values())) + known_failures()}
