"""`answerable COMMAND …`: finds the command's module and hands over.

A command is a module with `add_arguments(parser)` and `main(args) -> int`. Only the one that is
called is imported, so that `answerable serve` does not wait for what `answerable pack` needs.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from answerable.commands import run
from handler import __version__

COMMANDS = {
    "new": "make a folder for a model's project: settings, CI workflow, model_artifacts",
    "upgrade": "say what another version of answerable changes in this project",
    "pack": "turn a model and a sample of its data into an artifact with a contract",
    "batch": "score a file of any size, here or with a deployed stack",
    "diff": "explain the differences of two versions: contract, answers, baseline, lineage",
    "conformance": "whether what a contract forbids is refused, here or at a URL",
    "cost": "what a month of a deployed model costs, idle and with traffic",
    "explain": "explain a prediction by its id",
    "report": "draw what records say: drift, rejects, latency, outcomes",
    "redrive": "have the dead letters of a stack's jobs tried again",
    "simulate-release": "simulate a release: what each version answers, which alarm fires",
    "image": "build the function's image and print its size",
    "bootstrap": "prepare an AWS account and region for CDK, once",
    "synth": "write the CloudFormation template of a stage",
    "deploy": "deploy a model to a stage",
    "destroy": "delete the stack of a model in a stage",
    "release": "which version is live; roll back, promote, pin",
    "serve": "run the packed model locally, through the real Lambda handler",
}


EXTRAS = {"serve": "serve"}  # what a command needs beside the dependencies; others need deploy


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="answerable")
    parser.description = "Pack, serve and deploy ONNX models that you can answer for."
    parser.add_argument("--version", action="version", version=f"answerable {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), "")
    try:
        for name, summary in COMMANDS.items():
            command = commands.add_parser(
                name,
                help=summary,
                description=summary[0].upper() + summary[1:] + ".",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            if name == chosen:
                module = importlib.import_module(f"answerable.commands.{name.replace('-', '_')}")
                module.add_arguments(command)
                command.set_defaults(run=module.main)
        args = parser.parse_args(argv)
        return run(chosen, args.run, args)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "answerable", "handler", "infra"):
            raise
        extra = EXTRAS.get(chosen, "deploy")
        print(
            f"{chosen} needs {package}, which is not installed: pip install 'answerable[{extra}]'",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
