"""`answerable release status|rollback|promote|pin|prune|iam`: what is live, and the way back.

The alias is moved only to a version that has just proved itself, and only if nobody else has moved
it meanwhile. What stays to be done then is to tell the stack: a deployment with `pinned_version`,
which is printed, or run with --deploy.
"""

import argparse
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from answerable import prune
from answerable.commands import add_model
from answerable.stack import lookup, policy
from handler.errors import ArtifactError
from handler.release import rollback
from handler.release.rollback import ReleaseError, Service
from infra.project import find_model

POLL_SECONDS, POLLS = 5.0, 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `release`."""
    add = parser.add_argument
    add("action", choices=["status", "rollback", "promote", "pin", "prune", "iam"])
    add("version", nargs="?", type=int, metavar="VERSION", help="of the function (rollback: the one"
        " before the live one; promote: the latest; pin: the live one)")  # fmt: skip
    add_model(parser)
    add("--stage", default="dev")
    add("--dry-run", action="store_true", help="prove the version and show the plan, no more")
    add("--keep", type=int, default=5, help="versions that prune leaves (default: %(default)s)")
    add("--deploy", action="store_true", help="run the deployment that pins the stack, too")


def main(args: argparse.Namespace, client: Callable[[str], Any] | None = None) -> int:
    """Do it; 1 and one line on stderr if it cannot be done."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    console = Console(soft_wrap=True, highlight=False)
    try:
        service = lookup(client or boto3.client, args.model or find_model().name, args.stage)
        if args.action == "status":
            _status(console, service)
            return 0
        if args.action == "iam":
            console.print_json(json.dumps(policy(service)))
            return 0
        if args.action == "prune":
            prune.prune(service, args.keep, console.print, args.dry_run)
            return 0
        target = chosen(service, args.action, args.version)
        if args.action == "pin":
            targets = _pinnable(service, target)
        else:
            targets = rollback.verify_version(service, target, console.print)
            stop(service, console.print, args.dry_run)
            rollback.move(service, targets, service.alias(), console.print, args.dry_run)
    except (ReleaseError, ArtifactError, ClientError, BotoCoreError) as error:
        Console(stderr=True, soft_wrap=True).print(f"release: {error}", style="red", markup=False)
        return 1
    return _pin(console, args, rollback.pin_settings(service, targets))


def chosen(service: Service, action: str, version: int | None) -> str:
    """The version that an action is about."""
    if version:
        return str(version)
    live = service.alias()["FunctionVersion"]
    if action == "pin":
        return str(live)
    if action == "promote":
        return str(service.versions()[0]["Version"])
    previous = service.previous(live)
    if previous is None:
        raise ReleaseError(f"there is no version before {live}")
    return previous


def stop(service: Service, say: Callable[[str], Any], dry_run: bool = False) -> None:
    """Stop what is under way, and wait until it is rolled back."""
    running = service.running()
    for deployment in running:
        say(f"stop the running deployment {deployment}, and wait until it is rolled back")
        if not dry_run:
            service.client("codedeploy").stop_deployment(
                deploymentId=deployment, autoRollbackEnabled=True
            )
    quiet = 0 if running and not dry_run else 2
    for _ in range(POLLS):
        if quiet == 2:  # there is a moment between the stopped deployment and its rollback's own
            break
        time.sleep(POLL_SECONDS)
        running = service.running()
        quiet = 0 if running else quiet + 1
    if quiet < 2:
        raise ReleaseError(f"still under way: {', '.join(running)}; the alias was not moved")


def _pinnable(service: Service, target: str) -> dict[str, str]:
    live = {
        function: service.alias(function)["FunctionVersion"]
        for function in filter(None, (service.function, service.worker))
    }
    if live[service.function] != target:
        raise ReleaseError(
            f"version {live[service.function]} is live, not {target}: rollback or promote moves it"
        )
    return live


def _pin(console: Console, args: argparse.Namespace, pinned: str) -> int:
    chosen = f"stage={args.stage} {pinned}"
    command = ["make", "deploy", *([f"MODEL={args.model}"] if args.model else []), f"SET={chosen}"]
    run = args.deploy and not args.dry_run
    console.print("running" if run else "then tell the stack, with the SET it was deployed with:")
    console.print(f"  {shlex.join(command)}", markup=False)
    console.print("and leave what is pinned out again when the next version is to come")
    return subprocess.run(command, check=False).returncode if run else 0  # noqa: S603


def _status(console: Console, service: Service) -> None:
    alias = service.alias()
    weights = rollback.weights(alias)
    shares = {alias["FunctionVersion"]: 1 - sum(weights.values()), **weights}
    table = Table("version", "model", "published", "traffic")
    for version in service.versions():
        share = shares.get(version["Version"])
        table.add_row(
            version["Version"],
            version.get("Description", ""),
            str(version.get("LastModified", ""))[:19],
            f"{share:.0%}" if share else "",
        )
    console.print(f"{service.stack}: {service.function}")
    console.print(table)
    for deployment in service.running():
        console.print(f"under way: {deployment}")
