"""The environment, read once, as one frozen object."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast

from handler.errors import ArtifactError

Capture = Literal["off", "outputs", "full"]
CAPTURES = ("off", "outputs", "full")


class Settings(NamedTuple):
    """`model_dir`: the artifact's folder, None if MODEL_DIR is not set.
    `service`: the name metrics are filed under ("" for the model's name). `function`,
    `function_version`: as Lambda names them. `capture`: what of a request its record keeps.
    `secret`: the key of the seal on prediction ids, and behind spaces those of before.
    `jobs_bucket`, `jobs_queue_url`: "" where there are no jobs. `jobs_days`: how long one can be
    asked for. `jobs_receives`: how often the queue delivers a message before it gives it up.
    """

    model_dir: Path | None
    service: str = ""
    function: str = "local"
    function_version: str = "$LATEST"
    capture: Capture = "off"
    secret: str = ""
    jobs_bucket: str = ""
    jobs_queue_url: str = ""
    jobs_days: int = 7
    jobs_receives: int = 5


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """MODEL_DIR, SERVICE_NAME, CAPTURE, FEEDBACK_SECRET,
    JOBS_BUCKET, JOBS_QUEUE_URL, JOBS_DAYS, JOBS_RECEIVES, and what Lambda sets.

    A CAPTURE that is none of ours is "off": it may only ever show too little.
    """
    named = environ.get("MODEL_DIR")
    capture = environ.get("CAPTURE", "off")
    return Settings(
        model_dir=Path(named) if named else None,
        service=environ.get("SERVICE_NAME", ""),
        function=environ.get("AWS_LAMBDA_FUNCTION_NAME", "local"),
        function_version=environ.get("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        capture=cast(Capture, capture) if capture in CAPTURES else "off",
        secret=environ.get("FEEDBACK_SECRET", ""),
        jobs_bucket=environ.get("JOBS_BUCKET", ""),
        jobs_queue_url=environ.get("JOBS_QUEUE_URL", ""),
        jobs_days=int(environ.get("JOBS_DAYS", 7)),
        jobs_receives=int(environ.get("JOBS_RECEIVES", 5)),
    )


def model_dir(settings: Settings) -> Path:
    """Return the artifact's folder. Raise ArtifactError if MODEL_DIR is not set."""
    if settings.model_dir is None:
        raise ArtifactError("MODEL_DIR is not set")
    return settings.model_dir
