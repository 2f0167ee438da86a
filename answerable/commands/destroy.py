"""`answerable destroy STAGE`: delete the stack.

Deleting a function deletes its versions. Log groups, buckets and the secret's log stay, as their
DeletionPolicy says; docs/runbook.md names them.
"""

import argparse

from answerable import cdk

add_arguments = cdk.add_arguments


def main(args: argparse.Namespace, run: cdk.Run = cdk.run) -> int:
    """Return the CDK CLI's exit code; it asks before it deletes."""
    chosen, _ = cdk.read_settings(args)
    code = cdk.synth(args, run)
    return code or run(["destroy", "--app", str(cdk.OUTPUT), chosen.stack])
