"""Print a packed model at a terminal."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from answerable.packing import feature_types as packed_types
from answerable.packing.limits import MAX_ROWS
from answerable.terminal import listed, number, plain, table
from handler import feature_types
from handler.manifest import BY_CLASS, Manifest, Output


def show(console: Console, manifest: Manifest, directory: Path, facts: dict[str, str]) -> None:
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
