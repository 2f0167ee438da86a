"""Evaluate CloudWatch alarms over records: statistics, metric math and alarm states.

    evaluate_at(properties, Metrics.of(records), time)  # an AWS::CloudWatch::Alarm at one moment

Alarms are read in their CloudFormation form: the tests cover what the template deploys. Values are
stored as CloudWatch's agent stores them (SEH1: buckets 10 % wide), because a statistic that needs
exact values must fail here. An alarm is evaluated every minute over a sliding window. An alarm that
spans more than a day is evaluated once an hour, up to the full hour. If periods have no data, more
periods are fetched before missing data is treated.
https://github.com/aws/amazon-cloudwatch-agent/blob/main/metric/distribution/seh1/seh1_distribution.go
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
"""

import ast
import bisect
import functools
import math
import operator
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from answerable.commands import InputError

WIDTH = math.log(1.1)
NO_DATA = "INSUFFICIENT_DATA"
# The periods that are fetched in addition if some have no data. The documentation's example has
# two, and says only that the number depends on the period.
EXTRA_PERIODS = 2
HOUR_MS, DAY_SECONDS = 3_600_000, 86_400
Key = tuple[str, str, frozenset[tuple[str, str]]]
Value = float | None


class Unsupported(InputError):
    """CloudWatch would refuse it, or this evaluator does not implement it."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise Unsupported(message)


def bucket(value: float) -> float:
    """Return the geometric middle of the value's SEH1 bucket."""
    if value == 0:
        return 0.0
    return math.copysign(math.exp((math.floor(math.log(abs(value)) / WIDTH) + 0.5) * WIDTH), value)


class Metrics:
    """Time (ms) and value of each datum, by namespace, name and dimensions, ordered by time."""

    def __init__(self) -> None:
        self.data: dict[Key, list[tuple[int, float]]] = {}

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Metrics":
        """Return the metrics of records, ignoring those without any."""
        metrics = cls()
        for record in records:
            if "_aws" in record:
                metrics.add(record, record["_aws"]["Timestamp"])
        return metrics

    def add(self, record: Mapping[str, Any], time: int) -> None:
        """Add a record in embedded metric format at a time (ms)."""
        for directive in record["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, record[name]) for name in names)
                for metric in directive["Metrics"]:
                    values = record[metric["Name"]]
                    key = (directive["Namespace"], metric["Name"], dimensions)
                    for value in values if isinstance(values, list) else [values]:
                        self.add_value(key, time, value)

    def add_value(self, key: Key, time: int, value: float) -> None:
        """Add one value of one metric."""
        bisect.insort_right(self.data.setdefault(key, []), (time, value), key=_time)

    def statistic(self, key: Key, stat: str, start: int, end: int) -> Value:
        """Return the statistic of a period, None without data."""
        series = self.data.get(key, [])
        low, high = (bisect.bisect_left(series, time, key=_time) for time in (start, end))
        values = [value for _, value in series[low:high]]
        if not values:
            return None
        if stat in STATISTICS:
            return float(STATISTICS[stat](values))
        percentile = re.fullmatch(r"p([\d.]+)", stat)
        if percentile is None:
            raise Unsupported(f"{stat}: this evaluator does not know the statistic")
        _require(min(values) >= 0, "percentiles need values that are not negative")
        rank = math.ceil(float(percentile[1]) / 100 * len(values))
        return bucket(sorted(values)[rank - 1])


_time = operator.itemgetter(0)
# CloudWatch keeps sums and counts exactly, beside the sketch
STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "SampleCount": len, "Sum": sum, "Average": statistics.fmean, "Minimum": min, "Maximum": max,
}  # fmt: skip
OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b if b else math.nan,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}  # fmt: skip
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "MAX": max, "MIN": min, "ABS": abs, "SUM": lambda *values: sum(values),
}  # fmt: skip


@functools.cache
def _parse(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def eval_expression(expression: str, values: Mapping[str, Value]) -> Value:
    """Return one period of a metric math expression, None if a metric has no data."""
    _require(len(expression) <= 2048, "an expression of over 2048 characters")

    def walk(node: ast.expr) -> Value:
        if isinstance(node, ast.Constant):
            return float(str(node.value))
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = walk(node.operand)
            return None if inner is None else -inner
        if isinstance(node, ast.BinOp):
            return binary(type(node.op), node.left, node.right)
        if isinstance(node, ast.Compare):
            return binary(type(node.ops[0]), node.left, node.comparators[0])
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise Unsupported(f"{expression}: this evaluator does not know the metric math")
        if node.func.id == "IF":
            condition = walk(node.args[0])
            return None if condition is None else walk(node.args[1 if condition else 2])
        if node.func.id == "FILL":
            inner = walk(node.args[0])
            return walk(node.args[1]) if inner is None else inner
        series = [item for arg in node.args for item in getattr(arg, "elts", [arg])]
        args = [value for value in map(walk, series) if value is not None]
        return float(FUNCTIONS[node.func.id](*args)) if args else None

    def binary(operator: type, left: ast.expr, right: ast.expr) -> Value:
        a, b = walk(left), walk(right)
        return None if a is None or b is None else float(OPERATORS[operator](a, b))

    value = walk(_parse(expression))
    return None if value is None or math.isnan(value) else value


class Point(NamedTuple):
    """An evaluation: its time (ms), the latest period's value, and the alarm's state."""

    time: int
    value: Value
    state: str


def evaluate_at(
    alarm: Mapping[str, Any],
    metrics: Metrics,
    time: int,
    previous: str = NO_DATA,
    resolve: Callable[[Any], str] = str,
) -> Point:
    """Return the evaluation of an alarm at a time (ms), given its previous state.

    `resolve` turns a template's `Ref` and `Fn::GetAtt` into text.
    """
    queries = _queries(alarm)
    _require(sum("MetricStat" in query for query in queries) <= 10, "more than ten metrics")
    seconds, total = _seconds(queries), alarm["EvaluationPeriods"]
    longest = 7 * DAY_SECONDS if seconds >= 3600 else DAY_SECONDS
    _require(seconds * total <= longest, "over CloudWatch's range")
    if seconds * total > DAY_SECONDS:
        time -= time % HOUR_MS
    compare = COMPARISONS.get(alarm["ComparisonOperator"])
    if compare is None:
        raise Unsupported(f"{alarm['ComparisonOperator']}: unknown comparison")
    values: list[Value] = []
    while sum(v is not None for v in values) < total and len(values) < total + EXTRA_PERIODS:
        end = time - len(values) * seconds * 1000
        values.append(_value(queries, metrics, end - seconds * 1000, end, resolve))
    breaching = [None if v is None else bool(compare(v, alarm["Threshold"])) for v in values]
    needed = alarm.get("DatapointsToAlarm", total)
    missing = alarm.get("TreatMissingData", "missing")
    return Point(time, values[0], _state(breaching, total, needed, missing, previous))


def _state(
    breaching: Sequence[bool | None], total: int, needed: int, missing: str, previous: str
) -> str:
    """Return the state of periods, latest first; None: a period without data."""
    present = [value for value in breaching if value is not None]
    filled = total - len(present)
    if filled <= 0 or missing in ("breaching", "notBreaching"):
        bad = sum(present) + (filled if missing == "breaching" and filled > 0 else 0)
        return "ALARM" if bad >= needed else "OK"
    if sum(present) >= needed:
        return "ALARM"
    if not all(present):
        return "OK"
    if missing == "ignore":
        return previous
    if not present:
        return NO_DATA
    # every datum is breaching: ALARM once the oldest is as old as the alarm waits
    oldest = max(i for i, value in enumerate(breaching, 1) if value)
    return "ALARM" if oldest >= needed else "OK"


def _queries(alarm: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return alarm.get("Metrics") or [_single(alarm)]


def _seconds(queries: Iterable[Mapping[str, Any]]) -> int:
    periods = {q["MetricStat"]["Period"] for q in queries if "MetricStat" in q}
    _require(len(periods) == 1, "metrics of different periods")
    return int(periods.pop())


def _single(alarm: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain alarm's metric in the form of metric math."""
    metric = {name: alarm.get(name, []) for name in ("Namespace", "MetricName", "Dimensions")}
    stat = alarm.get("Statistic") or alarm["ExtendedStatistic"]
    metric_stat = {"Metric": metric, "Period": alarm["Period"], "Stat": stat}
    return {"Id": "m", "MetricStat": metric_stat, "ReturnData": True}


def key(metric: Mapping[str, Any], resolve: Callable[[Any], str] = str) -> Key:
    """Return the key of a metric in a template's form."""
    pairs = ((d["Name"], resolve(d["Value"])) for d in metric.get("Dimensions", ()))
    return metric["Namespace"], metric["MetricName"], frozenset(pairs)


def keys(alarm: Mapping[str, Any]) -> set[Key]:
    """Return the keys of the metrics that an alarm reads."""
    return {key(q["MetricStat"]["Metric"]) for q in _queries(alarm) if "MetricStat" in q}


def _value(
    queries: Sequence[Mapping[str, Any]],
    metrics: Metrics,
    start: int,
    end: int,
    resolve: Callable[[Any], str],
) -> Value:
    values: dict[str, Value] = {}
    (returned,) = [query["Id"] for query in queries if query.get("ReturnData", True)]
    for query in queries:
        if "MetricStat" in query:
            metric, stat = query["MetricStat"]["Metric"], query["MetricStat"]["Stat"]
            values[query["Id"]] = metrics.statistic(key(metric, resolve), stat, start, end)
    expressions = {q["Id"]: q["Expression"] for q in queries if "Expression" in q}
    while returned not in values:  # expressions may use each other, in any order
        ready = {id: text for id, text in expressions.items() if _names(text) <= values.keys()}
        _require(ready.keys() - values.keys(), "expressions that need each other")
        values |= {id: eval_expression(t, values) for id, t in ready.items() if id not in values}
    return values[returned]


@functools.cache
def _names(expression: str) -> set[str]:
    nodes = ast.walk(_parse(expression))
    return {n.id for n in nodes if isinstance(n, ast.Name)} - {"IF", "FILL", *FUNCTIONS}
