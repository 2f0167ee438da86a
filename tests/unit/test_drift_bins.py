"""No drift means uniform bins, whatever the type; and one row is ranked as many are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline
from handler.drift import bins, statistic
from handler.drift.bins import UNKNOWN_BIN, BaselineCdf, Binner
from handler.drift.statistic import BINS
from handler.manifest import Distribution, Feature
from handler.scoring import Scorer, load
from tests.fixtures import artifact

RNG = np.random.default_rng(5)


def draws(count: int) -> Any:
    return np.random.default_rng(1).random(count).tolist()


SAMPLES = {
    "normal": RNG.normal(size=5000).tolist(),
    "few values": RNG.integers(0, 4, 5000).tolist(),
    "integers": RNG.poisson(20, 5000).tolist(),
    "a heavy tie": [0.0 if r < 0.55 else r for r in RNG.random(5000)],
    "a constant": [3.0] * 5000,
    "lognormal": RNG.lognormal(0, 3, 5000).tolist(),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_drift_bins_are_uniform(name: str, dtype: str) -> None:
    sample = SAMPLES[name]
    scale = BaselineCdf(baseline.numbers(sample), False, dtype)
    seen = np.array(sample, dtype).astype(float).tolist()
    counts = Counter(scale.ranks(seen, draws(len(seen))))
    assert set(counts) == set(range(1, BINS + 1))
    assert abs(statistic.score([counts[i] for i in range(1, BINS + 1)], len(seen))) < 0.006


def test_categories_and_missing_values_have_their_steps() -> None:
    sample = ["a"] * 700 + ["b"] * 250 + ["c"] * 50 + [None] * 1000
    scale = BaselineCdf(baseline.categories(sample), True)
    counts = Counter(scale.ranks(sample, draws(len(sample))))
    assert abs(statistic.score([counts[i] for i in range(1, BINS + 1)], 2000)) < 0.01
    assert scale.ranks(["never seen"], [0.5]) == [UNKNOWN_BIN]
    assert BaselineCdf(baseline.categories(["a", "b"]), True).ranks([None], [0.5]) == [UNKNOWN_BIN]


def test_beyond_the_baseline_is_in_the_outermost_bins() -> None:
    scale = BaselineCdf(baseline.numbers([1.0, 2.0, 3.0, *range(4, 100)]), False, "float64")
    assert scale.ranks([-1e9, 1.0, 99, 1e9, None], [0.5] * 5) == [1, 1, BINS, BINS, UNKNOWN_BIN]
    empty = BaselineCdf(Distribution(0, 1.0, (), (), ()), False, "float64")
    assert empty.ranks([1.0], [0.5]) == [1]
    assert 1 <= empty.ranks([None], [0.99])[0] <= BINS


def test_a_bin_edge_may_lie_within_a_step_or_between_two() -> None:
    step = Distribution(100, 0.0, (1.0, 2.0), (0.0, 0.25), (0.25, 1.0))
    scale = BaselineCdf(step, False)
    assert scale.ranks([1.0] * 3, [0.01, 0.41, 0.99]) == [1, 2, 3]
    assert scale.ranks([2.0, 2.0, 1.5], [0.01, 0.99, 0.5]) == [3, 10, 3]
    line = Distribution(100, 0.0, (0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    scale = BaselineCdf(line, False)
    assert scale.ranks([0.05, 0.1, 0.11, 0.95], [0.0] * 4) == [1, 1, 2, 10]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """The model that answers with its inputs, with a baseline of each type."""
    rng = np.random.default_rng(7)
    rows = sample(rng, 3000)
    plain = load(artifact.echo(tmp_path_factory.mktemp("plain")))
    columns = {f.name: [row[f.name] for row in rows] for f in plain.manifest.features}
    outputs = score(plain, rows)[1]
    known = baseline.measure(
        plain.manifest.features, columns, plain.manifest.outputs, list(outputs)
    )
    fields = {
        "rows": known.rows,
        "features": {k: v._asdict() for k, v in known.features.items()},
        "outputs": {k: v._asdict() for k, v in known.outputs.items()},
    }
    return load(artifact.echo(tmp_path_factory.mktemp("watched"), baseline=fields))


def score(scorer: Scorer, rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    """The columns of rows, and the model's outputs."""
    names = [feature.name for feature in scorer.manifest.features]
    columns = [[row[name] for row in rows] for name in names]
    return columns, scorer.score_columns(columns).outputs


def sample(rng: np.random.Generator, rows: int, **change: Any) -> list[dict[str, Any]]:
    return [
        {
            "ratio": float(np.float32(rng.beta(2, 5) * 10)),
            "count": int(rng.poisson(7)),
            "colour": "red" if rng.random() < 0.8 else "blue",
            "open": bool(rng.random() < 0.3),
            "note/~": "x" * int(rng.integers(0, 20)),
            "serum": None if rng.random() < 0.2 else float(rng.random()),
            **change,
        }
        for _ in range(rows)
    ]


def scores(scorer: Scorer, rows: list[dict[str, Any]], size: int) -> dict[str, float]:
    """The drift score of each metric over requests of `size` rows."""
    ranker = Binner(scorer.manifest)
    counts = {metric: [0] * BINS for metric in ranker.metrics}
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        found = ranker.rank(f"request {start}", *score(scorer, part))
        for metric, numbers in found.bins.items():
            for number in numbers if isinstance(numbers, list) else [numbers]:
                counts[metric][number - 1] += 1
    return {metric: statistic.score(found, 3000) for metric, found in counts.items()}


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_every_type_is_uniform_through_the_model(watched: Scorer, size: int) -> None:
    found = scores(watched, sample(np.random.default_rng(8), 3000), size)
    names = [f"in_{feature['name']}" for feature in artifact.ECHO_FEATURES]
    assert list(found) == [*names, "out_ratio", "out_count"]
    values = 3000 if size < 1000 else 300  # of a thousand rows, a hundred are ranked
    a, b = statistic.critical_values(3000, 24)[0]
    limit = a / values + b - 9 * (1 / values + 1 / 3000)
    assert max(found.values()) < limit, found


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"ratio": 9.0}, "in_ratio"),
        ({"count": 20}, "out_count"),
        ({"colour": "blue"}, "in_colour"),
        ({"open": True}, "in_open"),
        ({"note/~": ""}, "in_note/~"),
        ({"serum": None}, "in_serum"),
    ],
)
def test_every_type_shows_its_drift(watched: Scorer, change: Any, metric: str) -> None:
    found = scores(watched, sample(np.random.default_rng(9), 200, **change), 20)
    assert found[metric] > 1
    others = {name for name in found if name.split("_")[1] != metric.split("_")[1]}
    assert max(found[name] for name in others) < 0.3


def test_the_same_request_has_the_same_ranks(watched: Scorer) -> None:
    rows = sample(np.random.default_rng(10), 30)
    rows[3]["serum"], rows[5]["count"] = 0.5, -3
    arguments: Any = ("seed", *score(watched, rows))
    together = Binner(watched.manifest).rank(*arguments)
    assert Binner(watched.manifest).rank(*arguments) == together
    assert Binner(watched.manifest).rank("another", *arguments[1:]) != together
    assert together.missing == {"serum": sum(row["serum"] is None for row in rows)}
    first = Binner(watched.manifest).rank("seed", *score(watched, rows[:1]))
    assert first.bins == {metric: numbers[0] for metric, numbers in together.bins.items()}


@pytest.mark.parametrize("count", [1, 40, 400])
def test_columns_may_be_arrays(watched: Scorer, count: int) -> None:
    columns, outputs = score(watched, sample(np.random.default_rng(12), count, serum=0.5))
    arrays = [np.array(column, object if type(column[0]) is str else None) for column in columns]
    ranker = Binner(watched.manifest)
    assert ranker.rank("seed", arrays, outputs) == ranker.rank("seed", columns, outputs)


def test_many_rows_are_sampled_over_their_whole_length(watched: Scorer) -> None:
    rows = sample(np.random.default_rng(11), 1000)
    for row in rows[:500]:
        row["ratio"] = 10.0
    found = Binner(watched.manifest).rank("r", *score(watched, rows))
    assert found.rows == bins.MAX_BINNED_ROWS
    assert {len(numbers) for numbers in found.bins.values()} == {bins.MAX_BINNED_ROWS}
    assert found.bins["in_ratio"][:50] == [BINS] * 50
    assert Counter(found.bins["in_ratio"])[BINS] < 70


def test_what_was_never_seen_is_counted(tmp_path: Any) -> None:
    known = {
        "rows": 100,
        "features": {
            "colour": baseline.categories(["red"] * 90 + ["blue"] * 10)._asdict(),
            "serum": baseline.numbers([0.1, 0.2, 0.3] * 10)._asdict(),
        },
        "outputs": {},
    }
    features = [
        {**f, "unknown_category": "accept"} if f["name"] == "colour" else f
        for f in artifact.ECHO_FEATURES
    ]
    scorer = load(artifact.echo(tmp_path, baseline=known, features=features))
    for count in (4, 20, 400):
        rows = sample(np.random.default_rng(1), count, serum=0.2)
        for i in range(0, count, 4):
            rows[i] |= {"colour": "green", "serum": None}
        ranker, scored = Binner(scorer.manifest), score(scorer, rows)
        several = [ranker.rank(f"r{i}", *scored) for i in range(20)]
        assert sum(one.novel for one in several) / 20 == pytest.approx(count / 4, rel=0.1)
        found = several[0]
        if count <= bins.MAX_BINNED_ROWS:
            assert found.bins["in_colour"][0] == found.bins["in_serum"][0] == BINS


def test_probabilities_and_labels_are_ranked() -> None:
    from handler.manifest import Output

    outputs = (
        Output("label", "l", "int64", (None,), "label", classes=(0, 1)),
        Output("p", "p", "float32", (None, 2), "probabilities", classes=(0, 1)),
    )
    rng = np.random.default_rng(3)
    chances = rng.random((500, 1)).astype("float32")
    arrays = [(chances[:, 0] > 0.7).astype(int), np.hstack([1 - chances, chances])]
    known = baseline.measure([], {}, outputs, arrays)
    manifest: Any = type(
        "M", (), {"baseline": known, "features": (), "inputs": (), "outputs": outputs}
    )()
    ranker = Binner(manifest)
    found = ranker.rank("r", (), arrays)
    assert list(found.bins) == ["out_label", "out_p.0", "out_p.1"]
    assert set(found.bins["out_p.1"]) == set(range(1, 11))
    few = ranker.rank("r", (), [array[:5] for array in arrays])
    assert {len(numbers) for numbers in few.bins.values()} == {5}


def test_metric_names_are_plain_and_differ() -> None:
    features = tuple(Feature(name, "x", "number") for name in ("größe", "gr_ße", "a"))
    step = Distribution(1, 0.0, (1,), (0.0,), (1.0,))
    known: Any = type("B", (), {"features": {f.name: step for f in features}, "outputs": {}})
    manifest: Any = type("M", (), {"baseline": known, "features": features})
    names = [target.metric for target in statistic.targets(manifest)]
    assert names == ["in_gr__e", "in_gr__e_2", "in_a"]


def test_the_score_is_unbiased_and_rarely_certain() -> None:
    rng = np.random.default_rng(2)
    for n, m in ((60, 500), (1000, 500), (1000, 100_000)):
        q = rng.multinomial(m, [1 / BINS] * BINS, 4000) / m
        counts = [rng.multinomial(n, row).tolist() for row in q]
        found = np.array([statistic.score(row, m) for row in counts])
        assert abs(found.mean()) < 4 * found.std() / 4000**0.5
        assert sum(statistic.is_significant(row, m, 24) for row in counts) <= 8
    assert statistic.score([0] * BINS, 10) == 0.0
    assert not statistic.is_significant([0] * BINS, 10, 24)


def test_the_tails_are_those_of_chi_square() -> None:
    from scipy.stats import chi2

    for once in (statistic.BASELINE_FALSE_ALARM_RATE / 2, 1e-5, 2e-4):
        any_change, shift = statistic.chi2_quantiles(once)
        assert 0 <= any_change / chi2.isf(once, BINS - 1) - 1 < 0.03  # on the safe side
        assert shift == pytest.approx(chi2.isf(once, 1), rel=0.001)
