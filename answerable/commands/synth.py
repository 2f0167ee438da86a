"""`answerable synth STAGE`: write the CloudFormation template to cdk.out/."""

import argparse
import sys

from answerable import cdk
from infra.settings import SettingsError

add_arguments = cdk.add_arguments


def main(args: argparse.Namespace, run: cdk.Run = cdk.run) -> int:
    """Return the CDK CLI's exit code; 2 if the settings have a fault."""
    try:
        cdk.read_settings(args)
    except SettingsError as error:
        print(f"synth: {error}", file=sys.stderr)
        return 2
    return cdk.synth(args, run)
