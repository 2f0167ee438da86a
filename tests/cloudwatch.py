"""CloudWatch as far as our alarms need it: records in, statistics, metric math, states out.

    series = Metrics.of(records)
    evaluate(properties, series, start, end, resolve)   # of an AWS::CloudWatch::Alarm

Alarms are read in their CloudFormation form, so that what is tested is what the template deploys.
Values are stored as CloudWatch's own agent stores them (SEH1: buckets 10 % wide), so that a
statistic that only works on exact values fails here.
https://github.com/aws/amazon-cloudwatch-agent/blob/main/metric/distribution/seh1/seh1_distribution.go
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

import ast
import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests import schema

SCHEMA = json.loads(Path(__file__).with_name("emf.schema.json").read_text())
WIDTH = math.log(1.1)
Key = tuple[str, str, frozenset[tuple[str, str]]]
Value = float | None


def validate(record: Mapping[str, Any]) -> None:
    """Raise unless a record keeps to the embedded metric format."""
    schema.validate(record, SCHEMA)
    assert len(json.dumps(record)) < 256_000
    for directive in record["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            assert all(isinstance(record[name], str) and record[name] for name in names)
        for metric in directive["Metrics"]:
            found = record[metric["Name"]]
            values = found if isinstance(found, list) else [found]
            assert 0 < len(values) <= 100
            assert all(type(value) in (int, float) and math.isfinite(value) for value in values)


def bucket(value: float) -> float:
    """The value that an SEH1 sketch has of one: the geometric middle of its bucket."""
    if value == 0:
        return 0.0
    return math.copysign(math.exp((math.floor(math.log(abs(value)) / WIDTH) + 0.5) * WIDTH), value)


class Datum(NamedTuple):
    """Milliseconds since 1970, the stored value and the exact one."""

    at: int
    value: float
    exact: float


class Metrics:
    """Every metric's data, by namespace, name and dimensions."""

    def __init__(self) -> None:
        self.data: dict[Key, list[Datum]] = {}

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Metrics":
        """The metrics of records; lines without any are passed over, broken ones raise."""
        found = cls()
        for record in records:
            if "_aws" in record:
                validate(record)
                found.add(record)
        return found

    def add(self, record: Mapping[str, Any]) -> None:
        at = record["_aws"]["Timestamp"]
        for directive in record["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, record[name]) for name in names)
                for metric in directive["Metrics"]:
                    values = record[metric["Name"]]
                    key = (directive["Namespace"], metric["Name"], dimensions)
                    series = self.data.setdefault(key, [])
                    for value in values if isinstance(values, list) else [values]:
                        series.append(Datum(at, bucket(value), value))

    def statistic(self, key: Key, stat: str, start: int, end: int) -> Value:
        """One period's statistic; None where the metric has no data in it."""
        found = [datum for datum in self.data.get(key, ()) if start <= datum.at < end]
        if not found:
            return None
        # sums and counts are kept beside the sketch, exactly
        exact = [datum.exact for datum in found]
        simple: dict[str, Callable[[], float]] = {
            "SampleCount": lambda: len(exact),
            "Sum": lambda: sum(exact),
            "Average": lambda: sum(exact) / len(exact),
            "Minimum": lambda: min(exact),
            "Maximum": lambda: max(exact),
        }
        if stat in simple:
            return simple[stat]()
        stored = sorted(datum.value for datum in found)
        ranged = re.fullmatch(r"(TC|PR)\(([\d.]*):([\d.]*)\)", stat)
        if ranged:
            low, high = float(ranged[2] or "-inf"), float(ranged[3] or "inf")
            count = sum(low < value <= high for value in stored)
            return count if ranged[1] == "TC" else 100 * count / len(stored)
        percentile = re.fullmatch(r"p([\d.]+)", stat)
        assert percentile, f"{stat}: a statistic that this evaluator does not know"
        assert stored[0] >= 0, "percentiles need values that are not negative"
        return stored[min(len(stored) - 1, math.ceil(float(percentile[1]) / 100 * len(stored)) - 1)]


OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b if b else math.nan,
    ast.Pow: lambda a, b: a**b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
}


FUNCTIONS = {"IF", "FILL", "MAX", "MIN", "ABS"}


@functools.cache
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression.replace("^", "**"), mode="eval").body


def math_of(expression: str, values: Mapping[str, Value]) -> Value:
    """One period of a metric math expression; None where a metric it needs has no data."""
    assert len(expression) <= 2048

    def walk(node: ast.expr) -> Value:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int | float)
            return float(node.value)
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = walk(node.operand)
            return None if inner is None else -inner
        if isinstance(node, ast.BinOp):
            return both(type(node.op), node.left, node.right)
        if isinstance(node, ast.Compare):
            return both(type(node.ops[0]), node.left, node.comparators[0])
        assert isinstance(node, ast.Call), ast.dump(node)
        assert isinstance(node.func, ast.Name), ast.dump(node)
        if node.func.id == "IF":
            condition = walk(node.args[0])
            return None if condition is None else walk(node.args[1 if condition else 2])
        if node.func.id == "FILL":
            inner = walk(node.args[0])
            return walk(node.args[1]) if inner is None else inner
        found = [walk(arg) for arg in node.args]
        known = [value for value in found if value is not None]
        functions: dict[str, Callable[..., Any]] = {"MAX": max, "MIN": min, "ABS": abs}
        return float(functions[node.func.id](*known)) if known else None

    def both(operator: type, left: ast.expr, right: ast.expr) -> Value:
        a, b = walk(left), walk(right)
        return None if a is None or b is None else float(OPERATORS[operator](a, b))

    found = walk(_parsed(expression))
    return None if found is None or math.isnan(found) else found


class Point(NamedTuple):
    """A period's start, what the alarm compared, and its state then."""

    at: int
    value: Value
    state: str


def evaluate(
    alarm: Mapping[str, Any],
    metrics: Metrics,
    start: int,
    end: int,
    resolve: Callable[[Any], str] = str,
) -> list[Point]:
    """The states of an alarm's properties after each whole period from `start` to `end` (ms).

    `resolve` turns what is not yet text in a template (a `Ref`, a `Fn::GetAtt`) into text.
    """
    queries = alarm.get("Metrics") or [_single(alarm)]
    assert sum("MetricStat" in query for query in queries) <= 10, "more than ten metrics"
    periods = {q["MetricStat"]["Period"] for q in queries if "MetricStat" in q}
    assert len(periods) == 1
    seconds = periods.pop()
    total = alarm["EvaluationPeriods"]
    assert seconds * total <= (604_800 if seconds >= 3600 else 86_400), "over CloudWatch's range"
    compare: Callable[[float, float], bool] = {
        "GreaterThanThreshold": operator.gt,
        "GreaterThanOrEqualToThreshold": operator.ge,
        "LessThanThreshold": operator.lt,
        "LessThanOrEqualToThreshold": operator.le,
    }[alarm["ComparisonOperator"]]
    missing = alarm.get("TreatMissingData", "missing")
    points: list[Point] = []
    breaching: list[bool | None] = []
    state = "INSUFFICIENT_DATA"
    for at in range(start, end - seconds * 1000 + 1, seconds * 1000):
        value = _value(queries, metrics, at, at + seconds * 1000, resolve)
        filled = {"breaching": True, "notBreaching": False}.get(missing)
        breaching.append(filled if value is None else bool(compare(value, alarm["Threshold"])))
        latest = breaching[-total:]
        known = [one for one in latest if one is not None]
        if known:
            enough = alarm.get("DatapointsToAlarm", total)
            state = "ALARM" if sum(known) >= min(enough, len(known)) and any(known) else "OK"
        elif missing == "missing":
            state = "INSUFFICIENT_DATA"
        points.append(Point(at, value, state))
    return points


def _single(alarm: Mapping[str, Any]) -> dict[str, Any]:
    """A plain alarm in the form of one with metric math."""
    metric = {name: alarm.get(name, []) for name in ("Namespace", "MetricName", "Dimensions")}
    stat = alarm.get("Statistic") or alarm["ExtendedStatistic"]
    asked = {"Metric": metric, "Period": alarm["Period"], "Stat": stat}
    return {"Id": "m", "MetricStat": asked, "ReturnData": True}


def _value(
    queries: Iterable[Mapping[str, Any]],
    metrics: Metrics,
    start: int,
    end: int,
    resolve: Callable[[Any], str],
) -> Value:
    values: dict[str, Value] = {}
    math, answer = {}, ""
    for query in queries:
        if query.get("ReturnData", True):
            assert not answer, "two queries return data"
            answer = query["Id"]
        if "Expression" in query:
            math[query["Id"]] = query["Expression"]
            continue
        asked = query["MetricStat"]
        metric = asked["Metric"]
        pairs = ((d["Name"], resolve(d["Value"])) for d in metric.get("Dimensions", ()))
        key = (metric["Namespace"], metric["MetricName"], frozenset(pairs))
        values[query["Id"]] = metrics.statistic(key, asked["Stat"], start, end)
    while len(values) < len(list(queries)):  # expressions may use each other, in any order
        for id, expression in math.items():
            names = {
                node.id for node in ast.walk(_parsed(expression)) if isinstance(node, ast.Name)
            }
            if id not in values and names - FUNCTIONS <= values.keys():
                values[id] = math_of(expression, values)
    return values[answer]
