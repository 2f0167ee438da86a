"""`answerable release ACTION STAGE`: show what is live, roll back, promote, pin, prune.

The alias is moved only to a version that has just answered its golden rows, and only if nobody has
moved it since the decision. The next `answerable deploy` releases on top of it. To stay at the
version, pin it: the deployment with the setting `pinned_version` is printed, or run with --deploy.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from answerable import cdk
from answerable.commands import add_model
from answerable.stack import Client, NotDeployed, connect, find_stack_arn, lookup, policy
from handler.release import rollback
from handler.release.rollback import Image, Log, ReleaseError, Service
from infra import settings
from infra.project import find_model

POLL_SECONDS, POLLS = 5.0, 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("action", choices=["status", "rollback", "promote", "pin", "prune", "print-iam-policy"])
    add("stage", metavar="STAGE", help="the stage that is deployed, as prod")
    add(
        "version",
        nargs="?",
        type=int,
        metavar="VERSION",
        help="a version of the function (default: rollback: the one before the live one; "
        "promote: the latest; pin: the live one)",
    )
    add_model(parser)
    add("-c", dest="overrides", action="append", default=[], metavar="NAME=VALUE",
        help="a setting, over deploy.toml's; for print-iam-policy")  # fmt: skip
    add("--dry-run", action="store_true", help="check the version and print the plan only")
    add("--keep", type=int, default=5, help="versions that prune leaves (default: %(default)s)")
    add("--prune", action="store_true", help="of print-iam-policy: also what prune needs, which "
        "reads every function of the account")  # fmt: skip
    add("--deploy", action="store_true", help="also run the deployment that pins the stack")


def main(args: argparse.Namespace, client: Client = connect) -> int:
    """Do what the action says, and print the deployment that pins the stack."""
    console = Console(soft_wrap=True, highlight=False)
    args.model = find_model(args.model).name
    if args.action == "print-iam-policy":
        _print_policy(console, args, client)
        return 0
    service = lookup(client, args.model, args.stage)
    if args.action == "status":
        _print_status(console, service)
        return 0
    if args.action == "prune":
        prune(service, args.keep, console.print, args.dry_run)
        return 0
    alias = service.alias()
    target = choose_version(service, alias, args.action, args.version)
    if args.action == "pin":
        targets = service.live_versions(alias)
        if targets[service.function] != target:
            raise ReleaseError(
                f"version {targets[service.function]} is live, not {target}: rollback or promote "
                "moves it"
            )
    else:
        targets = rollback.verify_version(service, target, console.print)
        if stop_deployments(service, console.print, args.dry_run):
            alias = service.alias()  # CodeDeploy has moved it back
        rollback.move(service, targets, alias, console.print, args.dry_run)
    return _pin(console, args, rollback.pin_settings(service, targets))


def _print_policy(console: Console, args: argparse.Namespace, client: Client) -> None:
    """Print the policy with the names of the deployed stack, if there is one."""
    chosen, _ = settings.read(cdk.context(args))
    service = None
    try:
        service = lookup(client, args.model, args.stage)
        arn = service.stack_arn
    except NotDeployed:
        arn = find_stack_arn(client, chosen.stack)
    console.print_json(json.dumps(policy(chosen, arn, service, args.prune)))


def choose_version(service: Service, alias: Any, action: str, version: int | None) -> str:
    """Return the version that an action is about. Raises ReleaseError if there is none."""
    live = str(alias["FunctionVersion"])
    if version:
        return str(version)
    if action == "pin":
        return live
    if action == "promote":
        return str(service.versions()[0]["Version"])
    previous = service.previous(live)
    if previous is None:
        raise ReleaseError(f"there is no version before {live}")
    return previous


def stop_deployments(service: Service, log: Log, dry_run: bool = False) -> bool:
    """Stop the running deployments and wait for their rollback. Return True if there were any."""
    running = stopped = service.running()
    for deployment in running:
        log(f"stop the running deployment {deployment}, and wait until it is rolled back")
        if not dry_run:
            service.client("codedeploy").stop_deployment(
                deploymentId=deployment, autoRollbackEnabled=True
            )
    # the rollback is a deployment of its own, which starts a moment later: two looks find none
    idle = 0 if running and not dry_run else 2
    for _ in range(POLLS):
        if idle == 2:
            break
        time.sleep(POLL_SECONDS)
        running = service.running()
        idle = 0 if running else idle + 1
    if idle < 2:
        raise ReleaseError(f"still under way: {', '.join(running)}; the alias was not moved")
    return bool(stopped) and not dry_run


def _pin(console: Console, args: argparse.Namespace, pins: dict[str, str]) -> int:
    """Print the deployment that pins the stack, or run it."""
    overrides = [word for name, version in pins.items() for word in ("-c", f"{name}={version}")]
    command = ["deploy", args.stage, "--model", args.model, *overrides]
    run = args.deploy and not args.dry_run
    console.print("running" if run else "to stay at it, pin the stack:")
    console.print(f"  {shlex.join(['answerable', *command])}", markup=False)
    console.print("a deployment without these settings releases the next version on top of it")
    if not run:
        return 0
    return subprocess.run([sys.executable, "-m", "answerable", *command], check=False).returncode  # noqa: S603


def _print_status(console: Console, service: Service) -> None:
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
    if alias["FunctionVersion"] != service.stack_live_version:
        console.print(f"the stack has version {service.stack_live_version}")
    for deployment in service.running():
        console.print(f"under way: {deployment}")


def prune(service: Service, keep: int, say: Log, dry_run: bool = False) -> None:
    """Delete published versions, then the images that no function of the account and region runs.

    Versions are retained when the next one is published. Only images of the deleted versions are
    deleted, because other stacks may use the repository.
    Kept are the last `keep` versions, those of an alias or of the stack, the one that was live
    before, and the worker's versions of the same images.
    """
    if keep < 1:
        raise ReleaseError("the last version stays: --keep is 1 or more")
    # CloudFormation's rollback needs the version of the last deployment that succeeded
    if not service.stack_status.endswith("_COMPLETE"):
        raise ReleaseError(
            f"the stack is in {service.stack_status}: nothing is deleted until it ends"
        )
    before = service.previous(service.alias()["FunctionVersion"])
    kept_by_stack = {service.stack_live_version, before}
    shared: set[Image | None] = set()
    to_delete: list[tuple[str, str, Image | None]] = []
    for function in filter(None, (service.function, service.worker)):
        numbers = [v["Version"] for v in service.versions(function)]
        kept = {*numbers[:keep], *_aliased(service, function)}
        kept |= kept_by_stack if function == service.function else set()
        images = {number: _image(service, function, number) for number in numbers}
        # rollback to a version of the API needs the worker's version of the same image
        for number in numbers:
            if number in kept or (function == service.worker and images[number] in shared):
                shared.add(images[number])
            else:
                to_delete.append((function, number, images[number]))
    functions = service.client("lambda")
    for function, number, _ in to_delete:
        say(f"delete version {number} of {function}")
        if not dry_run:
            functions.delete_function(FunctionName=function, Qualifier=number)
    unused = {image for *_, image in to_delete if image}
    if unused:
        unused -= _used(service, {(function, number) for function, number, _ in to_delete})
    for image in sorted(unused):
        say(f"delete the image {image.digest or image.tag} of {image.repository}")
        if not dry_run:
            _delete(service, image)
    if not to_delete:
        say("there is nothing to delete")


def _aliased(service: Service, function: str) -> set[str]:
    """Return the versions that any alias sends traffic to."""
    pages = service.client("lambda").get_paginator("list_aliases")
    aliases = pages.paginate(FunctionName=function).build_full_result()["Aliases"]
    return {v for alias in aliases for v in (alias["FunctionVersion"], *rollback.weights(alias))}


def _image(service: Service, function: str, version: str) -> Image | None:
    response = service.client("lambda").get_function(FunctionName=function, Qualifier=version)
    return rollback.image(response["Code"])


def _used(service: Service, to_delete: set[tuple[str, str]]) -> set[Image | None]:
    """Return the images of all functions' versions, $LATEST included, except those `to_delete`."""
    pages = service.client("lambda").get_paginator("list_functions")
    every = pages.paginate(FunctionVersion="ALL").build_full_result()["Functions"]
    return {
        _image(service, f["FunctionName"], f["Version"])
        for f in every
        if f.get("PackageType") == "Image" and (f["FunctionName"], f["Version"]) not in to_delete
    }


def _delete(service: Service, image: Image) -> None:
    failures: list[Any] = service.client("ecr").batch_delete_image(
        registryId=image.registry, repositoryName=image.repository, imageIds=[image.id]
    )["failures"]
    left = [f["failureCode"] for f in failures if f["failureCode"] != "ImageNotFound"]
    if left:
        raise ReleaseError(f"the image {image.digest or image.tag} is still there: {left[0]}")
