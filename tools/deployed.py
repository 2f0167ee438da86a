"""A deployed stack, asked: its alias and versions, what is under way, and whether a version is fit
to go back to.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from handler import probes
from handler.probes import Version

ALIAS = "live"
RUNNING = ["Created", "Queued", "InProgress", "Baking", "Ready"]
IMAGE = re.compile(r"(\d+)\.dkr\.ecr\.[^/]+/([^@]+?)(?:@(sha256:\w+)|:([\w.-]+))")


class ReleaseError(Exception):
    """What is asked for cannot be done; nothing was changed, unless the message says so."""


class Service(NamedTuple):
    """A deployed stack. `group` is (application, deployment group); None where it has none."""

    client: Callable[[str], Any]
    stack: str
    stack_arn: str
    function: str
    group: tuple[str, str] | None

    def alias(self) -> Any:
        """`live` as it is now, with its RevisionId."""
        return self.client("lambda").get_alias(FunctionName=self.function, Name=ALIAS)

    def versions(self) -> list[Any]:
        """The published versions, the latest first."""
        pages = self.client("lambda").get_paginator("list_versions_by_function")
        found = [v for page in pages.paginate(FunctionName=self.function) for v in page["Versions"]]
        published = (v for v in found if v["Version"] != "$LATEST")
        return sorted(published, key=lambda v: -int(v["Version"]))

    def running(self) -> list[str]:
        """The ids of the deployments that are under way."""
        if not self.group:
            return []
        found = self.client("codedeploy").list_deployments(
            applicationName=self.group[0],
            deploymentGroupName=self.group[1],
            includeOnlyStatuses=RUNNING,
        )
        return list(found["deployments"])


def find(client: Callable[[str], Any], model: str, stage: str) -> Service:
    """The deployed stack of a model in a stage."""
    name = f"answerable-{model}-{stage}"
    stack = client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    outputs = {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}
    if "FunctionName" not in outputs:
        raise ReleaseError(f"the stack {name} is not deployed: {stack['StackStatus']}")
    application, group = outputs.get("Application"), outputs.get("DeploymentGroup")
    pair = (application, group) if application and group else None
    return Service(client, name, stack["StackId"], outputs["FunctionName"], pair)


def prove(service: Service, target: str) -> str:
    """That a version is active, has its image, and answers its golden rows; in words."""
    functions = service.client("lambda")
    gone = functions.exceptions.ResourceNotFoundException
    try:
        found = functions.get_function(FunctionName=service.function, Qualifier=target)
    except gone:
        raise ReleaseError(f"version {target} is gone") from None
    configuration = found["Configuration"]
    version = Version(functions, configuration["FunctionArn"])
    _image(service, target, found["Code"])
    if configuration.get("State", "Active") == "Inactive":
        version.call("GET", "/ping")  # idle for weeks: this call fails, and wakes it
        waiter = functions.get_waiter("published_version_active")
        waiter.wait(FunctionName=service.function, Qualifier=target)
    elif configuration.get("State", "Active") != "Active":
        raise ReleaseError(f"version {target} is {configuration['State']}")
    manifest, why = version.manifest()
    if manifest is None:
        raise ReleaseError(f"version {target} does not answer: {why}")
    # how long the way from here to there takes says nothing of the version
    outcome = probes.replay(version, manifest, math.inf)
    if outcome.reasons:
        raise ReleaseError(f"version {target} is not what it was: {'; '.join(outcome.reasons)}")
    return f"{manifest.name} {manifest.version}, {outcome.rows} golden rows answered as packed"


def _image(service: Service, target: str, code: Any) -> None:
    uri = code.get("ResolvedImageUri") or code.get("ImageUri", "")
    named = IMAGE.match(uri)
    if not named:
        raise ReleaseError(f"version {target} has no image in ECR: {uri or 'no URI'}")
    account, repository, digest, tag = named.groups()
    ecr = service.client("ecr")
    missing = ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException
    try:
        images = ecr.describe_images(
            registryId=account,
            repositoryName=repository,
            imageIds=[{"imageDigest": digest} if digest else {"imageTag": tag}],
        )["imageDetails"]
    except missing:
        images = []
    if not images:
        # it may run from Lambda's cache today, and not be loaded again tomorrow
        raise ReleaseError(f"version {target}: its image is gone from {repository}")


def policy(service: Service) -> dict[str, Any]:
    """What IAM must allow whoever runs these commands, but for the deployment itself."""
    _, partition, _, region, account, _ = service.stack_arn.split(":", 5)

    def arn(kind: str, resource: str) -> str:
        return f"arn:{partition}:{kind}:{region}:{account}:{resource}"

    own = arn("lambda", f"function:{service.function}")
    statements = [
        (["cloudformation:DescribeStacks"], [service.stack_arn]),
        (["lambda:GetAlias", "lambda:UpdateAlias", "lambda:ListVersionsByFunction",
          "lambda:GetFunction", "lambda:InvokeFunction"], [own, f"{own}:*"]),
        (["ecr:DescribeImages"], [arn("ecr", "repository/*")]),
    ]  # fmt: skip
    if service.group:
        group = arn("codedeploy", f"deploymentgroup:{'/'.join(service.group)}")
        actions = ["codedeploy:ListDeployments", "codedeploy:StopDeployment"]
        statements.append((actions, [group]))
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": resources}
            for actions, resources in statements
        ],
    }
