"""A deployed stack: its outputs, its template, and what IAM must allow who looks after it."""

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from handler.release.rollback import ReleaseError, Service
from infra.settings import Settings

QUALIFIER = "hnb659fds"  # of CDK's bootstrap
Client = Callable[[str], Any]


def connect(service: str) -> Any:
    """Return the client of an AWS service."""
    import boto3

    client: Any = boto3.client
    return client(service)


def stack_name(model: str, stage: str) -> str:
    """Return the name of the CloudFormation stack."""
    return f"answerable-{model}-{stage}"


def lookup(client: Client, model: str, stage: str) -> Service:
    """Return the deployed model. Raises ReleaseError if its stack has no function yet."""
    name = stack_name(model, stage)
    stack = client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    outputs = stack_outputs(stack)
    if "FunctionName" not in outputs:
        raise ReleaseError(f"the stack {name} is not deployed: {stack['StackStatus']}")
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


def stack_outputs(stack: Any) -> dict[str, str]:
    """Return the outputs of a described stack."""
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}


def deployed_template(client: Client, stack: str) -> dict[str, Any] | None:
    """Return the stack's template, None if no stack is there or its creation failed."""
    cloudformation = client("cloudformation")
    try:
        described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":  # "… does not exist"
            return None
        raise
    if described["StackStatus"] in ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"):
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


def policy(chosen: Settings, stack_arn: str, service: Service | None) -> dict[str, Any]:
    """Return the IAM policy for `answerable deploy` and `answerable release`, of people and CI.

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
    repositories = [arn("ecr", "repository/*", of) for of in dict.fromkeys((account, registry))]
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
        (["lambda:DeleteFunction"], functions[1::2]),  # versions, never the function
        # prune asks every function of the account which image it runs
        (["lambda:ListFunctions"], ["*"]),
        (["lambda:GetFunction"], [arn("lambda", "function:*")]),
        (["ecr:DescribeImages", "ecr:BatchDeleteImage"], repositories),
        ([f"codedeploy:{verb}" for verb in
          ("ListDeployments", "BatchGetDeployments", "StopDeployment")], groups),
        (["ecr:GetAuthorizationToken"], ["*"] * bool(chosen.image_repository)),
        ([f"ecr:{verb}" for verb in push], [repository] * bool(chosen.image_repository)),
    ]  # fmt: skip
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": resources}
            for actions, resources in statements
            if resources
        ],
    }
