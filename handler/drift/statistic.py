"""The drift score: how far the live ranks of a feature or an output are from uniform.

The ranks (handler/drift/bins.py) arrive as bin numbers 1 … BINS, equally likely while nothing drifts.
With p the shares of n live values in the bins, k = BINS, and a baseline of m rows,

    D = k * sum((p - 1/k)^2) - (k - 1) * (1/n + 1/m)

is Pearson's chi-square distance less what chance alone contributes: n * k * sum((p - 1/k)^2) is
Pearson's statistic, whose mean is k - 1 (K. Pearson, 1900, Philosophical Magazine 50, 157-175),
and a baseline that is itself a sample adds its own 1/m (the two-sample statistic). So the mean of D
is 0 without drift, at any traffic, and that of the customary PSI is not: it is about
(k - 1) * (1/n + 1/m), which is 0.45 for 20 values (B. Yurdakul, 2018, "Statistical Properties of
Population Stability Index", Western Michigan University). For small drifts D is the PSI.

An alarm asks two things at once. Does the drift matter? Then D is over the manifest's
`alarms.drift_threshold`, however much traffic there is: normal values that move by s standard deviations have
a D of about exp(s^2) - 1, which is 0.06 for a quarter, 0.28 for a half, 1.7 for one. Is it certain?
Then one of two statistics is out in its tail: Pearson's, which sees any change, or the slope, the
mean bin number's, which sees small shifts of everything much sooner (the first component of
J. Neyman's smooth test, 1937, Skandinavisk Aktuarietidskrift 20, 149-199). What the baseline
contributes by chance stays for as long as it does, so it counts by a stricter tail than the day's.

Pure data: nothing here imports more than the manifest, so `infra` and `answerable` may.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from handler import metrics
from handler.manifest import Distribution, Manifest

# An alarm may name ten metrics: the count of values, and those of nine bins. The tenth bin is the
# rest. (docs/drift.md: the number hardly matters for shifts; more bins see better what is new.)
BINS = 10
CENTRE, VARIANCE = (BINS + 1) / 2, (BINS * BINS - 1) / 12  # of uniform bin numbers
MAX_MONITORED_FEATURES = (
    200  # features that are ranked; every metric costs, and a record has to stay short
)
# expected while nothing drifts, for one target: eleven targets have one in nine months
FALSE_ALARMS_A_MONTH = 0.01
# Chance that the sample which became the baseline is so odd that an alarm comes of it alone. It is
# drawn once, and then cries every day, so it is held to far more than a day's values are.
BASELINE_FALSE_ALARM_RATE = 1e-6


class Target(NamedTuple):
    """A feature or an output that is watched. `metric`: the name of its bin numbers."""

    name: str
    metric: str
    distribution: Distribution
    output: bool


def targets(manifest: Manifest) -> Iterator[Target]:
    """What is watched: every feature and output with a baseline, the first MONITORED features."""
    if manifest.baseline is None:
        return
    taken: set[str] = set()
    features = [f.name for f in manifest.features if f.name in manifest.baseline.features]
    for name in features[:MAX_MONITORED_FEATURES]:
        yield Target(name, _metric("in", name, taken), manifest.baseline.features[name], False)
    for name, distribution in manifest.baseline.outputs.items():
        yield Target(name, _metric("out", name, taken), distribution, True)


def _metric(kind: str, name: str, taken: set[str]) -> str:
    """`in_age`, `out_progression`: CloudWatch takes 255 characters of ASCII."""
    plain = "".join(c if c.isascii() and c.isprintable() else "_" for c in f"{kind}_{name}")[:200]
    metric, number = plain, 1
    while metric in taken:
        number += 1
        metric = f"{plain}_{number}"
    taken.add(metric)
    return metric


def score(counts: Sequence[int], rows: int) -> float:
    """D of the counts by bin, against a baseline of so many rows; 0.0 of no counts."""
    if not any(counts):
        return 0.0
    return _distance(counts) - (len(counts) - 1) * _noise(counts, rows)


def is_significant(counts: Sequence[int], rows: int, hours: float) -> bool:
    """Whether chance does not do this, in a window of so many hours."""
    if not any(counts):
        return False
    (any_change, shift), n = critical_values(rows, hours), sum(counts)
    distance, slope = _distance(counts), _slope(counts)
    return distance > any_change[0] / n + any_change[1] or slope > shift[0] / n + shift[1]


def _distance(counts: Sequence[int]) -> float:
    n = sum(counts)
    return len(counts) * sum(count * count for count in counts) / (n * n) - 1


def _slope(counts: Sequence[int]) -> float:
    mean = sum(i * count for i, count in enumerate(counts, 1)) / sum(counts)
    return float((mean - CENTRE) ** 2 / VARIANCE)


def _noise(counts: Sequence[int], rows: int) -> float:
    return 1 / sum(counts) + 1 / max(rows, 1)


def critical_values(rows: int, hours: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Above which distance, and above which slope, one is certain: (a, b) stands for a / n + b.

    Each has half of the false alarms that a window of so many hours may have, and b is what the
    baseline's own rows may contribute.
    """
    live = chi2_quantiles(FALSE_ALARMS_A_MONTH * hours / (30 * 24) / 2)
    packed = chi2_quantiles(BASELINE_FALSE_ALARM_RATE / 2)
    m = max(rows, 1)
    return (live[0], round(packed[0] / m, 6)), (live[1], round(packed[1] / m, 6))


def chi2_quantiles(chance: float) -> tuple[float, float]:
    """What chi-square values of BINS - 1 and of 1 degree of freedom exceed with a chance.

    The first is E. B. Wilson and M. M. Hilferty's approximation (1931, PNAS 17, 684-688), the
    second is exact.
    """
    from statistics import NormalDist

    degrees, normal = BINS - 1, NormalDist()
    part = 2 / (9 * degrees)
    any_change = degrees * (1 - part + normal.inv_cdf(1 - chance) * part**0.5) ** 3
    return round(float(any_change), 2), round(normal.inv_cdf(1 - chance / 2) ** 2, 2)


def metric_math(rows: int, minimum: int, hours: float) -> dict[str, str]:
    """Metric math over the metrics `n` (all values) and `b1` … `b9` (those in a bin), by id.

    `drift` is D where it is certain, 0 where it is not or where there are fewer than `minimum`
    values.
    """
    bins = [f"b{i}" for i in range(1, BINS)]
    squares = "+".join(f"{name}^2" for name in (*bins, "rest"))
    sums = "+".join(f"{i}*{name}" for i, name in enumerate((*bins, "rest"), 1))
    (a, b), (c, d) = critical_values(rows, hours)
    sure = f"(distance>{a}/n+{b:f})+(slope>{c}/n+{d:f})>0"
    return {
        "drift": f"IF(n<{minimum},0,IF({sure},distance-{BINS - 1}*noise,0))",
        "rest": f"n-({'+'.join(bins)})",
        "noise": f"1/n+1/{max(rows, 1)}",
        "distance": f"{BINS}*({squares})/n^2-1",
        "slope": f"(({sums})/n-{CENTRE})^2/{VARIANCE}",
    }


def metric_stats() -> dict[str, str]:
    """The ten metrics by id; TC(a:b) is the count of values over a and up to b."""
    return {"n": "SampleCount"} | {f"b{i}": f"TC({i - 0.5}:{i + 0.5})" for i in range(1, BINS)}


def alarm_metrics(
    metric: str, dimensions: dict[str, Any], math: dict[str, str], seconds: int
) -> list[dict[str, Any]]:
    """The `Metrics` of a CloudFormation alarm: math, the first of which counts, on ten metrics."""
    named = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    of = {"Namespace": metrics.NAMESPACE, "MetricName": metric, "Dimensions": named}
    found: list[dict[str, Any]] = [
        {"Id": id, "Expression": text, "ReturnData": not i}
        for i, (id, text) in enumerate(math.items())
    ]
    for id, statistic in metric_stats().items():
        stat = {"Metric": of, "Period": seconds, "Stat": statistic}
        found.append({"Id": id, "MetricStat": stat, "ReturnData": False})
    return found


def alarm(manifest: Manifest, target: Target, dimensions: dict[str, Any]) -> dict[str, Any]:
    """The properties of an `AWS::CloudWatch::Alarm` on one target."""
    wanted = manifest.alarms
    math = metric_math(target.distribution.rows, wanted.drift_min_rows, wanted.drift_hours)
    return {
        "Metrics": alarm_metrics(target.metric, dimensions, math, wanted.drift_hours * 3600),
        "Threshold": wanted.drift_threshold,
        "ComparisonOperator": "GreaterThanThreshold",
        "EvaluationPeriods": 1,
        "TreatMissingData": "notBreaching",
    }
