"""`answerable simulate-release`: a release played on this machine, before it is one.

Two packed versions answer through the real handler, by the weights of the synthesised template.
Its alarms are evaluated as CloudWatch would, and who acts on them acts: the gate before traffic,
CodeDeploy while it shifts, the hook after traffic, a rule of EventBridge, or a person.
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from answerable.simulation import plan as plans
from answerable.simulation import traffic, versions
from answerable.simulation.cloudwatch import Unsupported
from answerable.simulation.fake_aws import FakeAws
from answerable.simulation.plan import NEW, OLD, Plan, SimulationError
from answerable.simulation.simulator import TOLD, TOLD_AFTER, GroundTruth, Simulator, Step, Verdict
from answerable.simulation.versions import LEAST, NOISE
from handler import manifest as manifests
from handler.errors import ArtifactError
from infra.project import find_model
from infra.settings import Settings

BAR = 10
COLUMNS, WIDE = {OLD: ("asked", "4xx", "5xx"), NEW: ("asked", "4xx", "5xx", "wrong")}, 8
WIDTH = 100  # where there is no terminal to ask
FEW = 30  # minutes of a shift that are shown one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `rehearse`."""
    parser.epilog = (
        "Without --new, three stories are played, each with a version made from the old one:\n"
        "a good model, one that crashes, and one that is silently wrong."
    )
    add = parser.add_argument
    add("--old", type=Path, metavar="DIR", help="the live version (default: the one artifact)")
    add("--new", type=Path, metavar="DIR", help="the version to release")
    add("--story", choices=list(versions.SCENARIOS), action="append", help="repeatable")
    add("--records", type=Path, metavar="FILE", help="traffic that CAPTURE=full has recorded")
    add("--rate", type=int, default=30, metavar="N", help="requests a minute (default: 30)")
    add("--hours", type=float, default=2.0, metavar="N", help="after the shift (default: 2)")
    add("--seed", type=int, default=1, metavar="N")
    add("--skip-gate", action="store_true", help="give traffic to what the gate would refuse")
    add("-c", dest="context", action="append", default=[], metavar="KEY=VALUE", help="a setting")


def main(args: argparse.Namespace) -> int:
    """Play; 1 and one line on stderr where that cannot be done."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    try:
        if args.rate < 1:
            raise SimulationError("--rate takes a number from 1")
        old = args.old or find_model()
        for story in [""] if args.new else args.story or list(versions.SCENARIOS):
            with tempfile.TemporaryDirectory() as folder:
                rehearse(console, args, old, story, Path(folder))
    except (ArtifactError, SimulationError, Unsupported) as error:
        Console(stderr=True, soft_wrap=True).print(f"rehearse: {error}", style="red", markup=False)
        return 1
    return 0


def rehearse(
    console: Console, args: argparse.Namespace, old: Path, story: str, folder: Path
) -> Verdict:
    """Play one release, and show it; `folder` is for the versions."""
    manifest = manifests.read(old)
    recorded = traffic.recorded(args.records, manifest) if args.records else []
    artifacts = {version: folder / version / manifest.name for version in (OLD, NEW)}
    with _muted():
        versions.copy(old, artifacts[OLD], measure=not recorded, worth=bool(story))
        if story:
            versions.SCENARIOS[story](artifacts[OLD], artifacts[NEW])
        else:
            versions.copy(args.new, artifacts[NEW], measure=not recorded, worth=False)
    if (other := manifests.read(artifacts[NEW]).name) != manifest.name:
        raise SimulationError(f"the new version is of {other}, and the old one of {manifest.name}")
    context = dict(pair.partition("=")[::2] for pair in args.context)
    if story == "silent" and "auto_rollback_on" in Settings.model_fields:
        both = "impact" if context.get("drift_alarms") == "off" else "both"
        context = {"auto_rollback_on": both, **context}
    plan = plans.read(plans.synthesise(artifacts[NEW].parent, manifest.name, context))
    _header(console, plan, artifacts, story, _asked(args, context))
    drawn = traffic.drawn(manifests.read(artifacts[OLD]), np.random.default_rng(args.seed))
    bodies = itertools.cycle(recorded) if recorded else traffic.bodies(drawn)
    with _muted():
        truth = GroundTruth(artifacts[OLD]) if story else None
        play = Simulator(plan, FakeAws(plan, artifacts), args.rate, args.seed, truth)
        _table(console, plan, play.moments(bodies, round(args.hours * 60), not args.skip_gate))
    console.print(_sentence(play.verdict, plan))
    console.print()
    return play.verdict


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Without what onnxruntime writes to stderr for every run that fails."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _asked(args: argparse.Namespace, context: dict[str, str]) -> dict[str, str]:
    source = f"those of {args.records}" if args.records else "rows drawn from the baseline"
    settings = " ".join(f"{key}={value}" for key, value in context.items())
    return {"requests": f"{args.rate} a minute, {source}"} | (
        {"settings": settings} if settings else {}
    )


def _header(
    console: Console, plan: Plan, artifacts: dict[str, Path], story: str, asked: dict[str, str]
) -> None:
    """What is released, and what the template says of it."""
    old, new = (manifests.read(artifacts[version]) for version in (OLD, NEW))
    weights = f"{plan.percent} % of the traffic for {plan.interval} minutes, then all of it"
    if not plan.bake:
        weights = "all of the traffic at once"
    elif not plan.canary:
        weights = f"{plan.percent} % more of the traffic every {plan.interval} minutes"
    lines = {f"version {NEW}": new.lineage.reason, "gets": weights, **asked}
    if story:
        lines["outcomes"] = (
            f"of {TOLD:.0%} of the predictions, {TOLD_AFTER} minutes later; what version {OLD} "
            f"answers stands for the truth, with {NOISE:.0%} of noise"
        )
        lines["worth (set here)"] = (
            f"1, less the error in spreads of the output; an alarm where the mean is under {LEAST}"
        )
    acting = {
        "CodeDeploy minds": [a for a in plan.alarms if a.canary],
        "a rule minds": [a for a in plan.alarms if a.returns],
        "its owner minds": [a for a in plan.alarms if a.calls],
    }
    for who, alarms in acting.items():
        lines[who] = ", ".join(_short(plan, alarm.name) for alarm in alarms) or "no alarm"
    title = f"{new.name} {old.version} -> {new.version}" + (f": {story}" if story else "")
    console.rule(Text(title, "bold"), align="left")
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(Text(name, "dim"), Text(text))
    console.print(table)


def _short(plan: Plan, name: str) -> str:
    return name.removeprefix(f"{plan.service}-")


def _table(console: Console, plan: Plan, moments: Iterator[Step]) -> None:
    """A line for each minute of a short shift, then one for what changes, or for an hour."""
    above, below = f"\n{'':23}", f"{'time':>6}  {f'to version {NEW}':<15}"
    for version, columns in COLUMNS.items():
        above += f"version {version}".rjust(WIDE * (len(columns) + 1))
        below += "".join(name.rjust(WIDE) for name in (*columns, "p99 ms"))
    console.print(Text(f"{above}\n{below}", "dim"))
    counts = {OLD: Counter[str](), NEW: Counter[str]()}
    for moment in moments:
        for version, found in moment.counts.items():
            counts[version] += found
        after = moment.minute - plan.bake
        shown = after % 60 == 0 or (after < 0 and (plan.bake <= FEW or after % FEW == 0))
        if shown or moment.changed or moment.done:
            console.print(_row(plan, moment, counts))
            counts = {OLD: Counter(), NEW: Counter()}
    console.print()


def _row(plan: Plan, moment: Step, counts: dict[str, Counter[str]]) -> Text:
    """Counts are since the row above; p99 is of the time since the last look."""
    hours, minutes = divmod(moment.minute, 60)
    filled = round(moment.share / 100 * BAR)
    row = Text(f"{hours:3}:{minutes:02}  ")
    row.append("█" * filled, "cyan").append("░" * (BAR - filled), "dim")
    row.append(f"{moment.share:4} %")
    for version, columns in COLUMNS.items():
        for name in columns:
            count = counts[version][name]
            style = "red" if count and name in ("5xx", "wrong") else ""
            row.append(f"{count or '·':>{WIDE}}", style)
        p99 = moment.p99[version]
        row.append("·".rjust(WIDE) if p99 is None else f"{p99:{WIDE}.1f}", "dim")
    for name, state in moment.changed.items():
        row.append(f"\n{'':8}{'▲' if state == 'ALARM' else '▽'} {_short(plan, name)}", "red")
        row.append(" is in ALARM" if state == "ALARM" else " is OK again", "red")
    if moment.done:
        row.append(f"\n{'':8}→ {moment.done}", "bold")
    return row


def _sentence(verdict: Verdict, plan: Plan) -> Text:
    """What would have happened, in one sentence."""
    hours, minutes = divmod(verdict.minute, 60)
    when = f"after {hours} h {minutes:02} min" if hours else f"at minute {minutes}"
    by = f"{when} by {_short(plan, verdict.by)}"
    answers = f"{verdict.wrong:,} of {verdict.asked:,} answers wrong"
    sentence, style = {
        "refused": (f"would have been refused before it got any traffic: {verdict.by}", "red"),
        "rolled back": (f"would have been rolled back {by}, with {answers}.", "red"),
        "called": (f"would be live, its owner called {by}, with {answers} by the end.", "yellow"),
        "live": (f"would be live, and nobody called: {answers}.", "green"),
    }[verdict.what]
    return Text(f"This version {sentence}", f"bold {style}")
