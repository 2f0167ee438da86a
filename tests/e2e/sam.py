"""`sam local invoke` of the synthesised template with files of events/good.

`python -m tests.e2e.sam [NAME…]` (`make sam EVENT=rest-one-row`) prints the answers. The image must
be there under the name that SAM makes of the template's; `image()` gives it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e import emulator
from tests.e2e.emulator import ACCOUNT, REGION, ROOT, Tools
from tests.fixtures import expected_answers

REPOSITORY, TAG = "answerable", "sam"


def image(tag: str = TAG) -> str:
    """The template's image name with SAM's values for account, region and domain."""
    return f"{ACCOUNT}.dkr.ecr.{REGION}.localhost/{REPOSITORY}:{tag}"


def synth(directory: Path, tag: str = TAG, tree: Path = ROOT) -> Path:
    """The template, and in it the function's logical id by its path."""
    context = ["-c", f"image_repository={REPOSITORY}", "-c", f"image_tag={tag}"]
    script = "import json, os, sys; from infra import app; app.build(os.environ['OUT']).synth()"
    flags = json.loads((tree / "cdk.json").read_text())["context"]
    values = flags | dict(pair.split("=") for pair in context if "=" in pair)
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tree,
        env=emulator.environment(OUT=str(directory), CDK_CONTEXT_JSON=json.dumps(values)),
        check=True,
    )
    return next(directory.glob("*.template.json"))


def invoke(answerable: Tools, template: Path, name: str) -> Any:
    """The function's answer to one event."""
    resources = json.loads(template.read_text())["Resources"]
    function = next(
        name
        for name, item in resources.items()
        if item["Type"] == "AWS::Lambda::Function"
        and item["Properties"]["ImageConfig"]["Command"] == ["handler.function.lambda_handler"]
    )
    command = [answerable.sam, "local", "invoke", function, "--template", str(template)]
    command += ["--event", str(expected_answers.EVENTS / f"{name}.json"), "--skip-pull-image"]
    command += ["--region", REGION]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=emulator.environment(
            SAM_CLI_TELEMETRY="0",
            AWS_ACCESS_KEY_ID=ACCOUNT,
            AWS_SECRET_ACCESS_KEY="test",
        ),
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return json.loads(run.stdout.strip().splitlines()[-1])


def main() -> int:
    names = [f"good/{name}" for name in sys.argv[1:]] or expected_answers.names("good")
    answerable = emulator.prepare()
    subprocess.run(
        [sys.executable, "-m", "answerable", "image", "--tag", image()],
        cwd=ROOT,
        env=emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base),
        check=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        template = synth(Path(directory))
        for name in names:
            answer = invoke(answerable, template, name)
            expected_answers.check(name, answer)
            print(f"{name}: {answer['statusCode']} {answer['body'][:300]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
