"""`answerable simulate-release`: simulate a release on this machine before you deploy it.

Two packed versions answer through the real handler, by the weights of the synthesised template.
The template's alarms are evaluated as CloudWatch does. The hooks, CodeDeploy, the rollback rule
and the owner act on them.
"""

import argparse
import itertools
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
from answerable.simulation import simulator, traffic, versions
from answerable.simulation.fake_aws import FakeAws
from answerable.simulation.plan import CANDIDATE, CURRENT, Plan, SimulationError
from answerable.simulation.simulator import GroundTruth, Simulator, Step, Verdict
from handler import manifest as manifests
from infra.project import find_model
from infra.settings import Settings

COLUMN_CHARS = 9
COLUMNS = ("requests", "4xx", "5xx", "wrong")
NO_TERMINAL_CHARS = 100
MAX_SINGLE_MINUTES = 30  # of a shift that gets a line per minute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "Without --candidate, each scenario makes one from the current version:\n"
        "a healthy model, one that crashes, and one that is silently wrong."
    )
    add = parser.add_argument
    add("--current", metavar="NAME",
        help="the live version, as churn@1.0.0 (default: the one model)")  # fmt: skip
    add("--candidate", metavar="NAME", help="the version to release, as churn")
    add("--scenario", choices=list(versions.SCENARIOS), action="append", help="repeatable")
    add("--records", type=Path, metavar="FILE", help="recorded requests, from payload logging")
    add("--rate", type=int, default=30, metavar="N", help="requests a minute (default: 30)")
    add("--hours", type=float, default=2.0, metavar="N", help="after the shift (default: 2)")
    add("--seed", type=int, default=1, metavar="N")
    add("--skip-hook", action="store_true", help="shift traffic even if the hook would refuse")
    add("-c", dest="context", action="append", default=[], metavar="KEY=VALUE", help="a setting")


def main(args: argparse.Namespace) -> int:
    """Simulate each scenario."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else NO_TERMINAL_CHARS)
    if args.rate < 1:
        raise SimulationError("--rate takes a number from 1")
    current = find_model(args.current or "")
    for scenario in [""] if args.candidate else args.scenario or list(versions.SCENARIOS):
        with tempfile.TemporaryDirectory() as folder:
            _simulate(console, args, current, scenario, Path(folder))
    return 0


def _simulate(
    console: Console, args: argparse.Namespace, current: Path, scenario: str, folder: Path
) -> None:
    """Simulate one release and show it; the versions are written into `folder`."""
    manifest = manifests.read(current)
    recorded = traffic.read_recorded(args.records, manifest) if args.records else []
    artifacts = {version: folder / version / manifest.name for version in (CURRENT, CANDIDATE)}
    versions.copy(current, artifacts[CURRENT], measure=not recorded, outcomes=bool(scenario))
    fault, truth = versions.NO_FAULT, None
    if scenario:
        fault = versions.make_candidate(scenario, artifacts[CURRENT], artifacts[CANDIDATE])
        truth = GroundTruth(artifacts[CURRENT])
    else:
        candidate, measure = find_model(args.candidate), not recorded
        versions.copy(candidate, artifacts[CANDIDATE], measure=measure, outcomes=False)
    if (other := manifests.read(artifacts[CANDIDATE]).name) != manifest.name:
        raise SimulationError(
            f"the candidate is of {other}, the current version of {manifest.name}"
        )
    context = dict(pair.partition("=")[::2] for pair in args.context)
    if scenario == "silent-error" and "auto_rollback_on" in Settings.model_fields:
        context = {"auto_rollback_on": "both", **context}
    plan = plans.read(plans.synthesise(artifacts[CANDIDATE].parent, manifest.name, context))
    source = f"those of {args.records}" if recorded else "rows drawn from the baseline"
    inputs = {"requests": f"{args.rate} a minute, {source}"}
    if context:
        inputs["settings"] = " ".join(f"{key}={value}" for key, value in context.items())
    _print_header(console, plan, artifacts, scenario, inputs)
    rows = traffic.draw_rows(manifests.read(artifacts[CURRENT]), np.random.default_rng(args.seed))
    bodies = itertools.cycle(recorded) if recorded else traffic.make_bodies(rows)
    simulation = Simulator(plan, FakeAws(plan, artifacts, fault), args.rate, args.seed, truth)
    steps = simulation.steps(bodies, round(args.hours * 60), not args.skip_hook)
    _print_steps(console, plan, steps)
    console.print(_conclusion(simulation.verdict, plan))
    console.print()


def _print_header(
    console: Console, plan: Plan, artifacts: dict[str, Path], scenario: str, inputs: dict[str, str]
) -> None:
    """Print what is released, and what the template says about it."""
    current, candidate = (manifests.read(artifacts[version]) for version in (CURRENT, CANDIDATE))
    weights = f"{plan.percent} % of the traffic for {plan.interval} minutes, then all of it"
    if not plan.bake_minutes:
        weights = "all of the traffic at once"
    elif not plan.canary:
        weights = f"{plan.percent} % more of the traffic every {plan.interval} minutes"
    lines = {f"version {CANDIDATE}": candidate.lineage.reason, "gets": weights, **inputs}
    if scenario:
        lines["outcomes"] = (
            f"of {simulator.OUTCOME_SHARE:.0%} of the predictions, "
            f"{simulator.OUTCOME_DELAY_MINUTES} minutes later: version {CURRENT}'s predictions "
            f"with {versions.NOISE:.0%} of noise"
        )
        lines["outcome value"] = (
            "1, less the error in spreads of the output (set by the simulation); an alarm if the "
            f"mean is under {versions.MIN_DAILY_IMPACT}"
        )
    reactions = {
        "CodeDeploy alarms": [a for a in plan.alarms if a.canary],
        "rollback rule alarms": [a for a in plan.alarms if a.auto_rollback],
        "notifying alarms": [a for a in plan.alarms if a.notifies],
    }
    for title, alarms in reactions.items():
        lines[title] = ", ".join(_short(plan, alarm.name) for alarm in alarms) or "none"
    title = f"{candidate.name} {current.version} -> {candidate.version}"
    console.rule(Text(f"{title}: {scenario}" if scenario else title, "bold"), align="left")
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(Text(name, "dim"), Text(text))
    console.print(table)


def _short(plan: Plan, alarm: str) -> str:
    """Return an alarm's name without STAGE-MODEL-, and another cause as it is."""
    names = {item.name for item in plan.alarms}
    return alarm[len(plan.service) + 1 :] if alarm in names else alarm


def _print_steps(console: Console, plan: Plan, steps: Iterator[Step]) -> None:
    """Print each minute of a short shift, then a line per hour and per event."""
    width = COLUMN_CHARS * len(COLUMNS)
    versions = "".join(f"version {version}".rjust(width) for version in (CURRENT, CANDIDATE))
    names = "".join(name.rjust(COLUMN_CHARS) for name in COLUMNS) * 2
    below = f"{'time':>6}  to version {CANDIDATE}"
    console.print(Text(f"\n{'':{len(below)}}{versions}\n{below}{names}", "dim"))
    counts = {version: Counter[str]() for version in (CURRENT, CANDIDATE)}
    bake = plan.bake_minutes
    for step in steps:
        for version, since_last_step in step.counts.items():
            counts[version] += since_last_step
        after, short = step.minute - bake, bake <= MAX_SINGLE_MINUTES
        shown = after % 60 == 0 or (after < 0 and (short or after % MAX_SINGLE_MINUTES == 0))
        if shown or step.changed or step.action:
            console.print(_line(plan, step, counts))
            counts = {version: Counter() for version in counts}
    console.print()


def _line(plan: Plan, step: Step, counts: dict[str, Counter[str]]) -> Text:
    """Return a line with the counts since the line above."""
    hours, minutes = divmod(step.minute, 60)
    line = Text(f"{hours:3}:{minutes:02}{step.share:12} %")
    for version in counts:
        for name in COLUMNS:
            count = counts[version][name]
            style = "red" if count and name in ("5xx", "wrong") else ""
            line.append(f"{count or '·':>{COLUMN_CHARS}}", style)
    for name, state in step.changed.items():
        sentence = "▲ {} is in ALARM" if state == "ALARM" else "▽ {} is OK again"
        line.append(f"\n{'':8}{sentence.format(_short(plan, name))}", "red")
    if step.action:
        line.append(f"\n{'':8}→ {step.action}", "bold")
    return line


def _conclusion(verdict: Verdict, plan: Plan) -> Text:
    """Return the result in one sentence."""
    hours, minutes = divmod(verdict.minute, 60)
    when = f"after {hours} h {minutes:02} min" if hours else f"at minute {minutes}"
    cause = f"{when} by {_short(plan, verdict.cause)}"
    wrong = f"{verdict.wrong:,} of {verdict.requests:,} answers wrong"
    sentence, style = {
        "refused": (f"would have been refused before it got any traffic: {verdict.cause}", "red"),
        "rolled back": (f"would have been rolled back {cause}, with {wrong}.", "red"),
        "notified": (
            f"would be live, its owner notified {cause}, with {wrong} by the end.",
            "yellow",
        ),
        "live": (f"would be live, without any alarm: {wrong}.", "green"),
    }[verdict.result]
    return Text(f"This version {sentence}", f"bold {style}")
