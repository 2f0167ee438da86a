"""The environment, read and validated once, as one frozen object."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from handler.errors import ArtifactError

LogPayloads = Literal["off", "outputs", "full"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
# how often the queue of jobs delivers a message before it becomes a dead letter
MAX_RECEIVE_COUNT = 5
# kept of a function's time for the response after a run was stopped
RESPONSE_MARGIN_SECONDS = 0.25


class Settings(NamedTuple):
    """The settings of one function.

    `model_dir`: the artifact's folder, None where MODEL_DIR is not set. `service`: the name
    that metrics are filed under, "" for the model's name. `function`, `function_version`: as Lambda
    names them. `log_payloads`: what of a request its record keeps. `prediction_id_secret`: the
    secret that signs ids, then older secrets after spaces. `jobs_bucket`, `jobs_queue_url`: "" in a
    deployment without jobs. `job_retention_days`: how long a job can be fetched. `batch_bucket`,
    `batch_state_machine`: "" in a deployment without batches. `batch_input_uris`: the beginnings of
    other inputs that a caller may name. `cors_origins`: those whose pages may read a response.
    `invalid`: the first variable that has no valid value, as a sentence, or "".
    """

    model_dir: Path | None
    service: str = ""
    function: str = "local"
    function_version: str = "$LATEST"
    log_payloads: LogPayloads = "off"
    prediction_id_secret: str = ""
    jobs_bucket: str = ""
    jobs_queue_url: str = ""
    job_retention_days: int = 7
    jobs_max_receive_count: int = MAX_RECEIVE_COUNT
    batch_bucket: str = ""
    batch_state_machine: str = ""
    batch_input_uris: tuple[str, ...] = ()
    cors_origins: frozenset[str] = frozenset()
    invalid: str = ""


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in the environment, Lambda's own variables included.

    An invalid value becomes the default. `model_dir` then raises its reason, so a function answers
    503 with it instead of crashing at import.
    """
    invalid: list[str] = []

    def choice(name: str, values: tuple[str, ...], default: str) -> str:
        if (value := environ.get(name, default)) in values:
            return value
        invalid.append(f"{name} must be one of {', '.join(values)}")
        return default

    def integer(name: str, maximum: int, default: int) -> int:
        value = environ.get(name, str(default))
        if value.isascii() and value.isdecimal() and len(value) < 9 and 1 <= int(value) <= maximum:
            return int(value)
        invalid.append(f"{name} must be an integer from 1 to {maximum}")
        return default

    directory = environ.get("MODEL_DIR")
    choice("LOG_LEVEL", LOG_LEVELS, "INFO")
    return Settings(
        model_dir=Path(directory) if directory else None,
        service=environ.get("SERVICE_NAME", ""),
        function=environ.get("AWS_LAMBDA_FUNCTION_NAME", "local"),
        function_version=environ.get("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        log_payloads=cast(LogPayloads, choice("LOG_PAYLOADS", get_args(LogPayloads), "off")),
        prediction_id_secret=environ.get("PREDICTION_ID_SECRET", "").strip(),
        jobs_bucket=environ.get("JOBS_BUCKET", ""),
        jobs_queue_url=environ.get("JOBS_QUEUE_URL", ""),
        # SQS keeps a message for 14 days and takes a maxReceiveCount of 1000
        job_retention_days=integer("JOB_RETENTION_DAYS", 14, 7),
        cors_origins=frozenset(environ.get("CORS_ORIGINS", "").split()),
        batch_bucket=environ.get("BATCH_BUCKET", ""),
        batch_state_machine=environ.get("BATCH_STATE_MACHINE", ""),
        batch_input_uris=tuple(environ.get("BATCH_INPUT_URIS", "").split()),
        jobs_max_receive_count=integer("JOBS_MAX_RECEIVE_COUNT", 1000, MAX_RECEIVE_COUNT),
        invalid=invalid[0] if invalid else "",
    )


def log_level(environ: Mapping[str, str] = os.environ) -> str:
    """Return LOG_LEVEL, INFO where it is not valid."""
    level = environ.get("LOG_LEVEL", "INFO")
    return level if level in LOG_LEVELS else "INFO"


def model_dir(settings: Settings) -> Path:
    """Return the artifact's folder. Raise ArtifactError if a setting is invalid or missing."""
    if settings.invalid:
        raise ArtifactError(settings.invalid)
    if settings.model_dir is None:
        raise ArtifactError("MODEL_DIR is not set")
    return settings.model_dir
