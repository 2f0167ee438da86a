"""The settings of a deployment: `deploy.toml`, and `-c name=value` over it.

The manifest has everything about the model (limits, owner, runbook, alarm thresholds). The settings
are what may differ between two deployments of one model. deploy.toml has a table per stage:
`[default]`, then `[stage.prod]`, then `[stage.prod.churn]` for one model; the last one wins.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)

from handler import manifest
from handler.errors import ArtifactError
from handler.manifest import Alarms, Manifest
from infra.project import ARTIFACTS, find_model, model_names

SETTINGS = "answerable:settings"  # the template's metadata of all settings
FILE = Path("deploy.toml")  # in the project's folder, which is the current one
# CloudWatch Logs takes no other numbers of days
RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 3653)
# Lambda's limit for a synchronous event; a binary body travels in it as base64
PAYLOAD_BYTES = 6 * 1024 * 1024

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]

Destination = Annotated[
    str,
    Field(pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+|https://\S+|arn:[\w-]+:sns:\S+|slack:\w+/\w+)?$"),
]
# the ways to authenticate callers that an endpoint has
AUTHS = {
    "rest": ("iam", "api-key", "cognito", "lambda"),
    "http": ("iam", "jwt", "lambda"),
    "url": ("iam",),
}
AUTH_NEEDS = {"cognito": "user_pool_arn", "jwt": "jwt_issuer", "lambda": "authorizer_arn"}
# settings that need a value of another setting
NEEDS = {
    "user_pool_arn": ("auth", ["cognito"]),
    "user_pool_scope": ("auth", ["cognito"]),
    "jwt_issuer": ("auth", ["jwt"]),
    "jwt_audience": ("auth", ["jwt"]),
    "authorizer_arn": ("auth", ["lambda"]),
    "clients": ("auth", ["api-key"]),
    "gateway_log_role": ("endpoint", ["rest"]),
    "vpc_endpoint_ids": ("endpoint", ["rest"]),
    "allowed_ips": ("endpoint", ["rest"]),
    "web_acl_arn": ("endpoint", ["rest"]),
    "base_path": ("endpoint", ["rest"]),
    "domain_name": ("endpoint", ["rest", "http"]),
}
NEEDS_ANY = {
    **dict.fromkeys(("hosted_zone_id", "base_path", "truststore_uri"), "domain_name"),
    "image_registry": "image_repository",
}
# settings that go together, or are both left out
PAIRS = [
    ("image_repository", "image_tag"),
    ("jwt_issuer", "jwt_audience"),
    ("domain_name", "certificate_arn"),
    ("subnet_ids", "security_group_ids"),
]


class SettingsError(Exception):
    """Settings that cannot be deployed: one line per fault."""


class Client(BaseModel):
    """The quota of one API key."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    requests_per_month: Annotated[int | None, Field(ge=1)] = None
    rate_limit: Annotated[int, Field(ge=1, le=10000)] = 50
    burst_limit: Annotated[int, Field(ge=1, le=5000)] = 100


class Settings(BaseModel):
    """Every setting with its default. The comments are the reference's text."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    # the name of a folder in model_artifacts; on the command line only
    model: Name
    # the name of a table of deploy.toml, without a hyphen; on the command line only
    stage: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")] = "dev"

    # of the account's CDK bootstrap, if it is not CDK's default
    bootstrap_qualifier: Annotated[str, Field(pattern=r"^[a-z0-9]{0,10}$")] = ""

    # of the functions and of the image that the deployment builds
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    # the image to build from; name it by its digest, because a tag moves
    base_image: str = ""
    # an image that is in ECR already, instead of one that the deployment builds
    image_repository: Annotated[str, Field(pattern=r"^([a-z0-9]+([._/-][a-z0-9]+)*)?$")] = ""
    # the account of that repository in the same region, if it is a central one; its policy must let
    # Lambda of this account pull
    image_registry: Annotated[str, Field(pattern=r"^([0-9]{12})?$")] = ""
    # the tag or digest of that image; the digest is the same in every stage
    image_tag: Annotated[str, Field(pattern=r"^([\w][\w.-]{0,127}|sha256:[0-9a-f]{64})?$")] = ""

    # MB; 1769 is one whole CPU, and less memory is less CPU in proportion
    memory: Annotated[int, Field(ge=256, le=10240)] = 1769
    # seconds; the gateway gives up after 29, and then nobody gets the function's 504
    timeout: Annotated[int, Field(ge=1, le=28)] = 28
    # Restore a snapshot instead of an init on a cold start. The cached snapshot of every published
    # version is billed by GB and hour (`answerable cost --snapstart`), and versions are retained.
    snapstart: bool = False
    # MB of /tmp
    ephemeral_storage: Annotated[int, Field(ge=512, le=10240)] = 512
    # of the alias; CodeDeploy moves it, so it needs a rollout
    provisioned_concurrency: Annotated[int, Field(ge=0, le=1000)] = 0
    # calls of the API's function at the same time; without it, what the account has
    max_concurrency: Annotated[int | None, Field(ge=1, le=10000)] = None

    # all-at-once: CloudFormation moves the alias itself, without CodeDeploy and bake time
    rollout: Literal["canary", "linear", "all-at-once"] = "canary"
    # how long the new version is judged by its alarms
    bake_minutes: Annotated[int, Field(ge=2, le=2880)] = 10
    # what happens to a new version that served fewer than `minimum_requests` during the bake: its
    # golden rows are asked again, or the deployment fails and rolls back
    low_traffic_policy: Literal["fail", "replay_golden_rows"] = "replay_golden_rows"
    # of the new version during the bake, for `low_traffic_policy`
    minimum_requests: Annotated[int, Field(ge=1)] = 20
    # after a rollback: the alias stays at this version, without CodeDeploy, until this is removed
    pinned_version: Annotated[int | None, Field(ge=1)] = None
    # the version of the jobs' worker, which has numbers of its own
    pinned_worker_version: Annotated[int | None, Field(ge=1)] = None
    # the alarms that roll a version back after its deployment: impact of outcomes, drift of outputs
    auto_rollback_on: Literal["none", "impact", "drift", "both"] = "none"
    # hours after an automatic rollback in which there is no second one
    rollback_cooldown_hours: Annotated[int, Field(ge=1)] = 24

    # rest: API Gateway's REST API, which has all settings; http: its HTTP API, cheaper and without
    # keys, web ACL, private endpoints and problem documents of its own; url: the function's URL,
    # without a gateway's price and limits (`answerable cost --endpoint`)
    endpoint: Literal["rest", "http", "url"] = "rest"
    # how callers are authenticated; rest: iam, api-key, cognito, lambda; http: iam, jwt, lambda;
    # url: iam
    auth: Literal["iam", "api-key", "cognito", "jwt", "lambda"] = "iam"
    # auth=cognito: the user pool whose tokens are accepted
    user_pool_arn: Annotated[str, Field(pattern=r"^(arn:[\w-]+:cognito-idp:.+:userpool/.+)?$")] = ""
    # with a scope, access tokens are accepted; without one, ID tokens
    user_pool_scope: str = ""
    # auth=jwt: the URL of who issues the tokens
    jwt_issuer: Annotated[str, Field(pattern=r"^(https://\S+)?$")] = ""
    # the audiences of which a token must have one
    jwt_audience: tuple[str, ...] = ()
    # auth=lambda: the function that answers an `authorization` header with an IAM policy
    authorizer_arn: Annotated[str, Field(pattern=r"^(arn:[\w-]+:lambda:.+:function:.+)?$")] = ""
    # requests per second, of all callers together
    rate_limit: Annotated[int, Field(ge=1, le=10000)] = 50
    # requests at once, at least `rate_limit`
    burst_limit: Annotated[int, Field(ge=1, le=5000)] = 100
    # API Gateway's log role is one per account and region; true in the one stack that makes it
    gateway_log_role: bool = False
    # interface endpoints of a VPC for execute-api: the API is private, and only they reach it
    vpc_endpoint_ids: tuple[Annotated[str, Field(pattern=r"^vpce-\w+$")], ...] = ()
    # addresses or ranges (CIDR) from which the API may be called
    allowed_ips: tuple[IPvAnyNetwork, ...] = ()
    # origins whose web pages may call the API, as https://shop.example.org; "*" is any
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(https?://[^/\s]+|\*)$")], ...] = ()

    # API keys besides the stack's own, by name, each with its quota; auth=api-key
    clients: dict[Name, Client] = {}
    # the API's own domain name, as predict.example.org
    domain_name: Annotated[str, Field(pattern=r"^([a-z0-9*-]+(\.[a-z0-9-]+)+)?$")] = ""
    # of that name, in the same region
    certificate_arn: Annotated[str, Field(pattern=r"^(arn:[\w-]+:acm:.+)?$")] = ""
    # Route 53's zone of that name, where the record is added; without one, the output DomainTarget
    # says what the record names
    hosted_zone_id: Annotated[str, Field(pattern=r"^[A-Z0-9]*$")] = ""
    # the path of the domain below which the API is, as churn or risk/churn
    base_path: Annotated[str, Field(pattern=r"^([\w.-]+(/[\w.-]+)*)?$")] = ""
    # mutual TLS on the domain: the S3 URI of the certificates (PEM) that clients' are issued by
    truststore_uri: Annotated[str, Field(pattern=r"^(s3://[^/]+/.+)?$")] = ""
    # AWS WAF's web ACL in front of the API
    web_acl_arn: Annotated[str, Field(pattern=r"^(arn:[\w-]+:wafv2:.+)?$")] = ""
    # X-Ray, for the gateway and the functions that serve
    tracing: bool = False
    # the VPC of the functions that serve; they need its endpoints of S3 with `jobs` or `batch`, of
    # SQS with `jobs`, and of Step Functions with `batch`
    subnet_ids: tuple[Annotated[str, Field(pattern=r"^subnet-\w+$")], ...] = ()
    # of these functions; outgoing HTTPS is enough
    security_group_ids: tuple[Annotated[str, Field(pattern=r"^sg-\w+$")], ...] = ()
    # the key that encrypts logs, queues, buckets, topics and environments; its policy must allow
    # CloudWatch Logs, alarms (sns) and this account's roles
    kms_key_arn: Annotated[str, Field(pattern=r"^(arn:[\w-]+:kms:.+:key/.+)?$")] = ""
    # of every role
    permissions_boundary: Annotated[str, Field(pattern=r"^(arn:[\w-]+:iam::.+:policy/.+)?$")] = ""
    # of every resource
    tags: dict[str, str] = {}

    # POST /jobs, with a queue, a bucket and a worker
    jobs: bool = False
    # how long jobs and their results are kept; SQS keeps no message longer than 14 days
    job_retention_days: Annotated[int, Field(ge=1, le=14)] = 7
    # seconds, for one batch of jobs
    job_timeout: Annotated[int, Field(ge=10, le=900)] = 120
    # messages in one call of the worker
    job_batch_size: Annotated[int, Field(ge=1, le=10000)] = 100
    # seconds to wait for them
    job_batch_window: Annotated[int, Field(ge=0, le=300)] = 1
    # workers at the same time
    job_concurrency: Annotated[int, Field(ge=2, le=1000)] = 10

    # POST /batches and uploads: score whole files, with a bucket and a state machine
    batch: bool = False
    # a bucket that sends its events to EventBridge, instead of one that the stack makes; inputs are
    # under input/, runs under runs/
    batch_bucket: Annotated[str, Field(pattern=r"^([a-z0-9.-]{3,63})?$")] = ""
    # other buckets that an input may be in
    batch_input_buckets: tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]{3,63}$")], ...] = ()
    # how long the stack's bucket keeps inputs and runs
    batch_retention_days: Annotated[int, Field(ge=1)] = 30
    # MB of a worker
    batch_memory: Annotated[int, Field(ge=512, le=10240)] = 1769
    # workers at the same time; the account's concurrency is shared with the API
    batch_concurrency: Annotated[int, Field(ge=1, le=10000)] = 100
    # of a run's parts, before it stops; a run without a part fails in any case, and can be resumed
    batch_max_failed_percent: Annotated[float, Field(ge=0, le=100)] = 0
    # of a part's rows, before the run fails
    batch_max_refused_percent: Annotated[float, Field(ge=0, le=100)] = 5
    # for uploads: the column that the output repeats
    batch_key: str = ""
    # for uploads: skip columns that are not in the contract
    batch_ignore_unknown: bool = False
    # read Parquet; the batch function then has an image with pyarrow (of an image_tag, the one with
    # `-parquet` behind it)
    batch_parquet: bool = False

    # the version of the secret that signs prediction ids; a higher number makes a new secret, and
    # ids signed with the one before are still accepted
    prediction_id_key_version: Annotated[int, Field(ge=1)] = 1
    # what a record keeps of a request: nothing, its predictions, or its instances as well
    log_payloads: Literal["off", "outputs", "full"] = "off"
    # send records to S3 through Firehose, partitioned by date, model and version
    archive: bool = False

    # who is notified of alarms: an e-mail address, an https URL, the ARN of an SNS topic, or
    # slack:WORKSPACE/CHANNEL, both ids, of a workspace that the account is connected to. A channel
    # can be named by one stack of the account: others name the ARN of a topic.
    alarm_destination: Destination = ""
    # the same for alarms that can wait until morning, if they are to go elsewhere
    ticket_destination: Destination = ""
    # thresholds instead of the manifest's, as { latency_ms = 500 }
    alarms: dict[str, int | float] = {}
    # of every log group
    log_retention_days: int = 30
    # of the drift monitor's records, which hold months for `answerable report`
    drift_history_days: int = 400
    # of what is logged beside the records, which no level silences
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def service(self) -> str:
        """Return the deployment's name, which its dashboard and metrics have."""
        return f"{self.model}-{self.stage}"

    @property
    def alarm_prefix(self) -> str:
        """Return how the names of the alarms begin: a message says first which stage it is."""
        return f"{self.stage}-{self.model}-"

    @property
    def stack(self) -> str:
        """Return the name of the CloudFormation stack."""
        return f"answerable-{self.service}"

    @field_validator("stage")
    @classmethod
    def _is_no_worker(cls, stage: str) -> str:
        if stage in ("jobs", "batch"):  # metrics of churn's jobs would be those of churn-dev
            raise ValueError(f"the metrics of workers are named {stage}: take another name")
        return stage

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for one, other in PAIRS:
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                raise ValueError(f"{one} and {other} go together")
        if self.auth not in AUTHS[self.endpoint]:
            raise ValueError(f"endpoint={self.endpoint} has auth={', '.join(AUTHS[self.endpoint])}")
        for name, (other, values) in NEEDS.items():
            if getattr(self, name) and getattr(self, other) not in values:
                raise ValueError(f"{name} needs {other}={' or '.join(values)}")
        for auth, name in AUTH_NEEDS.items():
            if self.auth == auth and not getattr(self, name):
                raise ValueError(f"auth={auth} needs {name}")
        if self.snapstart and self.provisioned_concurrency:
            raise ValueError("snapstart and provisioned_concurrency exclude each other in Lambda")
        if self.max_concurrency and self.provisioned_concurrency > self.max_concurrency:
            raise ValueError("provisioned_concurrency is over max_concurrency")
        if self.provisioned_concurrency and (self.pinned_version or self.rollout == "all-at-once"):
            raise ValueError("provisioned_concurrency needs a rollout by CodeDeploy, and no pin")
        for name, other in NEEDS_ANY.items():
            if getattr(self, name) and not getattr(self, other):
                raise ValueError(f"{name} needs {other}")
        if self.vpc_endpoint_ids and self.domain_name:
            raise ValueError("a private API has no domain_name")
        if unknown := sorted(self.alarms.keys() - set(Alarms._fields)):
            raise ValueError(f"alarms has no {unknown[0]}, but {', '.join(Alarms._fields)}")
        if self.burst_limit < self.rate_limit:
            raise ValueError("burst_limit is under rate_limit: it would be the limit")
        if self.batch_parquet and self.image_tag.startswith("sha256:"):
            raise ValueError("batch_parquet needs a tag, whose image with pyarrow is TAG-parquet")
        if self.rollout == "linear" and self.bake_minutes < 9:
            raise ValueError("nine steps of a minute make a linear rollout: bake_minutes >= 9")
        for name in ("log_retention_days", "drift_history_days"):
            if getattr(self, name) not in RETENTIONS:
                raise ValueError(f"{name} is one of {', '.join(map(str, RETENTIONS))}")
        return self


def stages(file: Path = FILE) -> list[str]:
    """Return the names of deploy.toml's stages. Raises SettingsError."""
    try:
        return list(tomllib.loads(file.read_text(encoding="utf-8")).get("stage", {}))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file.name}: {error}") from None


def read(
    context: Mapping[str, Any], artifacts: Path = ARTIFACTS, file: Path = FILE
) -> tuple[Settings, Manifest]:
    """Return the settings of one deployment and the manifest of its model.

    `context` is CDK's: `stage`, `model` and the settings of the command line. CDK's own keys
    (`@aws-cdk/…`, `aws:cdk:…`, cached look-ups) are no plain words and are skipped.
    Raises SettingsError.
    """
    overrides = {key: value for key, value in context.items() if re.fullmatch(r"\w+", key)}
    _check_names(overrides, "")
    try:
        model = find_model(str(overrides.get("model", "")), artifacts).name
    except ArtifactError as error:
        raise SettingsError(f"model: {error}") from None
    stage = str(overrides.get("stage", Settings.model_fields["stage"].default))
    in_file = _from_file(file, stage, model, {*model_names(artifacts), model})
    try:
        settings = Settings.model_validate({**in_file, **overrides, "model": model})
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    packed = _read_manifest(settings, artifacts)
    alarms: dict[str, Any] = settings.alarms
    return settings, packed._replace(alarms=packed.alarms._replace(**alarms))


def _from_file(file: Path, stage: str, model: str, names: set[str]) -> dict[str, Any]:
    """Return what deploy.toml says of one stage and model; nothing if there is no file.

    `names` are the models, whose tables a stage may have. All tables are checked.
    """
    if not file.exists():
        return {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        tables = {"default": content.pop("default", {})}
        stages = content.pop("stage", {})
        for stage_name, table in stages.items():
            of_models = {key: table.pop(key) for key in names & table.keys()}
            tables[f"stage.{stage_name}"] = table
            tables |= {f"stage.{stage_name}.{key}": value for key, value in of_models.items()}
        for table_name, table in tables.items():
            _check_names(table.keys(), f"{file.name}: [{table_name}]: ")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file.name}: {error}") from None
    except AttributeError:
        raise SettingsError(f"{file.name}: It has tables [default] and [stage.NAME]") from None
    if content:
        raise SettingsError(f"{file.name}: [{min(content)}] is neither [default] nor [stage.NAME]")
    if stage not in stages:
        stage_names = ", ".join(stages) or "none"
        raise SettingsError(f"{file.name}: There is no [stage.{stage}]. The stages: {stage_names}")
    merged: dict[str, Any] = {}
    for table_name in ("default", f"stage.{stage}", f"stage.{stage}.{model}"):
        merged |= tables.get(table_name, {})
    return merged


def _check_names(names: Iterable[str], where: str) -> None:
    """Raise SettingsError, with a line for each name that is no setting."""
    settings = Settings.model_fields.keys() - ({"stage", "model"} if where else set())
    lines = []
    for name in sorted(set(names) - settings):
        near = difflib.get_close_matches(name, sorted(settings), n=1)
        hint = f". Did you mean '{near[0]}'?" if near else ""
        lines.append(f"{where}Unknown setting '{name}'{hint}")
    if lines:
        raise SettingsError("\n".join(lines))


def _read_manifest(settings: Settings, artifacts: Path) -> Manifest:
    try:
        packed = manifest.read(artifacts / settings.model)
    except ArtifactError as error:
        raise SettingsError(f"model: {settings.model}: {error}") from None
    if packed.name != settings.model:
        raise SettingsError(f"model: the artifact in {settings.model}/ is named {packed.name}")
    if packed.limits.body_bytes > PAYLOAD_BYTES:
        raise SettingsError(
            f"model: limits.body_bytes {packed.limits.body_bytes} is over what Lambda takes in one "
            f"request, {PAYLOAD_BYTES}"
        )
    return packed
