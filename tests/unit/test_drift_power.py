"""The drift study's shortcut is the real thing: counts without values are distributed alike."""

from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline
from benchmarks import drift_power
from benchmarks.drift_power import Case, Drift
from handler.drift import BINS, decision
from handler.drift.bins import BaselineCdf

CASE = Case(200, baseline_rows=500)


def bins_of_values(rng: np.random.Generator, change: Drift) -> list[int]:
    """Return the counts of one window: a baseline is packed, values are binned by it."""
    known = baseline.numbers(rng.normal(size=CASE.baseline_rows).tolist())
    cdf = BaselineCdf(known, False)
    values: list[Any] = (rng.normal(size=rng.poisson(CASE.a_day)) + change.shift).tolist()
    for i in np.flatnonzero(rng.random(len(values)) < change.lost):
        values[i] = None
    bins = [number or BINS for number in map(cdf.bin, values, rng.random(len(values)).tolist())]
    return [bins.count(i) for i in range(1, BINS + 1)]


@pytest.mark.parametrize("change", [Drift("none"), Drift("shift", 0.4), Drift("lost", 0.0, 0.1)])
def test_simulated_counts_are_those_of_binned_values(change: Drift) -> None:
    rng = np.random.default_rng(6)
    real = np.array([bins_of_values(rng, change) for _ in range(400)])
    # the window is full of drifted values after a day
    counts = drift_power.windows(rng, CASE, 400, 24, change)
    quick = drift_power.deciles(counts)[:, :, -1].T
    assert np.abs(real.mean(0) - quick.mean(0)).max() < 1.7
    found, simulated = (
        drift_power.scores(drift_power.moments(each.T), CASE.baseline_rows)
        for each in (real, quick)
    )
    assert found.mean() == pytest.approx(simulated.mean(), abs=0.012)
    assert found.std() == pytest.approx(simulated.std(), rel=0.25)


def test_vectorised_statistics_are_the_shipped_ones() -> None:
    rng = np.random.default_rng(7)
    counts = drift_power.windows(rng, CASE, 20, 30, Drift("shift", 0.5))
    found = drift_power.moments(drift_power.deciles(counts))
    scores = drift_power.scores(found, CASE.baseline_rows)
    p = drift_power.p_values(found, CASE.baseline_rows)
    for run in range(20):
        for hour in (0, 10, 29):
            bins = drift_power.deciles(counts)[:, run, hour].tolist()
            assert scores[run, hour] == pytest.approx(decision.score(bins, CASE.baseline_rows))
            expected = min(decision.p_values(bins, CASE.baseline_rows))
            assert p[run, hour] == pytest.approx(expected, rel=1e-6)


def test_the_study_runs_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    page = tmp_path / "drift.md"
    page.write_text(f"before\n{drift_power.START}\nold\n{drift_power.END}\nafter\n")
    arguments = ["--months", "4", "--svg", str(tmp_path / "plot.svg"), "--markdown", str(page)]
    drift_power.main(arguments)
    assert "| 1,000 | missing sensor | 1 h | 1 h | 1 h | never |" in capsys.readouterr().out
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    assert "old" not in page.read_text()
    assert page.read_text().endswith("after\n")
