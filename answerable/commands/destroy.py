"""`answerable destroy STAGE`: delete the stack.

Deleting a function deletes its versions. Log groups and buckets stay, as their DeletionPolicy says.
"""

import argparse

from answerable import cdk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    cdk.add_arguments(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def main(args: argparse.Namespace, run: cdk.Run = cdk.run) -> int:
    """Return the CDK CLI's exit code; it asks before it deletes."""
    chosen, _ = cdk.read_settings(args)
    code = cdk.synth(args, run)
    force = ["--force"] if args.yes else []
    return code or run(["destroy", "--app", str(cdk.OUTPUT), *force, chosen.stack])
