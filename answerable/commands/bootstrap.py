"""`answerable bootstrap`: prepare an AWS account and region for CDK, once.

It needs an administrator's permissions and writes the stack CDKToolkit. An account that a platform
team has bootstrapped needs no other: the setting `bootstrap_qualifier` names theirs.
"""

import argparse
from collections.abc import Callable
from typing import Any

from answerable import cdk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...",
        help="options of `cdk bootstrap`, after --")  # fmt: skip


def main(
    args: argparse.Namespace, run: cdk.Run = cdk.run, session: Callable[[], Any] | None = None
) -> int:
    """Return the CDK CLI's exit code."""
    import boto3

    aws = (session or boto3.Session)()
    account = aws.client("sts").get_caller_identity()["Account"]
    # with the environment named, the CLI does not run the app, which needs a stage and a model
    options = [word for word in args.options if word != "--"]
    return run(["bootstrap", f"aws://{account}/{aws.region_name}", *options])
