"""The contracts in Pydantic, as somebody would write them for FastAPI or Powertools."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from benchmarks.peers.session import is_matrix, session

Serum = float | None


class Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    age: float = Field(ge=18, le=120)
    sex: Literal["1", "2"]
    bmi: float = Field(ge=10, le=80)
    blood_pressure: float = Field(ge=40, le=200)
    total_cholesterol: Serum = None
    ldl: Serum = None
    hdl: Serum = None
    cholesterol_ratio: Serum = None
    triglycerides_log: Serum = None
    glucose: Serum = None


if is_matrix:  # the contract of benchmarks.models.linear
    columns: dict[str, Any] = {f"x{i}": (float, ...) for i in range(30)}
    Row = create_model("Row", __config__=Row.model_config, **columns)  # type: ignore[misc]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    instances: Annotated[list[Row], Field(min_length=1, max_length=1000)]


class Prediction(BaseModel):
    progression: float


class Answer(BaseModel):
    predictions: list[Prediction]


def score(rows: list[Row]) -> Answer:
    feeds: dict[str, Any] = {}
    if is_matrix:
        feeds["X"] = np.array([list(row.__dict__.values()) for row in rows], np.float32)
    for name in () if is_matrix else Row.model_fields:
        dtype = object if name == "sex" else np.float32
        feeds[name] = np.array([getattr(row, name) for row in rows], dtype)[:, None]
    (values,) = session.run(None, feeds)
    return Answer(predictions=[Prediction(progression=v) for v in values[:, 0].tolist()])
