"""The product's steps, from pack to report, for one zoo model each. Docs: docs/models.md.

A step returns if it passes. It raises NotApplicable if the model has no use for it, and
AssertionError if the product is wrong.
"""

import base64
import contextlib
import csv
import functools
import io
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from answerable import __main__ as answerable
from answerable.commands import conformance
from answerable.packing import parity
from answerable.simulation import plan
from handler import app, prediction_id
from handler import manifest as manifests
from handler.jobs import worker
from handler.manifest import Feature
from handler.release import compatibility, golden, version_client
from handler.release.version_client import VersionClient
from handler.settings import Settings
from tests.fixtures import memory_store, protocols, release
from tests.fixtures.events import Context
from tests.zoo import registry
from tests.zoo.registry import PACKS, ZooModel

NAME = "test"  # of every packed model
ROWS = 12  # of the sample that are sent
TOLERANCE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-5}
MAX_TEMPLATE_BYTES, MAX_RESOURCES = 1_000_000, 500
MAX_ALARM_RULE_CHARS, MAX_WIDGET_METRICS, MAX_ALARM_NAME_CHARS = 10_240, 500, 255
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"


class NotApplicable(Exception):
    """The model has no use for the step."""


def answerable_main(*args: str | Path) -> tuple[int, str]:
    """Run a command in this process; return its code and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = answerable.main([str(arg) for arg in args])
        except SystemExit as error:
            raise AssertionError(f"{args[0]}: {out.getvalue()[-300:]}") from error
    return code, " ".join(out.getvalue().split())


class Packed:
    """A zoo model, packed as 1.0.0, with plain onnxruntime's answers to its sample."""

    def __init__(self, model: ZooModel) -> None:
        self.model = model
        self._scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self._scratch.name)
        self.paths = model.make(self.folder)
        self.directory = self.folder / "artifacts" / NAME
        try:
            self.code, self.text = self.pack("1.0.0")
        except Exception as error:  # a traceback is a result
            self.code, self.text = 1, f"{type(error).__name__}: {error}"

    def pack(self, version: str) -> tuple[int, str]:
        """Pack the model with everything that the zoo states about it."""
        options: list[str | Path] = ["--name", NAME, "--version", version, "--owner", "tests"]
        options += ["--reason", "a test", "--threads", "1", "--output", self.directory.parent]
        if self.paths.sample:
            options += ["--reference", self.paths.sample]
        if self.paths.contract:
            options += ["--contract", self.paths.contract]
        if (expected := registry.FILES / f"{self.model.name}.expected.npz").exists():
            options += ["--expected", expected]
            if self.model.tolerance > parity.TOLERANCE:
                options += ["--tolerance", str(self.model.tolerance)]
        for column in self.model.ignore:
            options += ["--ignore", column]
        return answerable_main("pack", self.paths.model, *options)

    @functools.cached_property
    def manifest(self) -> manifests.Manifest:
        """The packed manifest."""
        return manifests.read(self.directory)

    @functools.cached_property
    def session(self) -> Any:
        """Plain onnxruntime with the original file."""
        return registry.open_session(self.paths.model)

    @functools.cached_property
    def feeds(self) -> registry.Arrays:
        """The first rows of the sample as plain onnxruntime takes them."""
        if self.paths.sample:
            model = self.model
            arrays = registry.feeds(self.session, self.paths.sample, model.ignore, model.encode)
        else:
            arrays = registry.drawn(self.session, self.model.batch)
        return {name: array[:ROWS] for name, array in arrays.items()}

    @functools.cached_property
    def expected(self) -> list[list[registry.Array]]:
        """Plain onnxruntime's answers, by output and row."""
        outputs = registry.run_plain(self.session, self.feeds, self.model.batch)
        if not all(output.tensor in outputs for output in self.manifest.outputs):
            assert len(outputs) == len(self.manifest.outputs), "other outputs than the graph's"
            return list(outputs.values())
        return [outputs[output.tensor] for output in self.manifest.outputs]

    @functools.cached_property
    def instances(self) -> list[dict[str, Any]]:
        """The sample's rows as JSON."""
        count = len(next(iter(self.feeds.values())))
        if not self.manifest.features:
            return [
                {name: _to_json(array[i]) for name, array in self.feeds.items()}
                for i in range(count)
            ]
        assert self.paths.sample
        table = registry.read_table(self.paths.sample)
        return [
            {f.name: _cell_to_json(f, table[f.name][i]) for f in self.manifest.features}
            for i in range(count)
        ]

    @functools.cached_property
    def handler(self) -> Any:
        """The function."""
        return app.create(Settings(self.directory))

    @functools.cached_property
    def logging_handler(self) -> Any:
        """The function with payload logging."""
        return app.create(Settings(self.directory, log_payloads="full"))

    def call(
        self, path: str, body: str | bytes, content_type: str = JSON, log_payloads: bool = False
    ) -> tuple[int, Any, list[dict[str, Any]]]:
        """Return status, document and log records of a request."""
        event = protocols.event(body, path, **{"content-type": content_type})
        handler = self.logging_handler if log_payloads else self.handler
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            response = handler(event, Context(60_000))
        records = [json.loads(line) for line in out.getvalue().splitlines()]
        return response["statusCode"], json.loads(response["body"]), records

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the rows, each within the contract's limit."""
        step = min(self.manifest.limits.rows, ROWS)
        for start in range(0, len(self.instances), step):
            yield slice(start, start + step)

    def check_predictions(self, status: int, document: Any, first: int = 0) -> None:
        """Raise unless a document's predictions are plain onnxruntime's."""
        assert status == 200, f"{status}: {document.get('detail')} {document.get('errors', '')}"
        assert document["predictions"]
        for i, prediction in enumerate(document["predictions"], first):
            for output, values in zip(self.manifest.outputs, self.expected, strict=True):
                check_equal(prediction[output.name], values[i], output.name)

    def check_documents(self, path: str, make: Callable[[slice], Any]) -> None:
        """Send `make(rows)` for all rows, then for one, and check the predictions."""
        for rows in [*self.chunks(), slice(0, 1)]:
            status, document, _ = self.call(path, json.dumps(make(rows)))
            self.check_predictions(status, document, rows.start)
            assert len(document["predictions"]) == len(self.instances[rows])


def _to_json(array: Any) -> Any:
    """Return nested lists in which NaN is null."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), None, array.astype(object))
    return array.tolist()


def _cell_to_json(feature: Feature, cell: str) -> Any:
    words = feature.type == "text" or any(isinstance(c, str) for c in feature.categories)
    if cell == "" and (feature.nullable or not words):
        return None
    if words or feature.type not in ("number", "integer", "category", "boolean"):
        return cell
    if feature.type == "boolean":
        return cell.lower() in ("true", "1", "1.0")
    return int(float(cell)) if feature.type == "integer" else float(cell)


def check_equal(actual: Any, expected: Any, name: str) -> None:
    """Raise unless an answer's value is an array of onnxruntime's, but for rounding."""
    expected = np.asarray(expected)
    values = list(actual.values()) if isinstance(actual, dict) else actual
    flat = np.array(values, expected.dtype if expected.dtype.kind != "U" else object).ravel()
    assert flat.size == expected.size, f"{name}: {flat.size} values instead of {expected.size}"
    if expected.dtype.kind != "f":
        assert flat.tolist() == expected.ravel().tolist(), f"{name} differs"
        return
    difference = np.abs(flat - expected.ravel()) / np.maximum(1, np.abs(expected.ravel()))
    worst = float(difference.max(initial=0))
    assert worst <= TOLERANCE[expected.dtype.name], f"{name} differs by {worst:.1g}"


# --- steps ------------------------------------------------------------------------------------


def step_pack(packed: Packed) -> None:
    """`answerable pack` packs, or refuses by the expected sentence."""
    if packed.model.expected == PACKS:
        assert packed.code == 0, packed.text[-300:]
        assert packed.manifest.execution.batch == packed.model.batch
    else:
        assert packed.code == 2, f"code {packed.code}: {packed.text[-300:]}"
        assert re.search(packed.model.expected, packed.text, re.I), packed.text[-300:]


def step_predict(packed: Packed) -> None:
    """`/predict` answers as plain onnxruntime does."""
    packed.check_documents("/predict", lambda rows: {"instances": packed.instances[rows]})


def step_v1(packed: Packed) -> None:
    """KServe v1 answers as plain onnxruntime does."""
    path = f"/v1/models/{NAME}:predict"
    packed.check_documents(path, lambda rows: {"instances": packed.instances[rows]})


def step_invocations(packed: Packed) -> None:
    """`/invocations` answers as plain onnxruntime does, in each form that applies."""
    path, instances = "/invocations", packed.instances
    packed.check_documents(path, lambda rows: {"instances": instances[rows]})
    if packed.manifest.features:
        names = list(instances[0])
        packed.check_documents(path, lambda rows: {"dataframe_records": instances[rows]})
        packed.check_documents(path, lambda rows: {"dataframe_split": {
            "columns": names, "data": [list(row.values()) for row in instances[rows]]}
        })  # fmt: skip
        for rows in packed.chunks():
            text = io.StringIO()
            lines = csv.writer(text)
            lines.writerow(names)
            lines.writerows(row.values() for row in instances[rows])
            status, document, _ = packed.call(path, text.getvalue(), CSV)
            packed.check_predictions(status, document, rows.start)
        if any(f.type not in ("number", "integer") for f in packed.manifest.features):
            return
        table = np.array([list(row.values()) for row in instances], float)
        arrays = [(rows, table[rows]) for rows in packed.chunks()]
    else:
        whole = packed.manifest.execution.batch == "none"
        chunks = [slice(i, i + 1) for i in range(len(instances))] if whole else packed.chunks()
        feeds = [
            (rows, {name: a[rows.start] if whole else a[rows] for name, a in packed.feeds.items()})
            for rows in chunks
        ]
        for rows, tensors in feeds:
            inputs = {name: _to_json(array) for name, array in tensors.items()}
            status, document, _ = packed.call(path, json.dumps({"inputs": inputs}))
            packed.check_predictions(status, document, rows.start)
        ((first, *others),) = [list(packed.feeds)]
        if others or packed.feeds[first].dtype.kind == "O":
            return
        arrays = [(rows, tensors[first]) for rows, tensors in feeds]
    for rows, array in arrays:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        status, document, _ = packed.call(path, file.getvalue(), NPY)
        packed.check_predictions(status, document, rows.start)


def step_v2(packed: Packed) -> None:
    """The Open Inference Protocol answers as plain onnxruntime does, JSON and binary."""
    whole = packed.manifest.execution.batch == "none"
    single = packed.manifest.execution.batch != "dynamic"
    chunks = [slice(i, i + 1) for i in range(len(packed.instances))] if single else packed.chunks()
    path = f"/v2/models/{NAME}/infer"
    for rows in chunks:
        names = [tensor.name for tensor in packed.manifest.inputs]
        if packed.model.kind == "picture":
            arrays: dict[str, Any] = {
                name: [row[name] for row in packed.instances[rows]] for name in names
            }
        else:  # of a text with a tokenizer, its tokens
            names = list(packed.feeds) if packed.model.encode else names
            arrays = {name: packed.feeds[name][rows.start if whole else rows] for name in names}
        arrays = {
            name: np.array(array, object if packed.model.kind == "picture" else None)
            for name, array in arrays.items()
        }
        inputs = [
            {**protocols.described(name, array), "data": _to_json(array.ravel())}
            for name, array in arrays.items()
        ]
        events = [protocols.event(json.dumps({"inputs": inputs}), path)]
        if packed.model.kind == "picture":
            decoded = [[base64.b64decode(text) for text in array] for array in arrays.values()]
            arrays = dict(zip(arrays, [np.array(d, object) for d in decoded], strict=True))
        events.append({**protocols.as_binary(arrays), "rawPath": path})
        for event in events:
            with contextlib.redirect_stdout(io.StringIO()):
                status, document, outputs = protocols.ask(packed.handler, event)
            assert status == 200, f"{status}: {document.get('detail')} {document.get('errors', '')}"
            for output, expected in zip(packed.manifest.outputs, packed.expected, strict=True):
                values = expected[rows]
                check_equal(outputs[output.tensor], np.stack(values), output.name)


def step_jobs(packed: Packed) -> None:
    """The worker of the jobs answers as plain onnxruntime does."""
    memory = memory_store.Memory()
    config = Settings(packed.directory, jobs_bucket="bucket", jobs_queue_url="queue")
    handle = worker.create(config, memory_store.store(memory))
    chunks = list(packed.chunks())
    records = [
        memory_store.record(json.dumps({"instances": packed.instances[rows]}), f"m{rows.start}")
        for rows in chunks
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        response = handle(memory_store.event(*records), Context(60_000))
    assert response == {"batchItemFailures": []}
    results = {key: value for key, (value, *_) in memory.objects.items() if "result" in key}
    assert len(results) == len(chunks)
    for rows in chunks:
        (text,) = (value for key, value in results.items() if f"/m{rows.start}/" in f"/{key}/")
        document = json.loads(text)
        assert document["job"]["status"] == "succeeded", document
        packed.check_predictions(200, document["result"], rows.start)


def step_conformance(packed: Packed) -> None:
    """`answerable conformance` finds no difference."""
    send = conformance.local(packed.directory)
    rows = golden.read(packed.directory)
    results = conformance.check(packed.manifest, rows, send, over_http=False)
    differing = {kind: sorted(filter(None, counts)) for kind, counts in results.items()}
    differing = {kind: texts for kind, texts in differing.items() if texts}
    assert differing == {}, differing


def step_requests(packed: Packed) -> None:
    """Requests picked by hand get their status, and plain onnxruntime's answer if that is 200."""
    if not packed.model.requests:
        raise NotApplicable
    wrong = []
    for request in packed.model.requests:
        status, document, _ = packed.call("/predict", json.dumps({"instances": [request.instance]}))
        if status != request.status:
            wrong.append(f"{request.why}: {status} instead of {request.status}")
        elif status == 200:
            model = packed.model
            feeds = registry.instance_feeds(
                packed.session, request.instance, model.batch, model.encode
            )
            results = packed.session.run(None, feeds)
            for output, values in zip(packed.manifest.outputs, results, strict=True):
                check_equal(document["predictions"][0][output.name], registry.dense(values), "")
    assert wrong == [], wrong


def step_release(packed: Packed) -> None:
    """1.0.1 of the same file passes the version rule and the checks of the release hook."""
    old, new = packed.folder / "old", packed.folder / "new"
    shutil.copytree(packed.directory, old)
    code, text = packed.pack("1.0.1")
    assert code == 0, text[-300:]
    packed.directory.rename(new)
    shutil.copytree(old, packed.directory)
    manifest = manifests.read(new)
    violations = list(compatibility.semver_violations(packed.manifest, manifest))
    assert violations == [], violations
    with contextlib.redirect_stdout(io.StringIO()):
        functions = release.Lambda({"1": old, "2": new})
        versions = [VersionClient(functions, f"{release.FUNCTION}:{n}") for n in "12"]
        assert versions[1].manifest() == (manifest._replace(baseline=None), "")
        for check in (
            version_client.check_golden_rows(versions[1], manifest, budget_ms=60_000),
            version_client.check_refusals(versions[1], manifest, golden.read(new)[0].instance),
        ):
            assert check.reasons == [], check.reasons
            assert check.rows > 0
        instances = [row.instance for row in golden.read(new)]
        differing, _ = version_client.compare_versions(versions[0], versions[1], instances)
        assert differing == 0, f"{differing} golden rows answered otherwise"


def step_stack(packed: Packed) -> None:
    """The stack synthesises within CloudFormation's and CloudWatch's limits."""
    template = plan.synthesise(packed.directory.parent, NAME, {})
    resources = list(map(plan._resolve, template["Resources"].values()))
    sizes = {
        "template bytes": (len(json.dumps(template, indent=1)), MAX_TEMPLATE_BYTES),
        "resources": (len(resources), MAX_RESOURCES),
    }
    for item in resources:
        properties = item.get("Properties", {})
        for key, limit in (
            ("AlarmName", MAX_ALARM_NAME_CHARS),
            ("AlarmRule", MAX_ALARM_RULE_CHARS),
        ):
            length = len(properties.get(key, ""))
            sizes[key] = max(sizes.get(key, (0, limit)), (length, limit))
        if item["Type"] == "AWS::CloudWatch::Dashboard":
            for widget in json.loads(properties["DashboardBody"])["widgets"]:
                metrics = len(widget["properties"].get("metrics", ()))
                widest = sizes.get("widget metrics", (0, MAX_WIDGET_METRICS))
                sizes["widget metrics"] = max(widest, (metrics, MAX_WIDGET_METRICS))
    over = {name: f"{size} > {limit}" for name, (size, limit) in sizes.items() if size > limit}
    assert over == {}, over


def step_diff(packed: Packed) -> None:
    """`answerable diff` finds equal versions equal, and a new bound major."""
    code, text = answerable_main("diff", packed.directory, packed.directory)
    assert code == 0, text[-300:]
    assert "other answers 0 of" in text, text[-300:]
    numbers = [f for f in packed.manifest.features if f.type in ("number", "integer")]
    if not numbers:
        return
    other = packed.folder / "narrower"
    shutil.copytree(packed.directory, other)
    manifest = json.loads((other / manifests.FILE_NAME).read_text())
    (feature,) = (f for f in manifest["features"] if f["name"] == numbers[0].name)
    feature |= {"maximum": feature["example"], "out_of_range": "reject"}
    (other / manifests.FILE_NAME).write_text(json.dumps(manifest))
    (other / manifests.DIGEST_FILE_NAME).unlink()
    code, text = answerable_main("diff", packed.directory, other)
    assert code == 0, text[-300:]
    assert f"major {numbers[0].name}: maximum" in text, text[-300:]


def _predict_logged(packed: Packed) -> tuple[list[Any], list[dict[str, Any]]]:
    rows = next(packed.chunks())
    body = json.dumps({"instances": packed.instances[rows]})
    status, document, records = packed.call("/predict", body, log_payloads=True)
    assert status == 200, document.get("detail")
    return document["predictions"], records


def _primary_values(packed: Packed, predictions: list[Any]) -> list[Any]:
    """Return what outcomes are compared with."""
    output = prediction_id.primary_output(packed.manifest)[1]
    if output is None:
        raise NotApplicable
    values = [prediction[output.name] for prediction in predictions]
    if output.kind == "probabilities":
        labels = {str(label): label for label in output.classes}
        return [labels[max(value, key=value.__getitem__)] for value in values]
    return values


def _tolerance(packed: Packed) -> float:
    """Return the rounding of the primary output: JSON has float16's shortest digits."""
    output = prediction_id.primary_output(packed.manifest)[1]
    return TOLERANCE.get(output.dtype, 1e-5) if output else 1e-5


def step_feedback(packed: Packed) -> None:
    """Outcomes that equal the predictions are taken, and counted without an error."""
    predictions, _ = _predict_logged(packed)
    outcomes = [
        {"prediction_id": prediction["id"], "actual": actual}
        for prediction, actual in zip(
            predictions, _primary_values(packed, predictions), strict=True
        )
    ]
    status, document, records = packed.call("/feedback", json.dumps({"outcomes": outcomes}))
    assert status in (200, 202), document
    (record,) = (r for r in records if r["message"] == "outcomes")
    numbers = [record[name] for name in ("Correct", "AbsoluteError") if name in record]
    assert len(numbers) == 1, sorted(record)
    (values,) = numbers
    right = 1 if "Correct" in record else 0
    assert len(values) == len(outcomes)
    size = max([1.0, *(abs(o["actual"]) for o in outcomes if isinstance(o["actual"], float))])
    assert np.abs(np.array(values) - right).max() <= _tolerance(packed) * size


def step_explain(packed: Packed) -> None:
    """`answerable explain` says what was predicted, by which model, from which input."""
    predictions, records = _predict_logged(packed)
    file = packed.folder / "records"
    file.write_text("\n".join(map(json.dumps, records)))
    options = ("--records", file, "--artifacts", packed.directory.parent)
    code, text = answerable_main("explain", predictions[0]["id"], *options)
    assert code == 0, text[-300:]
    for word in (f"{NAME} 1.0.0", "row 1 ", packed.manifest.files["model.onnx"].sha256[:12]):
        assert word in text
    with contextlib.suppress(NotApplicable):
        value = _primary_values(packed, predictions)[0]
        numbers = re.findall(r"predicted ([-+.\de]+) ", text)
        if isinstance(value, float):
            assert math.isclose(float(numbers[0]), value, rel_tol=_tolerance(packed))
        else:
            assert f"predicted {value}" in text


def step_report(packed: Packed) -> None:
    """`answerable report` draws every input and output, and counts the rows."""
    _, records = _predict_logged(packed)
    file, page = packed.folder / "records", packed.folder / "report.html"
    file.write_text("\n".join(map(json.dumps, records)))
    code, text = answerable_main("report", file, "--model", packed.directory, "--output", page)
    assert code == 0, text[-300:]
    html = page.read_text()
    assert NAME in html
    baseline = packed.manifest.baseline
    for name in baseline.features if baseline else ():
        assert _escape(name) in html, name


def _escape(text: str) -> str:
    import markupsafe

    return str(markupsafe.escape(text))


Step = Callable[[Packed], None]
STEPS: dict[str, Step] = {
    name.removeprefix("step_"): value
    for name, value in list(globals().items())
    if name.startswith("step_")
}


SLOW = ("conformance", "release", "stack")  # steps that only the slow run takes
_PACKED: dict[str, Packed] = {}


def pack(model: ZooModel) -> Packed:
    """Return the packed model, packed once per process."""
    if model.name not in _PACKED:
        _PACKED[model.name] = Packed(model)
    return _PACKED[model.name]


_RESULTS: dict[tuple[str, str], Exception | None] = {}


def run(model: ZooModel, step: str) -> None:
    """Run one step, once per process. Raises NotApplicable or AssertionError."""
    key = (model.name, step)
    if key not in _RESULTS:
        _RESULTS[key] = None
        try:
            packed = pack(model)
            if step != "pack" and packed.code:
                raise NotApplicable
            STEPS[step](packed)
        except Exception as error:
            _RESULTS[key] = error
    if failure := _RESULTS[key]:
        raise failure
