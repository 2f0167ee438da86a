"""The secret that signs prediction ids: made in the account, and in no template.

CloudFormation cannot make a random value, and resolves no SecureString for a function's
environment. Secrets Manager costs 0.40 USD a month per secret. So a custom resource keeps the value
in a SecureString parameter, which is free, and returns it to CloudFormation, masked (NoEcho).
Every later request for the same number returns the same value: another one would invalidate all
ids. The functions have it in their environment, which Lambda encrypts. AWS's `cfnresponse` is not
used, because it logs its data.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-responses.html
"""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.encryption import key
from infra.function import allow
from infra.logs import log_group
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

CODE = """
import json
import secrets
from urllib.request import Request, urlopen
import boto3

def handler(event, context):
    answer = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    answer |= {"PhysicalResourceId": event["LogicalResourceId"], "NoEcho": True}
    try:
        answer |= {"Status": "SUCCESS", "Data": data(boto3.client("ssm"), event)}
    except Exception as error:
        answer |= {"Status": "FAILED", "Reason": type(error).__name__}
    urlopen(Request(event["ResponseURL"], json.dumps(answer).encode(), {"content-type": ""},
                    method="PUT"), timeout=10).close()

def data(ssm, event):
    name = event["ResourceProperties"]["Parameter"]
    if event["RequestType"] == "Delete":
        try:
            ssm.delete_parameter(Name=name)
        except ssm.exceptions.ParameterNotFound:
            pass
        return {}
    try:
        ssm.put_parameter(Name=name, Type="SecureString", Value=secrets.token_urlsafe(32))
    except ssm.exceptions.ParameterAlreadyExists:
        pass
    return {"Value": ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]}
"""


class Secret(Construct):
    """`value` is the secret of `prediction_id_key_version`, and after a space the one before."""

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
            environment_encryption=key(self, settings),
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
        newest = settings.prediction_id_key_version
        values = []
        # another number is another resource: the environment changes, and a version is published
        for number in filter(None, (newest, newest - 1)):
            name = f"answerable/{settings.service}/prediction-id-secret-{number}"
            arn = cdk.Stack.of(self).format_arn(
                service="ssm", resource="parameter", resource_name=name
            )
            allow(role, [f"ssm:{verb}Parameter" for verb in ("Get", "Put", "Delete")], arn)
            resource = cdk.CustomResource(
                self,
                f"Key{number}",
                service_token=maker.function_arn,
                resource_type="Custom::Secret",
                properties={"Parameter": f"/{name}"},
                service_timeout=cdk.Duration.minutes(2),  # its own default is an hour
            )
            resource.node.add_dependency(role)  # its policy
            values.append(resource.get_att_string("Value"))
        self.value = " ".join(values)
