"""Outcomes: what came of predictions, compared with what was predicted.

A prediction id carries the version and the predicted value, so nothing is looked up: an outcome is
judged from its id and the manifest, by whichever version happens to take it, and its metrics are
filed under the version that predicted.

What an outcome can be refused for, each by its own code and pointer:

    malformed   not an id at all
    forged      the seal is wrong: not issued here, or changed (without a secret: damaged)
    foreign     another model's prediction
    future      predicted later than now
    late        older than `business.max_outcome_age_days` (a year)
    duplicate   told before
    type        the actual value is no number, or no class

Duplicates are known only within a request, and among the last REMEMBERED ids that the same
environment took: there is no database to ask. Where each outcome must count once, send it once.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

from handler import core_schema as cs
from handler import prediction_id
from handler.contract import reject_duplicate_keys
from handler.core_schema import SchemaValidator, ValidationError
from handler.drift.statistic import DIMENSIONS, NAMESPACE
from handler.errors import BadRequest, ContractViolation, Violation, pointer
from handler.manifest import Manifest, OutcomeValue
from handler.prediction_id import CLASS, MAX_OUTCOMES, NUMBER, BadId, Prediction
from handler.settings import Settings

DEDUP_CACHE_SIZE = 50_000
VALUES = 100  # CloudWatch takes no more values of a metric from one record
CLOCK_SKEW_MS = 120_000  # what two clocks may differ by
DAY_MS = 86_400_000
MESSAGES = {
    "malformed": "is not a prediction id",
    "forged": "was not issued by this service, or was changed",
    "damaged": "is damaged: its checksum is wrong",
    "foreign": "is another model's",
    "future": "is of a prediction that is yet to be made",
    "late": "is of a prediction too long ago",
    "duplicate": "was told before",
    "type": "must be what the model predicts: a number, or a class",
}
UNITS = {
    "Labels": "Count",
    "LabelAge": None,
    "Error": None,
    "Correct": None,
    "Impact": None,
}


class FeedbackResult(NamedTuple):
    """`answer`: the body of the 202. `records`: one line for each version that had predicted."""

    answer: bytes
    records: list[dict[str, Any]]


class _Evaluated(NamedTuple):
    prediction: Prediction
    error: float | None
    correct: int | None
    impact: float | None


_NUMBER = cs.float_schema(strict=True, allow_inf_nan=False)
_TEXT = cs.str_schema(strict=True, max_length=1000)
_ACTUAL = cs.union_schema([cs.bool_schema(strict=True), cs.int_schema(strict=True), _TEXT, _NUMBER])
_OUTCOME = cs.typed_dict_schema(
    {
        "prediction_id": cs.typed_dict_field(cs.str_schema(strict=True)),
        "actual": cs.typed_dict_field(_ACTUAL),
        "value": cs.typed_dict_field(_NUMBER, required=False),
    },
    extra_behavior="forbid",
)
_BODY = cs.typed_dict_schema(
    {
        "outcomes": cs.typed_dict_field(
            cs.list_schema(_OUTCOME, min_length=1, max_length=MAX_OUTCOMES, fail_fast=True)
        )
    },
    extra_behavior="forbid",
)


def make_feedback_handler(
    manifest: Manifest, settings: Settings
) -> Callable[[str | bytes], FeedbackResult]:
    """The function that takes a body `{"outcomes": [...]}`.

    It raises BadRequest for what is not JSON, ContractViolation for what has another form, and for
    outcomes of which none could be taken; where some could, the answer lists the others.
    """
    validator = SchemaValidator(_BODY)
    judge = _evaluate(manifest, settings)
    seen: dict[str, None] = {}

    def take(body: str | bytes) -> FeedbackResult:
        document = _validated(validator, body)
        reject_duplicate_keys(body, document)
        outcomes = document["outcomes"]
        taken: list[_Evaluated] = []
        refused: list[Violation] = []
        for i, outcome in enumerate(outcomes):
            id = outcome["prediction_id"]
            found = "duplicate" if id in seen else judge(outcome)
            if isinstance(found, str):
                field = "actual" if found == "type" else "prediction_id"
                refused.append(Violation(pointer("outcomes", i, field), found, MESSAGES[found]))
                continue
            taken.append(found)
            seen[id] = None
            if len(seen) > DEDUP_CACHE_SIZE:
                del seen[next(iter(seen))]
        if not taken:
            raise ContractViolation(refused)
        answer: dict[str, Any] = {"accepted": len(taken)}
        if refused:
            answer["refused"] = [violation._asdict() for violation in refused]
        return FeedbackResult(orjson.dumps(answer), list(_records(taken)))

    return take


def _validated(validator: SchemaValidator, body: str | bytes) -> Any:
    try:
        return validator.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] in ("json_invalid", "string_unicode") and not first["loc"]:
        raise BadRequest("the body is not valid JSON")
    known = ("outcomes", "prediction_id", "actual", "value")
    where = [part for part in first["loc"] if isinstance(part, int) or part in known]
    raise ContractViolation(
        [Violation(pointer(*where), "invalid", "is not in the form that /openapi.json states")]
    )


def _evaluate(
    manifest: Manifest, settings: Settings
) -> Callable[[dict[str, Any]], _Evaluated | str]:
    """The function that gives an outcome's judgement, or the code of its refusal."""
    seals = prediction_id.verifiers(settings.secret)
    name = prediction_id.model_name_checksum(manifest.name)
    business = manifest.outcome_value or OutcomeValue()
    worth = manifest.outcome_value is not None
    output = prediction_id.primary_output(manifest)[1]
    classes = {
        prediction_id.label_checksum(label): str(label)
        for label in (output.classes if output else ())
    }

    def judge(outcome: dict[str, Any]) -> _Evaluated | str:
        try:
            prediction = prediction_id.parse(outcome["prediction_id"], *seals)
        except BadId as error:
            return "damaged" if str(error) == "forged" and not settings.secret else str(error)
        age = time.time_ns() // 1_000_000 - prediction.milliseconds
        if prediction.name != name:
            return "foreign"
        if age < -CLOCK_SKEW_MS:
            return "future"
        if age > business.max_outcome_age_days * DAY_MS:
            return "late"
        actual, value = outcome["actual"], outcome.get("value")
        if prediction.kind == NUMBER:
            if isinstance(actual, str | bool):
                return "type"
            off = abs(actual - prediction.value)
            if value is None and worth:
                value = business.value - business.cost * off
            return _Evaluated(prediction, off, None, value)
        if prediction.kind == CLASS:
            if isinstance(actual, float) and not actual.is_integer():
                return "type"
            label = int(actual) if isinstance(actual, float) else actual
            correct = prediction_id.label_checksum(label) == prediction.value
            if value is None and worth:
                table = business.outcomes.get(classes.get(prediction.value, ""), {})
                value = table.get(str(label), business.value if correct else -business.cost)
            return _Evaluated(prediction, None, int(correct), value)
        return _Evaluated(prediction, None, None, value)

    return judge


def _records(taken: list[_Evaluated]) -> Iterator[dict[str, Any]]:
    """EMF lines, one for each version that predicted and at most VALUES outcomes."""
    groups: dict[tuple[str, str, str], list[_Evaluated]] = {}
    for judged in taken:
        told = judged.prediction
        groups.setdefault((told.function_version, told.version, told.model), []).append(judged)
    now = time.time_ns() // 1_000_000
    for (function_version, version, model), members in groups.items():
        for start in range(0, len(members), VALUES):
            part = members[start : start + VALUES]
            values = {
                "Labels": [1] * len(part),
                "LabelAge": [round((now - j.prediction.milliseconds) / 3.6e6, 3) for j in part],
                "Error": [j.error for j in part if j.error is not None],
                "Correct": [j.correct for j in part if j.correct is not None],
                "Impact": [j.impact for j in part if j.impact is not None],
            }
            values = {metric: found for metric, found in values.items() if found}
            metrics = [
                {"Name": metric, "Unit": unit} if (unit := UNITS[metric]) else {"Name": metric}
                for metric in values
            ]
            directive = {"Namespace": NAMESPACE, "Dimensions": DIMENSIONS, "Metrics": metrics}
            # and of all versions together: that no outcomes come any more is nobody's in particular
            both = {"Namespace": NAMESPACE, "Dimensions": [["service"]], "Metrics": metrics[:1]}
            yield {
                "level": "INFO",
                "message": "outcomes",
                "timestamp": now,
                "version": function_version,
                "predicted_by": {"version": version, "model": model},
                "_aws": {"Timestamp": now, "CloudWatchMetrics": [directive, both]},
                **values,
            }
