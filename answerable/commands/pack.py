"""`answerable pack MODEL.onnx --reference DATA.csv …`: a model becomes an artifact.

The artifact is put in place only when it has answered the sample and its golden rows through the
handler's own code as plain onnxruntime answers them with the original file.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from answerable.packing import (
    artifact,
    baseline,
    contract_file,
    execution,
    golden,
    graph,
    limits,
    output_fields,
    provenance,
    summary,
    table,
    verification,
    version_check,
)
from answerable.packing import sample as samples
from answerable.packing.errors import PackError
from handler import manifest as manifests
from handler import scoring
from handler.errors import ArtifactError
from handler.manifest import Alarms, Execution, Manifest, OutcomeValue, Output, Tensor

GOLDEN = "golden.jsonl"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
# https://semver.org
VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*))*)?"
    r"(\+[\dA-Za-z-]+(\.[\dA-Za-z-]+)*)?"
)
Step = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `pack`."""
    parser.epilog = (
        "example:\n  answerable pack model.onnx --reference data.csv --name churn "
        '--version 1.0.0 \\\n      --owner crm@example.com --why "first model"'
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx")
    add(
        "--reference",
        type=Path,
        metavar="DATA",
        help="a sample of the model's inputs: .csv with "
        "one column per feature; for a tensor contract (optional then) .npz, one array per input",
    )
    add("--name", required=True, help="lower-case letters, digits and hyphens")
    add("--version", required=True, help="semantic version, e.g. 1.0.0")
    add("--owner", required=True, help="who answers for the model: a person, a team, an address")
    add("--why", required=True, help="why this version exists")
    add(
        "--contract",
        type=Path,
        metavar="FILE",
        help="what the data cannot say, .toml or .yaml: "
        "units, descriptions, bounds, types, categories, decisions, limits",
    )
    add(
        "--ignore",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of the sample that is not a feature, e.g. the target; repeatable",
    )
    add("--metrics", type=Path, metavar="FILE.json", help="training metrics, for the lineage")
    add("--metric", action="append", default=[], metavar="NAME=VALUE", help="one more; repeatable")
    add(
        "--optimize",
        choices=list(graph.LEVELS),
        default="extended",
        help="how far to optimise "
        "the graph (default: extended, which any CPU runs; all is faster for convolutions, but "
        "tuned to the CPU of this machine: use it if the function's is the same)",
    )
    add(
        "--tolerance",
        type=float,
        metavar="X",
        help="how far answers may be from the original's, relative above 1 (default: 1e-5)",
    )
    add("--threads", type=int, metavar="N", help="threads per run (default: measured)")
    add(
        "--replace",
        action="store_true",
        help="pack the version that is there again, "
        "although its content differs: for work in progress, never for what was deployed",
    )
    add(
        "--output",
        type=Path,
        default=Path("model_artifacts"),
        metavar="DIR",
        help="where the artifact's folder is made (default: model_artifacts)",
    )


def main(args: argparse.Namespace) -> int:
    """Pack, and tell what was packed; 2 and one line on stderr if it is refused."""
    progress, out = Console(stderr=True), Console()
    try:
        with progress.status("Packing") as status:
            packed, facts = pack(args, lambda step: status.update(f"{step} …"))
    except PackError as error:
        progress.print(f"pack: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    summary.show(out, packed, args.output / args.name, facts)
    return 0


def pack(args: argparse.Namespace, step: Step = lambda _: None) -> tuple[Manifest, dict[str, str]]:
    """Write the artifact; give its manifest, and facts for the summary. Raises PackError."""
    _check_words(args)
    target = args.output / args.name
    statement = contract_file.read(args.contract) if args.contract else contract_file.ContractFile()
    metrics = provenance.metrics(args.metrics, args.metric)

    step("Reading the graph")
    source = graph.read(args.model)
    inputs = graph.inputs(source.model)
    originals, notes = _originals(args.model, source, args.optimize)

    step("Reading the sample")
    sample = samples.read(
        args.reference,
        args.ignore,
        inputs,
        statement.features,
        graph.rows_share_name(source.model),
    )

    with artifact.staged(target) as directory:
        step("Optimising the graph")
        optimised = graph.optimise(source.model, args.optimize)
        graph.save(optimised, directory)

        step("Running the sample")
        run = execution.runner(graph.session(directory / graph.MODEL, graph.as_packed()))
        quantised = graph.quantises_dynamically(source.model)
        batch = execution.batch(run, sample.batch, sample.feeds, quantised)
        if batch == "none" != sample.batch:
            sample = samples.as_whole(sample, inputs)
        execution.check_repeatable(run, sample.feeds, batch)
        results = execution.run_sample(run, sample.feeds, batch)
        tensors = graph.outputs(optimised)
        outputs = output_fields.describe(
            tensors, results, batch, source.classes, statement.outputs, bool(sample.features)
        )
        _check_finite(outputs, results, sample)

        producer = f"{source.model.producer_name} {source.model.producer_version}".strip()
        draft = Manifest(
            format=manifests.FORMAT,
            name=args.name,
            version=args.version,
            owner=args.owner,
            contract="tabular" if sample.features else "tensor",
            files=artifact.files(directory),
            opset={entry.domain or "ai.onnx": entry.version for entry in source.model.opset_import},
            inputs=tuple(_batched(tensor, batch) for tensor in inputs),
            outputs=outputs,
            limits=limits.default(
                sample.features, inputs, outputs, (sample.feeds, results), batch, statement.limits
            ),
            execution=Execution(args.threads or 1, batch),
            lineage=provenance.lineage(
                args.why, args.model, producer, args.reference, metrics, target
            ),
            description=statement.description,
            runbook=statement.runbook,
            alarms=Alarms(**statement.alarms),
            outcome_value=OutcomeValue(**statement.outcome_value)
            if statement.outcome_value
            else None,
            producer=producer,
            features=sample.features,
            baseline=baseline.measure(sample.features, sample.columns, outputs, results),
        )
        _load(directory, draft)  # before anything is measured: is what is stated well-formed?
        version_check.check(
            target, draft, replace=True
        )  # its files, and so its content, come later

        step("Measuring threads")
        threads = f"{draft.execution.intra_op_threads}, as told"
        if args.threads is None:
            times = execution.threads(directory, draft, sample.feeds)
            number = execution.choose_threads(times)
            draft = draft._replace(execution=Execution(number, batch))
            many = min(execution.MEASURED_ROWS, draft.limits.rows, execution.n_rows(sample.feeds))
            threads = f"{number} ({_times(times, many)})"

        step("Writing golden rows")
        rows = golden.choose(sample)
        verification.write_golden(directory / GOLDEN, _load(directory, draft), rows)
        packed = draft._replace(files=artifact.files(directory))

        step("Comparing with the original")
        scorer = _load(directory, packed)
        compared, same_level, unoptimised = verification.verify(
            scorer, originals, sample, [row for _, row in rows], args.tolerance
        )
        version_check.check(target, packed, args.replace)
    facts = {
        "threads": threads,
        "golden": _rows(len(rows)),
        "verified": f"{_rows(compared)}, at most {same_level:.1g} from onnxruntime's answers at "
        f"this optimisation, and {unoptimised:.1g} without any",
    }
    return packed, facts | {"note": "; ".join(notes)} if notes else facts


def _check_words(args: argparse.Namespace) -> None:
    if not NAME.fullmatch(args.name):
        raise PackError("--name takes lower-case letters, digits and hyphens: churn, credit-risk")
    if not VERSION.fullmatch(args.version):
        raise PackError("--version takes a semantic version: 1.0.0, 2.1.0-rc.1")
    for word in ("owner", "why"):
        if not getattr(args, word).strip():
            raise PackError(f"--{word} is empty")
    if args.threads is not None and args.threads < 1:
        raise PackError("--threads takes a number from 1")


def _originals(
    path: Path, source: graph.Source, level: str
) -> tuple[verification.Originals, list[str]]:
    """Return the runs of the file as it came, and what the summary notes about them."""
    notes, model = list(source.notes), path
    try:
        optimised = graph.session(model, graph.optimising(level))
    except PackError:
        if not notes:
            raise
        model = source.model.SerializeToString()
        optimised = graph.session(model, graph.optimising(level))
        notes.append("the original does not load here, so it was compared with that mended")
    plain = graph.session(model, graph.as_packed())
    runs = execution.runner(optimised), execution.runner(plain)
    return verification.Originals(*runs, source.classes), notes


def _batched(tensor: Tensor, batch: execution.Batch) -> Tensor:
    """An axis that the graph leaves free, but that holds only one row, is stated so."""
    return tensor._replace(shape=(1, *tensor.shape[1:])) if batch == "single" else tensor


def _check_finite(
    outputs: Sequence[Output], results: Sequence[table.Array], sample: samples.Sample
) -> None:
    for output, array in zip(outputs, results, strict=True):
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        holes = [name for name, column in sample.columns.items() if column[row] is None]
        hint = f"; {', '.join(holes)} is missing there: state what it becomes, as `missing`"
        raise PackError(
            f"{output.name} is not finite in row {row + 1} of the sample{hint if holes else ''}"
        )


def _load(directory: Path, manifest: Manifest) -> scoring.Scorer:
    """Write the manifest and load the artifact as the function will."""
    artifact.write(directory, manifest)
    try:
        return scoring.load(directory)
    except ArtifactError as error:
        message = re.sub(
            r"features/(\d+)", lambda m: f"feature {manifest.features[int(m[1])].name}", str(error)
        )
        raise PackError(f"the handler does not take the artifact: {message}") from None


def _times(times: dict[int, list[float]], rows: int) -> str:
    """What was measured, in words."""
    sizes = " / ".join(["1 row", _rows(rows)][: len(times[1])])
    parts = [
        f"{number}: {' / '.join(f'{1000 * seconds:.2g}' for seconds in measured)} ms"
        for number, measured in times.items()
    ]
    return f"a run of {sizes} takes with {', '.join(parts)}"


def _rows(number: int) -> str:
    return f"{number} row{'s' * (number != 1)}"
