"""Outcomes: what became true, compared with what was predicted.

A prediction id carries the version and the predicted value, so nothing is looked up. Any version
evaluates an outcome from its id and the manifest, and files the metrics under the version that
predicted: of the API, or of the worker of jobs or batches. Of several outputs, the first value or
label is compared: an id has room for one.

An outcome is refused with a pointer and one of these codes:

    malformed_id       not a prediction id
    invalid_signature  not issued by this service, or changed
    invalid_checksum   damaged; only where no secret is set
    other_model        another model's prediction
    in_future          predicted later than now
    expired            older than the manifest's `outcome_value.max_outcome_age_days`
    duplicate          the same outcome was accepted before
    type               the actual value is not a number, though the model predicts one
    unknown_label      the actual value is not one of the model's classes
    out_of_range       a number that CloudWatch does not take, above 2^360

A label may be spelled in JSON as the client's language does: "0", 0 and 0.0 are the class 0, and
"true" and true are the class "true". `true` and `false` are 1 and 0 of a model with these classes.

Another outcome for the same prediction is a correction. It is accepted and counted in the metrics
as one more outcome, because CloudWatch cannot take a value back. Log lines hold the prediction ids,
so a reader of the log replaces the earlier outcome by the last one.

Duplicates and corrections are detected within the last MAX_REMEMBERED_IDS that an environment took.
Elsewhere the same outcome counts again. Where each must count once, send it once.
"""

import re
import time
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import orjson
from pydantic_core import from_json

from handler import metrics, prediction_id
from handler.duplicate_keys import reject_duplicate_keys
from handler.errors import BadRequest, ContractViolation, Violation, pointer
from handler.manifest import Manifest, OutcomeValue, Output
from handler.prediction_id import CLASS, MAX_OUTCOMES, NUMBER, BadId, Prediction
from handler.settings import Settings

MAX_BODY_BYTES = 512 * 1024
MAX_LABEL_CHARS = 1000
MAX_NUMBER = 2.0**360
MAX_REMEMBERED_IDS = 50_000
CLOCK_SKEW_MS = 120_000  # between two environments
DAY_MS = 86_400_000
ID_MESSAGES = {
    "malformed_id": "is not a prediction id",
    "invalid_signature": "was not issued by this service, or was changed",
    "invalid_checksum": "is damaged: its checksum is wrong",
    "other_model": "is a prediction of another model",
    "in_future": "is a prediction of the future",
    "expired": "is a prediction too long ago",
    "duplicate": "has this outcome already",
}
ACTUAL_MESSAGES = {
    "type": "must be a number",
    "unknown_label": "must be one of the model's classes",
    "out_of_range": "is too large a number",
}
_FIELDS = {"prediction_id", "actual", "value"}
_REQUIRED = {"prediction_id", "actual"}
# by source, the `service` whose versions count from 1; that of the API has no other name
_SERVICES = {
    prediction_id.WORKER: metrics.jobs_service,
    prediction_id.BATCH: metrics.batch_service,
}
_is_integer = re.compile(r"-?[0-9]+").fullmatch


class FeedbackResult(NamedTuple):
    """The body of the 202, and the lines for the log."""

    body: bytes
    lines: list[dict[str, Any]]


class _Refused(Exception):
    """An outcome that is refused; its argument is the code."""


class _Evaluated(NamedTuple):
    """An outcome in terms of its prediction; None where a metric has no value."""

    id: str
    prediction: Prediction
    error: float | None
    correct: int | None
    impact: float | None


def make_feedback_handler(
    manifest: Manifest, settings: Settings
) -> Callable[[str | bytes], FeedbackResult]:
    """Return the function that accepts a body `{"outcomes": [...]}`.

    It raises BadRequest for a body that is not JSON, and ContractViolation for one of another form
    or if every outcome is refused. If only some are, the response lists them.
    """
    evaluate = _make_evaluator(manifest, settings)
    output = prediction_id.primary_output(manifest)[1]
    purpose = f", to compare with {output.name}" if output else ""
    service = settings.service or manifest.name
    remembered: dict[str, int] = {}

    def accept(body: str | bytes) -> FeedbackResult:
        evaluated: list[_Evaluated] = []
        refused: list[Violation] = []
        corrected = 0
        for i, outcome in enumerate(_parse(body)):
            id = outcome["prediction_id"]
            try:
                evaluation = evaluate(outcome)
                content = hash((_spelling(outcome["actual"]), outcome.get("value")))
                if remembered.get(id) == content:
                    raise _Refused("duplicate")
            except _Refused as refusal:
                code = str(refusal)
                field = "prediction_id" if code in ID_MESSAGES else "actual"
                message = ID_MESSAGES.get(code) or ACTUAL_MESSAGES[code] + purpose
                refused.append(Violation(pointer("outcomes", i, field), code, message))
                continue
            corrected += id in remembered
            remembered.pop(id, None)  # so that the order is that of the last outcomes
            remembered[id] = content
            if len(remembered) > MAX_REMEMBERED_IDS:
                del remembered[next(iter(remembered))]
            evaluated.append(evaluation)
        if not evaluated:
            raise ContractViolation(refused)
        response: dict[str, Any] = {"accepted": len(evaluated)}
        if corrected:
            response["corrected"] = corrected
        if refused:
            response["refused"] = [violation._asdict() for violation in refused]
        return FeedbackResult(orjson.dumps(response), _log_lines(service, evaluated))

    return accept


def _parse(body: str | bytes) -> list[dict[str, Any]]:
    """Return the outcomes of a body, all of the right form but with any `actual`.

    The parser allocates at most 100 bytes a character, whatever the body nests.
    """
    try:
        document = from_json(body)
    except (ValueError, TypeError):  # a text with half a surrogate pair is a TypeError
        raise BadRequest("the body is not valid JSON") from None
    if not isinstance(document, dict) or not document.keys() <= {"outcomes"}:
        raise _invalid()
    outcomes = document.get("outcomes")
    if not isinstance(outcomes, list) or not 1 <= len(outcomes) <= MAX_OUTCOMES:
        raise _invalid("outcomes")
    for i, outcome in enumerate(outcomes):
        if not isinstance(outcome, dict) or not outcome.keys() <= _FIELDS:
            raise _invalid("outcomes", i)
        for field in sorted(_REQUIRED - outcome.keys()):
            raise _invalid("outcomes", i, field)
        actual, value = outcome["actual"], outcome.get("value", 0)
        if not isinstance(outcome["prediction_id"], str):
            raise _invalid("outcomes", i, "prediction_id")
        is_text = isinstance(actual, str) and len(actual) <= MAX_LABEL_CHARS
        is_number = isinstance(actual, int) or (isinstance(actual, float) and isfinite(actual))
        if not is_text and not is_number:
            raise _invalid("outcomes", i, "actual")
        if type(value) not in (int, float) or not abs(value) <= MAX_NUMBER:
            raise _invalid("outcomes", i, "value")
    reject_duplicate_keys(body, document)
    return outcomes


def _invalid(*path: str | int) -> ContractViolation:
    message = "is not in the form that /openapi.json states"
    return ContractViolation([Violation(pointer(*path), "invalid", message)])


def _make_evaluator(
    manifest: Manifest, settings: Settings
) -> Callable[[dict[str, Any]], _Evaluated]:
    """Return the function that evaluates an outcome. It raises _Refused."""
    macs = prediction_id.verifiers(settings.prediction_id_secret)
    name_checksum = prediction_id.model_name_checksum(manifest.name)
    outcome_value = manifest.outcome_value
    max_age_ms = (outcome_value or OutcomeValue()).max_outcome_age_days * DAY_MS
    output = prediction_id.primary_output(manifest)[1]
    read_label = _make_label_reader(output)
    predicted_labels = {
        prediction_id.label_checksum(label): str(label)
        for label in (output.classes if output else ())
    }

    def parse_id(id: str) -> Prediction:
        try:
            prediction = prediction_id.parse(id, *macs)
        except BadId as error:
            signed = settings.prediction_id_secret or str(error) == "malformed_id"
            raise _Refused(str(error) if signed else "invalid_checksum") from None
        age = time.time_ns() // 1_000_000 - prediction.milliseconds
        if prediction.name_checksum != name_checksum:
            raise _Refused("other_model")
        if age < -CLOCK_SKEW_MS:
            raise _Refused("in_future")
        if age > max_age_ms:
            raise _Refused("expired")
        return prediction

    def evaluate(outcome: dict[str, Any]) -> _Evaluated:
        id, actual, impact = outcome["prediction_id"], outcome["actual"], outcome.get("value")
        prediction = parse_id(id)
        error = correct = None
        if prediction.kind == NUMBER:
            if isinstance(actual, str | bool):
                raise _Refused("type")
            if abs(actual) > MAX_NUMBER:  # a longer integer would not even become a float
                raise _Refused("out_of_range")
            error = abs(actual - prediction.value)
            if impact is None and outcome_value:
                impact = outcome_value.value - outcome_value.cost * error
        elif prediction.kind == CLASS:
            label = read_label(actual)
            correct = int(prediction_id.label_checksum(label) == prediction.value)
            if impact is None and outcome_value:
                by_actual = outcome_value.outcomes.get(
                    predicted_labels.get(prediction.value, ""), {}
                )
                default = outcome_value.value if correct else -outcome_value.cost
                impact = by_actual.get(str(label), default)
        for number in (error, impact):
            if number is not None and not abs(number) <= MAX_NUMBER:
                raise _Refused("out_of_range")
        impact = None if impact is None else float(impact)  # an integer may have over 64 bits
        return _Evaluated(id, prediction, error, correct, impact)

    return evaluate


def _make_label_reader(output: Output | None) -> Callable[[Any], Any]:
    """Return the function from an actual value to the class that it spells.

    It raises _Refused. A label without known classes is read as the output's dtype.
    """
    classes = output.classes if output else ()
    dtype = output.dtype if output else ""
    by_spelling: dict[str, Any] = {_spelling(label): label for label in classes}
    if set(classes) == {0, 1}:
        by_spelling |= {"false": 0, "true": 1}
    for label in ("True", "False"):  # as Python writes them
        if label in by_spelling:
            by_spelling.setdefault(label.lower(), label)

    def read(actual: Any) -> Any:
        spelling = _spelling(actual)
        if classes:
            if spelling not in by_spelling:
                raise _Refused("unknown_label")
            return by_spelling[spelling]
        if dtype == "string":
            return spelling
        if dtype == "bool" and spelling in ("true", "false"):
            return spelling == "true"
        if not _is_integer(spelling) or abs(int(spelling)) >= 1 << 63:
            raise _Refused("unknown_label")
        return bool(int(spelling)) if dtype == "bool" else int(spelling)

    return read


def _spelling(value: str | bool | int | float) -> str:
    """Return the text of a JSON value, where 0.0 is 0 and true is "true"."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if value == value // 1 else str(value)


def _log_lines(service: str, evaluated: Sequence[_Evaluated]) -> list[dict[str, Any]]:
    """Return the lines of accepted outcomes.

    One counts all of them by service alone, for the alarm on missing outcomes. The others hold at
    most MAX_VALUES outcomes each, of one version. Their lists are aligned: each has a value for
    every one of the `prediction_ids`.
    """
    groups: dict[tuple[Any, ...], list[_Evaluated]] = {}
    for one in evaluated:
        p = one.prediction
        present = tuple(value is not None for value in one[2:])
        key = (p.source, p.function_version, p.version, p.model, present)
        groups.setdefault(key, []).append(one)
    total = metrics.log_line("INFO", "feedback", service=service)
    total[metrics.OUTCOMES] = len(evaluated)
    by_service = metrics.directives([metrics.OUTCOMES], dimensions=metrics.BY_SERVICE)
    lines = [total | {"_aws": metrics.emf(total, by_service)}]
    for (source, function_version, version, model, _), members in groups.items():
        service_of = _SERVICES.get(source, str)
        for start in range(0, len(members), metrics.MAX_VALUES):
            chunk = members[start : start + metrics.MAX_VALUES]
            line = metrics.log_line(
                "INFO",
                "outcomes",
                service=service_of(service),
                version=function_version,
                predicted_by={"version": version, "model": model},
                prediction_ids=[one.id for one in chunk],
            )
            values = {
                metrics.OUTCOMES: [1] * len(chunk),
                metrics.OUTCOME_AGE: [
                    round((line["timestamp"] - one.prediction.milliseconds) / 3.6e6, 3)
                    for one in chunk
                ],
                metrics.ABSOLUTE_ERROR: [one.error for one in chunk if one.error is not None],
                metrics.CORRECT: [one.correct for one in chunk if one.correct is not None],
                metrics.IMPACT: [one.impact for one in chunk if one.impact is not None],
            }
            values = {name: numbers for name, numbers in values.items() if numbers}
            lines.append(line | values | {"_aws": metrics.emf(line, metrics.directives([*values]))})
    return lines
