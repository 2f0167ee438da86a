"""Every setting, and the property of the template that it decides."""

import functools
import re

import pytest

from infra.settings import Settings
from tests.infra.conftest import POOL, ROOT, Synth, Template
from tests.infra.test_options import ACL, BOUNDARY, CERTIFICATE, of_deploy_toml

PAGE = ROOT / "docs/reference/settings.md"
FUNCTION, KEY = "function:authorizer", "key/11111111-2222-3333-4444-555555555555"
ARN = "arn:aws:{}:eu-west-1:123456789012:{}"
KMS = ARN.format("kms", KEY)

# deploy.toml's of one stage; each sets what the table below expects of it
STAGES = {
    "rest": f"""
        architecture = "arm64"
        image_repository = "answerable"
        image_registry = "210987654321"
        image_tag = "v7"
        memory = 3008
        timeout = 9
        ephemeral_storage = 1024
        provisioned_concurrency = 2
        max_concurrency = 77
        rollout = "linear"
        bake_minutes = 18
        low_traffic_policy = "fail"
        minimum_requests = 7
        auto_rollback_on = "drift"
        rollback_cooldown_hours = 5
        rate_limit = 11
        burst_limit = 12
        gateway_log_role = true
        allowed_ips = ["192.0.2.0/24", "2001:db8::/32"]
        cors_origins = ["https://a.example", "https://b.example"]
        domain_name = "predict.example.org"
        certificate_arn = "{CERTIFICATE}"
        hosted_zone_id = "Z123"
        base_path = "risk/churn"
        truststore_uri = "s3://truststore/clients.pem"
        web_acl_arn = "{ACL}"
        tracing = true
        subnet_ids = ["subnet-0123456789abcdef0"]
        security_group_ids = ["sg-0123456789abcdef0"]
        kms_key_arn = "{KMS}"
        permissions_boundary = "{BOUNDARY}"
        tags = {{ "cost-center" = "42" }}
        jobs = true
        job_retention_days = 3
        job_timeout = 33
        job_batch_size = 7
        job_batch_window = 20
        job_concurrency = 4
        prediction_id_key_version = 3
        log_payloads = "outputs"
        archive = true
        alarm_destination = "slack:T0/C0"
        ticket_destination = "https://tickets.example.org/"
        alarms = {{ latency_ms = 77 }}
        log_retention_days = 365
        drift_history_days = 731
        log_level = "DEBUG"
    """,
    "base": 'base_image = "public.ecr.aws/lambda/python@sha256:1"\nsnapstart = true',
    "batch": """
        batch = true
        batch_input_buckets = ["lake-a", "lake-b"]
        batch_retention_days = 12
        batch_memory = 2048
        batch_concurrency = 33
        batch_max_failed_percent = 7
        batch_max_refused_percent = 9
        batch_key = "customer"
        batch_ignore_unknown = true
        batch_parquet = true
        image_repository = "answerable"
        image_tag = "v7"
    """,
    "batch-bucket": 'batch = true\nbatch_bucket = "the-lake"',
    "pin": "jobs = true\npinned_version = 77\npinned_worker_version = 78",
    "key": 'auth = "api-key"\nclients = { shop = { requests_per_month = 1000 } }',
    "cognito": f'auth = "cognito"\nuser_pool_arn = "{POOL}"\nuser_pool_scope = "churn/predict"',
    "authorizer": f'auth = "lambda"\nauthorizer_arn = "{ARN.format("lambda", FUNCTION)}"',
    "private": 'vpc_endpoint_ids = ["vpce-0123456789abcdef0"]\nallowed_ips = ["10.0.0.0/8"]',
    "http": f"""
        endpoint = "http"
        auth = "jwt"
        jwt_issuer = "https://issuer.example.org"
        jwt_audience = ["churn"]
        cors_origins = ["https://a.example"]
        domain_name = "predict.example.org"
        certificate_arn = "{CERTIFICATE}"
        truststore_uri = "s3://truststore/clients.pem"
    """,
    "http-iam": 'endpoint = "http"\nhosted_zone_id = ""\nrate_limit = 11',
    "http-lambda": f"""
        endpoint = "http"
        auth = "lambda"
        authorizer_arn = "{ARN.format("lambda", FUNCTION)}"
    """,
    "url": 'endpoint = "url"\ncors_origins = ["https://a.example"]',
}
ALARM, ALIAS, API = "AWS::CloudWatch::Alarm", "AWS::Lambda::Alias", "AWS::ApiGateway::RestApi"
HTTP_API, LAMBDA, METHOD = (
    "AWS::ApiGatewayV2::Api",
    "AWS::Lambda::Function",
    "AWS::ApiGateway::Method",
)
MACHINE = "AWS::StepFunctions::StateMachine"
MAPPING, POLICY = "AWS::Lambda::EventSourceMapping", "AWS::IAM::Policy"

# setting, stage of the table above, type of resource, text of its properties that the default lacks
TABLE = [
    ("architecture", "rest", LAMBDA, '"Architectures": ["arm64"]'),
    ("image_repository", "rest", LAMBDA, '/answerable:v7"'),
    ("image_registry", "rest", LAMBDA, '"210987654321.dkr.ecr.'),
    ("image_registry", "rest", POLICY, ':210987654321:repository/*"'),
    ("image_tag", "rest", LAMBDA, ':v7"'),
    ("memory", "rest", LAMBDA, '"MemorySize": 3008'),
    ("timeout", "rest", LAMBDA, '"Timeout": 9'),
    ("snapstart", "base", LAMBDA, '"SnapStart": {"ApplyOn": "PublishedVersions"}'),
    ("ephemeral_storage", "rest", LAMBDA, '"EphemeralStorage": {"Size": 1024}'),
    ("provisioned_concurrency", "rest", ALIAS, '"ProvisionedConcurrentExecutions": 2'),
    ("max_concurrency", "rest", LAMBDA, '"ReservedConcurrentExecutions": 77'),
    ("rollout", "rest", "AWS::CodeDeploy::DeploymentConfig", '"TimeBasedLinear"'),
    ("bake_minutes", "rest", "AWS::CodeDeploy::DeploymentConfig", '"LinearInterval": 2'),
    ("low_traffic_policy", "rest", LAMBDA, '"LOW_TRAFFIC_POLICY": "fail"'),
    ("minimum_requests", "rest", LAMBDA, '"MINIMUM_REQUESTS": "7"'),
    ("pinned_version", "pin", ALIAS, '"FunctionVersion": "77"'),
    ("pinned_worker_version", "pin", ALIAS, '"FunctionVersion": "78"'),
    ("auto_rollback_on", "rest", "AWS::Events::Rule", '"CloudWatch Alarm State Change"'),
    ("rollback_cooldown_hours", "rest", LAMBDA, '"COOLDOWN_HOURS": "5"'),
    ("endpoint", "http", HTTP_API, '"ProtocolType": "HTTP"'),
    ("endpoint", "http-iam", "AWS::ApiGatewayV2::Route", '"AuthorizationType": "AWS_IAM"'),
    ("endpoint", "url", "AWS::Lambda::Url", '"AuthType": "AWS_IAM"'),
    ("endpoint", "url", ALARM, '"MetricName": "Url5xxCount"'),
    ("endpoint", "http", ALARM, '"MetricName": "5xx"'),
    ("auth", "key", METHOD, '"ApiKeyRequired": true'),
    ("auth", "authorizer", "AWS::ApiGateway::Authorizer", '"Type": "REQUEST"'),
    ("user_pool_arn", "cognito", "AWS::ApiGateway::Authorizer", f'"ProviderARNs": ["{POOL}"]'),
    ("user_pool_scope", "cognito", METHOD, '"AuthorizationScopes": ["churn/predict"]'),
    ("jwt_issuer", "http", "AWS::ApiGatewayV2::Authorizer", "https://issuer.example.org"),
    ("jwt_audience", "http", "AWS::ApiGatewayV2::Authorizer", '"Audience": ["churn"]'),
    ("authorizer_arn", "authorizer", "AWS::Lambda::Permission", FUNCTION),
    ("authorizer_arn", "http-lambda", "AWS::ApiGatewayV2::Authorizer", FUNCTION),
    ("rate_limit", "rest", "AWS::ApiGateway::Stage", '"ThrottlingRateLimit": 11'),
    ("rate_limit", "http-iam", "AWS::ApiGatewayV2::Stage", '"ThrottlingRateLimit": 11'),
    ("burst_limit", "rest", "AWS::ApiGateway::Stage", '"ThrottlingBurstLimit": 12'),
    ("gateway_log_role", "rest", "AWS::ApiGateway::Account", "CloudWatchRoleArn"),
    (
        "vpc_endpoint_ids",
        "private",
        API,
        '"Types": ["PRIVATE"], "VpcEndpointIds": ["vpce-0123456789abcdef0"]',
    ),
    (
        "vpc_endpoint_ids",
        "private",
        API,
        '"StringNotEquals": {"aws:SourceVpce": ["vpce-0123456789abcdef0"]}',
    ),
    ("allowed_ips", "private", API, '"aws:VpcSourceIp": ["10.0.0.0/8"]'),
    ("allowed_ips", "rest", API, '"aws:SourceIp": ["192.0.2.0/24", "2001:db8::/32"]'),
    ("cors_origins", "rest", METHOD, '"HttpMethod": "OPTIONS"'),
    ("cors_origins", "rest", LAMBDA, '"CORS_ORIGINS": "https://a.example https://b.example"'),
    ("cors_origins", "rest", "AWS::ApiGateway::GatewayResponse", "Access-Control-Allow-Origin"),
    ("cors_origins", "http", HTTP_API, '"AllowOrigins": ["https://a.example"]'),
    ("cors_origins", "http", "AWS::ApiGatewayV2::Route", '"OPTIONS /{proxy+}"'),
    ("cors_origins", "url", "AWS::Lambda::Url", '"AllowOrigins": ["https://a.example"]'),
    ("clients", "key", "AWS::ApiGateway::UsagePlan", '"Quota": {"Limit": 1000'),
    ("domain_name", "rest", "AWS::ApiGatewayV2::DomainName", '"predict.example.org"'),
    ("certificate_arn", "rest", "AWS::ApiGatewayV2::DomainName", CERTIFICATE),
    ("hosted_zone_id", "rest", "AWS::Route53::RecordSet", '"HostedZoneId": "Z123"'),
    ("base_path", "rest", "AWS::ApiGatewayV2::ApiMapping", '"ApiMappingKey": "risk/churn"'),
    ("truststore_uri", "rest", "AWS::ApiGatewayV2::DomainName", "s3://truststore/clients.pem"),
    ("truststore_uri", "rest", API, '"DisableExecuteApiEndpoint": true'),
    ("truststore_uri", "http", HTTP_API, '"DisableExecuteApiEndpoint": true'),
    ("web_acl_arn", "rest", "AWS::WAFv2::WebACLAssociation", ACL),
    ("tracing", "rest", LAMBDA, '"TracingConfig": {"Mode": "Active"}'),
    ("subnet_ids", "rest", LAMBDA, '"SubnetIds": ["subnet-0123456789abcdef0"]'),
    ("security_group_ids", "rest", LAMBDA, '"SecurityGroupIds": ["sg-0123456789abcdef0"]'),
    *(
        ("kms_key_arn", "rest", kind, KEY)
        for kind in (
            "AWS::Logs::LogGroup",
            "AWS::SQS::Queue",
            "AWS::S3::Bucket",
            "AWS::SNS::Topic",
            LAMBDA,
            POLICY,
        )
    ),
    ("permissions_boundary", "rest", "AWS::IAM::Role", BOUNDARY),
    ("tags", "rest", LAMBDA, '"Key": "cost-center", "Value": "42"'),
    ("jobs", "rest", "AWS::SQS::Queue", "maxReceiveCount"),
    ("job_retention_days", "rest", "AWS::S3::Bucket", '"ExpirationInDays": 3'),
    ("job_timeout", "rest", LAMBDA, '"Timeout": 33'),
    ("job_batch_size", "rest", MAPPING, '"BatchSize": 7'),
    ("job_batch_window", "rest", MAPPING, '"MaximumBatchingWindowInSeconds": 20'),
    ("job_concurrency", "rest", MAPPING, '"MaximumConcurrency": 4'),
    ("batch", "batch", MACHINE, "DISTRIBUTED"),
    ("batch_bucket", "batch-bucket", POLICY, ":s3:::the-lake"),
    ("batch_input_buckets", "batch", POLICY, ":s3:::lake-b/*"),
    ("batch_retention_days", "batch", "AWS::S3::Bucket", '"ExpirationInDays": 12'),
    ("batch_memory", "batch", LAMBDA, '"MemorySize": 2048'),
    ("batch_concurrency", "batch", MACHINE, r"\"MaxConcurrency\":33"),
    ("batch_max_failed_percent", "batch", MACHINE, r"\"ToleratedFailurePercentage\":7"),
    ("batch_max_refused_percent", "batch", MACHINE, r"\"max_refused_percent\":9"),
    ("batch_key", "batch", MACHINE, r"\"key\":\"customer\""),
    ("batch_ignore_unknown", "batch", MACHINE, r"\"ignore_unknown\":true"),
    ("batch_parquet", "batch", LAMBDA, ':v7-parquet"'),
    ("prediction_id_key_version", "rest", "Custom::Secret", "prediction-id-secret-3"),
    ("log_payloads", "rest", LAMBDA, '"LOG_PAYLOADS": "outputs"'),
    ("archive", "rest", "AWS::KinesisFirehose::DeliveryStream", "S3"),
    (
        "alarm_destination",
        "rest",
        "AWS::Chatbot::SlackChannelConfiguration",
        '"SlackChannelId": "C0"',
    ),
    ("ticket_destination", "rest", "AWS::SNS::Subscription", "https://tickets.example.org/"),
    ("alarms", "rest", ALARM, '"Threshold": 77'),
    ("log_retention_days", "rest", "AWS::Logs::LogGroup", '"RetentionInDays": 365'),
    ("drift_history_days", "rest", "AWS::Logs::LogGroup", '"RetentionInDays": 731'),
    ("log_level", "rest", LAMBDA, '"LOG_LEVEL": "DEBUG"'),
]
# test_options.py has bootstrap_qualifier, which is of the template's metadata; test_image.py has
# base_image, an argument of the image's build
ELSEWHERE = {"model", "stage", "base_image", "bootstrap_qualifier"}


@pytest.fixture(scope="module")
def stage_template(synth: Synth, tmp_path_factory: pytest.TempPathFactory) -> object:
    @functools.cache
    def make(stage: str) -> Template:
        return of_deploy_toml(synth, tmp_path_factory.mktemp("stage"), STAGES[stage])

    return make


@pytest.mark.parametrize(("setting", "stage", "kind", "text"), TABLE)
def test_setting_decides_property(
    synth: Synth, stage_template: object, setting: str, stage: str, kind: str, text: str
) -> None:
    assert callable(stage_template)
    assert f"{setting} =" in STAGES[stage]
    assert text in stage_template(stage).text(kind)
    assert text not in synth.template().text(kind)


def test_every_setting_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} | ELSEWHERE == Settings.model_fields.keys()


def test_every_setting_has_a_meaning_in_the_reference() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert {name for name, meaning in rows if meaning} == Settings.model_fields.keys()
