"""The secret that seals prediction ids: made in the account, once, and known to no template.

CloudFormation cannot make a random value by itself, resolves no SecureString for a function's
environment, and Secrets Manager takes 0.40 USD a month for keeping one. So a function of a few
lines answers for a custom resource; CloudFormation remembers the answer, masked (NoEcho), and asks
again only for another resource:
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-responses.html
Where it ends is the functions' environment, encrypted by Lambda: whoever may read the functions'
configuration may read it. AWS's own `cfnresponse` would write it into the log.
"""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.logs import log_group
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

CODE = """
import json
import secrets
from urllib.request import Request, urlopen

def handler(event, context):
    answer = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    answer["PhysicalResourceId"] = event["LogicalResourceId"]
    answer |= {"Status": "SUCCESS", "NoEcho": True, "Data": {"Value": secrets.token_urlsafe(32)}}
    urlopen(Request(event["ResponseURL"], json.dumps(answer).encode(), {"content-type": ""},
                    method="PUT"), timeout=10).close()
"""


class Secret(Construct):
    """`value`: the secret of `prediction_id_key_version`, and behind a space the one before it."""

    def __init__(self, scope: Construct, id: str, settings: Settings) -> None:
        super().__init__(scope, id)
        logs = log_group(self, "Logs", settings)
        principal = iam.ServicePrincipal("lambda.amazonaws.com")
        role = iam.Role(self, "Role", assumed_by=principal)
        logs.grant_write(role)
        maker = lambda_.Function(
            self,
            "Maker",
            code=lambda_.Code.from_inline(CODE),
            handler="index.handler",
            runtime=lambda_.Runtime.PYTHON_3_13,
            description=f"{settings.service}: makes the secret of the prediction ids",
            memory_size=128,
            timeout=cdk.Duration.seconds(30),
            role=role,
            log_group=logs,
        )
        suppress_nag(
            maker,
            {
                "AwsSolutions-L1": "The runtime is that of the image.",
                "Serverless-LambdaLatestVersion": "The runtime is that of the image.",
                "Serverless-LambdaDLQ": "CloudFormation waits for the answer; none is a failure.",
                "Serverless-LambdaTracing": "It runs once in the life of a stack.",
            },
        )
        # another number is another resource: the environment changes, and a version is published
        self.value = " ".join(
            cdk.CustomResource(
                self,
                f"Key{number}",
                service_token=maker.function_arn,
                resource_type="Custom::Secret",
                service_timeout=cdk.Duration.minutes(2),  # its own default is an hour
            ).get_att_string("Value")
            for number in (
                settings.prediction_id_key_version,
                settings.prediction_id_key_version - 1,
            )
            if number
        )
