"""`answerable image`: build the function's image, print its size, and write its SBOM."""

import argparse
import json
import os
import subprocess
from pathlib import Path

from answerable.commands import InputError, add_model, warn
from handler import manifest as manifests
from infra import image, sbom
from infra.project import find_model

BUILD = Path("build")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model(parser)
    add = parser.add_argument
    add("--tag", help="default: answerable:MODEL-VERSION")
    add("--base-image", default=os.environ.get("BASE_IMAGE", ""), help="default: AWS's")
    add("--platform", choices=["linux/amd64", "linux/arm64"])
    add("--parquet", action="store_true", help="the image of batches with `batch_parquet`")


def main(args: argparse.Namespace) -> int:
    """Build with `docker` (or $DOCKER); return its exit code."""
    directory = find_model(args.model)
    manifest = manifests.read(directory)
    suffix = image.PARQUET_SUFFIX * args.parquet
    tag = (args.tag or f"answerable:{manifest.name}-{manifest.version}") + suffix
    docker = os.environ.get("DOCKER", "docker")
    base = args.base_image or image.BASE_IMAGE
    if not image.pinned(base):
        warn(f"image: {image.MOVES.format(base)}")
    command = [docker, "build", "--tag", tag]
    if args.platform:
        command += ["--platform", args.platform]
    for name, value in image.build_args(manifest.name, manifest, args.base_image).items():
        command += ["--build-arg", f"{name}={value}"]
    try:
        with image.build_context(directory, args.parquet) as context:
            environment = os.environ | image.ENVIRONMENT
            built = subprocess.run([*command, str(context)], env=environment, check=False)  # noqa: S603
    except FileNotFoundError:
        raise InputError(f"there is no {docker} here; install Docker") from None
    if built.returncode:
        return built.returncode
    size = image.size(docker, tag, base)
    print(f"{tag}: {size / 1e6:.1f} MB compressed over its base image")
    file = BUILD / f"sbom-{manifest.name}-{manifest.version}{suffix}.cdx.json"
    file.parent.mkdir(exist_ok=True)
    packages = sbom.packages(docker, tag)
    image_id = image.inspected(docker, tag, "{{json .Id}}")
    bill = sbom.document(packages, manifest.name, manifest, base, image_id)
    file.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{file}: {len(packages)} packages, the model and the base image")
    return 0
