"""`answerable deploy STAGE`: deploy the model with the settings of deploy.toml.

Before the deployment the synthesised template is compared with the deployed one. A deployment that
would remove a queue, a bucket, a key or the archive, or that would change how clients authenticate,
stops and lists the losses. It also stops where a rollback has moved the alias away from the version
in the template: CodeDeploy refuses such a deployment. After the deployment a smoke test asks the
golden rows of the live version, and calls the URL.
"""

import argparse
import sys
from collections.abc import Sequence

from answerable import cdk, smoke
from answerable.removals import Removal, removals
from answerable.stack import Client, deployed_template, lookup
from handler.release import rollback
from handler.release.rollback import ReleaseError, Service
from infra.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    cdk.add_arguments(parser)
    parser.add_argument("--yes-remove", nargs="+", action="extend", default=[], metavar="SETTING",
        help="remove what these settings had made, as jobs")  # fmt: skip
    parser.add_argument("--skip-smoke-test", action="store_true",
        help="do not ask the golden rows of the deployed version, nor call its URL")  # fmt: skip


def main(
    args: argparse.Namespace,
    run: cdk.Run = cdk.run,
    client: Client | None = None,
    get: smoke.Get = smoke.get_status,
) -> int:
    """Return the CDK CLI's exit code."""
    import boto3

    client = client or boto3.client
    chosen, _ = cdk.read_settings(args)
    if code := cdk.synth(args, run):
        return code
    deployed = deployed_template(client, chosen.stack)
    if deployed is not None:
        losses = removals(deployed, cdk.template(chosen.stack))
        check_removals([loss for loss in losses if loss.name not in args.yes_remove])
        check_alias(lookup(client, chosen.model, chosen.stage), chosen)
    # without a terminal nobody can approve the changes of IAM
    approval = [] if sys.stdin.isatty() else ["--require-approval", "never"]
    if code := run(["deploy", "--app", str(cdk.OUTPUT), *approval, chosen.stack]):
        return code
    if not args.skip_smoke_test:
        service = lookup(client, chosen.model, chosen.stage)
        smoke.check_live_version(service, print)
        smoke.check_url(service, chosen.auth, get, print)
    return 0


def check_removals(losses: Sequence[Removal]) -> None:
    """Raise ReleaseError with a line for each loss."""
    if losses:
        names = " ".join(dict.fromkeys(loss.name for loss in losses))
        lines = [f"  {loss.name}: {loss.text}" for loss in losses]
        raise ReleaseError(
            "this deployment would remove or change what is in use:\n"
            + "\n".join(lines)
            + f"\nCorrect deploy.toml, or confirm it with --yes-remove {names}"
        )


def check_alias(service: Service, chosen: Settings) -> None:
    """Raise ReleaseError if the alias is not where the stack has put it.

    A pinned deployment moves the alias without CodeDeploy, so it is not checked.
    """
    if chosen.pinned_version:
        return
    alias = service.alias()
    live, weights = alias["FunctionVersion"], rollback.weights(alias)
    if weights or service.running():
        raise ReleaseError("a deployment is under way. Wait for it, or stop it in CodeDeploy")
    if live != service.stack_live_version:
        command = f"answerable deploy {chosen.stage} --model {chosen.model}"
        raise ReleaseError(
            f"version {live} is live, and the stack has version {service.stack_live_version}. "
            f"CodeDeploy refuses to deploy over a rollback. First tell the stack, then deploy:\n"
            f"  {command} -c pinned_version={live}\n  {command}"
        )
