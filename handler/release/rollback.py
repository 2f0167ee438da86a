"""The way back: what is live, what was live before it, whether that is fit, and the move.

One piece of code for the laptop (`answerable release`) and for Lambda (handler/release/auto_rollback.py).
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
AT_ONCE = 25  # deployments that CodeDeploy tells of in one answer
Log = Callable[[str], Any]


class ReleaseError(Exception):
    """What is asked for cannot be done; nothing was changed, unless the message says so."""


class Service(NamedTuple):
    """A deployed model. `worker`: the function of its jobs, "" where it has none. `group` is
    (application, deployment group); None where it has none. `check` may raise before each call of
    a version. `stack_live_version`: the version that the stack says is live.
    """

    client: Callable[[str], Any]
    function: str
    worker: str = ""
    group: tuple[str, str] | None = None
    check: Callable[[], None] = lambda: None
    stack: str = ""
    stack_arn: str = ""
    stack_live_version: str = ""

    def alias(self, function: str = "") -> Any:
        """`live` as it is now, with its RevisionId."""
        name = function or self.function
        return self.client("lambda").get_alias(FunctionName=name, Name=ALIAS)

    def versions(self, function: str = "") -> list[Any]:
        """The published versions, the latest first."""
        pages = self.client("lambda").get_paginator("list_versions_by_function")
        found = pages.paginate(FunctionName=function or self.function).build_full_result()
        published = (v for v in found["Versions"] if v["Version"] != "$LATEST")
        return sorted(published, key=lambda v: -int(v["Version"]))

    def deployments(self, *statuses: str) -> list[str]:
        """The ids of the deployments in one of these states."""
        if not self.group:
            return []
        pages = self.client("codedeploy").get_paginator("list_deployments")
        found = pages.paginate(
            applicationName=self.group[0],
            deploymentGroupName=self.group[1],
            includeOnlyStatuses=[*statuses],
        ).build_full_result()
        return list(found.get("deployments", []))

    def running(self) -> list[str]:
        """The ids of the deployments that are under way."""
        return self.deployments(*RUNNING)

    def previous(self, live: str) -> str | None:
        """The version that was live before this one, as the deployment that replaced it says.

        The number before it may be a version that never got through, or was gone back from. It is
        the answer only where no deployment tells.
        """
        ids = self.deployments("Succeeded")
        told = [
            deployment
            for i in range(0, len(ids), AT_ONCE)
            for deployment in self.client("codedeploy").batch_get_deployments(
                deploymentIds=ids[i : i + AT_ONCE]
            )["deploymentsInfo"]
        ]
        for deployment in sorted(told, key=lambda d: d["createTime"], reverse=True):
            before, after = versions_of_deployment(deployment)
            # a rollback names what it came from, and nobody wants to go back there
            if before and after == live and "Rollback" not in deployment.get("creator", ""):
                return before
        earlier = (v["Version"] for v in self.versions() if int(v["Version"]) < int(live))
        return next(earlier, None)


def versions_of_deployment(deployment: Any) -> list[str | None]:
    """The versions that a deployment moves `live` from and to, where its revision names them."""
    revision = str(deployment.get("revision"))
    pattern = r"{}Version[\"'\\]*\s*:\s*[\"'\\]*(\d+)"
    found = (re.search(pattern.format(which), revision) for which in ("Current", "Target"))
    return [match and match[1] for match in found]


def weights(alias: Any) -> dict[str, float]:
    """The share of traffic of each version besides the alias's own."""
    return dict((alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {})


def verify_version(service: Service, target: str, say: Log) -> dict[str, str]:
    """That a version is active, has its image and answers its golden rows, and that the worker has
    a version of the same image which starts. The version to go to, by function.
    """
    version, image = _get_active_version(service, service.function, target)
    manifest, why = version.manifest()
    if manifest is None:
        raise ReleaseError(f"version {target} does not answer: {why}")
    # how long the way from here to there takes says nothing of the version
    outcome = version_client.check_golden_rows(version, manifest, math.inf)
    if outcome.reasons:
        raise ReleaseError(f"version {target} is not what it was: {'; '.join(outcome.reasons)}")
    what = f"{manifest.name} {manifest.version}, {outcome.rows} golden rows answered as packed"
    say(f"version {target}: {what}")
    if not service.worker:
        return {service.function: target}
    return {service.function: target, service.worker: _worker(service, image, say)}


def _worker(service: Service, image: str, say: Log) -> str:
    """The worker counts its versions by itself; the image is what the two have in common."""
    functions = service.client("lambda")
    for found in service.versions(service.worker):
        number = str(found["Version"])
        told = functions.get_function(FunctionName=service.worker, Qualifier=number)
        if _image_uri(told["Code"]) == image:
            version, _ = _get_active_version(service, service.worker, number)
            if not _worker_starts(version):
                raise ReleaseError(f"the worker's version {number} does not start")
            say(f"the worker's version {number}: the same image, and it starts")
            return number
    live = str(service.alias(service.worker)["FunctionVersion"])
    say(f"the worker stays at version {live}: none of its versions has that image")
    return live


def _get_active_version(service: Service, function: str, target: str) -> tuple[VersionClient, str]:
    """A version that is active, or was woken, and its image, which is there."""
    functions = service.client("lambda")
    gone = functions.exceptions.ResourceNotFoundException
    try:
        found = functions.get_function(FunctionName=function, Qualifier=target)
    except gone:
        raise ReleaseError(f"version {target} is gone") from None
    configuration = found["Configuration"]
    version = VersionClient(functions, configuration["FunctionArn"], service.check)
    _check_image_exists(service, target, found["Code"])
    if configuration.get("State", "Active") == "Inactive":
        # idle for weeks: this call fails, and wakes it
        _ = _worker_starts(version) if function == service.worker else version.call("GET", "/ping")
        waiter = functions.get_waiter("published_version_active")
        patience = {"Delay": 5, "MaxAttempts": 60}
        waiter.wait(FunctionName=function, Qualifier=target, WaiterConfig=patience)
    elif configuration.get("State", "Active") != "Active":
        raise ReleaseError(f"version {target} is {configuration['State']}")
    return version, _image_uri(found["Code"])


def _worker_starts(version: VersionClient) -> bool:
    """Whether a version of the worker loads its model: it does that before it looks for jobs."""
    return version.invoke({"Records": []})[0] is not None


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
        """By digest, or by the tag where a function names no more."""
        return {"imageDigest": self.digest} if self.digest else {"imageTag": self.tag}


def image(code: Any) -> Image | None:
    """The image of a function's code; None if it is not in ECR."""
    found = IMAGE.match(_image_uri(code))
    return Image(*(part or "" for part in found.groups())) if found else None


def _check_image_exists(service: Service, target: str, code: Any) -> None:
    found = image(code)
    if not found:
        raise ReleaseError(f"version {target} has no image in ECR: {_image_uri(code) or 'no URI'}")
    ecr = service.client("ecr")
    missing = ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException
    try:
        images = ecr.describe_images(
            registryId=found.registry, repositoryName=found.repository, imageIds=[found.id]
        )["imageDetails"]
    except missing:
        images = []
    if not images:
        # it may run from Lambda's cache today, and not be loaded again tomorrow
        raise ReleaseError(f"version {target}: its image is gone from {found.repository}")


def move(
    service: Service,
    targets: dict[str, str],
    alias: Any,
    say: Log,
    dry_run: bool = False,
    note: str = "",
) -> None:
    """Point `live` of each function at its version. `alias` is the API's, as the decision was made
    on it; `note` stays with it.

    Back, the API goes first, and forth the worker: what the API takes, the worker has to know.
    """
    back = int(targets[service.function]) < int(alias["FunctionVersion"])
    for function in targets if back else reversed(targets):
        _update_alias(service, function, targets[function], alias, say, dry_run, note)


def _update_alias(
    service: Service, function: str, target: str, alias: Any, say: Log, dry_run: bool, note: str
) -> None:
    functions, what = service.client("lambda"), ALIAS
    if function == service.worker:
        alias, what, note = service.alias(function), f"the worker's {ALIAS}", ""
    if alias["FunctionVersion"] == target and not weights(alias):
        say(f"{what} is at version {target} already")
        return
    say(f"move {what} from version {alias['FunctionVersion']} to {target}")
    if dry_run:
        return
    try:
        functions.update_alias(
            FunctionName=function,
            Name=ALIAS,
            FunctionVersion=target,
            RoutingConfig={"AdditionalVersionWeights": {}},
            RevisionId=alias["RevisionId"],
            **({"Description": note} if note else {}),
        )
    except functions.exceptions.PreconditionFailedException:
        raise ReleaseError(
            f"somebody else has moved {what} just now; look at `release status` and decide again"
        ) from None


def pin_settings(service: Service, targets: dict[str, str]) -> dict[str, str]:
    """Return the settings with which the stack has these versions live."""
    pins = {"pinned_version": targets[service.function]}
    if service.worker:
        pins["pinned_worker_version"] = targets[service.worker]
    return pins
