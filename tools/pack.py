"""`python -m tools pack MODEL.onnx --reference DATA.csv …`: a model becomes an artifact.

The artifact is put in place only when it has answered the sample and its golden rows through the
handler's own code as plain onnxruntime answers them with the original file.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console

from handler import manifest as manifests
from handler import scoring
from handler.errors import ArtifactError, Refusal
from handler.manifest import Execution, Manifest, Output, Tensor
from tools import (
    answers,
    artifact,
    baseline,
    execution,
    golden,
    graph,
    limits,
    origin,
    stated,
    summary,
    table,
)
from tools import sample as samples
from tools.errors import PackError

GOLDEN = "golden.jsonl"
TOLERANCE = 1e-5
VERIFIED = 1000  # rows of the sample that are compared
VERIFIED_ELEMENTS = 2_000_000  # of tensors, that go through JSON twice
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
        "example:\n  python -m tools pack model.onnx --reference data.csv --name churn "
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
    add("--threads", type=int, metavar="N", help="threads per run (default: measured)")
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
    statement = stated.read(args.contract) if args.contract else stated.Stated()
    metrics = origin.metrics(args.metrics, args.metric)

    step("Reading the graph")
    source = graph.read(args.model)
    inputs = graph.inputs(source.model)
    original, notes = _original(args.model, source)

    step("Reading the sample")
    sample = samples.read(args.reference, args.ignore, inputs, statement.features)

    with artifact.staged(target) as directory:
        step("Optimising the graph")
        optimised = graph.optimise(source.model, args.optimize)
        graph.save(optimised, directory)

        step("Running the sample")
        run = execution.runner(graph.session(directory / graph.MODEL, graph.as_packed()))
        batch = execution.batch(run, inputs, sample.feeds)
        if batch == "none" and sample.features:
            raise PackError("the model's answers do not have one row for each row of its inputs")
        if batch == "none" != execution.declared(inputs):  # then an instance is a whole tensor
            sample = sample._replace(feeds={k: v[:, None] for k, v in sample.feeds.items()})
        results = execution.answers(run, sample.feeds, batch)
        tensors = graph.outputs(optimised)
        outputs = answers.describe(
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
            lineage=origin.lineage(args.why, args.model, producer, args.reference, metrics, target),
            description=statement.description,
            runbook=statement.runbook,
            producer=producer,
            features=sample.features,
            baseline=baseline.measure(sample.features, sample.columns, outputs, results),
        )
        _load(directory, draft)  # before anything is measured: is what is stated well-formed?

        step("Measuring threads")
        threads = f"{draft.execution.intra_op_threads}, as told"
        if args.threads is None:
            times = execution.threads(directory, draft, sample.feeds)
            number = execution.best(times)
            draft = draft._replace(execution=Execution(number, batch))
            threads = f"{number} ({_times(times)})"

        step("Writing golden rows")
        rows = (
            golden.tabular(sample.features, sample.columns)
            if sample.features
            else golden.tensors(sample.feeds, sample.origin)
        )
        _write_golden(directory / GOLDEN, _load(directory, draft), rows)
        packed = draft._replace(files=artifact.files(directory))

        step("Comparing with the original")
        scorer = _load(directory, packed)
        compared, largest = _compare(scorer, original, sample, [row for _, row in rows])
    facts = {
        "threads": threads,
        "golden": f"{len(rows)} rows",
        "verified": f"{compared} rows, at most {largest:.1g} from the original's answers",
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


def _original(path: Path, source: graph.Source) -> tuple[execution.Run, list[str]]:
    """The run of the file as it came, and what is to be said about that."""
    notes = list(source.notes)
    try:
        session = graph.session(path)
    except PackError:
        if not notes:
            raise
        session = graph.session(source.model.SerializeToString())
        notes.append("the original does not load here, so it was compared with that mended")
    return execution.runner(session), notes


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


def _ask(scorer: scoring.Scorer, instances: Sequence[golden.Instance]) -> list[bytes]:
    """The predictions for instances, from the handler's own path, each as JSON."""
    predictions: list[bytes] = []
    step = min(100, scorer.manifest.limits.rows)
    for start in range(0, len(instances), step):
        body = golden.dumps({"instances": instances[start : start + step]})
        if step == 1 and len(body) > scorer.manifest.limits.body_bytes:
            raise PackError("one row of the sample is over the limit for bodies, body_bytes")
        try:
            predictions += scorer.score(body).predictions
        except Refusal as error:
            place = [f" ({v.pointer}: {v.message})" for v in error.violations[:1]]
            raise PackError(f"the handler refuses the sample: {error}{''.join(place)}") from None
    return predictions


def _write_golden(path: Path, scorer: scoring.Scorer, rows: Sequence[golden.Named]) -> None:
    lines = []
    for name, instance in rows:
        prediction = orjson.Fragment(_ask(scorer, [instance])[0])
        lines.append(golden.dumps({"name": name, "instance": instance, "prediction": prediction}))
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def _compare(
    scorer: scoring.Scorer,
    original: execution.Run,
    sample: samples.Sample,
    rows: list[golden.Instance],
) -> tuple[int, float]:
    """The rows compared, and the largest deviation. Raises PackError above the tolerance."""
    known = execution.count(sample.feeds)
    if sample.features:
        step = -(-known // VERIFIED)
        columns = {
            feature.name: sample.columns[feature.name][::step] + [row[feature.name] for row in rows]
            for feature in sample.features
        }
        feeds = table.feeds(sample.features, scorer.manifest.inputs, columns)
        names = list(columns)
        instances: list[golden.Instance] = [
            dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    else:
        size = sum(array[0].size for array in sample.feeds.values())
        feeds = execution.part(sample.feeds, 0, max(len(rows), VERIFIED_ELEMENTS // max(size, 1)))
        instances = [
            {name: array[i] for name, array in feeds.items()} for i in range(execution.count(feeds))
        ]
    batch = scorer.manifest.execution.batch
    outputs = scorer.manifest.outputs
    expected = answers.plain(execution.answers(original, feeds, batch), outputs)
    predictions = [orjson.loads(text) for text in _ask(scorer, instances)]
    largest = answers.deviation(outputs, predictions, expected)
    half = any(output.dtype == "float16" for output in outputs)
    if largest > (TOLERANCE * 100 if half else TOLERANCE):
        raise PackError(f"the packed model's answers are {largest:.1g} from the original's")
    return len(instances), largest


def _times(times: dict[int, list[float]]) -> str:
    """What was measured, in words."""
    sizes = " / ".join(["1 row", "100 rows"][: len(times[1])])
    parts = [
        f"{number}: {' / '.join(f'{1000 * seconds:.2g}' for seconds in measured)} ms"
        for number, measured in times.items()
    ]
    return f"a run of {sizes} takes with {', '.join(parts)}"
