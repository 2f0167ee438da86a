"""`answerable pack MODEL.onnx --reference DATA.csv …`: make an artifact of a model."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from answerable.commands import conformance, cost
from answerable.packing import contract_file, graph, provenance
from answerable.packing import feature_types as packed_types
from answerable.packing.errors import PackError
from answerable.packing.limits import MAX_ROWS
from answerable.packing.pack import Packed, pack
from answerable.terminal import listed, number, plain, table
from handler import feature_types
from handler.manifest import BY_CLASS, Manifest, Output
from handler.release import golden
from infra.project import ARTIFACTS

STEPS = 10  # that `pack` reports, and one of this command
COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "example:\n  answerable pack model.onnx --reference data.csv --name churn "
        '--version 1.0.0 \\\n      --owner crm@example.com --reason "first model"'
    )
    add = parser.add_argument
    # fmt: off
    add("model", metavar="MODEL", help="an .onnx file; a model of scikit-learn (.skops, .joblib), "
        "XGBoost (.json, .ubj), LightGBM (.txt) or CatBoost (.cbm); an MLflow folder or "
        "models:/NAME@ALIAS")
    add("--reference", dest="X", type=Path, metavar="DATA", help="a sample of the model's inputs: "
        ".csv, .csv.gz or .parquet with one column per feature; for a tensor contract (optional "
        "then) .npz, one array per input")
    add("--name", required=True, help="lower-case letters, digits and hyphens")
    add("--version", required=True, help="semantic version, e.g. 1.0.0")
    add("--owner", required=True, help="who answers for the model: a person, a team, an address")
    add("--reason", required=True, help="why this version exists")
    contracts = parser.add_mutually_exclusive_group()
    contracts.add_argument("--contract", type=Path, metavar="FILE", help="what the data cannot "
        "say, .toml or .yaml: units, descriptions, bounds, types, categories, decisions, limits")
    contracts.add_argument("--write-contract", type=Path, metavar="FILE.toml", help="write the "
        "inferred contract as comments, to edit and to pass as --contract")
    add("--ignore", action="append", default=[], metavar="COLUMN", help="a column of the sample "
        "that is not a feature, e.g. the target; repeatable")
    add("--target-names", dest="targets", type=lambda text: text.split(","), default=[],
        metavar="A,B,…", help="names of the outputs of a model of several targets (default: the "
        "columns of the reference that such a model does not take)")
    add("--metrics", type=Path, metavar="FILE.json", help="training metrics, for the lineage")
    add("--metric", action="append", default=[], metavar="NAME=VALUE", help="one more; repeatable")
    add("--optimize", choices=list(graph.LEVELS), default="extended", help="how far to optimise "
        "the graph (default: extended, which any CPU runs; all is faster for convolutions, but "
        "tuned to the CPU of this machine: use it if the function's is the same)")
    add("--tolerance", type=float, metavar="X", help="how far answers may be from the original's, "
        "relative above 1 (default: 1e-5 from the graph's, 1e-4 from those of --expected or a "
        "framework)")
    add("--expected", type=Path, metavar="FILE", help="the original model's predictions on the "
        "reference, in the forms of --reference, to compare with; those of a framework's model "
        "are computed")
    add("--double", action="store_true", help="convert a scikit-learn model to a graph of "
        "float64, where float32 is too coarse")
    add("--options", type=json.loads, metavar="JSON", help="more arguments of the framework's "
        "converter, an object")
    add("--trust", action="store_true", help="read a pickle (.joblib, .pkl), which runs any code "
        "that it holds")
    add("--threads", type=int, metavar="N", help="threads per run (default: measured)")
    add("--replace", action="store_true", help="pack the same version again although its content "
        "differs: for work in progress, never for what was deployed")
    add("--output", dest="artifacts", type=Path, default=ARTIFACTS, metavar="DIR",
        help="where the artifact's folder is made (default: model_artifacts)")
    # fmt: on


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `answerable.pack`. Raise PackError for metrics that are none."""
    others = ("command", "run", "write_contract")
    options = {key: value for key, value in vars(args).items() if key not in others}
    options["metrics"] = provenance.metrics(options.pop("metrics"), options.pop("metric"))
    return options


def main(args: argparse.Namespace) -> int:
    """Pack and print a summary."""
    if args.write_contract and args.write_contract.exists():
        raise PackError(f"{args.write_contract} exists already")
    console = Console(stderr=True)
    with Progress(
        *COLUMNS, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("Packing", total=STEPS)
        packed = pack(
            **arguments(args), progress=lambda step: bar.update(task, advance=1, description=step)
        )
        bar.update(task, advance=1, description="Checking that the contract is kept")
        facts = {**packed.facts, "conformance": _conformance(packed)}
    if args.write_contract:
        text = contract_file.render(packed.manifest)
        args.write_contract.write_text(text, encoding="utf-8")
        facts["contract"] = f"edit {args.write_contract}, and pack with --contract"
    fields: dict[str, Any] = {**cost.of_model(packed.manifest)}
    dollars = sum(item.dollars for item in cost.bill(cost.Month(**fields)))
    facts["an idle month"] = f"about {dollars:.2f} USD, once deployed (answerable cost)"
    facts["the stack"] = "answerable synth dev writes it, answerable deploy dev deploys it"
    _show(Console(), packed.manifest, packed.directory, facts)
    return 0


def _conformance(packed: Packed) -> str:
    """Return how many requests, at most 50 of a kind, were answered as the contract says."""
    rows, send = golden.read(packed.directory), conformance.local(packed.directory)
    results = conformance.check(packed.manifest, rows, send, over_http=False, max_per_kind=50)
    sent = sum(counts.total() for counts in results.values())
    differing = sent - sum(counts[""] for counts in results.values())
    if differing:
        return f"{differing} of {sent:,} requests differ: answerable conformance lists them"
    return f"{sent:,} requests answered as the contract says"


def _show(console: Console, manifest: Manifest, directory: Path, facts: dict[str, str]) -> None:
    """Print the contract's tables, and `facts` below them."""
    if manifest.features:
        columns = ("feature", "type", "range or categories", "missing", "outside")
        inputs = table(columns, _features(manifest))
    else:
        shapes = ((t.name, t.dtype, _shape(t.shape)) for t in manifest.inputs)
        inputs = table(("input", "type", "shape"), shapes)
    outputs = [*_outputs(manifest)]
    heads = ("output", "kind", "in the sample", "decision")
    n_columns = 4 if any(output.decision for output in manifest.outputs) else 3
    title = Text.assemble(("Packed ", "bold"), (f"{manifest.name} {manifest.version}", "bold cyan"))
    console.print(title, plain(f"in {directory}"))
    console.print(inputs, table(heads[:n_columns], (row[:n_columns] for row in outputs)))
    console.print(table(("", ""), _facts(manifest, facts).items()))


def _features(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for kind in feature_types.of(manifest):
        feature = kind.feature
        baseline = manifest.baseline.features.get(feature.name) if manifest.baseline else None
        share = baseline.missing_share if baseline else 0
        missing = f"{share:.1%}" if share else ("allowed" if feature.nullable else "refused")
        packed = packed_types.of(kind)
        yield feature.name, feature.type, packed.span(), missing, packed.policy()


def _shape(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape) or "scalar"


def _outputs(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for output in manifest.outputs:
        seen = list(_seen(manifest, output.name)) or [f"{output.dtype}, {_shape(output.shape)}"]
        yield output.name, output.kind, ", ".join(seen), _decision(output)


def _decision(output: Output) -> str:
    if not (decision := output.decision):
        return ""
    of = "" if decision.class_label is None else f" of {decision.class_label}"
    text = f"{decision.above} from {number(decision.threshold)}{of}, else {decision.below}"
    if decision.review:
        text += f"; review {' to '.join(map(number, decision.review))}"
    return text


def _seen(manifest: Manifest, name: str) -> Iterator[str]:
    """Yield an output's baseline in words."""
    baseline = manifest.baseline.outputs if manifest.baseline else {}
    output = next(output for output in manifest.outputs if output.name == name)
    for key, distribution in baseline.items():
        if output.kind == "tensor" or (key != name and not key.startswith(f"{name}.")):
            continue
        if output.kind == "label":
            shares = zip(
                distribution.values, distribution.cdf_left, distribution.cdf_right, strict=True
            )
            yield listed([f"{value}: {upto - below:.0%}" for value, below, upto in shares], 6)
        elif output.kind in BY_CLASS:
            label = key.removeprefix(f"{name}.")
            yield f"{label}: {distribution.values[0]:.2f} to {distribution.values[-1]:.2f}"
        else:
            low, high = (number(float(distribution.values[i])) for i in (0, -1))
            yield f"{low} to {high} {output.unit}".rstrip()


def _facts(manifest: Manifest, facts: dict[str, str]) -> dict[str, str]:
    limits = manifest.limits
    because = ", because Lambda takes and gives 6 MB" if limits.rows < MAX_ROWS else ""
    return {
        "files": ", ".join(
            f"{name} {decimal(file.bytes)}" for name, file in manifest.files.items()
        ),
        "limits": f"{limits.rows:,} rows, {decimal(limits.body_bytes)} in, "
        f"{decimal(limits.response_bytes)} out{because}",
        **facts,
    }
