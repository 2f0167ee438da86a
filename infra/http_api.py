"""The endpoints without a REST API: API Gateway's HTTP API, and the function's own URL.

Both forward every path to the function and answer preflight requests themselves. Their own errors
are AWS's JSON, not problem documents.
"""

import json

from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra import endpoint
from infra.endpoint import ACCESS_LOG, EndpointMetrics
from infra.logs import log_group
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

STAGE = "$default"  # whose name is not part of the path


class HttpApi(Construct):
    """An HTTP API with one route for every path."""

    def __init__(
        self, scope: Construct, id: str, *, settings: Settings, alias: lambda_.Alias
    ) -> None:
        super().__init__(scope, id)
        integration = integrations.HttpLambdaIntegration("Function", alias)
        cors = apigatewayv2.CorsPreflightOptions(
            allow_origins=[*settings.cors_origins],
            allow_methods=[apigatewayv2.CorsHttpMethod[name] for name in endpoint.CORS_METHODS],
            allow_headers=endpoint.CORS_HEADERS,
            expose_headers=endpoint.CORS_EXPOSED_HEADERS,
            max_age=endpoint.CORS_MAX_AGE,
        )
        api = apigatewayv2.HttpApi(
            self,
            "Http",
            api_name=settings.service,
            create_default_stage=False,
            default_authorizer=self._authorizer(settings),
            default_integration=integration,
            cors_preflight=cors if settings.cors_origins else None,
            # mutual TLS would be of the domain name alone
            disable_execute_api_endpoint=bool(settings.truststore_uri),
        )
        if settings.cors_origins:
            # the route of all paths has an authorizer, which a preflight request cannot pass
            options = api.add_routes(
                path="/{proxy+}",
                methods=[apigatewayv2.HttpMethod.OPTIONS],
                integration=integration,
                authorizer=apigatewayv2.HttpNoneAuthorizer(),
            )
            reason = "Browsers send preflight requests without credentials."
            suppress_nag(options[0], {"AwsSolutions-APIG4": reason})
        logs = log_group(self, "AccessLogs", settings)
        stage = apigatewayv2.CfnStage(
            self,
            "Stage",
            api_id=api.http_api_id,
            stage_name=STAGE,
            auto_deploy=True,
            access_log_settings=apigatewayv2.CfnStage.AccessLogSettingsProperty(
                destination_arn=logs.log_group_arn, format=json.dumps(ACCESS_LOG)
            ),
            default_route_settings=apigatewayv2.CfnStage.RouteSettingsProperty(
                throttling_rate_limit=settings.rate_limit,
                throttling_burst_limit=settings.burst_limit,
            ),
        )
        if settings.domain_name:
            endpoint.add_domain(self, settings, api.http_api_id, stage)
        self.url = (
            f"{api.api_endpoint}/" if not settings.truststore_uri else endpoint.domain_url(settings)
        )
        self.metrics = EndpointMetrics(
            "AWS/ApiGateway",
            {"ApiId": api.http_api_id, "Stage": STAGE},
            {"4XXError": "4xx", "5XXError": "5xx"},
        )

    def _authorizer(self, settings: Settings) -> apigatewayv2.IHttpRouteAuthorizer:
        if settings.auth == "jwt":
            return authorizers.HttpJwtAuthorizer(
                "Authorizer", settings.jwt_issuer, jwt_audience=[*settings.jwt_audience]
            )
        if settings.auth == "lambda":
            function = lambda_.Function.from_function_attributes(
                self, "AuthorizerFunction",
                function_arn=settings.authorizer_arn, same_environment=True,
            )  # fmt: skip
            return authorizers.HttpLambdaAuthorizer("Authorizer", function)
        return authorizers.HttpIamAuthorizer()


class FunctionUrl(Construct):
    """The URL of the alias, for callers that sign their requests."""

    def __init__(
        self, scope: Construct, id: str, *, settings: Settings, alias: lambda_.Alias
    ) -> None:
        super().__init__(scope, id)
        cors = lambda_.FunctionUrlCorsOptions(
            allowed_origins=[*settings.cors_origins],
            allowed_methods=[lambda_.HttpMethod[name] for name in endpoint.CORS_METHODS],
            allowed_headers=endpoint.CORS_HEADERS,
            exposed_headers=endpoint.CORS_EXPOSED_HEADERS,
            max_age=endpoint.CORS_MAX_AGE,
        )
        url = lambda_.FunctionUrl(
            self,
            "Url",
            function=alias,
            auth_type=lambda_.FunctionUrlAuthType.AWS_IAM,
            cors=cors if settings.cors_origins else None,
        )
        self.url = url.url
        name = alias.lambda_.function_name
        self.metrics = EndpointMetrics(
            "AWS/Lambda",
            {"FunctionName": name, "Resource": f"{name}:{alias.alias_name}"},
            {
                "Count": "UrlRequestCount",
                "4XXError": "Url4xxCount",
                "5XXError": "Url5xxCount",
                "Latency": "UrlRequestLatency",
            },
        )
