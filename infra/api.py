"""The REST API: authentication, limits, logs, domain, and the gateway's own error responses.

A REST API has API keys, usage plans and gateway responses; an HTTP API has not. Every path goes to
the function, so 404 and 405 are the function's too.
"""

import json

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as route53_targets
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

from handler.http import IMAGE_TYPES, NPY, OCTET_STREAM
from handler.manifest import Manifest
from infra import gateway_responses
from infra.logs import log_group
from infra.settings import Client, Settings
from infra.suppress_nag import suppress_nag

# no query string, header or body: the function's record has what may be logged
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
            endpoint_types=[apigateway.EndpointType.REGIONAL],
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
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
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
        # the gateway would make it itself, to be kept for ever
        name = f"API-Gateway-Execution-Logs_{self.api.rest_api_id}/{settings.stage}"
        self.stage.node.add_dependency(log_group(self, "ExecutionLogs", settings, name))
        # The endpoint is an output of the stack, under a name that can be guessed.
        self.api.node.try_remove_child("Endpoint")
        self.api.root.add_method("ANY")
        self.api.root.add_proxy()
        gateway_responses.add(self, self.api)
        if settings.auth == "api-key":
            self._usage_plans(settings)
        if settings.domain_name:
            self._domain(settings)
        if settings.web_acl_arn:
            wafv2.CfnWebACLAssociation(
                self,
                "WebAcl",
                resource_arn=self.stage.stage_arn,
                web_acl_arn=settings.web_acl_arn,
            )
        self._suppress_nag(settings)

    def _authorization(self, settings: Settings) -> apigateway.MethodOptions:
        """Return the authorization of every method."""
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

    def _usage_plans(self, settings: Settings) -> None:
        """Add the stack's own key, and one per client; `get-api-key --include-value` shows them."""
        quota = Client(rate_limit=settings.rate_limit, burst_limit=settings.burst_limit)
        key = self._key("", settings.service, quota)
        cdk.CfnOutput(cdk.Stack.of(self), "ApiKeyId", value=key.key_id)
        for name, client in settings.clients.items():
            self._key(f"Client-{name}-", f"{settings.service}-{name}", client)

    def _key(self, prefix: str, name: str, client: Client) -> apigateway.IApiKey:
        """Return an API key with a usage plan of its own."""
        quota = client.requests_per_month
        plan = self.api.add_usage_plan(
            f"{prefix}Plan",
            name=name,
            throttle=apigateway.ThrottleSettings(
                rate_limit=client.rate_limit, burst_limit=client.burst_limit
            ),
            quota=apigateway.QuotaSettings(limit=quota, period=apigateway.Period.MONTH)
            if quota
            else None,
            api_stages=[apigateway.UsagePlanPerApiStage(api=self.api, stage=self.stage)],
        )
        key = self.api.add_api_key(f"{prefix}Key", api_key_name=name)
        plan.add_api_key(key)
        return key

    def _domain(self, settings: Settings) -> None:
        """Map the domain name to the stage; with a hosted zone, add its record."""
        domain = apigateway.DomainName(
            self,
            "Domain",
            domain_name=settings.domain_name,
            certificate=acm.Certificate.from_certificate_arn(
                self, "Certificate", settings.certificate_arn
            ),
            endpoint_type=apigateway.EndpointType.REGIONAL,
            security_policy=apigateway.SecurityPolicy.TLS_1_2,
            mapping=self.api,
        )
        cdk.CfnOutput(
            cdk.Stack.of(self), "DomainTarget", value=domain.domain_name_alias_domain_name
        )
        if settings.hosted_zone_id:
            zone = route53.HostedZone.from_hosted_zone_attributes(
                self,
                "Zone",
                hosted_zone_id=settings.hosted_zone_id,
                zone_name=settings.domain_name.partition(".")[2],
            )
            route53.ARecord(
                self,
                "Record",
                zone=zone,
                record_name=f"{settings.domain_name}.",
                target=route53.RecordTarget.from_alias(route53_targets.ApiGatewayDomain(domain)),
            )

    def _suppress_nag(self, settings: Settings) -> None:
        suppress_nag(
            self.api,
            {
                "AwsSolutions-APIG2": (
                    "The function validates every body against the model's contract and answers "
                    "with pointers; the gateway's validator could only say no."
                ),
            },
        )
        of_stage = {}
        if not settings.web_acl_arn:
            of_stage["AwsSolutions-APIG3"] = (
                "A web ACL costs more than the rest of an idle stack; `web_acl_arn` adds one."
            )
        if not settings.tracing:
            of_stage["Serverless-APIGWXrayEnabled"] = (
                "Access log and record share a request id and have all timings; `tracing` adds "
                "X-Ray at a price per request."
            )
        suppress_nag(self.stage, of_stage)
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
