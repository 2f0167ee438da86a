"""`python -m tools rehearse`: a release played on this machine, before it is one.

Two packed versions answer through the real handler, by the weights of the synthesised template.
Its alarms are evaluated as CloudWatch would, and who acts on them acts: the gate before traffic,
CodeDeploy while it shifts, the hook after traffic, a rule of EventBridge, or a person.
"""

import argparse
import contextlib
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from handler import manifest as manifests
from handler import settings
from handler.errors import ArtifactError
from tools.rehearsal import plan as plans
from tools.rehearsal import traffic, versions
from tools.rehearsal.account import Account
from tools.rehearsal.plan import NEW, OLD, Plan, RehearsalError
from tools.rehearsal.play import NOISE, TOLD, TOLD_AFTER, Moment, Play, Truth, Verdict

BAR = 10
COLUMNS = ("asked", "4xx", "5xx")
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
    add("--story", choices=list(versions.STORIES), action="append", help="repeatable")
    add("--records", type=Path, metavar="FILE", help="traffic that CAPTURE=full has recorded")
    add("--rate", type=int, default=30, metavar="N", help="requests a minute (default: 30)")
    add("--hours", type=float, default=6.0, metavar="N", help="after the shift (default: 6)")
    add("--seed", type=int, default=1, metavar="N")
    add("--skip-gate", action="store_true", help="give traffic to what the gate would refuse")
    add("-c", dest="context", action="append", default=[], metavar="KEY=VALUE", help="a setting")


def main(args: argparse.Namespace) -> int:
    """Play; 1 and one line on stderr where that cannot be done."""
    console = Console(highlight=False)
    try:
        old = args.old or settings.model_dir(settings.read())
        stories = [""] if args.new else args.story or list(versions.STORIES)
        for story in stories:
            with tempfile.TemporaryDirectory() as folder:
                rehearse(console, args, old, story, Path(folder))
    except (ArtifactError, RehearsalError) as error:
        Console(stderr=True, soft_wrap=True).print(f"rehearse: {error}", style="red", markup=False)
        return 1
    return 0


def rehearse(
    console: Console, args: argparse.Namespace, old: Path, story: str, folder: Path
) -> Verdict:
    """Play one release, and show it."""
    if args.rate < 1:
        raise RehearsalError("--rate takes a number from 1")
    manifest = manifests.read(old)
    artifacts = {OLD: folder / OLD / manifest.name, NEW: folder / NEW / manifest.name}
    versions.copy(old, artifacts[OLD], bool(story), measure=not args.records)
    if story:
        versions.STORIES[story](artifacts[OLD], artifacts[NEW])
    else:
        versions.copy(args.new, artifacts[NEW], measure=not args.records)
    if manifests.read(artifacts[NEW]).name != manifest.name:
        raise RehearsalError(f"{args.new} is another model than {manifest.name}")
    context = dict(pair.partition("=")[::2] for pair in args.context)
    plan = plans.read(plans.synthesise(artifacts[NEW].parent, manifest.name, context))
    with _muted():
        account = Account(plan, artifacts)
        play = Play(plan, account, args.rate, args.seed, Truth(artifacts[OLD]) if story else None)
        _header(console, args, plan, artifacts, story)
        rng = np.random.default_rng(args.seed)
        bodies = (
            itertools.cycle(traffic.recorded(args.records, manifest))
            if args.records
            else traffic.bodies(traffic.drawn(manifests.read(artifacts[OLD]), rng))
        )
        moments = play.moments(bodies, round(args.hours * 60), not args.skip_gate)
        _table(console, plan, moments)
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


def _header(
    console: Console, args: argparse.Namespace, plan: Plan, artifacts: dict[str, Path], story: str
) -> None:
    old, new = (manifests.read(artifacts[version]) for version in (OLD, NEW))
    title = f"{new.name} {old.version} -> {new.version}" + (f": {story}" if story else "")
    console.rule(Text(title, "bold"), align="left")
    weights = (
        "all of the traffic at once"
        if not plan.bake
        else f"{plan.percent} % of the traffic for {plan.interval} min, then all"
        if plan.canary
        else f"{plan.percent} % more of the traffic every {plan.interval} min"
    )
    watched = {
        "CodeDeploy": [alarm for alarm in plan.alarms if alarm.canary],
        "a rule": [alarm for alarm in plan.alarms if alarm.returns],
        "its owner": [alarm for alarm in plan.alarms if alarm.calls and not alarm.returns],
    }
    source = args.records or "rows drawn from the baseline, each feature for itself"
    lines = {
        "version 2": new.lineage.why,
        "gets": weights,
        "asked": f"{args.rate} requests a minute: {source}",
    }
    if story:
        lines["outcomes"] = (
            f"of {TOLD:.0%} after {TOLD_AFTER} min: version 1's answer stands for the truth, "
            f"with {NOISE:.0%} noise"
        )
    lines |= {
        f"{who} minds": ", ".join(_short(plan, alarm.name) for alarm in alarms)
        for who, alarms in watched.items()
        if alarms
    }
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<17}", "dim"), text), soft_wrap=False)


def _short(plan: Plan, name: str) -> str:
    return name.removeprefix(f"{plan.service}-")


def _table(console: Console, plan: Plan, moments: Iterator[Moment]) -> None:
    """A line for each minute of a short shift, then one for what changes, or for an hour."""
    head = f"{'':24}{'version 1':>11}{'':13}{'version 2':>11}\n"
    names = "".join(f"{name:>6}" for name in COLUMNS)
    head += (
        f"{'time':>6}  {'to version 2':<16}{names}{'p99':>7}{names}{'wrong':>6}{'p99':>7}  alarms"
    )
    console.print(Text(f"\n{head}", "dim"))
    counts = {OLD: Counter[str](), NEW: Counter[str]()}
    for moment in moments:
        for version, found in moment.counts.items():
            counts[version] += found
        shown = moment.minute <= plan.bake and (plan.bake <= FEW or moment.minute % FEW == 0)
        if shown or moment.changed or moment.done or (moment.minute - plan.bake) % 60 == 0:
            console.print(_row(plan, moment, counts))
            counts = {OLD: Counter(), NEW: Counter()}
    console.print()


def _row(plan: Plan, moment: Moment, counts: dict[str, Counter[str]]) -> Text:
    """Counts are since the row above."""
    hours, minutes = divmod(moment.minute, 60)
    filled = round(moment.share / 100 * BAR)
    row = Text.assemble(
        f"{hours:3}:{minutes:02}  ",
        ("█" * filled, "cyan"),
        ("░" * (BAR - filled), "dim"),
        f"{moment.share:4} %",
    )
    for version in (OLD, NEW):
        for name in (*COLUMNS, *(["wrong"] if version == NEW else [])):
            count = counts[version][name]
            row.append(f"{count or '·':>6}", "red" if count and name in ("5xx", "wrong") else "")
        p99 = moment.p99[version]
        row.append(f"{'·' if p99 is None else f'{p99:.1f}':>7}", "dim")
    told = [
        (f"{'▲' if state == 'ALARM' else '▽'} {_short(plan, name)}", "bold red")
        for name, state in moment.changed.items()
    ]
    if moment.done:
        told.append((f"→ {moment.done}", "bold"))
    for i, (text, style) in enumerate(told):
        row.append(f"{'' if not i else chr(10) + ' ' * 77}  ")
        row.append(text, style)
    return row


def _sentence(verdict: Verdict, plan: Plan) -> Text:
    """What would have happened, in one sentence."""
    hours, minutes = divmod(verdict.minute, 60)
    when = f"after {hours} h {minutes:02} min" if hours else f"at minute {minutes}"
    by = _short(plan, verdict.by)
    answers = f"{verdict.wrong:,} wrong of {verdict.asked:,} answers"
    if verdict.what == "refused":
        return Text(f"This version would have been refused before it got any traffic: {by}", "red")
    if verdict.what == "rolled back":
        return Text(f"This version would have been rolled back {when} by {by}: {answers}.", "red")
    if verdict.what == "called":
        return Text(
            f"Its owner would have been called {when} by {by}, and the version stays live: "
            f"{answers} by the end.",
            "yellow",
        )
    return Text(f"This version would be live, and nobody called: {answers}.", "green")
