"""The power study's shortcut is the real thing: counts without values are distributed alike."""

from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline
from benchmarks import power
from benchmarks.power import Case, Drift
from handler.drift import statistic
from handler.drift.bins import BaselineCdf
from handler.drift.statistic import BINS

CASE = Case(200, rows=500)


def through_the_ranks(rng: np.random.Generator, change: Drift) -> list[int]:
    """The bins of one window: a baseline is packed, values are ranked in it."""
    known = baseline.numbers(rng.normal(size=CASE.rows).tolist())
    scale = BaselineCdf(known, False)
    values: list[Any] = (rng.normal(size=CASE.values) + change.shift).tolist()
    for i in np.flatnonzero(rng.random(CASE.values) < change.lost):
        values[i] = None
    bins = [number or BINS for number in scale.ranks(values, rng.random(len(values)).tolist())]
    return [bins.count(i) for i in range(1, BINS + 1)]


@pytest.mark.parametrize("change", [Drift("none"), Drift("shift", 0.4), Drift("lost", 0.0, 0.1)])
def test_simulated_counts_are_those_of_real_ranks(change: Drift) -> None:
    rng = np.random.default_rng(6)
    real = np.array([through_the_ranks(rng, change) for _ in range(400)])
    quick = power.deciles(power.counts(rng, CASE, 400, 1, change))[:, 0]
    assert np.abs(real.mean(0) - quick.mean(0)).max() < 1.7
    found, simulated = (np.sort(power.score(each, CASE.rows)) for each in (real, quick))
    assert found.mean() == pytest.approx(simulated.mean(), abs=0.012)
    assert found.std() == pytest.approx(simulated.std(), rel=0.25)


def test_the_vectorised_score_is_the_shipped_one() -> None:
    rng = np.random.default_rng(7)
    found = power.counts(rng, CASE, 30, 2, Drift("shift", 0.3))
    bins = power.deciles(found).reshape(-1, BINS)
    fired = power.shipped(found, CASE).ravel()
    for row, value, loud in zip(bins, power.score(bins, CASE.rows), fired, strict=True):
        assert value == pytest.approx(statistic.score(row.tolist(), CASE.rows))
        sure = statistic.is_significant(row.tolist(), CASE.rows, CASE.hours)
        assert loud == (sure and value > power.SHIPPED.drift_threshold)


def test_the_study_runs_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    power.main(["--baselines", "20", "--svg", str(tmp_path / "plot.svg")])
    assert "| 100 | missing sensor | 1 | 1 | never |" in capsys.readouterr().out
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
