"""CloudWatch as far as our alarms need it: records in, statistics, metric math, states out.

    series = Metrics.of(records)
    look(properties, series, at)              # what an AWS::CloudWatch::Alarm says at a moment
    evaluate(properties, series, start, end)  # and at the end of each of its periods

Alarms are read in their CloudFormation form, so that what is tested is what the template deploys.
Values are stored as CloudWatch's own agent stores them (SEH1: buckets 10 % wide), so that a
statistic that only works on exact values fails here. An alarm is looked at every minute, over a
window that slides; only if it spans more than a day, once an hour, and then up to the hour. Where
periods have no data it looks further back than it says before it fills them.
https://github.com/aws/amazon-cloudwatch-agent/blob/main/metric/distribution/seh1/seh1_distribution.go
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
"""

import ast
import functools
import math
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH = math.log(1.1)
NO_DATA = "INSUFFICIENT_DATA"
# How many more periods are fetched where some have no data: the documentation's example has two,
# and says only that it depends on the period.
EXTRA_PERIODS = 2
HOUR_MS, DAY_SECONDS = 3_600_000, 86_400
Key = tuple[str, str, frozenset[tuple[str, str]]]
Value = float | None


class Unsupported(ValueError):
    """What CloudWatch would refuse, or what this has not learnt."""


def _require(holds: object, what: str) -> None:
    if not holds:
        raise Unsupported(what)


@functools.lru_cache(4096)
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
    """Every metric's data, by namespace, name and dimensions, in the order of time."""

    def __init__(self) -> None:
        self.data: dict[Key, list[Datum]] = {}
        self._asked: tuple[Key, int, int] | None = None
        self._found: tuple[list[float], list[float]] = [], []

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Metrics":
        """The metrics of records; lines without any are passed over."""
        found = cls()
        for record in records:
            if "_aws" in record:
                found.add(record, record["_aws"]["Timestamp"])
        return found

    def add(self, record: Mapping[str, Any], at: int) -> None:
        """Take a record in embedded metric format, as of `at`."""
        for directive in record["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, record[name]) for name in names)
                for metric in directive["Metrics"]:
                    values = record[metric["Name"]]
                    key = (directive["Namespace"], metric["Name"], dimensions)
                    for value in values if isinstance(values, list) else [values]:
                        self.put(key, at, value)

    def put(self, key: Key, at: int, value: float) -> None:
        """Take one value of one metric."""
        series = self.data.setdefault(key, [])
        last = not series or series[-1].at <= at
        place = len(series) if last else bisect_right(series, at, key=_at)
        series.insert(place, Datum(at, bucket(value), value))
        self._asked = None

    def _window(self, key: Key, start: int, end: int) -> tuple[list[float], list[float]]:
        """Exact values, and stored ones in order. Kept: an alarm asks ten things of one window."""
        if self._asked != (key, start, end):
            series = self.data.get(key, [])
            low, high = (bisect_left(series, moment, key=_at) for moment in (start, end))
            found = series[low:high]
            self._found = [d.exact for d in found], sorted(d.value for d in found)
            self._asked = key, start, end
        return self._found

    def statistic(self, key: Key, stat: str, start: int, end: int) -> Value:
        """One period's statistic; None where the metric has no data in it."""
        exact, stored = self._window(key, start, end)
        if not exact:
            return None
        # sums and counts are kept beside the sketch, exactly
        simple: dict[str, Callable[[], float]] = {
            "SampleCount": lambda: len(exact),
            "Sum": lambda: sum(exact),
            "Average": lambda: sum(exact) / len(exact),
            "Minimum": lambda: min(exact),
            "Maximum": lambda: max(exact),
        }
        if stat in simple:
            return simple[stat]()
        ranged = re.fullmatch(r"(TC|PR)\(([\d.]*):([\d.]*)\)", stat)
        if ranged:
            low, high = float(ranged[2] or "-inf"), float(ranged[3] or "inf")
            count = bisect_right(stored, high) - bisect_right(stored, low)
            return count if ranged[1] == "TC" else 100 * count / len(stored)
        percentile = re.fullmatch(r"p([\d.]+)", stat)
        if percentile is None:
            raise Unsupported(f"{stat}: a statistic that this evaluator does not know")
        _require(stored[0] >= 0, "percentiles need values that are not negative")
        return stored[min(len(stored) - 1, math.ceil(float(percentile[1]) / 100 * len(stored)) - 1)]


def _at(datum: Datum) -> int:
    return datum.at


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
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
FUNCTIONS = {"IF", "FILL", "MAX", "MIN", "ABS"}


@functools.cache
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression.replace("^", "**"), mode="eval").body


def math_of(expression: str, values: Mapping[str, Value]) -> Value:
    """One period of a metric math expression; None where a metric it needs has no data."""
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
            return both(type(node.op), node.left, node.right)
        if isinstance(node, ast.Compare):
            return both(type(node.ops[0]), node.left, node.comparators[0])
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise Unsupported(f"{expression}: metric math that this evaluator does not know")
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
    """When it was looked, the latest period's value, and the alarm's state then."""

    at: int
    value: Value
    state: str


def evaluate_range(
    alarm: Mapping[str, Any],
    metrics: Metrics,
    start: int,
    end: int,
    resolve: Callable[[Any], str] = str,
) -> list[Point]:
    """The states of an alarm's properties after each whole period from `start` to `end` (ms)."""
    step = _seconds(_queries(alarm)) * 1000
    points: list[Point] = []
    for at in range(start + step, end + 1, step):
        points.append(
            evaluate_at(alarm, metrics, at, points[-1].state if points else NO_DATA, resolve)
        )
    return points


def evaluate_at(
    alarm: Mapping[str, Any],
    metrics: Metrics,
    at: int,
    before: str = NO_DATA,
    resolve: Callable[[Any], str] = str,
) -> Point:
    """What an alarm says at a moment (ms), having said `before` the last time.

    `resolve` turns what is not yet text in a template (a `Ref`, a `Fn::GetAtt`) into text.
    """
    queries = _queries(alarm)
    _require(sum("MetricStat" in query for query in queries) <= 10, "more than ten metrics")
    seconds, total = _seconds(queries), alarm["EvaluationPeriods"]
    longest = 7 * DAY_SECONDS if seconds >= 3600 else DAY_SECONDS
    _require(seconds * total <= longest, "over CloudWatch's range")
    if seconds * total > DAY_SECONDS:
        at -= at % HOUR_MS
    compare = COMPARISONS.get(alarm["ComparisonOperator"])
    if compare is None:
        raise Unsupported(f"{alarm['ComparisonOperator']}: a comparison that is not known here")
    values: list[Value] = []
    known = 0
    while known < total and len(values) < total + EXTRA_PERIODS:
        end = at - len(values) * seconds * 1000
        values.append(_value(queries, metrics, end - seconds * 1000, end, resolve))
        known += values[-1] is not None
    found = [None if v is None else bool(compare(v, alarm["Threshold"])) for v in values]
    wanted = alarm.get("DatapointsToAlarm", total)
    missing = alarm.get("TreatMissingData", "missing")
    return Point(at, values[0], _state(found, total, wanted, missing, before))


def _state(
    breaching: Sequence[bool | None], total: int, wanted: int, missing: str, before: str
) -> str:
    """`breaching` by period, the latest first; None where there is no data."""
    known = [one for one in breaching if one is not None]
    filled = total - len(known)
    if filled <= 0 or missing in ("breaching", "notBreaching"):
        bad = sum(known) + (filled if missing == "breaching" and filled > 0 else 0)
        return "ALARM" if bad >= wanted else "OK"
    if sum(known) >= wanted:
        return "ALARM"
    if not all(known):
        return "OK"
    if missing == "ignore":
        return before
    if not known:
        return NO_DATA
    # nothing but bad news, and the oldest is as old as the alarm would wait
    oldest = max(i for i, one in enumerate(breaching, 1) if one)
    return "ALARM" if oldest >= wanted else "OK"


def _queries(alarm: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return alarm.get("Metrics") or [_single(alarm)]


def _seconds(queries: Iterable[Mapping[str, Any]]) -> int:
    periods = {q["MetricStat"]["Period"] for q in queries if "MetricStat" in q}
    _require(len(periods) == 1, "metrics of different periods")
    return int(periods.pop())


def _single(alarm: Mapping[str, Any]) -> dict[str, Any]:
    """A plain alarm in the form of one with metric math."""
    metric = {name: alarm.get(name, []) for name in ("Namespace", "MetricName", "Dimensions")}
    stat = alarm.get("Statistic") or alarm["ExtendedStatistic"]
    asked = {"Metric": metric, "Period": alarm["Period"], "Stat": stat}
    return {"Id": "m", "MetricStat": asked, "ReturnData": True}


def key(metric: Mapping[str, Any], resolve: Callable[[Any], str] = str) -> Key:
    """The key of a metric as a template has it."""
    pairs = ((d["Name"], resolve(d["Value"])) for d in metric.get("Dimensions", ()))
    return metric["Namespace"], metric["MetricName"], frozenset(pairs)


def keys(alarm: Mapping[str, Any]) -> set[Key]:
    """The keys of all metrics that an alarm reads; a composite one reads none."""
    queries = [] if "AlarmRule" in alarm else _queries(alarm)
    return {key(q["MetricStat"]["Metric"]) for q in queries if "MetricStat" in q}


def _value(
    queries: Sequence[Mapping[str, Any]],
    metrics: Metrics,
    start: int,
    end: int,
    resolve: Callable[[Any], str],
) -> Value:
    values: dict[str, Value] = {}
    (answer,) = [query["Id"] for query in queries if query.get("ReturnData", True)]
    for query in queries:
        if "MetricStat" in query:
            asked = query["MetricStat"]
            found = metrics.statistic(key(asked["Metric"], resolve), asked["Stat"], start, end)
            values[query["Id"]] = found
    expressions = {q["Id"]: q["Expression"] for q in queries if "Expression" in q}
    while answer not in values:  # expressions may use each other, in any order
        ready = {id: text for id, text in expressions.items() if _names(text) <= values.keys()}
        _require(ready.keys() - values.keys(), "expressions that wait for each other")
        values |= {id: math_of(t, values) for id, t in ready.items() if id not in values}
    return values[answer]


@functools.cache
def _names(expression: str) -> set[str]:
    nodes = ast.walk(_parsed(expression))
    return {node.id for node in nodes if isinstance(node, ast.Name)} - FUNCTIONS
