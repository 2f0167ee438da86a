"""A deployed stack: its outputs, its template, and what IAM must allow who looks after it."""

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from handler.release.rollback import ReleaseError, Service
from infra.settings import Settings

QUALIFIER = "hnb659fds"  # of CDK's bootstrap
Client = Callable[[str], Any]


class NotDeployed(ReleaseError):
    """The stack is missing, or has no function."""


def connect(service: str) -> Any:
    """Return the client of an AWS service."""
    import boto3

    client: Any = boto3.client
    return client(service)


def stack_name(model: str, stage: str) -> str:
    """Return the name of the CloudFormation stack."""
    return f"answerable-{model}-{stage}"


def lookup(client: Client, model: str, stage: str) -> Service:
    """Return the deployed model. Raises NotDeployed."""
    name = stack_name(model, stage)
    cloudformation = client("cloudformation")
    stack = describe(cloudformation, name)
    if stack is None:
        region = cloudformation.meta.region_name
        raise NotDeployed(f"there is no stack {name} in {region}: answerable deploy makes it")
    outputs = stack_outputs(stack)
    if "FunctionName" not in outputs:
        raise NotDeployed(f"the stack {name} is not deployed: {stack['StackStatus']}")
    application, group = outputs.get("Application"), outputs.get("DeploymentGroup")
    return Service(
        client,
        outputs["FunctionName"],
        worker=outputs.get("JobsWorkerName", ""),
        group=(application, group) if application and group else None,
        stack=name,
        stack_arn=stack["StackId"],
        stack_live_version=outputs.get("LiveVersion", ""),
        stack_status=stack["StackStatus"],
    )


def describe(cloudformation: Any, stack: str) -> Any:
    """Return the description of a stack, None if there is none."""
    try:
        return cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":  # "… does not exist"
            return None
        raise


def stack_outputs(stack: Any) -> dict[str, str]:
    """Return the outputs of a described stack."""
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}


def deployed_template(client: Client, stack: str) -> dict[str, Any] | None:
    """Return the stack's template, None if no stack is there or its creation failed."""
    cloudformation = client("cloudformation")
    described = describe(cloudformation, stack)
    failed = ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
    if described is None or described["StackStatus"] in failed:
        return None
    body = cloudformation.get_template(StackName=stack)["TemplateBody"]
    template: dict[str, Any] = json.loads(body) if isinstance(body, str) else body
    return template


def find_stack_arn(client: Client, stack: str) -> str:
    """Return a pattern of the ARN of a stack that is not deployed yet."""
    cloudformation, identity = client("cloudformation"), client("sts").get_caller_identity()
    partition = identity["Arn"].split(":")[1]
    region = cloudformation.meta.region_name
    return f"arn:{partition}:cloudformation:{region}:{identity['Account']}:stack/{stack}/*"


def policy(
    chosen: Settings, stack_arn: str, service: Service | None, prune: bool = False
) -> dict[str, Any]:
    """Return the IAM policy for `answerable deploy` and `answerable release`, of people and CI.

    With `prune` it allows `release prune` too, which reads every function of the account.
    `service` is None before the first deployment: names then begin with the stack's, of which
    CloudFormation keeps 24 characters. CDK's roles, which may be assumed, do the deployment.
    """
    _, partition, _, region, account, _ = stack_arn.split(":", 5)

    def arn(kind: str, resource: str, of: str = account, where: str = region) -> str:
        return f"arn:{partition}:{kind}:{where}:{of}:{resource}"

    begin = f"{chosen.stack[:24]}*"
    names = filter(None, (service.function, service.worker)) if service else [begin]
    functions = [arn("lambda", f"function:{name}{end}") for name in names for end in ("", ":*")]
    qualifier = chosen.bootstrap_qualifier or QUALIFIER
    roles = [
        arn("iam", f"role/cdk-{qualifier}-{role}-role-{account}-{region}", where="")
        for role in ("deploy", "file-publishing", "image-publishing", "lookup")
    ]
    registry = chosen.image_registry or account
    repository = arn("ecr", f"repository/{chosen.image_repository}", registry)
    push = ["BatchCheckLayerAvailability", "BatchGetImage", "InitiateLayerUpload",
            "UploadLayerPart", "CompleteLayerUpload", "PutImage"]  # fmt: skip
    images = [arn("ecr", f"repository/cdk-{qualifier}-container-assets-{account}-{region}")]
    images += [repository] * bool(chosen.image_repository)
    # the smoke test reads the value of a key: only that of this stack
    stack_tags = {
        f"aws:ResourceTag/answerable:{name}": getattr(chosen, name) for name in ("model", "stage")
    }
    # the smoke test calls the URL, with the stack's own key if it has one
    calls: dict[str, tuple[str, list[str]]] = {
        "iam": ("execute-api:Invoke", [arn("execute-api", "*/*/GET/ping")]),
        "api-key": ("apigateway:GET", [arn("apigateway", "/apikeys/*", "")]),
        "url": ("lambda:InvokeFunctionUrl", functions[1::2]),
    }
    call = calls.get("url" if chosen.endpoint == "url" else chosen.auth)
    group = service.group if service else (begin, begin)
    groups = [arn("codedeploy", f"deploymentgroup:{'/'.join(group)}")] if group else []
    statements: list[tuple[list[str], list[str]]] = [
        (["sts:AssumeRole"], roles),
        (["cloudformation:DescribeStacks", "cloudformation:GetTemplate"], [stack_arn]),
        (["apigateway:GET"], [arn("apigateway", "/account", "")] * (chosen.endpoint == "rest")),
        ([call[0]], call[1]) if call else ([], []),
        (["lambda:GetAlias", "lambda:ListAliases", "lambda:UpdateAlias", "lambda:InvokeFunction",
          "lambda:ListVersionsByFunction", "lambda:GetFunctionConfiguration"], functions),
        (["lambda:GetFunction"], [arn("lambda", "function:*")] if prune else functions),
        # an earlier version may have its image in another repository
        (["ecr:DescribeImages"],
         [arn("ecr", "repository/*", of) for of in dict.fromkeys((account, registry))]),
        (["lambda:DeleteFunction"], functions[1::2] * prune),  # versions, never the function
        (["lambda:ListFunctions"], ["*"] * prune),
        (["ecr:BatchDeleteImage"], images * prune),
        ([f"codedeploy:{verb}" for verb in
          ("ListDeployments", "BatchGetDeployments", "StopDeployment")], groups),
        (["ecr:GetAuthorizationToken"], ["*"] * bool(chosen.image_repository)),
        ([f"ecr:{verb}" for verb in push], [repository] * bool(chosen.image_repository)),
    ]  # fmt: skip
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": resources}
            | ({"Condition": {"StringEquals": stack_tags}} if "/apikeys/*" in resources[0] else {})
            for actions, resources in statements
            if resources
        ],
    }
