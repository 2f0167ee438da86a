"""Figures -> JSON, the report, and the README's table."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.cases import BATCH, CASES

Rounds = dict[str, list[float]]
Report = dict[str, Any]
PACKAGES = ["onnxruntime", "numpy", "orjson", "pydantic", "pydantic-core"]
PACKAGES += ["fastapi", "mangum", "aws-lambda-powertools"]
LOAD = {
    "beside": "load, beyond the import of onnxruntime (ms)",
    "after": "load, onnxruntime already imported (ms)",
    "answer": "load and first run, beyond the import (ms)",
    "peak": "peak memory when loaded (MB)",
}

REFUSED_SECONDS, REFUSED_MB = 0.15, 100  # what any refusal is allowed


class Target(NamedTuple):
    """`case` takes at most `limit` times what `reference` takes."""

    figure: str
    case: str
    reference: str
    limit: float


TARGETS = (
    Target("cold", "answerable", "floor", 1.30),
    Target("cold", "answerable", "mangum_fastapi", 0.40),
    Target("warm 1", "answerable", "mangum_fastapi", 0.25),
    Target("warm 100", "answerable", "mangum_fastapi", 0.40),
    Target("warm 1000", "answerable", "mangum_fastapi", 0.40),
    Target("batch 10", "worker", "batch_processor", 0.50),
    Target("batch 1000", "worker", "batch_processor", 0.40),
    Target("load beside", "packed", "default", 0.15),
    Target("load after", "packed", "default", 0.15),
)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = next(v for k, _, v in (s.partition(": ") for s in text.splitlines()) if "name" in k)
    except (OSError, StopIteration):
        pass
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} x {cpu}, {platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in PACKAGES},
    }


def ratio(rounds: Rounds, case: str, reference: str) -> float:
    """The median of the rounds' own ratios: what disturbs one round disturbs both of its sides."""
    return median(a / b for a, b in zip(rounds[case], rounds[reference], strict=True))


def p10(values: list[float]) -> float:
    return sorted(values)[len(values) // 10]


def verdicts(figures: dict[str, Rounds]) -> list[dict[str, Any]]:
    """Each target whose figure was measured, with the ratio that was found."""
    return [
        {
            **target._asdict(),
            "ratio": (found := ratio(figures[target.figure], target.case, target.reference)),
            "met": found <= target.limit,
        }
        for target in TARGETS
        if target.figure in figures
    ]


def table(figures: dict[str, Rounds]) -> str:
    """The comparison in one table: what the README shows."""
    columns = [name for name in figures if name == "cold" or name.startswith("warm")]
    if not columns:
        return ""
    heads = [
        "cold start, ms" if name == "cold" else f"{name[5:]} row{'s' * (name != 'warm 1')}, ms"
        for name in columns
    ]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    for case, (title, _) in CASES.items():
        cells = []
        for name in columns:
            rounds = figures[name]
            times = ratio(rounds, case, "mangum_fastapi")
            cells.append(f"{_ms(median(rounds[case]))} ({times:.2f}x)")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nIn brackets: times Mangum + FastAPI.\n"


def markdown(report: Report) -> str:
    """`benchmarks/RESULTS.md`."""
    figures: dict[str, Rounds] = report["figures"]
    names = report["versions"]
    parts = [
        "# Benchmark results\n\nWritten by `python -m benchmarks`; the method is in the docstrings "
        "of [cold.py](cold.py), [warm.py](warm.py), [batch.py](batch.py) and [load.py](load.py), "
        "the peers are in "
        "[peers/](peers).\n\n"
        f"{report['date']} · {report['machine']} · "
        + ", ".join(f"{name} {number}" for name, number in names.items())
        + ("\n\n**A quick run: too few rounds to be quoted.**" if report["quick"] else ""),
        "## Targets\n\n| | ratio | target | |\n|---|---:|---:|---|\n"
        + "\n".join(
            f"| {v['figure']}: {v['case']} / {v['reference']} | {v['ratio']:.2f} "
            f"| ≤ {v['limit']:.2f} | {'met' if v['met'] else '**not met**'} |"
            for v in report["targets"]
        ),
    ]
    if text := table(figures):
        parts.append("## Beside its peers\n\n" + text.strip() + "\n\n" + NOTES.strip())
    if "cold" in figures:
        parts.append(_cold(figures["cold"]))
    if "batch 10" in figures:
        parts.append(_batch(figures))
    if "load beside" in figures:
        parts.append(_load(figures))
    if "refusals" in figures:
        parts.append(_refusals(figures["refusals"], figures["refusals MB"]))
    return "\n\n".join(parts) + "\n"


NOTES = """
Medians, and ratios that are medians of the rounds' own. Every round runs all cases, in an order
that rotates; each case has a process of its own. All get the same gateway event and open the same
packed graph with the same threads. All have their `.pyc` (as in an image) and the image's
environment variables, which peers usually lack. Mangum + FastAPI writes no logs and no metrics and
avoids the thread pool; Powertools writes one log line and one metric; Answerable verifies hashes,
validates, arms its deadline and writes its record. Lambda's own runtime client, the same for all,
is not in the figures.
"""


def _cold(rounds: Rounds) -> str:
    lines = ["## Cold start", "", "| | p10, ms | median, ms | x floor |", "|---|---:|---:|---:|"]
    for case, (title, _) in CASES.items():
        times = ratio(rounds, case, "floor")
        lowest, middle = p10(rounds[case]), median(rounds[case])
        lines.append(f"| {title} | {_ms(lowest)} | {_ms(middle)} | {times:.2f} |")
    lines += ["", f"{len(rounds['floor'])} rounds; process start to the first answer of one row."]
    return "\n".join(lines)


def _batch(figures: dict[str, Rounds]) -> str:
    names = [name for name in figures if name.startswith("batch ") and name != "batch with S3"]
    lines = ["## Batches of queue messages, one row each", ""]
    lines += ["| | " + " | ".join(f"{name[6:]} messages, ms" for name in names) + " |"]
    lines += ["|---|" + "---:|" * len(names)]
    for case, (title, _) in BATCH.items():
        cells = []
        for name in names:
            times = ratio(figures[name], case, "batch_processor")
            cells.append(f"{_ms(median(figures[name][case]))} ({times:.2f}x)")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    rates = {case: 1 / median(seconds) for case, seconds in figures["batch with S3"].items()}
    lines += [
        "",
        "Event in, response out, S3 replaced by a dict for both. Through S3's real client ",
    ]
    lines[-1] += "and a server on this machine (moto, which shares its two processors) one worker "
    lines[-1] += "scores "
    lines[-1] += " and ".join(f"{rate:.0f} rows a second {case}" for case, rate in rates.items())
    return "\n".join(lines) + "."


def _load(figures: dict[str, Rounds]) -> str:
    lines = [
        "## Loading a 47 MB CNN",
        "",
        "| | onnxruntime's default | packed, SHA-256 verified | |",
    ]
    lines += ["|---|---:|---:|---:|"]
    for what, title in LOAD.items():
        rounds = figures[f"load {what}"]
        default, packed = median(rounds["default"]), median(rounds["packed"])
        cells = [f"{v:.0f}" if what == "peak" else _ms(v) for v in (default, packed)]
        times = ratio(rounds, "packed", "default")
        lines.append(f"| {title} | {cells[0]} | {cells[1]} | {times:.2f}x |")
    return "\n".join(lines)


def _refusals(seconds: Rounds, memory: Rounds) -> str:
    """By contract, all that is over a limit, and the three dearest of the rest."""
    lines = ["## Refusing hostile bodies", ""]
    lines += [
        "| contract: body | least, ms | median, ms | most memory, MB |",
        "|---|---:|---:|---:|",
    ]
    told = []
    for contract in dict.fromkeys(name.partition(":")[0] for name in seconds):
        names = [name for name in seconds if name.startswith(f"{contract}:")]
        names.sort(key=lambda name: -median(seconds[name]))
        far = [n for n in names if min(seconds[n]) > REFUSED_SECONDS or max(memory[n]) > REFUSED_MB]
        told.append(f"{contract} {len(far)} of {len(names)}")
        for name in [*far, *[name for name in names if name not in far][:3]]:
            least, middle, most = min(seconds[name]), median(seconds[name]), max(memory[name])
            title = f"**{name}**" if name in far else name
            lines.append(f"| {title} | {_ms(least)} | {_ms(middle)} | {most:.0f} |")
    note = f"Over {_ms(REFUSED_SECONDS)} ms or {REFUSED_MB} MB: {', '.join(told)}. "
    note += "`shipped` has the limits that it was packed with; the other two take all of Lambda's "
    note += "6 MB. Milliseconds of CPU, which others on the machine do not stretch; the method is "
    lines += ["", note + "in [refusals.py](refusals.py)."]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
