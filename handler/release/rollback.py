"""Rollback: which version is live, which was before, whether it still works, and moving the alias.

Used by `answerable release` and, in Lambda, by handler/release/auto_rollback.py.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from handler.release import version_client
from handler.release.version_client import VersionClient

ALIAS = "live"
RUNNING = ["Created", "Queued", "InProgress", "Baking", "Ready"]
IMAGE = re.compile(r"(\d+)\.dkr\.ecr\.[^/]+/([^@]+?)(?:@(sha256:\w+)|:([\w.-]+))")
BATCH_SIZE = 25  # deployments in one call of BatchGetDeployments
Log = Callable[[str], Any]


class ReleaseError(Exception):
    """It cannot be done, and nothing was changed."""


class Service(NamedTuple):
    """A deployed model.

    `worker` is the jobs' function, "" if there is none. `group` is CodeDeploy's application and
    deployment group. `before_each_call` may raise, to stop in time. `stack_live_version` is the
    version that the stack's template makes live.
    """

    client: Callable[[str], Any]
    function: str
    worker: str = ""
    group: tuple[str, str] | None = None
    before_each_call: Callable[[], None] = lambda: None
    stack: str = ""
    stack_arn: str = ""
    stack_live_version: str = ""
    stack_status: str = ""

    def alias(self, function: str = "") -> Any:
        """Return the alias `live` as it is now, with its RevisionId."""
        name = function or self.function
        return self.client("lambda").get_alias(FunctionName=name, Name=ALIAS)

    def versions(self, function: str = "") -> list[Any]:
        """Return the published versions, the latest first."""
        pages = self.client("lambda").get_paginator("list_versions_by_function")
        listed = pages.paginate(FunctionName=function or self.function).build_full_result()
        published = (v for v in listed["Versions"] if v["Version"] != "$LATEST")
        return sorted(published, key=lambda v: -int(v["Version"]))

    def live_versions(self, alias: Any) -> dict[str, str]:
        """Return the live version of each function; `alias` is the API's."""
        live = {self.function: str(alias["FunctionVersion"])}
        if self.worker:
            live[self.worker] = str(self.alias(self.worker)["FunctionVersion"])
        return live

    def deployments(self, *statuses: str) -> list[str]:
        """Return the ids of the deployments in one of these states."""
        if not self.group:
            return []
        pages = self.client("codedeploy").get_paginator("list_deployments")
        application, group = self.group
        listed = pages.paginate(
            applicationName=application, deploymentGroupName=group, includeOnlyStatuses=[*statuses]
        ).build_full_result()
        return list(listed.get("deployments", []))

    def running(self) -> list[str]:
        """Return the ids of the running deployments."""
        return self.deployments(*RUNNING)

    def previous(self, live: str) -> str | None:
        """Return the version that was live before, None if there is none.

        The deployment that replaced it names it. The highest lower number is only the fallback:
        that version may have failed its deployment, or been rolled back.
        """
        ids, deployments = self.deployments("Succeeded"), []
        for i in range(0, len(ids), BATCH_SIZE):
            batch = ids[i : i + BATCH_SIZE]
            described = self.client("codedeploy").batch_get_deployments(deploymentIds=batch)
            deployments += described["deploymentsInfo"]
        for deployment in sorted(deployments, key=lambda d: d["createTime"], reverse=True):
            before, after = versions_of_deployment(deployment)
            # a rollback came from a version that was bad
            if before and after == live and "Rollback" not in deployment.get("creator", ""):
                return before
        earlier = (v["Version"] for v in self.versions() if int(v["Version"]) < int(live))
        return next(earlier, None)


def versions_of_deployment(deployment: Any) -> list[str | None]:
    """Return the versions that a deployment moves the alias from and to, None where unnamed."""
    revision = str(deployment.get("revision"))
    pattern = r"{}Version[\"'\\]*\s*:\s*[\"'\\]*(\d+)"
    matches = (re.search(pattern.format(key), revision) for key in ("Current", "Target"))
    return [match and match[1] for match in matches]


def weights(alias: Any) -> dict[str, float]:
    """Return the share of traffic of each version besides the alias's own."""
    return dict((alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {})


def verify_version(service: Service, target: str, log: Log) -> dict[str, str]:
    """Return the version to move to, by function. Raises ReleaseError if it does not work.

    The version must be active, have its image and answer its golden rows. The worker moves to its
    version of the same image, which must start.
    """
    version, image = _get_active_version(service, service.function, target)
    manifest, why = version.manifest()
    if manifest is None:
        raise ReleaseError(f"version {target} does not answer: {why}")
    # latency from here says nothing about the version
    result = version_client.check_golden_rows(version, manifest, math.inf)
    if result.reasons:
        raise ReleaseError(f"version {target} is not what it was: {'; '.join(result.reasons)}")
    summary = f"{manifest.name} {manifest.version}, {result.rows} golden rows answered as packed"
    log(f"version {target}: {summary}")
    if not service.worker:
        return {service.function: target}
    return {service.function: target, service.worker: _worker_version(service, image, log)}


def _worker_version(service: Service, image: str, log: Log) -> str:
    """Return the worker's version of an image, or its live one: each function counts its own."""
    functions = service.client("lambda")
    for listed in service.versions(service.worker):
        number = str(listed["Version"])
        worker = functions.get_function(FunctionName=service.worker, Qualifier=number)
        if _image_uri(worker["Code"]) == image:
            version, _ = _get_active_version(service, service.worker, number)
            if not version.starts():
                raise ReleaseError(f"the worker's version {number} does not start")
            log(f"the worker's version {number}: the same image, and it starts")
            return number
    live = str(service.alias(service.worker)["FunctionVersion"])
    log(f"the worker stays at version {live}: none of its versions has that image")
    return live


def _get_active_version(service: Service, function: str, target: str) -> tuple[VersionClient, str]:
    """Return an active version and its image. An inactive version is activated first."""
    functions = service.client("lambda")
    try:
        response = functions.get_function(FunctionName=function, Qualifier=target)
    except functions.exceptions.ResourceNotFoundException:
        raise ReleaseError(f"version {target} is gone") from None
    configuration = response["Configuration"]
    version = VersionClient(functions, configuration["FunctionArn"], service.before_each_call)
    _check_image_exists(service, target, response["Code"])
    if configuration.get("State", "Active") == "Inactive":
        # Lambda deactivates what was idle for weeks; this call fails and activates it
        _ = version.starts() if function == service.worker else version.call("GET", "/ping")
        waiter = functions.get_waiter("published_version_active")
        waiter.wait(
            FunctionName=function, Qualifier=target, WaiterConfig={"Delay": 5, "MaxAttempts": 60}
        )
    elif configuration.get("State", "Active") != "Active":
        raise ReleaseError(f"version {target} is {configuration['State']}")
    return version, _image_uri(response["Code"])


def _image_uri(code: Any) -> str:
    return str(code.get("ResolvedImageUri") or code.get("ImageUri", ""))


class Image(NamedTuple):
    """An image in ECR, as its API names it."""

    registry: str
    repository: str
    digest: str
    tag: str

    @property
    def id(self) -> dict[str, str]:
        """Return ECR's imageId: the digest, or the tag if the function names only that."""
        return {"imageDigest": self.digest} if self.digest else {"imageTag": self.tag}


def image(code: Any) -> Image | None:
    """Return the image of a function's code, None if it is not in ECR."""
    match = IMAGE.match(_image_uri(code))
    return Image(*(group or "" for group in match.groups())) if match else None


def _check_image_exists(service: Service, target: str, code: Any) -> None:
    uri = image(code)
    if not uri:
        raise ReleaseError(f"version {target} has no image in ECR: {_image_uri(code) or 'no URI'}")
    ecr = service.client("ecr")
    missing = ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException
    try:
        images = ecr.describe_images(
            registryId=uri.registry, repositoryName=uri.repository, imageIds=[uri.id]
        )["imageDetails"]
    except missing:
        images = []
    if not images:
        # Lambda may still have it in its cache, but cannot load it again
        raise ReleaseError(f"version {target}: its image is gone from {uri.repository}")


def move(
    service: Service,
    targets: dict[str, str],
    alias: Any,
    log: Log,
    dry_run: bool = False,
    note: str = "",
) -> None:
    """Point `live` of each function at its version.

    `alias` is the API's as it was when the version was chosen: its revision guards against other
    writers. `note` becomes its description. What the API accepts, the worker must know: the API
    moves first to an older version, and last to a newer one.
    """
    functions = service.client("lambda")
    back = int(targets[service.function]) < int(alias["FunctionVersion"])
    for function in targets if back else reversed(targets):
        target, current, name, description = targets[function], alias, ALIAS, note
        if function == service.worker:
            current, name, description = service.alias(function), f"the worker's {ALIAS}", ""
        if current["FunctionVersion"] == target and not weights(current):
            log(f"{name} is at version {target} already")
            continue
        log(f"move {name} from version {current['FunctionVersion']} to {target}")
        if dry_run:
            continue
        try:
            functions.update_alias(
                FunctionName=function,
                Name=ALIAS,
                FunctionVersion=target,
                RoutingConfig={"AdditionalVersionWeights": {}},
                RevisionId=current["RevisionId"],
                **({"Description": description} if description else {}),
            )
        except functions.exceptions.PreconditionFailedException:
            advice = "look at `release status` and decide again"
            raise ReleaseError(f"somebody else has moved {name} just now; {advice}") from None


def pin_settings(service: Service, targets: dict[str, str]) -> dict[str, str]:
    """Return the settings with which the stack has these versions live."""
    pins = {"pinned_version": targets[service.function]}
    if service.worker:
        pins["pinned_worker_version"] = targets[service.worker]
    return pins
