"""The REST API: authentication, access, limits, logs, and the gateway's own error responses.

Every path goes to the function, so 404 and 405 are the function's too.
"""

import json
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

from handler.http import IMAGE_TYPES, NPY, OCTET_STREAM
from handler.manifest import Manifest
from infra import endpoint, gateway_responses
from infra.endpoint import ACCESS_LOG, EndpointMetrics
from infra.logs import log_group
from infra.settings import Client, Settings
from infra.suppress_nag import suppress_nag

# no query string, header or body: the function's record has what may be logged
REST_ACCESS_LOG = {
    **ACCESS_LOG,
    "api_key_id": "$context.identity.apiKeyId",
    "tls": "$context.tlsVersion",
}
EVERYTHING = "execute-api:/*"  # of this API


class Api(Construct):
    """The API with one stage, which has the name of the deployment's stage."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        manifest: Manifest,
        alias: lambda_.Alias,
    ) -> None:
        super().__init__(scope, id)
        logs = log_group(self, "AccessLogs", settings)
        pictures = IMAGE_TYPES if manifest.takes_picture else ()
        self.api = apigateway.RestApi(
            self,
            "Rest",
            rest_api_name=settings.service,
            endpoint_configuration=self._reach(settings),
            policy=self._policy(settings),
            # mutual TLS would be of the domain name alone
            disable_execute_api_endpoint=bool(settings.truststore_uri) or None,
            # Only binary bodies come as base64, which takes a third of Lambda's 6 MB. With
            # compression on, the gateway also unpacks gzip bodies.
            binary_media_types=[OCTET_STREAM, NPY, *pictures],
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
                tracing_enabled=settings.tracing,
                metrics_enabled=False,  # per method, at a price; the stage's own are free
                access_log_destination=apigateway.LogGroupLogDestination(logs),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(REST_ACCESS_LOG)),
            ),
            default_method_options=self._authorization(settings),
            default_integration=apigateway.LambdaIntegration(alias, allow_test_invoke=False),
        )
        rest = self.api.node.default_child
        assert isinstance(rest, apigateway.CfnRestApi)
        # The default of a regional API still accepts TLS 1.0.
        rest.security_policy = "SecurityPolicy_TLS13_1_2_PFS_PQ_2025_09"
        rest.endpoint_access_mode = "BASIC"
        self.stage = self.api.deployment_stage
        self.url = self.api.url if not settings.truststore_uri else endpoint.domain_url(settings)
        self.metrics = EndpointMetrics(
            "AWS/ApiGateway", {"ApiName": settings.service, "Stage": settings.stage}
        )
        # the gateway would make it itself, to be kept for ever
        name = f"API-Gateway-Execution-Logs_{self.api.rest_api_id}/{settings.stage}"
        self.stage.node.add_dependency(log_group(self, "ExecutionLogs", settings, name))
        # The endpoint is an output of the stack, under a name that can be guessed.
        self.api.node.try_remove_child("Endpoint")
        self.api.root.add_method("ANY")
        proxy = self.api.root.add_proxy()
        if settings.cors_origins:
            for resource in (self.api.root, proxy):
                # the gateway answers OPTIONS without authentication, which browsers do not send
                resource.add_cors_preflight(
                    allow_origins=[*settings.cors_origins],
                    allow_methods=endpoint.CORS_METHODS,
                    allow_headers=endpoint.CORS_HEADERS,
                    max_age=endpoint.CORS_MAX_AGE,
                )
        gateway_responses.add(self, self.api, cors=bool(settings.cors_origins))
        if settings.auth == "api-key":
            self._usage_plans(settings)
        if settings.domain_name:
            stage = self.stage.node.default_child
            assert isinstance(stage, cdk.CfnResource)
            endpoint.add_domain(self, settings, self.api.rest_api_id, stage)
        if settings.web_acl_arn:
            arns = {"resource_arn": self.stage.stage_arn, "web_acl_arn": settings.web_acl_arn}
            wafv2.CfnWebACLAssociation(self, "WebAcl", **arns)
        self._suppress_nag(settings)

    def _reach(self, settings: Settings) -> apigateway.EndpointConfiguration:
        """Return from where the API is reached: everywhere, or through VPC endpoints alone."""
        endpoints = [
            ec2.InterfaceVpcEndpoint.from_interface_vpc_endpoint_attributes(
                self, id, port=443, vpc_endpoint_id=id
            )
            for id in settings.vpc_endpoint_ids
        ]
        kind = apigateway.EndpointType.PRIVATE if endpoints else apigateway.EndpointType.REGIONAL
        return apigateway.EndpointConfiguration(types=[kind], vpc_endpoints=endpoints or None)

    def _policy(self, settings: Settings) -> iam.PolicyDocument | None:
        """Return the resource policy, which denies other endpoints and addresses.

        With auth=iam it allows the account, whose identities still need a policy of their own.
        https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-authorization-flow.html
        """
        conditions = []
        if settings.vpc_endpoint_ids:
            endpoints = {"aws:SourceVpce": [*settings.vpc_endpoint_ids]}
            conditions.append({"StringNotEquals": endpoints})
        if settings.allowed_ips:
            address = "aws:VpcSourceIp" if settings.vpc_endpoint_ids else "aws:SourceIp"
            ranges = [str(network) for network in settings.allowed_ips]
            conditions.append({"NotIpAddress": {address: ranges}})
        if not conditions:
            return None
        allowed = iam.AccountRootPrincipal() if settings.auth == "iam" else iam.AnyPrincipal()
        call: Any = {"actions": ["execute-api:Invoke"], "resources": [EVERYTHING]}
        deny: Any = {**call, "effect": iam.Effect.DENY, "principals": [iam.AnyPrincipal()]}
        statements = [iam.PolicyStatement(**call, principals=[allowed])]
        statements += [iam.PolicyStatement(**deny, conditions=c) for c in conditions]
        return iam.PolicyDocument(statements=statements)

    def _authorization(self, settings: Settings) -> apigateway.MethodOptions:
        """Return the authorization of every method."""
        if settings.auth == "api-key":
            return apigateway.MethodOptions(api_key_required=True)
        if settings.auth == "lambda":
            function = lambda_.Function.from_function_attributes(
                self, "AuthorizerFunction",
                function_arn=settings.authorizer_arn, same_environment=True,
            )  # fmt: skip
            return apigateway.MethodOptions(
                authorizer=apigateway.RequestAuthorizer(
                    self,
                    "Authorizer",
                    handler=function,
                    identity_sources=[apigateway.IdentitySource.header("Authorization")],
                )
            )
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

    def _usage_plans(self, settings: Settings) -> None:
        """Add the stack's own key, and one per client; `get-api-key --include-value` shows them."""
        quota = Client(rate_limit=settings.rate_limit, burst_limit=settings.burst_limit)
        key = self._key("", settings.service, quota)
        cdk.CfnOutput(cdk.Stack.of(self), "ApiKeyId", value=key.key_id)
        for name, client in settings.clients.items():
            self._key(f"Client-{name}-", f"{settings.service}-{name}", client)

    def _key(self, prefix: str, name: str, client: Client) -> apigateway.IApiKey:
        """Return an API key with a usage plan of its own."""
        quota = None
        if limit := client.requests_per_month:
            quota = apigateway.QuotaSettings(limit=limit, period=apigateway.Period.MONTH)
        plan = self.api.add_usage_plan(
            f"{prefix}Plan",
            name=name,
            throttle=apigateway.ThrottleSettings(
                rate_limit=client.rate_limit, burst_limit=client.burst_limit
            ),
            quota=quota,
            api_stages=[apigateway.UsagePlanPerApiStage(api=self.api, stage=self.stage)],
        )
        key = self.api.add_api_key(f"{prefix}Key", api_key_name=name)
        plan.add_api_key(key)
        return key

    def _suppress_nag(self, settings: Settings) -> None:
        reason = (
            "The function validates every body against the model's contract and answers with "
            "pointers; the gateway's validator could only say no."
        )
        suppress_nag(self.api, {"AwsSolutions-APIG2": reason})
        if not settings.web_acl_arn:
            reason = "A web ACL costs more than the rest of an idle stack; `web_acl_arn` adds one."
            suppress_nag(self.stage, {"AwsSolutions-APIG3": reason})
        if not settings.tracing:
            reason = (
                "Access log and record share a request id and have all timings; `tracing` adds "
                "X-Ray at a price per request."
            )
            suppress_nag(self.stage, {"Serverless-APIGWXrayEnabled": reason})
        reason = f"Callers are authenticated as the settings say: auth={settings.auth}."
        if settings.auth != "cognito":
            suppress_nag(self.api.root, {"AwsSolutions-COG4": reason})
        if settings.auth == "api-key":
            suppress_nag(self.api.root, {"AwsSolutions-APIG4": reason})
        if settings.gateway_log_role:
            policy = "service-role/AmazonAPIGatewayPushToCloudWatchLogs"
            rule = f"AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{policy}]"
            reason = (
                "API Gateway accepts one role for all APIs of an account and region, so it cannot "
                "be held to one stack's log groups."
            )
            suppress_nag(self.api.node.find_child("CloudWatchRole"), {rule: reason})
