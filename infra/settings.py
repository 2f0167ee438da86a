"""What a deployment may choose, read from CDK context: `cdk deploy -c stage=prod -c memory=3008`.

Everything about the *model* (limits, owner, runbook, alarm thresholds) is in its manifest; here is
only what may differ between two deployments of the same model.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from handler import manifest
from handler.errors import ArtifactError
from handler.manifest import Manifest
from infra.project import ARTIFACTS, find_model

# CloudWatch Logs takes no other numbers of days
RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 3653)
# Lambda's limit for a synchronous event; a binary body travels in it as base64
PAYLOAD_BYTES = 6 * 1024 * 1024

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]


class SettingsError(Exception):
    """One line per wrong value."""


class Settings(BaseModel):
    """The context keys, with their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model: Name
    stage: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,15}$")] = "dev"

    # the image: built from this checkout, or one that is in ECR already
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    base_image: str = ""
    image_repository: Annotated[str, Field(pattern=r"^([a-z0-9]+([._/-][a-z0-9]+)*)?$")] = ""
    image_tag: Annotated[str, Field(pattern=r"^([\w][\w.-]{0,127}|sha256:[0-9a-f]{64})?$")] = ""

    # 1769 MB is one whole CPU; below it the CPU, and with it a cold start, shrinks in proportion
    memory: Annotated[int, Field(ge=256, le=10240)] = 1769
    # the gateway gives up at 29 s, and then nobody gets our 504
    timeout: Annotated[int, Field(ge=1, le=28)] = 28
    # Brings a restored process instead of an init (python, onnxruntime, model) on a cold start.
    # Off: the cached snapshot of every published version is billed by GB and hour, used or not
    # (`answerable cost --snapstart`), and versions are retained here.
    snapstart: bool = False
    provisioned_concurrency: Annotated[int, Field(ge=0, le=1000)] = 0
    max_concurrency: Annotated[int | None, Field(ge=1, le=10000)] = None

    # all-at-once: CloudFormation moves the alias itself, with no CodeDeploy and no bake
    rollout: Literal["canary", "linear", "all-at-once"] = "canary"
    bake_minutes: Annotated[int, Field(ge=2, le=2880)] = 10
    # what a new version is judged by when the bake is over and it served fewer than
    # `minimum_requests`: by a replay of its golden rows, or not at all, so that it goes back
    after_traffic: Literal["traffic", "replay"] = "replay"
    minimum_requests: Annotated[int, Field(ge=1)] = 20
    # After a rollback: `live` stays at this version, without CodeDeploy, until this is gone again;
    # the worker's, of jobs, has numbers of its own.
    pinned_version: Annotated[int | None, Field(ge=1)] = None
    pinned_worker: Annotated[int | None, Field(ge=1)] = None
    # which alarms take a version back after its deployment: the impact of outcomes, the drift of
    # outputs; by themselves only once in so many hours
    rollback_on: Literal["nothing", "impact", "drift", "both"] = "nothing"
    rollback_cooldown_hours: Annotated[int, Field(ge=1)] = 24

    auth: Literal["iam", "api-key", "cognito"] = "iam"
    user_pool_arn: Annotated[str, Field(pattern=r"^(arn:[\w-]+:cognito-idp:.+:userpool/.+)?$")] = ""
    user_pool_scope: str = ""
    rate_limit: Annotated[int, Field(ge=1, le=10000)] = 50
    burst_limit: Annotated[int, Field(ge=1, le=5000)] = 100
    # API Gateway's log role is one per account and region; false where somebody else keeps it
    gateway_log_role: bool = True

    # POST /jobs, with a queue, a bucket and a worker
    jobs: bool = False
    jobs_days: Annotated[int, Field(ge=1, le=14)] = 7  # SQS keeps no message longer
    jobs_timeout: Annotated[int, Field(ge=10, le=900)] = 120
    jobs_concurrency: Annotated[int, Field(ge=2, le=1000)] = 10

    # every drift alarm reads ten metrics, a dollar a month: of each output, or of each input too
    drift_alarms: Literal["all", "outputs", "off"] = "all"
    # of the secret that seals prediction ids: one more makes a new one; ids of the one before are
    # still taken
    feedback_key: Annotated[int, Field(ge=1)] = 1
    # what of a request its record keeps: nothing, what was answered, or what was sent as well
    capture: Literal["off", "outputs", "full"] = "off"
    # records to S3 through Firehose, to be queried by date, model and version
    archive: bool = False

    # an e-mail address, an https URL, or the ARN of a topic that exists
    alarm_target: Annotated[
        str, Field(pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+|https://\S+|arn:[\w-]+:sns:\S+)?$")
    ] = ""
    retention_days: int = 30
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def service(self) -> str:
        """The name of this deployment: of its stack, alarms, dashboard and metrics."""
        return f"{self.model}-{self.stage}"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if bool(self.image_repository) != bool(self.image_tag):
            raise ValueError("image_repository and image_tag go together")
        if self.snapstart and self.provisioned_concurrency:
            raise ValueError("snapstart and provisioned_concurrency exclude each other in Lambda")
        if self.max_concurrency and self.provisioned_concurrency > self.max_concurrency:
            raise ValueError("provisioned_concurrency is over max_concurrency")
        if (self.auth == "cognito") != bool(self.user_pool_arn):
            raise ValueError("auth=cognito and user_pool_arn go together")
        if self.user_pool_scope and not self.user_pool_arn:
            raise ValueError("user_pool_scope needs auth=cognito")
        if self.burst_limit < self.rate_limit:
            raise ValueError("burst_limit is under rate_limit: it would be the limit")
        if self.rollout == "linear" and self.bake_minutes < 9:
            raise ValueError("nine steps of a minute make a linear rollout: bake_minutes >= 9")
        if self.retention_days not in RETENTIONS:
            raise ValueError(f"retention_days is one of {', '.join(map(str, RETENTIONS))}")
        return self


def read(context: Mapping[str, Any], artifacts: Path = ARTIFACTS) -> tuple[Settings, Manifest]:
    """The settings in CDK context and the manifest of the model they name.

    Raises SettingsError. CDK's own keys (`@aws-cdk/…`, `aws:cdk:…`, cached look-ups) are not ours:
    a plain word is, so a misspelt setting is told instead of ignored.
    """
    ours = {key: value for key, value in context.items() if re.fullmatch(r"\w+", key)}
    unknown = sorted(ours.keys() - Settings.model_fields.keys())
    if unknown:
        raise SettingsError("\n".join(map(_unknown, unknown)))
    if "model" not in ours:
        try:
            ours["model"] = find_model("", artifacts).name
        except ArtifactError as error:
            raise SettingsError(f"model: {error}") from None
    try:
        settings = Settings.model_validate(ours)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    return settings, _manifest(settings, artifacts)


def _manifest(settings: Settings, artifacts: Path) -> Manifest:
    try:
        found = manifest.read(artifacts / settings.model)
    except ArtifactError as error:
        raise SettingsError(f"model: {settings.model}: {error}") from None
    if found.name != settings.model:
        raise SettingsError(f"model: the artifact in {settings.model}/ is named {found.name}")
    if found.limits.body_bytes > PAYLOAD_BYTES:
        raise SettingsError(
            f"model: limits.body_bytes {found.limits.body_bytes} is over what Lambda takes in one "
            f"request, {PAYLOAD_BYTES}"
        )
    return found


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"{key}: there is no such setting" + (f"; do you mean {near[0]}?" if near else "")
