"""The drift score: how far the live ranks of a feature or an output are from uniform.

The ranks (handler/ranks.py) arrive as bin numbers 1 … BINS, equally likely while nothing drifts.
With p the shares of n live values in the bins, k = BINS, and a baseline of m rows,

    D = k * sum((p - 1/k)^2) - (k - 1) * (1/n + 1/m)

is Pearson's chi-square distance less what chance alone contributes: n * k * sum((p - 1/k)^2) is
Pearson's statistic, whose mean is k - 1 (K. Pearson, 1900, Philosophical Magazine 50, 157-175),
and a baseline that is itself a sample adds its own 1/m (the two-sample statistic). So the mean of D
is 0 without drift, at any traffic, and that of the customary PSI is not: it is about
(k - 1) * (1/n + 1/m), which is 0.45 for 20 values (B. Yurdakul, 2018, "Statistical Properties of
Population Stability Index", Western Michigan University). For small drifts D is the PSI.

An alarm asks two things at once. Is the drift certain? Then D is over chance(…) * (1/n + 1/m), with
`chance` from the tail of the chi-square distribution. Does it matter? Then what is left is over the
manifest's `alarms.drift`, however much traffic there is. Normal values that move by s standard
deviations have a D of about exp(s^2) - 1: 0.06 for a quarter, 0.26 for a half, 1.3 for one.

Pure data: nothing here imports more than the manifest, so `infra` and `tools` may.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from handler.manifest import Distribution, Manifest

NAMESPACE = "Answerable"
DIMENSIONS = [["service", "version"]]  # of the function, which each deployment counts up
# An alarm may name ten metrics: the count of values, and those of nine bins. The tenth bin is the
# rest. 8 bins tell a shift no earlier (docs: the power study), 10 have the customary deciles.
BINS = 10
MONITORED = 200  # features that are ranked; every metric costs, and a record has to stay short
# expected while nothing drifts, for one target: eleven targets have one in nine months
FALSE_ALARMS_A_MONTH = 0.01


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
    for name in features[:MONITORED]:
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
    n, k = sum(counts), len(counts)
    if not n:
        return 0.0
    distance = k * sum(count * count for count in counts) / (n * n) - 1
    return float(distance - (k - 1) * (1 / n + 1 / max(rows, 1)))


def line(n: int, rows: int, threshold: float, hours: float) -> float:
    """The D above which the alarm fires, for n values in a window of so many hours."""
    return threshold + chance(hours) * (1 / max(n, 1) + 1 / max(rows, 1))


def chance(hours: float) -> float:
    """How far over its mean the chi-square statistic may be by chance, in one window.

    The quantile is E. B. Wilson and M. M. Hilferty's (1931, PNAS 17, 684-688).
    """
    from statistics import NormalDist

    degrees = BINS - 1
    once = FALSE_ALARMS_A_MONTH * hours / (30 * 24)
    part = 2 / (9 * degrees)
    quantile = degrees * (1 - part + NormalDist().inv_cdf(1 - once) * part**0.5) ** 3
    return round(float(quantile) - degrees, 2)


def expression(rows: int, minimum: int, hours: float) -> str:
    """Metric math of what of D is certain, silent (0) below `minimum` values.

    Over the metrics `n` (all values) and `b1` … `b9` (those in a bin).
    """
    bins = [f"b{i}" for i in range(1, BINS)]
    rest = f"(n-{'-'.join(bins)})"
    squares = "+".join(f"{name}^2" for name in (*bins, rest))
    off = BINS - 1 + chance(hours)
    return f"IF(n<{minimum},0,{BINS}*({squares})/n^2-1-{off:g}*(1/n+1/{max(rows, 1)}))"


def queries(
    metric: str, dimensions: dict[str, Any], math: str, seconds: int
) -> list[dict[str, Any]]:
    """The `Metrics` of a CloudFormation alarm (or a dashboard): the math over ten metrics.

    TC(a:b) is the count of values over a and up to b.
    """
    asked = {"n": "SampleCount"} | {f"b{i}": f"TC({i - 0.5}:{i + 0.5})" for i in range(1, BINS)}
    named = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    of = {"Namespace": NAMESPACE, "MetricName": metric, "Dimensions": named}
    found: list[dict[str, Any]] = [{"Id": "drift", "Expression": math, "ReturnData": True}]
    for id, statistic in asked.items():
        stat = {"Metric": of, "Period": seconds, "Stat": statistic}
        found.append({"Id": id, "MetricStat": stat, "ReturnData": False})
    return found


def alarm(manifest: Manifest, target: Target, dimensions: dict[str, Any]) -> dict[str, Any]:
    """The properties of an `AWS::CloudWatch::Alarm` on one target."""
    wanted = manifest.alarms
    math = expression(target.distribution.rows, wanted.drift_rows, wanted.drift_hours)
    return {
        "Metrics": queries(target.metric, dimensions, math, wanted.drift_hours * 3600),
        "Threshold": wanted.drift,
        "ComparisonOperator": "GreaterThanThreshold",
        "EvaluationPeriods": 1,
        "TreatMissingData": "notBreaching",
    }
