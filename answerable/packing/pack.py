"""Pack a model: an ONNX graph and a sample of its inputs become an artifact with a contract.

The artifact is put into place only when the handler's own code answers the sample and the golden
rows as plain onnxruntime answers them with the original file.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from answerable.packing import (
    artifact,
    baseline,
    contract_file,
    encoders,
    execution,
    frameworks,
    golden,
    graph,
    limits,
    output_fields,
    output_rewrites,
    parity,
    probing,
    provenance,
    reference,
    table,
)
from answerable.packing import sample as samples
from answerable.packing.errors import PackError
from answerable.terminal import number
from handler import manifest as manifests
from handler import scoring
from handler.errors import ArtifactError
from handler.manifest import Alarms, Execution, Manifest, OutcomeValue, Output
from infra.project import ARTIFACTS

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")  # of stacks, alarms and paths
# https://semver.org
VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*))*)?"
    r"(\+[\dA-Za-z-]+(\.[\dA-Za-z-]+)*)?"
)
Progress = Callable[[str], None]


class Packed(NamedTuple):
    """A packed model. `facts`: what was measured and compared, in words."""

    manifest: Manifest
    directory: Path
    facts: dict[str, str]


def pack(
    model: Any,
    X: Any = None,
    *,
    name: str,
    version: str,
    owner: str,
    reason: str,
    contract: Path | str | Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    targets: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    optimize: str = "extended",
    tolerance: float | None = None,
    expected: Any = None,
    double: bool = False,
    options: Mapping[str, Any] | None = None,
    trust: bool = False,
    threads: int | None = None,
    replace: bool = False,
    artifacts: Path | str = ARTIFACTS,
    progress: Progress = lambda step: None,
) -> Packed:
    """Write the artifact `artifacts/name` and return it. Raise PackError if it is refused.

    `model`: an ONNX file, its bytes, or a ModelProto; or a fitted model of a framework, its file or
    an MLflow folder (answerable/packing/frameworks.py). `X`: a sample of the inputs, as a file
    (.csv, .parquet or .npz), a DataFrame, an array or a dict of arrays; a tensor contract needs
    none. `targets`: the names of the targets, if there are several. `contract`: the contract file,
    or its content. `expected`: the original model's predictions on X, in the forms of X. `options`:
    more arguments of the framework's converter.
    The other parameters are the command's options.
    """
    _check_words(name, version, owner, reason, threads)
    target = Path(artifacts, name)
    with tempfile.TemporaryDirectory() as folder:
        progress("Reading the sample")
        data = reference.read(X, ignore)
        model = frameworks.locate(model)
        framework = frameworks.open_model(model, trust)
        progress("Reading the graph")
        if framework:
            data, model = frameworks.convert(framework, data, double, options or {}, targets)
        model_file = _model_file(model, Path(folder))
        source = graph.read(model_file)
        statement = (
            contract_file.read(Path(contract))
            if isinstance(contract, (Path, str))
            else contract_file.parse(dict(contract or {}), "contract")
        )
        is_file = isinstance(model, (Path, str))
        model_folder = Path(model).parent if is_file else Path()
        encoded = encoders.prepare(source, statement.features, model_folder)
        original, notes = _original(model_file, source, encoded)
        source, inputs = encoded.source, encoded.inputs
        data = encoded.name_pictures(data)
        if data and not framework and table.is_tabular(inputs):
            data = reference.select(data, *table.expected_names(inputs))
        notes += data.notes if data else ()
        sample = samples.read(data, inputs, encoded.stated, graph.rows_share_name(source.model))
        versions = framework.versions() if framework else {}
        sources = provenance.Sources(model_file, data.sha256 if data else None, versions)
        actual = data.targets if data and not targets else {}
        data = None  # frees memory
        lineage = provenance.lineage(reason, sources, _producer(source), metrics or {}, target)

        names = targets or tuple(actual)
        rewrites = _rewrite_outputs(source, statement.outputs, names, original, sample)

    before = artifact.packed_version(target)
    with artifact.staged(target) as directory:
        progress("Optimising the graph")
        optimised = graph.optimise(source.model, optimize)
        graph.save(optimised, directory)

        progress(f"Running {_rows(execution.n_rows(sample.feeds))} of the sample")
        session = encoded.session(graph.session(directory / graph.MODEL, graph.as_packed()))
        run = execution.runner(session)
        quantised = graph.quantises_dynamically(source.model)
        batch = execution.batch(run, sample.batch, sample.feeds, quantised)
        if batch == "none" != sample.batch:
            sample = samples.as_whole(sample, inputs)
        execution.check_repeatable(run, sample.feeds, batch)
        results = execution.run_sample(run, sample.feeds, batch)

        progress("Probing what the graph takes")
        prober = probing.Prober(session, batch)
        if sample.features:
            types, limits_found = probing.features(prober, sample, inputs, encoded.stated)
            sample = sample._replace(types=types)
        else:
            inputs, limits_found = probing.tensors(prober, sample, inputs, batch)
        if not prober.complete:
            limits_found.append("the model is slow, so not all was probed")

        encoded.copy_files(directory, sample.types)
        tensors = graph.outputs(optimised)
        outputs = output_fields.describe(
            tensors, results, batch, source.classes, rewrites.stated, bool(sample.features)
        )
        _check_finite(outputs, results, sample)
        if framework or expected is not None:
            progress("Comparing with the original model's predictions")
            if expected is not None:
                predicted = parity.read_expected(expected, outputs, len(results[0]))
            elif framework:
                predictions = framework.predict(sample.columns, rewrites.tensors)
                predicted = framework.title, rewrites.arrays(predictions)
                output_rewrites.check_order(actual, predicted[1])
            graph_run = partial(execution.run_sample, run, batch=batch)
            takes_double = framework is not None and framework.takes_double and not double
            causes = partial(parity.causes, source.model, sample, graph_run, takes_double)
            agreement = parity.check(outputs, results, predicted, tolerance, causes)
            lineage = lineage._replace(parity=agreement)

        value = statement.outcome_value
        draft = Manifest(
            format=manifests.FORMAT,
            name=name,
            version=version,
            owner=owner,
            contract="tabular" if sample.features else "tensor",
            files=artifact.files(directory),
            opset={entry.domain or "ai.onnx": entry.version for entry in source.model.opset_import},
            inputs=tuple(  # a leading axis of 1 holds one row
                tensor._replace(shape=(1, *tensor.shape[1:])) if batch == "single" else tensor
                for tensor in inputs
            ),
            outputs=outputs,
            limits=limits.default(
                sample.types, inputs, outputs, (sample.feeds, results), batch, statement.limits
            ),
            execution=Execution(threads or 1, batch, **graph.traits(directory)),
            lineage=lineage,
            description=statement.description,
            runbook=statement.runbook,
            alarms=Alarms(**statement.alarms),
            outcome_value=OutcomeValue(**value) if value else None,
            producer=_producer(source),
            features=sample.features,
            baseline=baseline.measure(
                sample.types, sample.columns, outputs, results, inputs, sample.feeds
            ),
        )
        # before anything is measured: is what is stated well-formed?
        loaded = _load(directory, draft).manifest
        artifact.check_version(target, draft, replace=True)  # its files, its content, come later

        measured = f"{draft.execution.intra_op_threads}, as stated"
        if threads is None:
            progress("Measuring threads")
            times = execution.threads(directory, loaded, encoded.encode(sample.feeds))
            chosen = execution.choose_threads(times)
            draft = draft._replace(execution=draft.execution._replace(intra_op_threads=chosen))
            many = min(execution.MEASURED_ROWS, draft.limits.rows, execution.n_rows(sample.feeds))
            measured = f"{chosen} ({_times(times, many)})"

        progress("Writing golden rows")
        rows = golden.choose(sample)
        golden.write(directory, _load(directory, draft), rows)
        manifest = draft._replace(files=artifact.files(directory))

        progress("Comparing with the original")
        scorer = _load(directory, manifest)
        compared, deviation = golden.verify(
            scorer, original, rewrites, sample, [row for _, row in rows], tolerance
        )
        artifact.check_version(target, manifest, replace)
    facts = {
        "threads": measured,
        "golden": _rows(len(rows)),
        "parity": parity.describe(lineage.parity)
        if lineage.parity
        else "not compared: give --expected",
        "verified": f"{_rows(compared)}, at most {number(float(f'{deviation:.1g}'))} from "
        "onnxruntime's answers without optimisation",
        "found by probing": "; ".join(limits_found) or "the graph takes what the contract accepts",
    }
    if before and before != version:
        facts["replaces"] = f"{before}, which stays as {name}@{before}: " + (
            f"answerable diff {name}@{before} {name}"
        )
    return Packed(manifest, target, facts | ({"note": "; ".join(notes)} if notes else {}))


def _check_words(name: str, version: str, owner: str, reason: str, threads: int | None) -> None:
    if not NAME.fullmatch(name):
        spelt = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:40]
        raise PackError(
            f"name: a letter, then at most 39 letters, digits and hyphens, all lower-case; "
            f"for example {spelt or 'churn'}"
        )
    if not VERSION.fullmatch(version):
        raise PackError("version: a semantic version is needed, as 1.0.0 or 2.1.0-rc.1")
    for option, text in (("owner", owner), ("reason", reason)):
        if not text.strip():
            raise PackError(f"{option}: empty")
    if threads is not None and threads < 1:
        raise PackError("threads: at least 1")


def _model_file(model: "Path | str | bytes | onnx.ModelProto", folder: Path) -> Path:
    """Return the model's file, written to `folder` where the model is not a file."""
    if isinstance(model, (Path, str)):
        return Path(model)
    file = folder / graph.MODEL
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return file


def _producer(source: graph.Source) -> str:
    """Return the exporter's name and version; some write their whole build log there."""
    text = f"{source.model.producer_name} {source.model.producer_version}".strip()
    return text.split("\n")[0][:80]


def _original(
    path: Path, source: graph.Source, encoded: encoders.Encoders
) -> tuple[golden.Original, list[str]]:
    """Return the run of the file as it came, and what the summary notes about it."""
    notes = list(source.notes)
    model: Path | bytes = path
    if encoded.source is not source:  # the graph has another input now
        source = encoded.source
        model = source.model.SerializeToString()
    try:
        session = graph.session(model, graph.as_packed())
    except PackError:
        if not notes:
            raise
        session = graph.session(source.model.SerializeToString(), graph.as_packed())
        notes.append("the original does not load here, so it was compared with the corrected one")
    run = execution.runner(encoded.session(session))
    return golden.Original(run, source.classes), notes


def _rewrite_outputs(
    source: graph.Source,
    stated: dict[str, contract_file.Fields],
    targets: Sequence[str],
    original: golden.Original,
    sample: samples.Sample,
) -> output_rewrites.Rewrites:
    """Split and reduce the graph's outputs where targets or `top_k` are stated."""
    tensors = tuple(value.name for value in source.model.graph.output)
    if not targets and not any({"targets", "top_k"} & fields.keys() for fields in stated.values()):
        return output_rewrites.Rewrites(tensors, stated)
    feeds = execution.slice_rows(sample.feeds, 0, 1)
    if sample.batch == "none":
        feeds = {name: array[0] for name, array in feeds.items()}
    results = original.run(feeds)
    arrays = output_fields.to_arrays(results, tensors, source.classes)
    return output_rewrites.rewrite(source, stated, targets, list(arrays.values()))


def _check_finite(
    outputs: Sequence[Output], results: Sequence[table.Array], sample: samples.Sample
) -> None:
    for output, array in zip(outputs, results, strict=True):
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        holes = [name for name, column in sample.columns.items() if column[row] is None]
        hint = f"; {', '.join(holes)} is missing there: state what it becomes, as `fill_value`"
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
    """Return the measured times in words."""
    sizes = " / ".join(["1 row", _rows(rows)][: len(times[1])])
    settings = [
        f"{count}: {' / '.join(number(float(f'{1000 * seconds:.2g}')) for seconds in measured)} ms"
        for count, measured in times.items()
    ]
    return f"a run of {sizes} takes with {', '.join(settings)}"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
