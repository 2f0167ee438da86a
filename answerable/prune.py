"""`answerable release prune`: delete old versions and their images.

Versions are retained when the next one is published. Only images of the deleted versions are
deleted, because other stacks may use the repository.
"""

from typing import Any

from handler.release import rollback
from handler.release.rollback import Image, Log, ReleaseError, Service


def prune(service: Service, keep: int, say: Log, dry_run: bool = False) -> None:
    """Delete published versions, then the images that no function of the account and region runs.

    Kept are the last `keep` versions, those of an alias or of the stack, the one that was live
    before, and the worker's versions of the same images.
    """
    if keep < 1:
        raise ReleaseError("the last version stays: --keep is 1 or more")
    # CloudFormation's rollback needs the version of the last deployment that succeeded
    if not service.stack_status.endswith("_COMPLETE"):
        raise ReleaseError(
            f"the stack is in {service.stack_status}: nothing is deleted until it ends"
        )
    before = service.previous(service.alias()["FunctionVersion"])
    kept_by_stack = {service.stack_live_version, before}
    shared: set[Image | None] = set()
    to_delete: list[tuple[str, str, Image | None]] = []
    for function in filter(None, (service.function, service.worker)):
        numbers = [v["Version"] for v in service.versions(function)]
        kept = {*numbers[:keep], *_aliased(service, function)}
        kept |= kept_by_stack if function == service.function else set()
        images = {number: _image(service, function, number) for number in numbers}
        # rollback to a version of the API needs the worker's version of the same image
        for number in numbers:
            if number in kept or (function == service.worker and images[number] in shared):
                shared.add(images[number])
            else:
                to_delete.append((function, number, images[number]))
    functions = service.client("lambda")
    for function, number, _ in to_delete:
        say(f"delete version {number} of {function}")
        if not dry_run:
            functions.delete_function(FunctionName=function, Qualifier=number)
    unused = {image for *_, image in to_delete if image}
    if unused:
        unused -= _used(service, {(function, number) for function, number, _ in to_delete})
    for image in sorted(unused):
        say(f"delete the image {image.digest or image.tag} of {image.repository}")
        if not dry_run:
            _delete(service, image)
    if not to_delete:
        say("there is nothing to delete")


def _aliased(service: Service, function: str) -> set[str]:
    """Return the versions that any alias sends traffic to."""
    pages = service.client("lambda").get_paginator("list_aliases")
    aliases = pages.paginate(FunctionName=function).build_full_result()["Aliases"]
    return {v for alias in aliases for v in (alias["FunctionVersion"], *rollback.weights(alias))}


def _image(service: Service, function: str, version: str) -> Image | None:
    response = service.client("lambda").get_function(FunctionName=function, Qualifier=version)
    return rollback.image(response["Code"])


def _used(service: Service, to_delete: set[tuple[str, str]]) -> set[Image | None]:
    """Return the images of all functions' versions, $LATEST included, except those `to_delete`."""
    pages = service.client("lambda").get_paginator("list_functions")
    every = pages.paginate(FunctionVersion="ALL").build_full_result()["Functions"]
    return {
        _image(service, f["FunctionName"], f["Version"])
        for f in every
        if f.get("PackageType") == "Image" and (f["FunctionName"], f["Version"]) not in to_delete
    }


def _delete(service: Service, image: Image) -> None:
    failures: list[Any] = service.client("ecr").batch_delete_image(
        registryId=image.registry, repositoryName=image.repository, imageIds=[image.id]
    )["failures"]
    left = [f["failureCode"] for f in failures if f["failureCode"] != "ImageNotFound"]
    if left:
        raise ReleaseError(f"the image {image.digest or image.tag} is still there: {left[0]}")
