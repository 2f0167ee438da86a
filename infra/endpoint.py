"""Endpoints: the metrics, the CORS rules, the access log and the domain name of each."""

from typing import NamedTuple

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as route53_targets
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.settings import Settings

CORS_METHODS = ["GET", "POST"]
CORS_HEADERS = ["authorization", "content-type", "idempotency-key", "traceparent", "x-api-key",
    "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"]  # fmt: skip
CORS_EXPOSED_HEADERS = ["location", "retry-after"]
CORS_MAX_AGE = cdk.Duration.hours(1)

# no query string, header or body: the function's record has what may be logged
ACCESS_LOG = {
    "request_id": "$context.requestId",
    "time": "$context.requestTimeEpoch",
    "source_ip": "$context.identity.sourceIp",
    "caller": "$context.identity.caller",
    "method": "$context.httpMethod",
    "path": "$context.path",
    "status": "$context.status",
    "problem": "$context.error.responseType",
    "response_bytes": "$context.responseLength",
    "latency_ms": "$context.responseLatency",
    "integration_ms": "$context.integrationLatency",
    "integration_status": "$context.integrationStatus",
    "integration_request_id": "$context.integration.requestId",
}


class EndpointMetrics(NamedTuple):
    """The metrics Count, 4XXError, 5XXError and Latency. `names`: other names."""

    namespace: str
    dimensions: dict[str, str]
    names: dict[str, str] = {}


def domain_url(settings: Settings) -> str:
    """Return the URL of the API under its domain name."""
    return f"https://{settings.domain_name}/{f'{settings.base_path}/' * bool(settings.base_path)}"


def add_domain(scope: Construct, settings: Settings, api_id: str, stage: cdk.CfnResource) -> None:
    """Map the domain name to an API's stage; with a hosted zone, add its record."""
    mutual_tls = None
    if settings.truststore_uri:
        name, _, path = settings.truststore_uri.removeprefix("s3://").partition("/")
        bucket = s3.Bucket.from_bucket_name(scope, "Truststore", name)
        mutual_tls = apigatewayv2.MTLSConfig(bucket=bucket, key=path)
    domain = apigatewayv2.DomainName(
        scope,
        "Domain",
        domain_name=settings.domain_name,
        certificate=acm.Certificate.from_certificate_arn(
            scope, "Certificate", settings.certificate_arn
        ),
        security_policy=apigatewayv2.SecurityPolicy.TLS_1_2,
        mtls=mutual_tls,
    )
    mapping = apigatewayv2.CfnApiMapping(
        scope,
        "Mapping",
        api_id=api_id,
        domain_name=domain.name,
        stage=stage.ref,
        api_mapping_key=settings.base_path or None,
    )
    mapping.add_resource_dependency(stage)
    stack = cdk.Stack.of(scope)
    cdk.CfnOutput(stack, "DomainTarget", value=domain.regional_domain_name)
    cdk.CfnOutput(stack, "DomainUrl", value=domain_url(settings))
    if settings.hosted_zone_id:
        zone = route53.HostedZone.from_hosted_zone_attributes(
            scope,
            "Zone",
            hosted_zone_id=settings.hosted_zone_id,
            zone_name=settings.domain_name.partition(".")[2],
        )
        target = route53_targets.ApiGatewayv2DomainProperties(
            domain.regional_domain_name, domain.regional_hosted_zone_id
        )
        route53.ARecord(
            scope,
            "Record",
            zone=zone,
            record_name=f"{settings.domain_name}.",
            target=route53.RecordTarget.from_alias(target),
        )
