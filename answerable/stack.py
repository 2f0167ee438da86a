"""A deployed stack: its outputs, its template, and what IAM must allow who looks after it."""

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from handler.release.rollback import ReleaseError, Service

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


def policy(service: Service) -> dict[str, Any]:
    """Return the IAM policy for `answerable release`; a deployment needs more."""
    _, partition, _, region, account, _ = service.stack_arn.split(":", 5)

    def arn(kind: str, resource: str) -> str:
        return f"arn:{partition}:{kind}:{region}:{account}:{resource}"

    names = filter(None, (service.function, service.worker))
    functions = [arn("lambda", f"function:{name}{end}") for name in names for end in ("", ":*")]
    statements = [
        (["cloudformation:DescribeStacks"], [service.stack_arn]),
        (["lambda:GetAlias", "lambda:ListAliases", "lambda:UpdateAlias", "lambda:InvokeFunction",
          "lambda:ListVersionsByFunction", "lambda:GetFunctionConfiguration"], functions),
        (["lambda:DeleteFunction"], functions[1::2]),  # versions, never the function
        # prune asks every function of the account which image it runs
        (["lambda:ListFunctions"], ["*"]),
        (["lambda:GetFunction"], [arn("lambda", "function:*")]),
        (["ecr:DescribeImages", "ecr:BatchDeleteImage"], [arn("ecr", "repository/*")]),
    ]  # fmt: skip
    if service.group:
        group = arn("codedeploy", f"deploymentgroup:{'/'.join(service.group)}")
        actions = ["ListDeployments", "BatchGetDeployments", "StopDeployment"]
        statements.append(([f"codedeploy:{action}" for action in actions], [group]))
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": resources}
            for actions, resources in statements
        ],
    }
