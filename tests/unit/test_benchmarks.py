import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import cases, history, results
from benchmarks.cases import CASES
from tests.fixtures.artifact import DIABETES


def run(folder: Path, only: str) -> tuple[results.Report, str]:
    written = folder / "results.json", folder / "RESULTS.md"
    command.main(
        [
            "--model",
            str(DIABETES),
            "--quick",
            "--only",
            only,
            "--json",
            str(written[0]),
            "--markdown",
            str(written[1]),
        ]
    )
    return json.loads(written[0].read_text()), written[1].read_text()


def test_warm_cases_are_compared_and_agree(tmp_path: Path) -> None:
    for model in ("example", "linear"):
        report, text = run(tmp_path, f"hot {model}")
        names = [f"hot {model} {count}" for count in (1, 100, 1000)]
        assert [name for name in report["figures"] if not name.endswith(" cpu")] == names
        for count, name in zip((1, 100, 1000), names, strict=True):
            assert list(report["figures"][name]) == list(CASES)
            assert all(len(rounds) == 2 for rounds in report["figures"][name].values())
            predictions = report["predictions"][name]
            assert len(predictions["floor"]) == count
            for case in CASES:
                close = pytest.approx(predictions["floor"], rel=1e-4, abs=1e-5)
                assert predictions[case] == close, case
        assert [verdict["figure"] for verdict in report["targets"]] == names
        assert all(f"| {case.title} |" in text for case in CASES.values())


def test_paced_calls_are_compared(tmp_path: Path) -> None:
    report, text = run(tmp_path, "paced example 1")
    assert report["figures"].keys() == {"paced example 1", "paced example 1 cpu"}
    assert "| paced, 1 row |" in text


def test_cold_starts_are_compared(tmp_path: Path) -> None:
    report, text = run(tmp_path, "cold")
    assert list(report["figures"]["cold"]) == list(CASES)
    assert {verdict["reference"] for verdict in report["targets"]} == {"floor", "mangum_fastapi"}
    assert "## Cold start" in text
    assert "too few rounds to be quoted" in text


def test_quota_lasts_as_long_as_its_context() -> None:
    with cases.quota() as cgroup:
        if cgroup is not None:
            assert (cgroup / "cgroup.procs").read_text() == ""
    assert cgroup is None or not cgroup.exists()


def test_history_plots_each_target_once() -> None:
    target = results.TARGETS[0]
    name = f"{target.figure}: {target.case} / {target.reference}"
    text = history.plot([{name: 2.0}, {}, {name: 1.0}])
    assert text.count("<polyline") == len(results.TARGETS)
    assert text.count("<circle") == 2


@pytest.mark.slow
def test_loads_are_compared(tmp_path: Path) -> None:
    report, text = run(tmp_path, "load image")
    figures = report["figures"].values()
    assert all(len(rounds) == 2 for figure in figures for rounds in figure.values())
    assert "## Loading a 47 MB CNN" in text


@pytest.mark.fault(
    "Hostile bodies of a hundred kinds: as large as Lambda carries, nested, mistyped, bombs",
    "Each is refused with a 4xx; what that takes is measured in benchmarks/REFUSALS.md",
)
@pytest.mark.slow
def test_hostile_bodies_are_refused(tmp_path: Path) -> None:
    report, text = run(tmp_path, "refusals")
    assert report["figures"]["refusals"].keys() == report["figures"]["refusals MB"].keys()
    assert len(report["figures"]["refusals"]) > 70
    assert "## What expensive requests cost" in text
    assert "Over it: shipped 0 of" in text


def test_a_cgroup_that_cannot_be_made_or_removed_costs_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(cases, "HIERARCHIES", {str(tmp_path): {"missing/limit": "1"}})
    with cases.quota() as cgroup:
        assert cgroup is None
    assert [path.name for path in tmp_path.iterdir()] == ["cgroup.procs"]
    monkeypatch.setattr(cases, "HIERARCHIES", {str(tmp_path): {"limit": "1"}})
    with cases.quota() as cgroup:  # it holds a file at the end, as a busy one holds a process
        assert cgroup
        assert (cgroup / "limit").read_text() == "1"


def test_a_report_names_no_path_of_the_machine(tmp_path: Path) -> None:
    report = {**results.machine(), "quick": False, "targets": [], "figures": {}}
    assert str(Path.home()) not in results.markdown(report)
    assert str(Path.cwd()) not in results.markdown(report)


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    rounds = {"a": [1.0, 2.0, 30.0], "b": [2.0, 4.0, 10.0]}
    assert results.ratio(rounds, "a", "b") == 0.5


@pytest.mark.parametrize(("seconds", "met"), [(0.095, True), (0.096, False)])
def test_a_target_is_met_or_not(seconds: float, met: bool) -> None:
    figures = {"cold": {"answerable": [seconds], "floor": [0.1], "mangum_fastapi": [1.0]}}
    assert [verdict["met"] for verdict in results.verdicts(figures)] == [met, True]


def test_a_target_shows_what_its_steps_alone_take() -> None:
    figures = {"batch 10": {"worker": [0.5], "batch_processor": [1.0]}}
    report = {**results.machine(), "quick": False, "targets": results.verdicts(figures)}
    text = results.markdown({**report, "figures": {}})
    assert "| batch 10: worker / batch_processor | 0.50 | ≤ 0.45 | **not met** | 0.54 |" in text


def test_a_file_gets_its_table_renewed(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{command.START}\nold\n{command.END}\nafter\n")
    results.renew(file, command.START, command.END, "| new |\n")
    assert file.read_text() == f"before\n{command.START}\n| new |\n{command.END}\nafter\n"


def test_a_file_without_marks_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("no marks")
    with pytest.raises(SystemExit, match="lacks the marks"):
        results.renew(file, command.START, command.END, "| new |\n")
    assert file.read_text() == "no marks"
