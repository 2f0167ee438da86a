"""`make smoke STAGE=dev`: the life of a model on a real account, for whoever has one.

It deploys a small model of its own, `smoke`, so no other stack is touched. It plays a deployment, a
change, a release that fails, a retry, a rollback, the fix, more memory, and the end. Each step must
have its exit code. `ARGS="-c architecture=arm64"` gives each deployment a setting.
tests/infra/test_releases.py plays the same steps against the emulator.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from answerable.packing import artifact
from handler import manifest as manifests
from tests.fixtures.artifact import DIABETES

MODEL = "smoke"
SETTINGS = "jobs = true\nbake_minutes = 2\nlog_retention_days = 1\n"
WRONG = "1.0.9"  # the version whose golden answers are wrong


class Step(NamedTuple):
    """A step: its name, the command, the version that is packed before it, the exit code."""

    name: str
    words: tuple[str, ...]
    version: str = ""
    code: int = 0


def steps(stage: str, settings: Sequence[str] = ()) -> list[Step]:
    """Return the steps in their order. `settings`: NAME=VALUE, of every deployment."""
    options = tuple(word for setting in settings for word in ("-c", setting))
    deploy = ("deploy", stage, "--model", MODEL, *options)
    return [
        Step("deploy", deploy, "1.0.0"),
        Step("change", deploy, "1.0.1"),
        Step("fail: wrong golden answers", deploy, WRONG, code=1),
        Step("fail again", deploy, WRONG, code=1),
        Step("retry with a good version", deploy, "1.0.2"),
        Step("roll back", ("release", "rollback", stage, "--model", MODEL)),
        Step("deploy the fix over the rollback", deploy, "1.0.3"),
        Step("more memory", (*deploy, "-c", "memory=2048")),
        Step("which version is live", ("release", "status", stage, "--model", MODEL)),
        Step("destroy", ("destroy", stage, "--model", MODEL, *options, "--yes")),
    ]


def write_version(project: Path, version: str) -> None:
    """Write the model at a version into the project."""
    folder = project / "model_artifacts" / MODEL
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DIABETES, folder)
    if version == WRONG:
        golden = folder / "golden.jsonl"
        lines = [json.loads(line) for line in golden.read_text().splitlines()]
        lines[5]["prediction"]["progression"] += 1
        golden.write_text("".join(json.dumps(line) + "\n" for line in lines))
    packed = manifests.read(DIABETES)._replace(name=MODEL, version=version)
    artifact.write(folder, packed._replace(files=artifact.files(folder)))


def play(
    project: Path,
    stage: str,
    run: Callable[[Sequence[str]], int],
    settings: Sequence[str] = (),
) -> str:
    """Run the steps in the project's folder; return the name of the one that went wrong, or ""."""
    (project / "deploy.toml").write_text(f"[stage.{stage}]\n{SETTINGS}")
    for step in steps(stage, settings):
        print(f"\n=== {step.name}: answerable {' '.join(step.words)} {step.version}", flush=True)
        if step.version:
            write_version(project, step.version)
        code = run(step.words)
        if bool(code) != bool(step.code):
            print(f"exit code {code} instead of {step.code}", file=sys.stderr)
            return step.name
    return ""


def main() -> int:
    """Play the steps; after a fault the stack is left for a look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--dry-run", action="store_true", help="print the steps only")
    parser.add_argument("-c", dest="settings", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of every deployment")  # fmt: skip
    args = parser.parse_args()
    if args.dry_run:
        for step in steps(args.stage, args.settings):
            print(f"{step.name}: answerable {' '.join(step.words)} {step.version}".rstrip())
        return 0
    with tempfile.TemporaryDirectory(prefix="answerable-smoke-") as folder:
        root = Path(__file__).parents[1]
        shutil.copy(root / "cdk.json", folder)
        environment = {**os.environ, "PYTHONPATH": str(root)}

        def run(words: Sequence[str]) -> int:
            command = [sys.executable, "-m", "answerable", *words]
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode

        failed = play(Path(folder), args.stage, run, args.settings)
    if failed:
        print(
            f"\nsmoke: {failed} went wrong; `answerable destroy` removes the stack", file=sys.stderr
        )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
