"""A deployed stack, found, and what IAM must allow whoever looks after it."""

from collections.abc import Callable
from typing import Any

from handler.release.rollback import ReleaseError, Service


def lookup(client: Callable[[str], Any], model: str, stage: str) -> Service:
    """The deployed stack of a model in a stage."""
    name = f"answerable-{model}-{stage}"
    stack = client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    outputs = {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}
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
        stated=outputs.get("LiveVersion", ""),
    )


def policy(service: Service) -> dict[str, Any]:
    """What IAM must allow whoever runs these commands, but for the deployment itself."""
    _, partition, _, region, account, _ = service.stack_arn.split(":", 5)

    def arn(kind: str, resource: str) -> str:
        return f"arn:{partition}:{kind}:{region}:{account}:{resource}"

    names = filter(None, (service.function, service.worker))
    own = [arn("lambda", f"function:{name}{end}") for name in names for end in ("", ":*")]
    statements = [
        (["cloudformation:DescribeStacks"], [service.stack_arn]),
        (["lambda:GetAlias", "lambda:ListAliases", "lambda:UpdateAlias", "lambda:InvokeFunction",
          "lambda:ListVersionsByFunction", "lambda:GetFunctionConfiguration"], own),
        (["lambda:DeleteFunction"], own[1::2]),  # versions, and never the function
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
