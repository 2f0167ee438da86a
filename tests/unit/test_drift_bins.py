"""No drift means uniform bins, whatever the type; and one row is binned as many are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline
from handler.drift import BINS, bins, decision
from handler.drift.bins import UNKNOWN_BIN, BaselineCdf, Binner
from handler.drift.counts import Counts
from handler.drift.targets import targets
from handler.manifest import Distribution, Output
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
    counts = Counter(scale.assign_bins(seen, draws(len(seen))))
    assert set(counts) == set(range(1, BINS + 1))
    assert abs(decision.score([counts[i] for i in range(1, BINS + 1)], len(seen))) < 0.006


def test_categories_and_missing_values_have_their_steps() -> None:
    sample = ["a"] * 700 + ["b"] * 250 + ["c"] * 50 + [None] * 1000
    scale = BaselineCdf(baseline.categories(sample), True)
    counts = Counter(scale.assign_bins(sample, draws(len(sample))))
    assert abs(decision.score([counts[i] for i in range(1, BINS + 1)], 2000)) < 0.01
    assert scale.assign_bins(["never seen"], [0.5]) == [UNKNOWN_BIN]
    scale = BaselineCdf(baseline.categories(["a", "b"]), True)
    assert scale.assign_bins([None], [0.5]) == [UNKNOWN_BIN]


def test_beyond_the_baseline_is_in_the_outermost_bins() -> None:
    scale = BaselineCdf(baseline.numbers([1.0, 2.0, 3.0, *range(4, 100)]), False, "float64")
    bins = scale.assign_bins([-1e9, 1.0, 99, 1e9, None], [0.5] * 5)
    assert bins == [1, 1, BINS, BINS, UNKNOWN_BIN]
    empty = BaselineCdf(Distribution(0, 1.0, (), (), ()), False, "float64")
    assert empty.assign_bins([1.0], [0.5]) == [1]
    assert 1 <= empty.assign_bins([None], [0.99])[0] <= BINS


def test_a_bin_edge_may_lie_within_a_step_or_between_two() -> None:
    step = Distribution(100, 0.0, (1.0, 2.0), (0.0, 0.25), (0.25, 1.0))
    scale = BaselineCdf(step, False)
    assert scale.assign_bins([1.0] * 3, [0.01, 0.41, 0.99]) == [1, 2, 3]
    assert scale.assign_bins([2.0, 2.0, 1.5], [0.01, 0.99, 0.5]) == [3, 10, 3]
    line = Distribution(100, 0.0, (0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    scale = BaselineCdf(line, False)
    assert scale.assign_bins([0.05, 0.1, 0.11, 0.95], [0.0] * 4) == [1, 1, 2, 10]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """The model that answers with its inputs, with a baseline of each type."""
    rng = np.random.default_rng(7)
    rows = sample(rng, 3000)
    plain = load(artifact.echo(tmp_path_factory.mktemp("plain")))
    columns = {f.name: [row[f.name] for row in rows] for f in plain.manifest.features}
    outputs = score(plain, rows)[1]
    known = baseline.measure(plain.types, columns, plain.manifest.outputs, list(outputs))
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
    """The drift score of each target over requests of `size` rows."""
    binner, counts = Binner(scorer.manifest), Counts(targets(scorer.manifest))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        binned = binner.bin(f"request {start}", *score(scorer, part))
        assert counts.add_bins({"bins": binned.bins})
    keys = [target.key for target in counts.targets]
    scores = [decision.score(numbers, 3000) for numbers in counts.by_target]
    return dict(zip(keys, scores, strict=True))


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_every_type_is_uniform_through_the_model(watched: Scorer, size: int) -> None:
    found = scores(watched, sample(np.random.default_rng(8), 3000), size)
    names = [f"in_{feature['name']}" for feature in artifact.ECHO_FEATURES]
    tensors = ["out_colour.length", "out_open.mean", "out_note.length", "out_serum.mean"]
    assert list(found) == [*names, "out_ratio", "out_count", *tensors]
    values = 3000 if size < 1000 else 300  # of a thousand rows, a hundred are binned
    limit = 25 * (1 / values + 1 / 3000)  # chi-square of 9 degrees exceeds 34 once in 10,000
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
    others = {name for name in found if name.split("_")[1][:4] != metric.split("_")[1][:4]}
    assert max(found[name] for name in others) < 0.3


def test_the_same_request_has_the_same_ranks(watched: Scorer) -> None:
    rows = sample(np.random.default_rng(10), 30)
    rows[3]["serum"], rows[5]["count"] = 0.5, -3
    arguments: Any = ("seed", *score(watched, rows))
    together = Binner(watched.manifest).bin(*arguments)
    assert Binner(watched.manifest).bin(*arguments) == together
    assert Binner(watched.manifest).bin("another", *arguments[1:]) != together
    assert together.missing == {"serum": sum(row["serum"] is None for row in rows)}
    first = Binner(watched.manifest).bin("seed", *score(watched, rows[:1]))
    assert first.bins == [numbers[0] for numbers in together.bins]


@pytest.mark.parametrize("count", [1, 40, 400])
def test_columns_may_be_arrays(watched: Scorer, count: int) -> None:
    columns, outputs = score(watched, sample(np.random.default_rng(12), count, serum=0.5))
    arrays = [np.array(column, object if type(column[0]) is str else None) for column in columns]
    binner = Binner(watched.manifest)
    assert binner.bin("seed", arrays, outputs) == binner.bin("seed", columns, outputs)


def test_many_rows_are_sampled_over_their_whole_length(watched: Scorer) -> None:
    rows = sample(np.random.default_rng(11), 1000)
    for row in rows[:500]:
        row["ratio"] = 10.0
    found = Binner(watched.manifest).bin("r", *score(watched, rows))
    assert found.rows == bins.MAX_BINNED_ROWS
    assert {len(numbers) for numbers in found.bins} == {bins.MAX_BINNED_ROWS}
    assert found.bins[0][:50] == [BINS] * 50
    assert Counter(found.bins[0])[BINS] < 70


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
        binner, scored = Binner(scorer.manifest), score(scorer, rows)
        several = [binner.bin(f"r{i}", *scored) for i in range(20)]
        assert sum(one.unseen_rows for one in several) / 20 == pytest.approx(count / 4, rel=0.1)
        found = several[0]
        if count <= bins.MAX_BINNED_ROWS:
            assert found.bins[0][0] == found.bins[1][0] == BINS
            assert found.unseen == {"colour": -(-count // 4), "serum": -(-count // 4)}
    single = binner.bin("r", *score(scorer, rows[:1]))
    assert (single.unseen, single.unseen_rows) == ({"colour": 1, "serum": 1}, 1)
    assert single.bins[:2] == [BINS, BINS]


def test_probabilities_and_labels_are_ranked() -> None:
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
    binner = Binner(manifest)
    found = binner.bin("r", [range(500)], arrays)
    assert [target.key for target in targets(manifest)] == ["out_label", "out_p.0", "out_p.1"]
    assert set(found.bins[2]) == set(range(1, 11))
    few = binner.bin("r", [range(5)], [array[:5] for array in arrays])
    assert {len(numbers) for numbers in few.bins} == {5}


def test_a_model_may_have_no_ordered_target() -> None:
    outputs = (Output("label", "l", "int64", (None,), "label", classes=(0, 1)),)
    labels = np.array([0, 1] * 250)
    known = baseline.measure([], {}, outputs, [labels])
    fields = {"baseline": known, "features": (), "inputs": (), "outputs": outputs}
    manifest: Any = type("M", (), fields)()
    found = Binner(manifest).bin("r", [range(20)], [labels[:20]])
    assert [len(numbers) for numbers in found.bins] == [20]
    assert [number > BINS / 2 for number in found.bins[0]] == [label == 1 for label in labels[:20]]
