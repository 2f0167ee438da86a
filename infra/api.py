"""The REST API in front of `live`: who may call, how often, what is logged, what is refused.

REST rather than HTTP API: it has API keys, usage plans, its own gateway responses and a resource
for access policies. Every path goes to the function, so that 404 and 405 are the function's too.
"""

import json

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra import gateway_responses
from infra.logs import log_group
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

# No query string, header or body: the record of what was asked is the function's.
ACCESS_LOG = {
    "request_id": "$context.requestId",
    "time": "$context.requestTimeEpoch",
    "source_ip": "$context.identity.sourceIp",
    "caller": "$context.identity.caller",
    "api_key_id": "$context.identity.apiKeyId",
    "method": "$context.httpMethod",
    "path": "$context.path",
    "status": "$context.status",
    "problem": "$context.error.responseType",
    "tls": "$context.tlsVersion",
    "response_bytes": "$context.responseLength",
    "latency_ms": "$context.responseLatency",
    "integration_ms": "$context.integrationLatency",
    "integration_status": "$context.integrationStatus",
    "integration_request_id": "$context.integration.requestId",
}


class Api(Construct):
    """`api` and its one stage, named as the settings say."""

    def __init__(
        self, scope: Construct, id: str, *, settings: Settings, alias: lambda_.Alias
    ) -> None:
        super().__init__(scope, id)
        logs = log_group(self, "AccessLogs", settings)
        self.api = apigateway.RestApi(
            self,
            "Rest",
            rest_api_name=settings.service,
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            # What is binary comes as base64, and what is not must not: it would cost JSON bodies
            # a third of Lambda's 6 MB. Gzip bodies the gateway unpacks itself, because
            # compression is on; it also packs answers for clients that accept it.
            binary_media_types=["application/octet-stream", "application/x-npy"],
            min_compression_size=cdk.Size.kibibytes(4),
            cloud_watch_role=settings.gateway_log_role,
            # one per account and region, so other stacks may use it when this one is gone
            cloud_watch_role_removal_policy=(
                cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if settings.gateway_log_role else None
            ),
            deploy_options=apigateway.StageOptions(
                stage_name=settings.stage,
                throttling_rate_limit=settings.rate_limit,
                throttling_burst_limit=settings.burst_limit,
                logging_level=apigateway.MethodLoggingLevel.ERROR,
                data_trace_enabled=False,  # it would log bodies
                metrics_enabled=False,  # per method, at a price; the stage's own are free
                access_log_destination=apigateway.LogGroupLogDestination(logs),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
            ),
            default_method_options=self._who(settings),
            default_integration=apigateway.LambdaIntegration(alias, allow_test_invoke=False),
        )
        rest = self.api.node.default_child
        assert isinstance(rest, apigateway.CfnRestApi)
        # The default of a regional API still accepts TLS 1.0.
        rest.security_policy = "SecurityPolicy_TLS13_1_2_PFS_PQ_2025_09"
        rest.endpoint_access_mode = "BASIC"
        self.stage = self.api.deployment_stage
        # the gateway would make it itself, to be kept for ever
        name = f"API-Gateway-Execution-Logs_{self.api.rest_api_id}/{settings.stage}"
        self.stage.node.add_dependency(log_group(self, "ExecutionLogs", settings, name))
        # The endpoint is an output of the stack, under a name that can be guessed.
        self.api.node.try_remove_child("Endpoint")
        self.api.root.add_method("ANY")
        self.api.root.add_proxy()
        gateway_responses.add(self, self.api)
        if settings.auth == "api-key":
            self._plan(settings)
        self._acknowledge(settings)

    def _who(self, settings: Settings) -> apigateway.MethodOptions:
        """Every method asks the same of its caller."""
        if settings.auth == "api-key":
            return apigateway.MethodOptions(api_key_required=True)
        if settings.auth == "cognito":
            pool = cognito.UserPool.from_user_pool_arn(self, "Pool", settings.user_pool_arn)
            scopes = [settings.user_pool_scope] if settings.user_pool_scope else None
            return apigateway.MethodOptions(
                authorizer=apigateway.CognitoUserPoolsAuthorizer(
                    self, "Authorizer", cognito_user_pools=[pool]
                ),
                authorization_type=apigateway.AuthorizationType.COGNITO,
                authorization_scopes=scopes,  # with a scope access tokens, without ID tokens
            )
        return apigateway.MethodOptions(authorization_type=apigateway.AuthorizationType.IAM)

    def _plan(self, settings: Settings) -> None:
        """A usage plan, and one key to start with: `aws apigateway get-api-key --include-value`."""
        plan = self.api.add_usage_plan(
            "Plan",
            name=settings.service,
            throttle=apigateway.ThrottleSettings(
                rate_limit=settings.rate_limit, burst_limit=settings.burst_limit
            ),
            api_stages=[apigateway.UsagePlanPerApiStage(api=self.api, stage=self.stage)],
        )
        key = self.api.add_api_key("Key", api_key_name=settings.service)
        plan.add_api_key(key)
        cdk.CfnOutput(cdk.Stack.of(self), "ApiKeyId", value=key.key_id)

    def _acknowledge(self, settings: Settings) -> None:
        suppress_nag(
            self.api,
            {
                "AwsSolutions-APIG2": (
                    "The function validates every body against the model's contract and answers "
                    "with pointers; the gateway's validator could only say no."
                ),
            },
        )
        suppress_nag(
            self.stage,
            {
                "AwsSolutions-APIG3": (
                    "A web ACL costs more than the rest of an idle stack and belongs to the "
                    "account's edge; attach yours to the stage."
                ),
                "Serverless-APIGWXrayEnabled": (
                    "Access log and record share a request id and have all timings; X-Ray would "
                    "add a permission on all resources and a price per request."
                ),
            },
        )
        if settings.auth != "cognito":
            chosen = f"Callers are authenticated as the settings say: auth={settings.auth}."
            rules = {"AwsSolutions-COG4": chosen}
            if settings.auth == "api-key":
                rules["AwsSolutions-APIG4"] = chosen
            suppress_nag(self.api.root, rules)
        if settings.gateway_log_role:
            suppress_nag(
                self.api.node.find_child("CloudWatchRole"),
                {
                    "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
                    "AmazonAPIGatewayPushToCloudWatchLogs]": (
                        "API Gateway accepts one role for all APIs of an account and region, so "
                        "it cannot be held to one stack's log groups."
                    ),
                },
            )
