"""`python -m benchmarks`: measure, print, and write what was asked for."""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import batch, cold, load, refusals, results, warm
from infra.project import find_model

START, END = "<!-- benchmarks: written by `make bench` -->", "<!-- /benchmarks -->"


def run(model_dir: Path, only: str | None, quick: bool) -> results.Report:
    """Every figure of the report, in rounds that are few if it is only to be tried."""
    figures: dict[str, results.Rounds] = {}
    values: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if only in (None, "cold"):
            figures["cold"] = cold.measure(model_dir, scratch, 2 if quick else 21)
        for count in warm.CALLS if only in (None, "warm") else ():
            name = f"warm {count}"
            figures[name], values[name] = warm.measure(
                model_dir, scratch, count, *(1, 2) if quick else (5, 5), quick
            )
        for count in batch.CALLS if only in (None, "batch") else ():
            name = f"batch {count}"
            figures[name], values[name] = batch.measure(
                model_dir, scratch, count, *(1, 2) if quick else (5, 5), quick
            )
        if only in (None, "batch"):
            figures["batch with S3"] = batch.with_s3(model_dir, 1 if quick else 5)
        if only in (None, "load"):
            original, packed = load.prepare(scratch)
            for what, rounds in load.measure(original, packed, 2 if quick else 15).items():
                figures[f"load {what}"] = rounds
        if only in (None, "refusals"):
            found = refusals.measure(model_dir, scratch, 1 if quick else 3, quick)
            figures["refusals"], figures["refusals MB"] = found
    return {
        **results.machine(),
        "quick": quick,
        "figures": figures,
        "targets": results.verdicts(figures),
        "predictions": values,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=["cold", "warm", "batch", "load", "refusals"])
    parser.add_argument("--model", default="diabetes", help="a packed model, by name or path")
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure, in seconds (MB)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the report")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="a file whose table to renew")
    args = parser.parse_args(argv)
    report = run(find_model(args.model), args.only, args.quick)
    text = results.markdown(report)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.readme:
        renew(args.readme, results.table(report["figures"]))


def renew(file: Path, table: str) -> None:
    """Put the table between the two marks of a file."""
    before, mark, rest = file.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{file}: it lacks the marks {START} and {END}")
    file.write_text(f"{before}{START}\n{table}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
