"""The function's image: its build context, and where the stack takes it from."""

import contextlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler import manifest as manifests
from handler.manifest import Manifest
from infra.project import SOURCE, find_model
from infra.settings import Settings

if TYPE_CHECKING:
    from aws_cdk import aws_ecr_assets as assets
    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct

FILES = ("Dockerfile", "requirements/function.txt", "infra/strip_packages.py")
PARQUET = "requirements/parquet.txt"  # in the image of the batch function, with `batch_parquet`
PARQUET_SUFFIX = "-parquet"  # of the tag of that image, where `image_tag` names the other
BASE_IMAGE = "public.ecr.aws/lambda/python:3.13"  # the Dockerfile's default
MOVES = "{} is a tag, which moves: set base_image to its digest, …/python@sha256:…"
# Lambda refuses the manifest lists that BuildKit makes to attach its provenance
ENVIRONMENT = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "DOCKER_BUILDKIT": "1"}


def pinned(base_image: str) -> bool:
    """Return whether the base image is named by its digest."""
    return "@sha256:" in base_image


@contextlib.contextmanager
def build_context(model_dir: Path, parquet: bool = False) -> Iterator[Path]:
    """Yield a folder with exactly what the Dockerfile copies, the model in model/."""
    with tempfile.TemporaryDirectory(prefix="answerable-image-") as folder:
        context = Path(folder)
        names = [*FILES, *_optional_requirements(manifests.read(model_dir))]
        for name in names + [PARQUET] * parquet:
            (context / name).parent.mkdir(exist_ok=True)
            shutil.copy(SOURCE / name, context / name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / "handler", context / "handler", ignore=ignored)
        shutil.copytree(model_dir, context / "model")
        yield context


def _optional_requirements(manifest: Manifest) -> Iterator[str]:
    """Yield the files of requirements that only some models need."""
    if any(feature.tokenizer for feature in manifest.features):
        yield "requirements/text.txt"
    if any(feature.image for feature in manifest.features):
        yield "requirements/images.txt"
    if manifest.uses_extensions:
        yield "requirements/extensions.txt"


def build_args(model: str, manifest: Manifest, base_image: str = "") -> dict[str, str]:
    """Return the Dockerfile's arguments: the model, and the labels' values."""
    args = {
        "MODEL": model,
        "MODEL_VERSION": manifest.version,
        "MODEL_SHA256": manifest.files["model.onnx"].sha256,
        "GIT_COMMIT": _commit(),
    }
    return args | ({"BASE_IMAGE": base_image} if base_image else {})


def code(
    scope: "Construct",
    chosen: Settings,
    manifest: Manifest,
    entry_point: str,
    parquet: bool = False,
) -> "lambda_.DockerImageCode":
    """Return the image for one function: built as an asset, or named by repository and tag.

    The tag is a literal in the template. A CloudFormation parameter would not change the
    version's hash, and a new image would publish no new version.
    """
    from aws_cdk import Stack
    from aws_cdk import aws_ecr as ecr
    from aws_cdk import aws_lambda as lambda_

    if chosen.image_repository:
        arn = Stack.of(scope).format_arn(
            service="ecr",
            account=chosen.image_registry or None,
            resource="repository",
            resource_name=chosen.image_repository,
        )
        repository: Any = scope.node.try_find_child("Repository")
        repository = repository or ecr.Repository.from_repository_attributes(
            scope, "Repository", repository_arn=arn, repository_name=chosen.image_repository
        )
        return lambda_.DockerImageCode.from_ecr(
            repository, tag_or_digest=chosen.image_tag + PARQUET_SUFFIX * parquet, cmd=[entry_point]
        )
    stack = Stack.of(scope)
    asset: Any = stack.node.try_find_child("ParquetImage" if parquet else "Image")
    asset = asset or _asset(stack, chosen, manifest, parquet)
    return lambda_.DockerImageCode.from_ecr(
        asset.repository, tag_or_digest=asset.image_tag, cmd=[entry_point]
    )


def _asset(
    scope: "Construct", chosen: Settings, manifest: Manifest, parquet: bool
) -> "assets.DockerImageAsset":
    from aws_cdk import aws_ecr_assets as assets

    arm = chosen.architecture == "arm64"
    with build_context(find_model(chosen.model), parquet) as context:
        return assets.DockerImageAsset(
            scope,
            "ParquetImage" if parquet else "Image",
            directory=str(context),  # copied into the cloud assembly at once
            build_args=build_args(chosen.model, manifest, chosen.base_image),
            platform=assets.Platform.LINUX_ARM64 if arm else assets.Platform.LINUX_AMD64,
            # the commit is a label, not content: a commit to the README deploys nothing
            invalidation=assets.DockerImageAssetInvalidationOptions(build_args=False),
            extra_hash=f"{chosen.model} {chosen.base_image}",
        )


def _commit() -> str:
    """Return the project's commit, with "-dirty" if files differ, or "unknown" outside git."""
    run = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"


def size(docker: str, tag: str, base: str) -> int:
    """Return the compressed bytes of the layers over the base image."""
    below = len(inspected(docker, base, "{{json .RootFS.Layers}}"))
    saved = subprocess.run([docker, "save", tag], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        index = archive.extractfile("manifest.json")
        assert index
        layers = json.load(index)[0]["Layers"][below:]
        files = [archive.extractfile(name) for name in layers]
        return sum(len(zlib.compress(file.read())) for file in files if file)


def inspected(docker: str, name: str, form: str) -> Any:
    """Return what `docker image inspect` says of an image."""
    show = [docker, "image", "inspect", "--format", form, name]
    return json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
