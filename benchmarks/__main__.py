"""`python -m benchmarks`: measure, print, and write the report."""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import batch, cases, cold, history, load, models, refusals, results, warm
from handler import manifest as manifests
from infra.project import find_model

START, END = "<!-- benchmarks: written by `make bench` -->", "<!-- /benchmarks -->"
WARM = [
    *("hot example 1", "hot example 100", "hot example 1000"),
    *("paced example 1", "paced quota example 1000"),
    *("hot linear 1", "hot linear 100", "hot linear 1000", "paced linear 1"),
]
LOADS = {"load image": models.image, "load dense": models.dense}
FIGURES = ["cold", "cold quota", *WARM, *batch.TURNS, "batch with S3", *LOADS]


def run(
    model_dir: Path, compared: dict[str, cases.Case], selected: list[str], quick: bool
) -> results.Report:
    """Return the selected figures. A quick run has few rounds, and shows only that it works."""
    figures: dict[str, results.Rounds] = {}
    values: dict[str, dict[str, list[float]]] = {}
    starts, rounds = (1, 2) if quick else (4, 4)
    with tempfile.TemporaryDirectory() as folder, cases.quota() as cgroup:
        scratch = Path(folder)
        if cgroup is None and any("quota" in name for name in selected):
            print("no figures with a quota: this process may not make a cgroup")
            selected = [name for name in selected if "quota" not in name]
        if "cold" in selected:
            figures["cold"], figures["cold cpu"], figures["cold peak"] = cold.measure(
                compared, model_dir, scratch, 2 if quick else 21
            )
        if "cold quota" in selected:
            names = {
                name: case
                for name, case in compared.items()
                if name not in ("stdlib", "powertools")
            }
            figures["cold quota"] = cold.measure(
                names, model_dir, scratch, 2 if quick else 11, cgroup
            )[0]
        for model in results.MODELS:
            for limit in (None, cgroup):
                turns = {
                    name: _turn(warm.TURNS[name.replace(f" {model}", "")], quick)
                    for name in selected
                    if f" {model} " in name and name in WARM and ("quota" in name) == bool(limit)
                }
                if not turns:
                    continue
                directory = model_dir if model == "example" else models.linear(scratch)
                competitors = {
                    name: case
                    for name, case in compared.items()
                    if model == "example" or case.model_dir is None
                }
                manifest = manifests.read(directory)
                counts = {turn.rows: warm.EVENTS[turn.rows] for turn in turns.values()}
                events = cases.write_events(scratch / "events", manifest, counts)
                measured = warm.measure(
                    competitors, turns, events, directory, starts, rounds, limit
                )
                figures |= measured[0]
                values |= measured[1]
        turns = {name: _turn(batch.TURNS[name], quick) for name in selected if name in batch.TURNS}
        if turns:
            events = batch.write_events(scratch / "batch", model_dir)
            measured = warm.measure(cases.BATCH, turns, events, model_dir, starts, rounds)
            figures |= measured[0]
            values |= measured[1]
        if "batch with S3" in selected:
            figures["batch with S3"] = batch.with_s3(model_dir, 1 if quick else 5)
        for name in LOADS.keys() & set(selected):
            loads = load.measure(*LOADS[name](scratch), 2 if quick else 7)
            figures |= {f"{name} {figure}": seconds for figure, seconds in loads.items()}
        if "refusals" in selected:
            measures = refusals.measure(model_dir, scratch, 1 if quick else 3, quick)
            kinds = ("refusals", "refusals MB", "refusals allowed MB")
            figures |= dict(zip(kinds, measures, strict=True))
    return {
        **results.machine(),
        "quick": quick,
        "figures": figures,
        "targets": results.verdicts(figures),
        "predictions": values,
    }


def _turn(turn: warm.Turn, quick: bool) -> warm.Turn:
    return turn._replace(calls=3) if quick else turn


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", metavar="PREFIX", help=f"of {', '.join(FIGURES)}, refusals", default=""
    )
    parser.add_argument("--cases", metavar="NAMES", help=f"of {', '.join(cases.CASES)}")
    parser.add_argument("--beside", type=Path, metavar="TREE", help="another commit's work tree")
    parser.add_argument("--model", default="diabetes", help="a packed model, by name or path")
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure, in seconds (MB)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the report")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="a file whose table to renew")
    parser.add_argument("--history", action="store_true", help="append the ratios to the history")
    args = parser.parse_args(argv)
    selected = [name for name in [*FIGURES, "refusals"] if name.startswith(args.only)]
    if not args.only:
        selected.remove("refusals")  # five minutes
    if not selected:
        parser.error(f"no figure begins with {args.only}")
    model_dir = find_model(args.model)
    compared = dict(cases.CASES)
    if args.cases:
        names = {"floor", "mangum_fastapi", *args.cases.split(",")}  # the ratios need these
        compared = {name: case for name, case in compared.items() if name in names}
    if args.beside:
        compared["beside"] = cases.at_commit(args.beside.resolve(), model_dir.name)
    report = run(model_dir, compared, selected, args.quick)
    text = results.markdown(report, compared)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.readme:
        results.renew(args.readme, START, END, results.readme_table(report["figures"]))
    if args.history:
        history.append(report)


if __name__ == "__main__":
    main()
