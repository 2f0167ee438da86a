"""`answerable release prune`: versions that nobody goes back to, and their images.

Versions are retained when the next one is published, and an image is no use without its version,
so the two go together. Only images that the deleted versions ran are looked at: the repository may
hold what others need, from other stacks or from elsewhere.
"""

from typing import Any

from handler.release import rollback
from handler.release.rollback import Image, Log, ReleaseError, Service


def prune(service: Service, keep: int, say: Log, dry_run: bool = False) -> None:
    """Delete all published versions but the last `keep`, those that an alias or the stack names,
    the one that was live before, and the worker's of the same images; then images that no version
    of any function in this account and region runs any more.
    """
    if keep < 1:
        raise ReleaseError("the last version stays: --keep is 1 or more")
    # CloudFormation's rollback needs the version of the last deployment that succeeded
    if not service.stack_status.endswith("_COMPLETE"):
        raise ReleaseError(
            f"the stack is in {service.stack_status}: nothing is deleted until it ends"
        )
    before = service.previous(service.alias()["FunctionVersion"])
    wanted = {service.stack_live_version, before}
    shared: set[Image | None] = set()
    doomed: list[tuple[str, str, Image | None]] = []
    for function in filter(None, (service.function, service.worker)):
        numbers = [v["Version"] for v in service.versions(function)]
        kept = {*numbers[:keep], *_aliased(service, function)}
        kept |= wanted if function == service.function else set()
        images = {number: _image(service, function, number) for number in numbers}
        # a version of the API is no way back without the worker's that goes with it
        for number in numbers:
            if number in kept or (function == service.worker and images[number] in shared):
                shared.add(images[number])
            else:
                doomed.append((function, number, images[number]))
    functions = service.client("lambda")
    for function, number, _ in doomed:
        say(f"delete version {number} of {function}")
        if not dry_run:
            functions.delete_function(FunctionName=function, Qualifier=number)
    unused = {found for *_, found in doomed if found}
    if unused:
        unused -= _used(service, {(function, number) for function, number, _ in doomed})
    for found in sorted(unused):
        say(f"delete the image {found.digest or found.tag} of {found.repository}")
        if not dry_run:
            _delete(service, found)
    if not doomed:
        say("there is nothing to delete")


def _aliased(service: Service, function: str) -> set[str]:
    """The versions that any alias sends traffic to."""
    pages = service.client("lambda").get_paginator("list_aliases")
    found = pages.paginate(FunctionName=function).build_full_result()["Aliases"]
    return {v for alias in found for v in (alias["FunctionVersion"], *rollback.weights(alias))}


def _image(service: Service, function: str, version: str) -> Image | None:
    told = service.client("lambda").get_function(FunctionName=function, Qualifier=version)
    return rollback.image(told["Code"])


def _used(service: Service, doomed: set[tuple[str, str]]) -> set[Image | None]:
    """The images of all functions' versions, $LATEST among them, but for the doomed ones."""
    pages = service.client("lambda").get_paginator("list_functions")
    every = pages.paginate(FunctionVersion="ALL").build_full_result()["Functions"]
    return {
        _image(service, f["FunctionName"], f["Version"])
        for f in every
        if f.get("PackageType") == "Image" and (f["FunctionName"], f["Version"]) not in doomed
    }


def _delete(service: Service, image: Image) -> None:
    failures: list[Any] = service.client("ecr").batch_delete_image(
        registryId=image.registry, repositoryName=image.repository, imageIds=[image.id]
    )["failures"]
    left = [f["failureCode"] for f in failures if f["failureCode"] != "ImageNotFound"]
    if left:
        raise ReleaseError(f"the image {image.digest or image.tag} is still there: {left[0]}")
