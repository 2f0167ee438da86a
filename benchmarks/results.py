"""Figures -> JSON, the report, and the README's table."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.cases import BATCH, CASES, ROOT, VCPUS, Case

Rounds = dict[str, list[float]]
Report = dict[str, Any]
PACKAGES = ["onnxruntime", "numpy", "orjson", "pydantic", "pydantic-core"]
PACKAGES += ["fastapi", "mangum", "aws-lambda-powertools"]
LOAD = {
    "ready": "import and load (ms)",
    "beside": "load, beyond the import of onnxruntime (ms)",
    "cpu": "the same, CPU time (ms)",
    "after": "load, onnxruntime already imported (ms)",
    "answer": "load and first run, beyond the import (ms)",
    "peak": "peak memory when loaded (MB)",
}
MODELS = {
    "example": "the shipped model: boosted trees, 10 columns",
    "linear": "a linear model of 30 columns",
}

REQUEST_SECONDS = 1.0  # of CPU that any request is allowed


class Target(NamedTuple):
    """`case` takes at most `limit` times what `reference` takes.

    `steps`: what it would take if nothing but its steps took time; see NOTES. Measured at 8e26e66.
    """

    figure: str
    case: str
    reference: str
    limit: float
    steps: float | None = None


TARGETS = (
    Target("cold", "answerable", "floor", 0.95),
    Target("cold", "answerable", "mangum_fastapi", 0.30),
    Target("cold quota", "answerable", "floor", 1.00),
    Target("cold peak", "answerable", "floor", 1.10),
    Target("hot example 1", "answerable", "mangum_fastapi", 0.33, 0.31),
    Target("hot example 100", "answerable", "mangum_fastapi", 0.62, 0.66),
    Target("hot example 1000", "answerable", "mangum_fastapi", 0.56, 0.61),
    Target("hot linear 1", "answerable", "mangum_fastapi", 0.40, 0.36),
    Target("hot linear 100", "answerable", "mangum_fastapi", 0.36, 0.58),
    Target("hot linear 1000", "answerable", "mangum_fastapi", 0.23, 0.45),
    Target("paced example 1", "answerable", "mangum_fastapi", 0.57),
    Target("batch 10", "worker", "batch_processor", 0.45, 0.54),
    Target("batch 1000", "worker", "batch_processor", 0.33, 0.44),
    Target("load image beside", "packed", "default", 0.15, 0.24),
    Target("load image after", "packed", "default", 0.15, 0.24),
    Target("load dense ready", "packed", "default", 1.15),
    Target("load dense peak", "packed", "default", 1.05),
)
README = {
    "cold": "cold start",
    "cold quota": f"cold start on {VCPUS} vCPU (512 MB)",
    "paced example 1": "1 row, calls apart, caches cold",
    "hot linear 1000": "1,000 rows of 30 columns",
}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = next(v for k, _, v in (s.partition(": ") for s in text.splitlines()) if "name" in k)
    except (OSError, StopIteration):
        pass
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "machine": f"{os.cpu_count()} x {cpu}, {platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in PACKAGES},
    }


def ratio(rounds: Rounds, case: str, reference: str) -> float:
    """Return the median of the rounds' own ratios: a disturbance of a round disturbs both sides."""
    return median(a / b for a, b in zip(rounds[case], rounds[reference], strict=True))


def ratio_above(rounds: Rounds, case: str, reference: str) -> float:
    """Return the same ratio of what is above the floor, the model's own run."""
    above = {
        name: [a - b for a, b in zip(rounds[name], rounds["floor"], strict=True)]
        for name in (case, reference)
    }
    return ratio(above, case, reference)


def p10(values: list[float]) -> float:
    return sorted(values)[len(values) // 10]


def verdicts(figures: dict[str, Rounds]) -> list[dict[str, Any]]:
    """Return each target whose figure was measured, with its ratio."""
    return [
        {
            **target._asdict(),
            "ratio": (value := ratio(figures[target.figure], target.case, target.reference)),
            "met": value <= target.limit,
        }
        for target in TARGETS
        if target.figure in figures and target.case in figures[target.figure]
    ]


def readme_table(figures: dict[str, Rounds]) -> str:
    """Return the four figures that the README shows."""
    shown = {name: title for name, title in README.items() if name in figures}
    if not shown:
        return ""
    columns = ["answerable", "mangum_fastapi"]
    lines = ["| | " + " | ".join(f"{CASES[case].title}, ms" for case in columns) + " | ratio |"]
    lines.append("|---|---:|---:|---:|")
    for name, title in shown.items():
        rounds = figures[name]
        cells = [_ms(median(rounds[case])) for case in columns]
        lines.append(f"| {title} | {' | '.join(cells)} | {ratio(rounds, *columns):.2f} |")
    return "\n".join(lines) + "\n"


def markdown(report: Report, cases: dict[str, Case] = CASES) -> str:
    """Return `benchmarks/RESULTS.md`."""
    figures: dict[str, Rounds] = report["figures"]
    parts = [
        "# Benchmark results\n\nWritten by `python -m benchmarks`; the method is in the docstrings "
        "of [cold.py](cold.py), [warm.py](warm.py), [batch.py](batch.py) and [load.py](load.py), "
        "the peers are in [peers/](peers), earlier runs in [history.svg](history.svg). Other "
        "pages: hostile bodies in [REFUSALS.md](REFUSALS.md), files in [BATCH.md](BATCH.md), "
        "images in a container, with and without a text or a picture, in [IMAGE.md](IMAGE.md).\n\n"
        f"{report['date']} · {report['commit']} · {report['machine']} · "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        + ("\n\n**A quick run: too few rounds to be quoted.**" if report["quick"] else ""),
        "## Targets\n\n| | ratio | target | | steps alone |\n|---|---:|---:|---|---:|\n"
        + "\n".join(
            f"| {v['figure']}: {v['case']} / {v['reference']} | {v['ratio']:.2f} "
            f"| ≤ {v['limit']:.2f} | {'met' if v['met'] else '**not met**'} "
            f"| {'' if v['steps'] is None else format(v['steps'], '.2f')} |"
            for v in report["targets"]
        ),
        NOTES.strip(),
    ]
    if "cold" in figures:
        parts.append(_cold(figures, cases))
    for model, title in MODELS.items():
        names = [n for n in figures if f" {model} " in n and n.split()[0] in ("hot", "paced")]
        if names:
            parts.append(_warm(figures, names, f"## Calls: {title}", cases))
    if "batch 10" in figures:
        parts.append(_batch(figures))
    for model, title in (("image", "a 47 MB CNN"), ("dense", "403 MB of dense layers")):
        if f"load {model} peak" in figures:
            parts.append(_load(figures, model, title))
    if "refusals" in figures:
        kinds = ("refusals", "refusals MB", "refusals allowed MB")
        parts.append(_refusals(*(figures[kind] for kind in kinds)))
    return "\n\n".join(parts) + "\n"


NOTES = f"""
*Steps alone* is the ratio if a call took no more than the sum of its steps, each measured in a loop
of its own with warm caches: JSON, validation, the graph's inputs, the run, ids, rendering and the
record; of loading the CNN, its SHA-256 alone (0.56 ms per MB). A target below it could only be met
without one of them: orjson alone takes 0.19 of Mangum's time at 1,000 rows of 30 columns, and the
model's run 0.35 at 1,000 rows of the example. Between the steps and the ratio are the processor's
caches, which a call of many steps does not find warm. msgspec in place of pydantic-core, one
signature for many ids and BLAKE3 would save some; a second schema language, a construction that
nobody here can review and a new dependency are not worth it.

Medians, and ratios that are medians of the rounds' own. Every round runs all cases, in an order
that rotates; each case has a process of its own. All get the same gateway event and open the same
packed graph with the same threads. All have their `.pyc` (as in an image) and the image's
environment variables, which peers usually lack. Answerable runs on packages that are stripped as in
its image, the others on what pip installs. Mangum + FastAPI writes no logs and no metrics and
avoids the thread pool; Powertools writes one log line and one metric; Answerable verifies hashes,
validates, signs its ids, arms its deadline and writes its record. Lambda's own runtime client, the
same for all, is not in the figures. `CPU` counts the CPU time of all threads. `{VCPUS} vCPU` is a
quota of the kernel, as Lambda's for 512 MB; Lambda itself lifts it during init.
"""


def _cold(figures: dict[str, Rounds], cases: dict[str, Case]) -> str:
    rounds, cpu, limited = figures["cold"], figures["cold cpu"], figures.get("cold quota", {})
    lines = ["## Cold start", ""]
    lines.append(
        "| | p10, ms | median, ms | x floor | x Mangum | CPU, ms | x floor | peak, MB | x floor "
        f"| {VCPUS} vCPU, ms | x floor | x Mangum |"
    )
    lines.append("|---|" + "---:|" * 11)
    for case in rounds:
        cells = [_ms(p10(rounds[case])), _ms(median(rounds[case]))]
        cells += [f"{ratio(rounds, case, name):.2f}" for name in ("floor", "mangum_fastapi")]
        cells += [_ms(median(cpu[case])), f"{ratio(cpu, case, 'floor'):.2f}"]
        peak = figures["cold peak"]
        cells += [f"{median(peak[case]):.0f}", f"{ratio(peak, case, 'floor'):.2f}"]
        if case in limited:
            cells.append(_ms(median(limited[case])))
            cells += [f"{ratio(limited, case, name):.2f}" for name in ("floor", "mangum_fastapi")]
        else:
            cells += ["", "", ""]
        lines.append(f"| {cases[case].title} | {' | '.join(cells)} |")
    lines += ["", f"{len(rounds['floor'])} rounds; process start to the first answer of one row."]
    return "\n".join(lines)


def _warm(figures: dict[str, Rounds], names: list[str], title: str, cases: dict[str, Case]) -> str:
    names = [name for name in names if not name.endswith(" cpu")]
    heads = []
    for name in names:
        kind, rows = name.split()[0], name.split()[-1]
        limited = f", {VCPUS} vCPU" if "quota" in name else ""
        heads.append(f"{kind}, {rows} row{'s' * (rows != '1')}{limited}")
    lines = [title, "", "| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(names)]
    for case in figures[names[0]]:
        cells = []
        for name in names:
            rounds, cpu = figures[name], figures[f"{name} cpu"]
            above = (
                "" if case == "floor" else f"; {ratio_above(rounds, case, 'mangum_fastapi'):.2f}x"
            )
            times = f"{ratio(rounds, case, 'mangum_fastapi'):.2f}x{above}"
            cells.append(f"{_ms(median(rounds[case]))}, CPU {_ms(median(cpu[case]))} ({times})")
        lines.append(f"| {cases[case].title} | {' | '.join(cells)} |")
    lines += [
        "",
        "Milliseconds a call, wall and CPU. In brackets: times Mangum + FastAPI; the same ",
    ]
    lines[-1] += "of what is above the floor, the model's own run."
    return "\n".join(lines)


def _batch(figures: dict[str, Rounds]) -> str:
    names = [name for name in figures if name in ("batch 10", "batch 1000")]
    lines = ["## Batches of queue messages, one row each", ""]
    lines += ["| | " + " | ".join(f"{name[6:]} messages, ms" for name in names) + " |"]
    lines += ["|---|" + "---:|" * len(names)]
    for case, (title, *_) in BATCH.items():
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


def _load(figures: dict[str, Rounds], model: str, title: str) -> str:
    lines = [
        f"## Loading {title}",
        "",
        "| | onnxruntime's default | packed, SHA-256 verified | |",
    ]
    lines += ["|---|---:|---:|---:|"]
    for name, label in LOAD.items():
        rounds = figures[f"load {model} {name}"]
        default, packed = median(rounds["default"]), median(rounds["packed"])
        cells = [f"{v:.0f}" if name == "peak" else _ms(v) for v in (default, packed)]
        times = ratio(rounds, "packed", "default")
        lines.append(f"| {label} | {cells[0]} | {cells[1]} | {times:.2f}x |")
    return "\n".join(lines)


def _refusals(seconds: Rounds, memory: Rounds, allowed: Rounds) -> str:
    """Return, by contract, what is over the rule, and the worst of the rest by time and memory."""
    lines = ["## What expensive requests cost", ""]
    lines += [
        "| contract: body | CPU, least, ms | median, ms | most memory, MB | allowed, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    share = {name: max(memory[name]) / allowed[name][0] for name in seconds}
    counts = []
    for contract in dict.fromkeys(name.partition(":")[0] for name in seconds):
        names = [name for name in seconds if name.startswith(f"{contract}:")]
        over = [n for n in names if min(seconds[n]) > REQUEST_SECONDS or share[n] > 1]
        counts.append(f"{contract} {len(over)} of {len(names)}")
        slowest = sorted(names, key=lambda name: -min(seconds[name]))[:3]
        largest = sorted(names, key=lambda name: -share[name])[:3]
        for name in dict.fromkeys([*over, *slowest, *largest]):
            least, middle, most = min(seconds[name]), median(seconds[name]), max(memory[name])
            title = f"**{name}**" if name in over else name
            lines.append(
                f"| {title} | {_ms(least)} | {_ms(middle)} | {most:.0f} | {allowed[name][0]:.0f} |"
            )
    slowest_name = max(seconds, key=lambda name: min(seconds[name]))
    largest_name = max(share, key=lambda name: share[name])
    lines += [
        "",
        "The rule: 10 times the body plus 64 MB, and 1 s of CPU. Over it: "
        f"{', '.join(counts)}. The slowest is `{slowest_name}`, "
        f"{_ms(min(seconds[slowest_name]))} ms; the nearest to its memory is `{largest_name}`, "
        f"{share[largest_name]:.0%}. `shipped` has the limits that it was packed with; the others "
        "take all of Lambda's 6 MB. Milliseconds of CPU include the model's run; the method is in "
        "[refusals.py](refusals.py).",
    ]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def renew(file: Path, start: str, end: str, text: str) -> None:
    """Put a text between two marks of a file."""
    before, mark, rest = file.read_text(encoding="utf-8").partition(start)
    _, last, after = rest.partition(end)
    if not mark or not last:
        raise SystemExit(f"{file}: it lacks the marks {start} and {end}")
    file.write_text(f"{before}{start}\n{text}{end}{after}", encoding="utf-8")
