"""Study the drift decision: false alarms of whole models, and delays until a drift is reported.

`python -m benchmarks.drift_power` simulates hourly looks at a sliding window of 24 hours, as the
drift monitor takes them. Rows arrive as a Poisson process. Every month has a baseline of its own,
because a baseline is a sample too. Three tests are compared:

    drift   Pearson's test and the slope of ten bins (handler/drift/decision.py); the rule on unseen
            values belongs to it
    PSI     over the same bins, with one more for missing and unseen values, and 0.0001 in place of
            an empty share, as is customary
    KS      two samples, on the values that are there

All are corrected alike, for the number of features and of looks. PSI has its chi-square
approximation for that (B. Yurdakul, 2018), KS its asymptotic tail. Delays are compared at equal
false alarm rates: PSI and KS get the thresholds that reach the budget of `drift` in simulation.

Values are not drawn one by one. An hour is Poisson counts in CELLS cells between the baseline's
quantiles, whose chances are what the drift makes of them (a Dirichlet draw is what the quantiles of
m uniform values enclose: David and Nagaraja, 2003, Order Statistics, 2.5). Quiet features are
independent in the study, so the months of one feature can be pooled into models of any width;
correlated features are drawn row by row.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import results
from handler.drift import BINS, decision
from handler.drift.decision import FALSE_ALARMS_A_MONTH, LOOKS_A_MONTH, MIN_UNSEEN_ROWS

SEED = 20250829
CELLS = 50
WAIT = 30 * 24  # hours that a drift is waited for
FLOOR = 1e-4
THRESHOLD = 0.05
UNSEEN = 0.01
PSI_LIMIT, KS_LIMIT = 0.2, 1.3581  # customary, and Kolmogorov's asymptotic 5 % point
BUDGET = FALSE_ALARMS_A_MONTH / 2  # of all inputs together
TAIL = 100  # months from which a tail is fitted
WIDTHS = (1, 10, 100, 300)
METHODS = ("drift", "psi", "ks")
Array = np.ndarray[Any, np.dtype[Any]]


class Case(NamedTuple):
    """Features with so many rows a day, a baseline, and a window of so many hours."""

    a_day: int
    baseline_rows: int = 10_000
    window: int = 24

    def __str__(self) -> str:
        small = "" if self.baseline_rows == 10_000 else f", baseline of {self.baseline_rows}"
        week = "" if self.window == 24 else f", window of {self.window // 24} days"
        return f"{self.a_day:,}{small}{week}"


CASES = (
    Case(100),
    Case(1000),
    Case(10_000),
    Case(100_000),
    Case(1000, 442),
    Case(100, 10_000, 7 * 24),
)


class Drift(NamedTuple):
    """A shift in standard deviations, and a share of values that are missing or unseen."""

    title: str
    shift: float = 0.0
    lost: float = 0.0


QUIET = Drift("none")
DRIFTS = (
    Drift("0.25 sigma", 0.25),
    Drift("0.5 sigma", 0.5),
    Drift("1 sigma", 1.0),
    Drift("missing sensor", 0.0, 1.0),
    Drift("unseen category", 0.0, 0.05),  # of the rows
)


def cell_chances(rng: np.random.Generator, rows: int, runs: int, change: Drift, n: int) -> Array:
    """Return [runs, n + 1]: how likely each cell is, and last what is missing or unseen."""
    from scipy.special import ndtr, ndtri

    cells = rng.dirichlet(np.full(n, rows / n), runs)
    if change.shift:
        edges = np.clip(np.cumsum(cells, axis=1), 0, 1)
        edges[:, -1] = 1
        cells = np.diff(ndtr(ndtri(edges) - change.shift), axis=1, prepend=0)
    kept = np.clip(cells, 0, None) * (1 - change.lost)
    return np.hstack([kept, np.full((runs, 1), change.lost)])


def windows(
    rng: np.random.Generator, case: Case, runs: int, hours: int, change: Drift, cells: int = CELLS
) -> Array:
    """Return the counts [cells + 1, runs, hours] of the window that ends with each hour.

    The window before the first hour does not drift. A run has one baseline.
    """
    seed = int(rng.integers(2**31))
    before, after = (
        cell_chances(np.random.default_rng(seed), case.baseline_rows, runs, each, cells)
        for each in (QUIET, change)
    )
    hourly = np.zeros((cells + 1, runs, case.window + hours), np.int32)
    for chances, span in (
        (before, slice(0, case.window)),
        (after, slice(case.window, None)),
    ):
        rates = case.a_day / 24 * chances.T[:, :, None]
        some = rates.any((1, 2))  # cells, most often all but the last
        size = (int(some.sum()), runs, hourly[:, :, span].shape[2])
        hourly[some, :, span] = rng.poisson(rates[some], size)
    total = np.cumsum(hourly, axis=2, dtype=np.int32)
    return total[:, :, case.window :] - total[:, :, : -case.window]


def deciles(counts: Array) -> Array:
    """Return [BINS, …] of [cells + 1, …]; what is missing or unseen is in the last bin."""
    cells = counts.shape[0] - 1
    bins: Array = counts[:cells].reshape(BINS, cells // BINS, *counts.shape[1:]).sum(1)
    bins[-1] += counts[-1]
    return bins


class Moments(NamedTuple):
    """The number of values of windows, their distance and their slope."""

    n: Array
    distance: Array
    slope: Array


def moments(bins: Array) -> Moments:
    """Return what handler.drift.decision computes from counts [BINS, …]."""
    shares = bins.astype(float)
    n = np.maximum(shares.sum(0), 1)
    distance = BINS * (shares * shares).sum(0) / n**2 - 1
    mean = np.tensordot(np.arange(1.0, BINS + 1), shares, 1) / n
    return Moments(n, distance, (mean - decision.CENTRE) ** 2 / decision.VARIANCE)


def scores(found: Moments, baseline_rows: int) -> Array:
    """Return D, as handler.drift.decision.score."""
    unbiased: Array = found.distance - (BINS - 1) * (1 / found.n + 1 / baseline_rows)
    return unbiased


def p_values(found: Moments, baseline_rows: int) -> Array:
    """Return the smaller of handler.drift.decision.p_values."""
    from scipy.special import gammaincc

    n, m, due = found.n, baseline_rows, 1 / BINS
    noise = 1 / n + 1 / m
    share = np.minimum((1 + np.sqrt((BINS - 1) * np.maximum(found.distance, 0))) / BINS, 1 - 1e-12)
    pooled = (n * share + m * due) / (n + m)
    exponent = n * _relative_entropy(share, pooled) + m * _relative_entropy(due, pooled)
    any_change = gammaincc((BINS - 1) / 2, found.distance / noise / 2) + BINS * np.exp(-exponent)
    smaller: Array = np.minimum(any_change, gammaincc(0.5, found.slope / noise / 2))
    return np.minimum(smaller, 1)


def _relative_entropy(p: Any, q: Any) -> Any:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def psi(counts: Array) -> Array:
    """Return the population stability index, with a bin for what is missing or unseen."""
    bins = deciles(counts)
    bins[-1] -= counts[-1]
    live = np.concatenate([bins, counts[-1:]]) / np.maximum(counts.sum(0), 1)
    expected = np.array([1 / BINS] * BINS + [FLOOR]).reshape(-1, *[1] * (counts.ndim - 1))
    live = np.maximum(live, FLOOR)
    index: Array = ((live - expected) * np.log(live / expected)).sum(0)
    return index


def ks(counts: Array, rows: int) -> Array:
    """Return the KS distance times the root of nm / (n + m); 0 without values."""
    cells = counts[:-1]
    n = cells.sum(0)
    edges = (np.arange(1, len(cells) + 1) / len(cells)).reshape(-1, *[1] * (counts.ndim - 1))
    distance = np.abs(np.cumsum(cells, axis=0) / np.maximum(n, 1) - edges).max(0)
    scaled: Array = np.where(n > 0, distance * np.sqrt(n * rows / (n + rows)), 0)
    return scaled


def surprise(counts: Array, case: Case) -> dict[str, Array]:
    """Return -log of the p-values that PSI and KS have by approximation, by window."""
    from scipy.stats import chi2

    n = np.maximum(counts.sum(0), 1)
    scaled = psi(counts) / (1 / n + 1 / case.baseline_rows)
    return {
        "psi": -chi2.logsf(scaled, BINS - 1),
        "ks": 2 * ks(counts, case.baseline_rows) ** 2 - math.log(2),
    }


def budget_a_look(width: int, tests: int) -> float:
    """Return the p-value at which one of `width` inputs is significant, in Holm's first step."""
    return FALSE_ALARMS_A_MONTH / (2 * tests * width * LOOKS_A_MONTH)


def quiet_minima(rng: np.random.Generator, case: Case, feature_months: int) -> tuple[Array, float]:
    """Return the smallest p-value of each month of a quiet feature, and the largest D.

    Windows that are not relevant do not count.
    """
    smallest, largest = [], 0.0
    for runs in _chunks(feature_months, 50):
        found = moments(deciles(windows(rng, case, runs, LOOKS_A_MONTH, QUIET, BINS)))
        relevant = scores(found, case.baseline_rows)
        largest = max(largest, float(relevant.max()))
        p = np.ones(relevant.shape)
        some = relevant > THRESHOLD
        p[some] = p_values(Moments(*(part[some] for part in found)), case.baseline_rows)
        smallest.append(p.min(1))
    return np.concatenate(smallest), largest


def _chunks(total: int, size: int) -> Iterator[int]:
    while total > 0:
        yield min(size, total)
        total -= size


def false_alarms(rng: np.random.Generator, case: Case, months: int) -> dict[str, Any]:
    """Count models' months with a false alarm: at the budget, and at a hundred times of it."""
    feature_months = months * 100
    smallest, largest = quiet_minima(rng, case, feature_months)
    found: dict[str, Any] = {"largest_score": largest}
    for width in WIDTHS:
        models = feature_months // width
        least = smallest[: models * width].reshape(models, width).min(1)
        limit = budget_a_look(width, 2)
        found[str(width)] = {
            "months": models,
            "alarms": int((least <= limit).sum()),
            "at_100_times": int((least <= 100 * limit).sum()),
        }
    return found


def calibrate(rng: np.random.Generator, case: Case, feature_months: int) -> dict[str, Any]:
    """Return thresholds of PSI and KS that reach BUDGET, and their false alarm rates before that.

    The rate of one feature among hundreds is too small to simulate. The TAIL largest months of
    -log p are continued by the exponential distribution that fits them (peaks over threshold).
    """
    most: dict[str, list[Array]] = {"psi": [], "ks": [], "psi > 0.2": [], "ks, 5 %": []}
    for runs in _chunks(feature_months, 20):
        counts = windows(rng, case, runs, LOOKS_A_MONTH, QUIET)
        for name, values in surprise(counts, case).items():
            most[name].append(values.max(1))
        most["psi > 0.2"].append(psi(counts).max(1) > PSI_LIMIT)
        most["ks, 5 %"].append(ks(counts, case.baseline_rows).max(1) > KS_LIMIT)
    months = {name: np.concatenate(parts) for name, parts in most.items()}
    thresholds: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    for width in WIDTHS:
        limit = -math.log(budget_a_look(width, 1))
        fired = {name: months[name] > (limit if name in METHODS else 0) for name in months}
        rates[str(width)] = {
            name: 1 - (1 - float(each.mean())) ** width for name, each in fired.items()
        }
        beyond = math.log(TAIL / feature_months / (BUDGET / width))
        thresholds[str(width)] = {}
        for name in ("psi", "ks"):
            largest = np.sort(months[name])[-TAIL:]
            scale = float(largest.mean() - largest[0])
            thresholds[str(width)][name] = float(largest[0]) + scale * beyond
    return {"thresholds": thresholds, "rates": rates}


def delays(
    rng: np.random.Generator, case: Case, thresholds: dict[str, Any], runs: int
) -> dict[str, Any]:
    """Return by drift and width the hours until each method reports it."""
    report: dict[str, Any] = {}
    for change in DRIFTS:
        hours: dict[int, dict[str, list[Array]]] = {
            width: {name: [] for name in ("ships", *METHODS)} for width in WIDTHS
        }
        for part in _chunks(runs, 20):
            counts = windows(rng, case, part, WAIT, change)
            found, values = moments(deciles(counts)), surprise(counts, case)
            p = p_values(found, case.baseline_rows)
            relevant = scores(found, case.baseline_rows) > THRESHOLD
            # a missing value is unseen too, where the baseline has none
            unseen = counts[-1] > MIN_UNSEEN_ROWS
            too_many = unseen & (counts[-1] > UNSEEN * counts.sum(0))
            for width in WIDTHS:
                significant = p <= budget_a_look(width, 2)
                fired = {"ships": significant & relevant | too_many, "drift": significant | unseen}
                for name, limit in thresholds[str(width)].items():
                    fired[name] = values[name] > limit
                for name, each in fired.items():
                    hours[width][name].append(first_look(each))
        report[change.title] = {
            str(width): {name: summary(np.concatenate(parts)) for name, parts in methods.items()}
            for width, methods in hours.items()
        }
    return report


def first_look(fired: Array) -> Array:
    """Return by run the number of the first look that alarms, infinite without one."""
    first: Array = np.where(fired.any(1), fired.argmax(1) + 1.0, np.inf)
    return first


def summary(hours: Array) -> dict[str, float | None]:
    """Return the median, None if there is none, and the share within a day."""
    middle = float(np.median(hours))
    return {
        "hours": None if math.isinf(middle) else middle,
        "within_a_day": float((hours <= 24).mean()),
    }


def holm(p: Array) -> Array:
    """Return the smallest p-value times their number: Holm's first step is Bonferroni's."""
    least: Array = p.min(0) * len(p)
    return least


def benjamini_hochberg(p: Array) -> Array:
    """Return the smallest adjusted p-value of Benjamini and Hochberg, over the first axis."""
    ranks = np.arange(1, len(p) + 1).reshape(-1, *[1] * (p.ndim - 1))
    least: Array = (np.sort(p, axis=0) * len(p) / ranks).min(0)
    return least


CORRECTIONS: dict[str, Callable[[Array], Array]] = {
    "Holm": holm,
    "Benjamini-Hochberg": benjamini_hochberg,
}


def corrections(rng: np.random.Generator, runs: int) -> dict[str, Any]:
    """Return the median hours until the first alarm, when several of 100 features drift."""
    case, width, change = CASES[-1], 100, DRIFTS[0]
    found: dict[str, Any] = {}
    for moved in (1, 10, 50):
        p = np.array(
            [
                p_values(moments(deciles(windows(rng, case, runs, WAIT, change, BINS))), 10_000)
                for _ in range(moved)
            ]
        )
        p = np.concatenate([p, np.ones((width - moved, *p.shape[1:]))])
        limit = budget_a_look(1, 2)
        found[str(moved)] = {
            name: summary(first_look(adjust(p) <= limit)) for name, adjust in CORRECTIONS.items()
        }
    return found


def correlated(
    rng: np.random.Generator, rho: float, months: int, width: int = 100
) -> dict[str, Any]:
    """Count months with false alarms when one factor correlates all features, at 100 rows a day.

    At the budget, and at a hundred times of it, where there is something to count.
    """
    from scipy.special import ndtr

    case, hours = Case(100), LOOKS_A_MONTH + 24
    smallest: dict[str, list[float]] = {name: [] for name in CORRECTIONS}
    columns = np.arange(width, dtype=np.int32) * BINS
    for _ in range(months):
        baseline = np.cumsum(rng.dirichlet(np.full(BINS, case.baseline_rows / BINS), width), axis=1)
        offset = (baseline[:, :-1] * BINS).astype(np.float32)
        hour = np.repeat(np.arange(hours, dtype=np.int32), rng.poisson(case.a_day / 24, hours))
        factor = rng.standard_normal((len(hour), 1), np.float32) * np.float32(math.sqrt(rho))
        values = rng.standard_normal((len(hour), width), np.float32)
        values = ndtr(values * np.float32(math.sqrt(1 - rho)) + factor) * np.float32(BINS)
        # baseline edges lie close to the deciles: at most one bin off
        bins = np.minimum(values.astype(np.int32), BINS - 1)
        padded = np.hstack([np.zeros((width, 1), np.float32), offset, np.full((width, 1), 99)])
        flat = padded.astype(np.float32).ravel()
        place = bins + columns // BINS * (BINS + 1)
        bins += (values >= flat[place + 1]).astype(np.int32) - (values < flat[place])
        index = hour[:, None] * (width * BINS) + columns + bins
        counts = np.bincount(index.ravel(), minlength=hours * width * BINS)
        total = np.cumsum(counts.reshape(hours, width, BINS), axis=0, dtype=np.int32)
        found = moments(np.moveaxis(total[24:] - total[:-24], 2, 0))  # [hours, width]
        likely = (found.n * found.distance > 20) | (found.n * found.slope > 8)
        p = np.ones(likely.shape)
        p[likely] = p_values(Moments(*(part[likely] for part in found)), case.baseline_rows)
        for name, adjust in CORRECTIONS.items():
            smallest[name].append(float(adjust(p.T).min()))
    limit = budget_a_look(1, 2)
    return {
        "months": months,
        "alarms": {n: int((np.array(v) <= limit).sum()) for n, v in smallest.items()},
        "at_100_times": {n: int((np.array(v) <= 100 * limit).sum()) for n, v in smallest.items()},
    }


def study(months: int, seed: int = SEED) -> dict[str, Any]:
    """Return every figure."""
    runs = max(months // 5, 20)
    report: dict[str, Any] = {"cases": {}}
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([seed, number])
        # where D of a quiet feature stays far from the threshold, a tenth will do
        enough = max(months // (10 if case.a_day * case.window > 24_000 else 1), 10)
        tests = calibrate(rng, case, max(months, 40))
        report["cases"][str(case)] = {
            "false_alarms": false_alarms(rng, case, enough),
            **tests,
            "delays": delays(rng, case, tests["thresholds"], runs),
        }
    rng = np.random.default_rng([seed, 99])
    report["corrections"] = corrections(rng, max(runs // 4, 20))
    report["correlated"] = {
        str(rho): correlated(rng, rho, max(months // share, 3)) for rho, share in ((0, 4), (0.8, 1))
    }
    return report


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of docs/drift.md."""
    cases = report["cases"]
    widths = [str(width) for width in WIDTHS]
    alarms, often, others, quarter, all_drifts = [], [], [], [], []
    for case, found in cases.items():
        counts = [found["false_alarms"][width] for width in widths]
        alarms.append([case, *(f"{c['alarms']} in {c['months']:,}" for c in counts)])
        often.append([case, *(_percent(c["at_100_times"] / c["months"]) for c in counts)])
        rates = found["rates"]["100"]
        names = ("psi", "ks", "psi > 0.2", "ks, 5 %")
        others.append([case, *(_percent(rates[name]) for name in names)])
        for width in widths:
            hours = found["delays"][DRIFTS[0].title][width]
            cells = [_hours(hours[name]["hours"]) for name in ("ships", *METHODS)]
            quarter.append([case, width, *cells, _percent(hours["ships"]["within_a_day"])])
        for change in DRIFTS[1:]:
            hours = found["delays"][change.title]["100"]
            cells = [_hours(hours[name]["hours"]) for name in ("ships", *METHODS)]
            all_drifts.append([case, change.title, *cells])
    moved = [
        [number, *(_hours(hours[name]["hours"]) for name in CORRECTIONS)]
        for number, hours in report["corrections"].items()
    ]
    together = [
        [rho, f"{found['months']:,}"]
        + [f"{found[key][name]}" for key in ("alarms", "at_100_times") for name in CORRECTIONS]
        for rho, found in report["correlated"].items()
    ]
    compared, later = comparison(report)
    features = [f"{width} feature{'s' if width != '1' else ''}" for width in widths]
    tests = ["as it ships", "drift", "PSI", "KS"]
    both = [*CORRECTIONS, *(f"{name}, 100 times the budget" for name in CORRECTIONS)]
    return (
        "\n\n".join(
            f"{title}:\n\n{_table(head, rows)}"
            for title, head, rows in (
                (
                    "Months with a false alarm, by the width of a model whose inputs do not drift",
                    ["rows a day", *features],
                    alarms,
                ),
                (
                    "The same with a hundred times the budget, 2.5 % of months for the inputs",
                    ["rows a day", *features],
                    often,
                ),
                (
                    "Months with a false alarm of other methods, 100 features",
                    ["rows a day", "PSI, corrected", "KS, corrected", "PSI > 0.2", "KS, p < 0.05"],
                    others,
                ),
                (
                    "Time until a shift of 0.25 sigma in one feature is reported (median)",
                    ["rows a day", "features", *tests, "ships: within a day"],
                    quarter,
                ),
                (
                    "Time until another drift of one feature in 100 is reported (median)",
                    ["rows a day", "drift", *tests],
                    all_drifts,
                ),
                (
                    "Time until the alarm when several of 100 features move by 0.25 sigma, "
                    "100 rows a day, window of 7 days (median)",
                    ["features that move", *CORRECTIONS],
                    moved,
                ),
                (
                    "Months with a false alarm when one factor correlates 100 features, "
                    "100 rows a day",
                    ["correlation", "months", *both],
                    together,
                ),
            )
        )
        + f"\n\nOf {compared} comparisons of the tests alone (median), PSI or KS is sooner in "
        + (f"{len(later)}: {'; '.join(later)}.\n" if later else "none.\n")
    )


def comparison(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the number of medians that were compared, and where PSI or KS is sooner."""
    later, compared = [], 0
    for case, found in report["cases"].items():
        for change, widths in found["delays"].items():
            for width, methods in widths.items():
                drift, *others = (methods[name]["hours"] or math.inf for name in METHODS)
                compared += 1
                if drift > min(others):
                    later.append(f"{case}, {change}, {width} features ({drift} h, {min(others)} h)")
    return compared, later


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _percent(share: float) -> str:
    return "none" if not share else f"{share:.1%}" if share >= 0.001 else f"{share:.3%}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "never"
    return f"{hours:.3g} h" if hours < 48 else f"{hours / 24:.3g} days"


COLOURS = {"ships": "#0d9488", "drift": "#0d9488", "psi": "#d97706", "ks": "#8b5cf6"}
NAMES = {"drift": "drift", "psi": "PSI", "ks": "KS", "ships": "drift and relevant, as it ships"}
PANEL, HEIGHT, LEFT, TOP = 262, 170, 90, 78
TICKS = {1: "1 h", 4: "4 h", 12: "12 h", 24: "1 day", 72: "3 days", 240: "10 days"}


def plot(report: dict[str, Any]) -> str:
    """Return an SVG of the hours until a drift is reported, by traffic: kinds and widths."""
    cases = CASES[:4]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {LEFT + PANEL * len(cases)} {TOP + 2 * HEIGHT + 104}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        "<style>text{fill:#334155}.g{stroke:#94a3b8;stroke-opacity:.35}"
        "@media(prefers-color-scheme:dark){text{fill:#cbd5e1}}</style>",
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="600">Time until a drift of one '
        "feature is reported, at equal false alarm rates of the whole model (median)</text>",
    ]
    for i, (name, label) in enumerate(NAMES.items()):
        parts.append(_dot(LEFT + 5 + i * 80, 36, name))
        parts.append(f'<text x="{LEFT + 15 + i * 80}" y="40">{label}</text>')
    for panel, case in enumerate(cases):
        delays = report["cases"][str(case)]["delays"]
        kinds = {title: widths["100"] for title, widths in delays.items()}
        low = case.a_day == 100  # nothing to see within a day
        slow = report["cases"][str(CASES[-1])]["delays"] if low else delays
        widths = {f"{width}": slow[DRIFTS[0].title][str(width)] for width in WIDTHS}
        title = "0.25 sigma by features" + (", window of 7 days" if low else "")
        x = LEFT + panel * PANEL
        parts += _panel(x, TOP, f"{case} rows a day, 100 features", kinds, not panel)
        parts += _panel(x, TOP + HEIGHT + 76, title, widths, not panel)
    text = "\n".join(parts) + "\n</svg>\n"
    return text.replace(" sigma", "\N{GREEK SMALL LETTER SIGMA}")


def _panel(x: int, top: int, title: str, groups: dict[str, Any], labelled: bool) -> list[str]:
    parts = [f'<text x="{x + 4}" y="{top - 8}" font-weight="600">{title}</text>']
    for hours, label in (*TICKS.items(), (None, "over 30 days")):
        y = top + _height(hours)
        parts.append(f'<line class="g" x1="{x}" x2="{x + PANEL - 14}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if labelled:
            parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    step = (PANEL - 14) / len(groups)
    for i, (group, methods) in enumerate(groups.items()):
        middle = x + step * (i + 0.5)
        for k, name in enumerate(("ships", *METHODS)):
            y = top + _height(methods[name]["hours"])
            parts.append(_dot(middle + (k - 1.5) * 8, y, name))
        for k, word in enumerate(group.replace(" sigma", "\N{GREEK SMALL LETTER SIGMA}").split()):
            y = top + HEIGHT + 16 + 13 * k
            parts.append(f'<text x="{middle:.1f}" y="{y}" text-anchor="middle">{word}</text>')
    return parts


def _dot(x: float, y: float, name: str) -> str:
    """Return a circle, hollow for the rule that ships."""
    fill = "none" if name == "ships" else COLOURS[name]
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{COLOURS[name]}" '
        'stroke-width="1.5"/>'
    )


def _height(hours: float | None) -> float:
    """Return the place on a logarithmic axis from an hour to 30 days, "never" above it."""
    if hours is None:
        return 6
    return HEIGHT - 6 - (HEIGHT - 34) * math.log(max(hours, 1)) / math.log(WAIT)


def main(argv: list[str] | None = None) -> None:
    """Run the study and write what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_power", description=__doc__)
    parser.add_argument("--months", type=int, default=2000, help="of a model of 100 features")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="a file whose marked section to renew"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    report = study(args.months)
    text = markdown(report)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.svg:
        args.svg.write_text(plot(report))
    if args.markdown:
        results.renew(args.markdown, START, END, text)


START = "<!-- drift study: written by `python -m benchmarks.drift_power` -->"
END = "<!-- /drift study -->"

if __name__ == "__main__":
    main()
