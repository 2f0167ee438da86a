"""Write docs/models.md, the table of the zoo's models and steps: `python -m tests.zoo.page`."""

from tests.fixtures.server import ROOT
from tests.zoo import steps
from tests.zoo.known import KNOWN
from tests.zoo.models import ZOO

FILE = ROOT / "docs/models.md"
HEAD = """# Models

The models that every change is tested with, and the steps that each of them passes.
Written by `python -m tests.zoo.page`; a test holds this page to it. To add a model, write one
function in `tests/zoo`.

"""
LEGEND = {"✓": "passes", "-": "does not apply", "✗": "fails, see below"}


def text() -> str:
    """Run every step of every model, and return the page."""
    lines = [HEAD]
    lines += [
        f"- **{name}**: {(step.__doc__ or '').strip()}\n" for name, step in steps.STEPS.items()
    ]
    lines.append(f"\n{', '.join(f'{mark} {meaning}' for mark, meaning in LEGEND.items())}\n\n")
    lines.append(f"| model | | {' | '.join(steps.STEPS)} |\n|---|---|{'---|' * len(steps.STEPS)}\n")
    for model in ZOO.values():
        marks = []
        for step in steps.STEPS:
            try:
                steps.run(model, step)
                marks.append("✓")
            except steps.NotApplicable:
                marks.append("-")
            except Exception:
                marks.append("✗")
        lines.append(f"| {model.name} | {model.description} | {' | '.join(marks)} |\n")
    lines += ["\n## Known failures\n\n"] * bool(KNOWN)
    lines += [f"- {name}, {step}: {reason}\n" for (name, step), reason in KNOWN.items()]
    return "".join(lines)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
