"""The decision on drift: guaranteed for the whole model, whatever its width."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from handler.drift import BINS, decision
from handler.drift.decision import (
    FALSE_ALARMS_A_MONTH,
    LOOKS_A_MONTH,
    Decision,
    Drifted,
    TargetCounts,
)
from handler.manifest import Alarms

Array = np.ndarray[Any, np.dtype[Any]]
BASELINE_ROWS = 10_000
BIN_COUNTS = st.lists(st.integers(0, 400), min_size=BINS, max_size=BINS)


def shifted(sigma: float, rows: int) -> list[int]:
    """Return the expected counts of normal values that move by `sigma`."""
    edges = stats.norm.cdf(stats.norm.ppf(np.linspace(0, 1, BINS + 1)) - sigma)
    return [round(count) for count in (np.diff(edges) * rows).tolist()]


def target(counts: list[int], name: str = "age", **fields: Any) -> TargetCounts:
    return TargetCounts(
        name, **{"output": False, "baseline_rows": BASELINE_ROWS} | fields, counts=counts
    )


def quiet(number: int, rows: int = 1000) -> list[TargetCounts]:
    rng = np.random.default_rng(1)
    counts = rng.multinomial(rows, [1 / BINS] * BINS, number).tolist()
    return [target(each, f"quiet_{i}") for i, each in enumerate(counts)]


def decide(targets: list[TargetCounts], **limits: Any) -> Decision:
    looks = limits.pop("looks", LOOKS_A_MONTH)
    alarms = Alarms(**{f"drift_{name}": limit for name, limit in limits.items()})
    return decision.decide(targets, 1000, 0, alarms, looks)


def names(drifted: tuple[Drifted, ...]) -> list[str]:
    return [each.name for each in drifted]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 100_000), st.integers(1, 50))
def test_uniform_counts_never_drift(count: int, baseline_rows: int, width: int) -> None:
    targets = [
        target([count] * BINS, f"x{i}", baseline_rows=baseline_rows, output=i % 3 == 0)
        for i in range(width)
    ]
    assert decide(targets) == ((), (), False, ())


@settings(deadline=None)
@given(st.lists(BIN_COUNTS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_of_targets_does_not_matter(counts: list[list[int]], random: Any) -> None:
    targets = [target(each, f"x{i}", output=i % 2 == 0) for i, each in enumerate(counts)]
    mixed = list(targets)
    random.shuffle(mixed)
    assert decide(mixed) == decide(targets)


@settings(deadline=None)
@given(st.lists(BIN_COUNTS, min_size=1, max_size=5))
def test_300_quiet_features_create_no_alarm(counts: list[list[int]]) -> None:
    targets = [target(each, f"x{i}") for i, each in enumerate(counts)]
    alone, together = decide(targets), decide(targets + quiet(300))
    assert set(names(together.inputs)) <= set(names(alone.inputs))
    found = {each.name: each for each in alone.inputs}
    for each in together.inputs:
        assert each.p_value >= found[each.name].p_value
        assert each.score == found[each.name].score


@settings(deadline=None)
@given(BIN_COUNTS)
def test_mirrored_counts_drift_as_much_in_the_other_direction(counts: list[int]) -> None:
    up, down = decide([target(counts)]).inputs, decide([target(counts[::-1])]).inputs
    opposite = {"higher": "lower", "lower": "higher", "other shape": "other shape"}
    for one, other in zip(up, down, strict=True):
        assert one.score == pytest.approx(other.score)
        assert one.p_value == pytest.approx(other.p_value)
        # of counts without missing values none are "fewer missing"
        assert opposite[one.direction] == other.direction


@settings(deadline=None)
@given(BIN_COUNTS, st.floats(0, 2), st.integers(1, 10**6))
def test_what_drifts_is_relevant_and_significant(
    counts: list[int], threshold: float, baseline_rows: int
) -> None:
    for each in decide([target(counts, baseline_rows=baseline_rows)], threshold=threshold).inputs:
        assert each.score > threshold
        assert each.p_value <= FALSE_ALARMS_A_MONTH


@settings(deadline=None)
@given(BIN_COUNTS, st.integers(1, 200))
def test_copies_of_a_feature_never_add_certainty(counts: list[int], copies: int) -> None:
    """Fully correlated features: the whole model alarms no sooner than one of them alone."""
    alone = decide([target(counts)]).inputs
    copied = decide([target(counts, f"x{i}") for i in range(copies)]).inputs
    assert len(copied) in ((0, copies) if alone else (0,))


def test_quarter_sigma_is_found_at_1000_rows_among_300_features() -> None:
    """A day's rows suffice most days; the expected score is 0.06."""
    rng, others, days = np.random.default_rng(2), quiet(300), 100
    shares = np.array(shifted(0.25, 10**6)) / 10**6
    found = [
        decide([*others, target(counts)]).inputs
        for counts in rng.multinomial(1000, shares / shares.sum(), days).tolist()
    ]
    assert sum(names(each) == ["age"] for each in found) > 0.6 * days
    assert {drifted.direction for each in found for drifted in each} == {"higher"}


def test_300_quiet_features_need_few_more_rows() -> None:
    def rows_needed(others: list[TargetCounts]) -> int:
        rows = range(50, 2000, 10)
        return next(n for n in rows if decide([*others, target(shifted(0.4, n))]).inputs)

    alone, among_300 = rows_needed([]), rows_needed(quiet(300))
    assert alone < among_300 < 1.6 * alone


def test_outputs_do_not_depend_on_the_number_of_inputs() -> None:
    output = target(shifted(0.3, 800), "score", output=True)
    assert decide([output, *quiet(300)]).outputs == decide([output]).outputs != ()


def test_drifted_targets_are_sorted_by_score() -> None:
    moved = [target(shifted(s, 1000), f"by_{s}") for s in (0.5, 2.0, 1.0)]
    assert names(decide(moved).inputs) == ["by_2.0", "by_1.0", "by_0.5"]


def test_more_looks_need_more_certainty() -> None:
    counts = shifted(0.4, 300)
    (found,) = decide([target(counts)], looks=30).inputs
    assert not decide([target(counts)], looks=10**9).inputs
    (twice,) = decide([target(counts)], looks=60).inputs
    assert twice.p_value == pytest.approx(2 * found.p_value)


def test_significant_but_irrelevant_is_no_drift() -> None:
    counts = shifted(0.1, 10**6)
    (found,) = decide([target(counts, baseline_rows=10**6)], threshold=0.005).inputs
    assert found.p_value == 0
    assert not decide([target(counts, baseline_rows=10**6)]).inputs


def test_relevant_but_insignificant_is_no_drift() -> None:
    counts = [10, 7, 8, 4, 6, 5, 4, 3, 2, 1]
    assert decision.score(counts, BASELINE_ROWS) > 0.05
    assert not decide([target(counts)]).inputs


def test_too_few_values_are_ignored() -> None:
    few = target([49] + [0] * 9)
    assert not decide([few]).inputs
    assert decide([few], min_rows=49).inputs
    assert not decide([target([0] * BINS)], min_rows=0).inputs


def test_no_rows_and_no_targets_are_quiet() -> None:
    assert decision.decide([], 0, 0, Alarms()) == ((), (), False, ())
    assert decision.score([0] * BINS, 100) == 0
    assert decision.p_values([0] * BINS, 100) == (1, 1)


@pytest.mark.parametrize("baseline_rows", [0, 1, 2])
@settings(deadline=None)
@given(counts=BIN_COUNTS)
def test_a_baseline_of_one_row_never_alarms(counts: list[int], baseline_rows: int) -> None:
    assert not decide([target(counts, baseline_rows=baseline_rows)]).inputs


def test_a_constant_that_changes_drifts() -> None:
    (found,) = decide([target([0] * 9 + [100])]).inputs
    assert found.score == pytest.approx(9, abs=0.1)
    assert found.direction == "higher"


@pytest.mark.parametrize(
    ("counts", "fields", "direction"),
    [
        (shifted(0.5, 1000), {}, "higher"),
        (shifted(-0.5, 1000), {}, "lower"),
        ([200, 150, 80, 40, 30, 30, 40, 80, 150, 200], {}, "other shape"),
        ([200, 150, 80, 40, 30, 30, 40, 80, 150, 200], {"ordered": False}, "other shares"),
        (shifted(0.5, 1000), {"ordered": False}, "more rare categories"),
        (shifted(-0.5, 1000), {"ordered": False}, "fewer rare categories"),
        ([70] * 9 + [370], {"missing": 300}, "more missing"),
        ([100] * 7 + [133, 134, 133], {"missing": 200, "baseline_missing": 0.05}, "more missing"),
        ([145, 145, 145, 145, 140, 140, 140, 0, 0, 0], {"baseline_missing": 0.3}, "fewer missing"),
        ([70] * 9 + [370], {"missing": 300, "unseen": 300}, "more missing"),
        ([70] * 9 + [370], {"unseen": 300}, "unseen values"),
        (shifted(0.5, 1000), {"missing": 100, "baseline_missing": 0.1}, "higher"),
    ],
)
def test_direction(counts: list[int], fields: dict[str, Any], direction: str) -> None:
    assert decision.direction(target(counts, **fields)) == direction


@pytest.mark.parametrize(
    ("rows", "unseen_rows", "unseen"),
    [(1000, 10, False), (1000, 11, True), (50, 2, False), (50, 3, True), (0, 0, False)],
)
def test_unseen_values(rows: int, unseen_rows: int, unseen: bool) -> None:
    targets = [target([5] * BINS, "a", unseen=1), target([5] * BINS, "b", unseen=2)]
    targets.append(target([5] * BINS, "seen"))
    found = decision.decide(targets, rows, unseen_rows, Alarms())
    assert found == ((), (), unseen, ("b", "a") if unseen else ())


@settings(deadline=None)
@given(st.floats(0, 300))
def test_chi_square_tail_is_scipys(x: float) -> None:
    assert decision._chi2_9_tail(x) == pytest.approx(stats.chi2.sf(x, 9), rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(800, 1200), min_size=BINS, max_size=BINS), st.integers(10_000, 10**7))
def test_p_values_are_scipys_at_large_counts(counts: list[int], baseline_rows: int) -> None:
    n = sum(counts)
    pearson, _ = stats.chisquare(counts)
    shrunk = 1 / (1 + n / baseline_rows)  # the variance of two samples
    found, slope = decision.p_values(counts, baseline_rows)
    expected = float(stats.chi2.sf(pearson * shrunk, 9))
    assert expected * (1 - 1e-9) <= found
    if 0.05 > expected > 1e-12:  # where it matters, the bound of one crowded bin adds little
        assert found <= 1.08 * expected
    mean = float(np.average(np.arange(1, 11), weights=counts))
    z = (mean - 5.5) / math.sqrt(8.25 / n / shrunk)
    assert slope == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-6)


@pytest.mark.parametrize("n", [50, 100, 200])
def test_pearsons_p_value_holds_for_small_counts(n: int) -> None:
    """Against the exact distribution of the sum of squares of uniform counts."""
    largest = int(n * n / BINS * (1 + 120 / n))
    ways = np.zeros((n + 1, largest + 1))
    ways[0, 0] = 1
    for _ in range(BINS):
        more = np.zeros_like(ways)
        for count in range(math.isqrt(largest) + 1):
            if count <= n:
                rest = ways[: n + 1 - count, : largest + 1 - count * count]
                more[count:, count * count :] += rest / math.factorial(count)
        ways = more
    log_all = math.lgamma(n + 1) - n * math.log(BINS)
    tail = np.cumsum((ways[n] * math.exp(log_all / 2) * math.exp(log_all / 2))[::-1])[::-1]
    for chance in (1e-3, 1e-5, 1e-7, 1e-9):
        squares = int(np.argmax(tail <= chance))
        distance = BINS * squares / n**2 - 1
        crowded = BINS * math.exp(-decision._crowded_exponent(distance, n, 10**12))
        p_value = decision._chi2_9_tail(n * distance) + crowded
        assert tail[squares] / 1.5 <= p_value <= 5 * tail[squares]
        if chance < 1e-8 and n < 200:  # the chi-square distribution alone would not do
            assert decision._chi2_9_tail(n * distance) < tail[squares] / 10


@pytest.mark.parametrize(("n", "m"), [(50, 442), (100, 10_000), (1000, 442), (1000, 100)])
def test_false_alarms_of_a_look_keep_to_the_p_value(n: int, m: int) -> None:
    """Each look has a new baseline; a hundred thousand features that do not drift."""
    from benchmarks import drift_power

    rng = np.random.default_rng(3)
    shares = rng.dirichlet([m / BINS] * BINS, 100_000)
    p = drift_power.p_values(drift_power.moments(rng.multinomial(n, shares).T), m)
    for chance in (1e-2, 1e-3, 1e-4):
        expected = 2 * chance * len(p)  # two tests
        assert (p <= chance).sum() <= expected + 4 * math.sqrt(expected)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_a_model_of_100_correlated_features_is_quiet(rho: float) -> None:
    """Daily windows of 200 days; at a tenth of the certainty some alarms would be due."""
    rng = np.random.default_rng(4)
    for _ in range(200):
        factor = rng.normal(size=(100, 1)) * math.sqrt(rho)
        values = stats.norm.cdf(factor + rng.normal(size=(100, 100)) * math.sqrt(1 - rho))
        bins = (values * BINS).astype(int)
        counts = [np.bincount(column, minlength=BINS).tolist() for column in bins.T]
        found = decide([target(each, f"x{i}") for i, each in enumerate(counts)], looks=30)
        assert found == ((), (), False, ())
