"""The function's image: what goes into its build, and where the stack takes it from.

`python -m infra.image [--model NAME] [--tag TAG]` builds it by hand and prints its size.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.manifest import Manifest
from infra import settings
from infra.settings import Settings

if TYPE_CHECKING:
    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct

ROOT = Path(__file__).parent.parent
BASE_IMAGE = "public.ecr.aws/lambda/python:3.13"  # the Dockerfile's default
MOVES = "{} is a tag, which moves: pin the base image by its digest, …/python@sha256:…"
# Lambda refuses the manifest lists that BuildKit makes to attach its provenance
ENVIRONMENT = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "DOCKER_BUILDKIT": "1"}


def pinned(base_image: str) -> bool:
    """Whether the base image is named by its content."""
    return "@sha256:" in base_image


def build_args(model: str, manifest: Manifest, base_image: str = "") -> dict[str, str]:
    """The Dockerfile's arguments: which model, and what the labels say of it."""
    args = {
        "MODEL": model,
        "MODEL_VERSION": manifest.version,
        "MODEL_SHA256": manifest.files["model.onnx"].sha256,
        "GIT_COMMIT": _commit(),
    }
    return args | ({"BASE_IMAGE": base_image} if base_image else {})


def code(
    scope: "Construct", chosen: Settings, manifest: Manifest, entry_point: str
) -> "lambda_.DockerImageCode":
    """The image for one function: built as an asset, or named by repository and tag.

    The tag is a literal in the template. As a CloudFormation parameter it would not change the
    version's hash, and a new image would publish no new version.
    """
    import aws_cdk as cdk
    from aws_cdk import aws_ecr as ecr
    from aws_cdk import aws_ecr_assets as assets
    from aws_cdk import aws_lambda as lambda_

    if chosen.image_repository:
        repository = scope.node.try_find_child("Repository") or ecr.Repository.from_repository_name(
            scope, "Repository", chosen.image_repository
        )
        return lambda_.DockerImageCode.from_ecr(
            repository,  # type: ignore[arg-type]
            tag_or_digest=chosen.image_tag,
            cmd=[entry_point],
        )
    args = build_args(chosen.model, manifest, chosen.base_image)
    return lambda_.DockerImageCode.from_image_asset(
        str(ROOT),
        cmd=[entry_point],
        build_args=args,
        platform=(
            assets.Platform.LINUX_ARM64
            if chosen.architecture == "arm64"
            else assets.Platform.LINUX_AMD64
        ),
        # another model's files are not part of this image, so they do not make it a new one
        exclude=["model_artifacts/*", f"!model_artifacts/{chosen.model}"],
        ignore_mode=cdk.IgnoreMode.DOCKER,
        # the commit is a label, not content: a commit to the README deploys nothing
        invalidation=assets.DockerImageAssetInvalidationOptions(build_args=False),
        extra_hash=f"{chosen.model} {chosen.base_image}",
    )


def _commit() -> str:
    """The checkout's commit, "-dirty" if files differ from it, or "unknown" outside git."""
    run = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"


def size(docker: str, tag: str, base: str) -> int:
    """Compressed bytes over the base image: what a push, and a cold start's first read, moves."""
    below = len(inspected(docker, base, "{{json .RootFS.Layers}}"))
    saved = subprocess.run([docker, "save", tag], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        index = archive.extractfile("manifest.json")
        assert index
        own = json.load(index)[0]["Layers"][below:]
        files = [archive.extractfile(name) for name in own]
        return sum(len(zlib.compress(file.read())) for file in files if file)


def inspected(docker: str, name: str, form: str) -> Any:
    """What Docker knows of an image."""
    show = [docker, "image", "inspect", "--format", form, name]
    return json.loads(subprocess.run(show, capture_output=True, check=True).stdout)


def main() -> int:
    """Build the image with `docker` (or $DOCKER), print its size, and write its SBOM to build/."""
    parser = argparse.ArgumentParser(prog="python -m infra.image", description=main.__doc__)
    parser.add_argument("--model", help="a folder of model_artifacts (default: the only one)")
    parser.add_argument("--tag", help="default: answerable:<model>-<version>")
    parser.add_argument("--base-image", default=os.environ.get("BASE_IMAGE", ""))
    parser.add_argument("--platform", choices=["linux/amd64", "linux/arm64"])
    args = parser.parse_args()
    try:
        chosen, manifest = settings.read({"model": args.model} if args.model else {})
    except settings.SettingsError as error:
        print(f"infra.image: {error}", file=sys.stderr)
        return 2
    tag = args.tag or f"answerable:{chosen.model}-{manifest.version}"
    docker = os.environ.get("DOCKER", "docker")
    base = args.base_image or BASE_IMAGE
    if not pinned(base):
        print(f"infra.image: {MOVES.format(base)}", file=sys.stderr)
    command = [docker, "build", "--tag", tag]
    if args.platform:
        command += ["--platform", args.platform]
    for name, value in build_args(chosen.model, manifest, args.base_image).items():
        command += ["--build-arg", f"{name}={value}"]
    try:
        built = subprocess.run([*command, str(ROOT)], env=os.environ | ENVIRONMENT, check=False)
    except FileNotFoundError:
        print(f"infra.image: there is no {docker} here; install Docker", file=sys.stderr)
        return 1
    if built.returncode:
        return built.returncode
    over = size(docker, tag, base)
    print(f"{tag}: {over / 1e6:.1f} MB compressed over its base image")
    from infra import sbom

    bill = ROOT / "build" / f"sbom-{chosen.model}-{manifest.version}.cdx.json"
    bill.parent.mkdir(exist_ok=True)
    found = sbom.packages(docker, tag)
    image_id = inspected(docker, tag, "{{json .Id}}")
    told = sbom.document(found, chosen.model, manifest, base, image_id)
    bill.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{bill.relative_to(ROOT)}: {len(found)} packages, the model and the base image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
