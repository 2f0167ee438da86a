"""`answerable synth STAGE`: write the CloudFormation template to cdk.out/."""

import argparse

from answerable import cdk

add_arguments = cdk.add_arguments


def main(args: argparse.Namespace, run: cdk.Run = cdk.run) -> int:
    """Return the CDK CLI's exit code."""
    cdk.read_settings(args)
    return cdk.synth(args, run)
