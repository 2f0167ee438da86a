"""The contract as an OpenAPI 3.1 document, which `pack` writes into the artifact.

openapi.yaml has what is the same for every model.
https://spec.openapis.org/oas/v3.1.1.html
"""

from pathlib import Path
from typing import Any

import orjson
import yaml

from answerable.packing import feature_types as packed_types
from answerable.packing.feature_types import choice_json_schema, element_json_schema
from handler import app, errors, feature_types, prediction_id
from handler.errors import ApiError, pointer
from handler.http import BASE64_JSON, CSV, IMAGE_TYPES, JSON, NPY, PROBLEM_JSON
from handler.manifest import BY_CLASS, Manifest, Output, Shape
from handler.protocols.open_inference import DATATYPES, accepted_datatypes, output_names
from handler.render import has_base64_form
from handler.validate import example

TEMPLATE = Path(__file__).with_suffix(".yaml")
Schema = dict[str, Any]
INDENTED_BYTES = 200_000


def tensor_schema(schema: Schema, shape: Shape) -> Schema:
    """Return nested arrays of `shape` with elements of `schema`; a None axis is of any length."""
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def output_schema(output: Output, shape: Shape) -> Schema:
    """Return the JSON Schema of one field of a prediction."""
    if output.kind == "value":
        schema: Schema = {"type": "integer" if "int" in output.dtype else "number"}
    elif output.kind == "label":
        schema = (
            choice_json_schema(output.classes)
            if output.classes
            else element_json_schema(output.dtype)
        )
    elif output.kind in BY_CLASS:
        names = [str(value) for value in output.classes]
        schema = _closed({name: {"type": "number"} for name in names})
    else:
        enum = {"enum": list(output.classes)} if output.classes else None
        schema = tensor_schema(enum or element_json_schema(output.dtype), shape)
    text = " ".join(filter(None, [output.description, output.unit and f"Unit: {output.unit}."]))
    return schema | ({"description": text} if text else {})


def _closed(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def instance_schema(manifest: Manifest) -> Schema:
    """Return the JSON Schema of one instance."""
    schemas = {k.feature.name: packed_types.of(k).json_schema() for k in feature_types.of(manifest)}
    for tensor in () if manifest.features else manifest.inputs:
        element = element_json_schema(tensor.dtype, tensor.minimum, tensor.maximum)
        schemas[tensor.name] = tensor_schema(element, manifest.row_shape(tensor))
    return _closed(schemas, optional=tuple(f.name for f in manifest.features if f.nullable))


def prediction_schema(manifest: Manifest, as_base64: bool = False) -> Schema:
    """Return the JSON Schema of one prediction."""
    fields = {o.name: output_schema(o, manifest.row_shape(o)) for o in manifest.outputs}
    for output in manifest.outputs if as_base64 else ():
        if has_base64_form(output):
            text = "Little-endian float32, the last axis varies fastest."
            fields[output.name] = {
                "type": "string",
                "contentEncoding": "base64",
                "description": " ".join(filter(None, [output.description, text])),
            }
    for output in manifest.outputs:
        if output.decision:
            answers = [output.decision.above, output.decision.below]
            answers += ["review"] if output.decision.review else []
            fields[f"{output.name}_decision"] = {"enum": answers}
    id = {
        "type": "string",
        "pattern": f"^[-_0-9A-Za-z]{{{prediction_id.ID_CHARS}}}$",
        "description": "Holds the version, the value and the time; for /feedback.",
    }
    return _closed({"id": id, **fields})


def _values(manifest: Manifest) -> Schema:
    """Return what openapi.yaml takes from the manifest, and from the handler's constants."""
    problem_examples = _problem_examples(manifest)
    unit = manifest.outcome_value.unit if manifest.outcome_value else ""
    return {
        **manifest._asdict(),
        "predict_summary": f"Score up to {manifest.limits.rows} instances",
        "rows": manifest.limits.rows,
        "example": example(manifest),
        "actual": _actual_schema(manifest),
        "outcome_value": f"Value of the outcome in {unit}" if unit else "Value of the outcome",
        "max_outcomes": prediction_id.MAX_OUTCOMES,
        "max_violations": errors.MAX_VIOLATIONS,
        "invocation_content": _invocation_content(manifest),
        "problem_examples": problem_examples,
        "problem_responses": _problem_responses(problem_examples),
        "instance": instance_schema(manifest),
        "prediction": prediction_schema(manifest),
        "datatypes": sorted(set(DATATYPES.values())),
        "accepted_datatypes": sorted(
            {name for t in manifest.inputs for name in accepted_datatypes(t.dtype)}
        ),
        "input_names": [tensor.name for tensor in manifest.inputs],
        "output_names": output_names(manifest),
        "n_inputs": len(manifest.inputs),
    }


def _actual_schema(manifest: Manifest) -> Schema:
    """Return the JSON Schema of an outcome's ground truth."""
    output = prediction_id.primary_output(manifest)[1]
    schema: Schema = {"type": ["number", "string", "boolean"]}
    if output is not None and output.kind == "value":
        schema = {"type": "number"}
    elif output is not None and output.classes:
        schema = choice_json_schema(output.classes)
    return schema | {"description": f"The ground truth of {output.name if output else 'any kind'}."}


def _invocation_content(manifest: Manifest) -> Schema:
    """Return the media types that `/invocations` takes."""
    content = _content({"$ref": "#/components/schemas/Invocation"})
    content |= _content({"type": "string"}, CSV) if manifest.features else {}
    content |= _picture(manifest)
    dtypes = {tensor.dtype for tensor in manifest.inputs}
    # an array of numbers or booleans can be a whole request
    if "string" not in dtypes and (manifest.features or len(manifest.inputs) == 1):
        content |= _content({"type": "string"}, NPY)
    return content


def _picture(manifest: Manifest) -> Schema:
    """Return the media types of a body that is one picture, where the contract takes one."""
    types = IMAGE_TYPES if manifest.takes_picture else ()
    return {name: {"schema": {"type": "string", "format": "binary"}} for name in types}


def _content(schema: Schema, media_type: str = JSON) -> Schema:
    return {media_type: {"schema": schema}}


def _titles_by_status() -> dict[int, list[str]]:
    """Return the titles of all problems with a status."""
    titles: dict[int, list[str]] = {}
    kinds = ApiError.__subclasses__()
    for error in kinds:
        kinds += error.__subclasses__()
        titles.setdefault(error.status, []).append(error.title)
    return titles


def _problem_examples(manifest: Manifest) -> Schema:
    """Return an example of each problem, as the function sends it."""
    name = (manifest.features or manifest.inputs)[0].name
    examples: list[ApiError] = [
        errors.BadRequest("the body is not valid JSON (line 1 column 15)"),
        errors.NotFound("there is no such path"),
        errors.MethodNotAllowed("send POST"),
        errors.Conflict("the Idempotency-Key was used with another body"),
        errors.PayloadTooLarge.request(manifest.limits.body_bytes),
        errors.UnsupportedMediaType(f"send {JSON}"),
        errors.ContractViolation(
            [errors.Violation(pointer("instances", 0, name), "missing", "is required")]
        ),
        errors.ServerError("the request failed"),
        errors.NotReady("the model is not loaded"),
        errors.DeadlineExceeded("the model did not finish in time"),
    ]
    bodies = [error.problem("5f0c1f3e-6c0b-4a57-9d5c-2b7d3f6a1e90") for error in examples]
    return {f"Problem{body['status']}": {"value": body} for body in bodies}


def _problem_responses(examples: Schema) -> Schema:
    """Return the response of each problem in each of its media types."""
    titles = {f"Problem{status}": titles for status, titles in _titles_by_status().items()}
    return {
        f"{name}{suffix}": {
            "description": ". ".join(dict.fromkeys(titles[name])),
            "content": {
                media_type: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {"problem": {"$ref": f"#/components/examples/{name}"}},
                }
            },
        }
        for name in examples
        for media_type, suffix in ((PROBLEM_JSON, ""), (JSON, "Json"))
    }


class _Loader(yaml.SafeLoader):
    """YAML with the tags of openapi.yaml."""

    values: Schema


def _construct(loader: Any, tag: str, node: Any) -> Any:
    """Return the value of a node with one of openapi.yaml's tags."""
    if tag == "value":
        return loader.values[node.value]
    if tag == "ref":
        return {"$ref": f"#/components/schemas/{node.value}"}
    if tag == "get":
        summary, kind, schema = loader.construct_sequence(node, deep=True)
        ok = {"200": {"description": "OK", "content": _content(schema)}}
        return {"summary": summary, "tags": [kind], "responses": ok, "problems": [405, 500, 503]}
    properties = loader.construct_mapping(node, deep=True)
    optional = tuple(name[:-1] for name in properties if name.endswith("?"))
    schema = _closed({name.removesuffix("?"): v for name, v in properties.items()}, optional)
    if tag == "open":
        del schema["additionalProperties"]
    return schema


_Loader.add_multi_constructor("!", _construct)


def _of_path(path: str, operation: Schema, manifest: Manifest) -> Schema:
    """Return the operation with the parameters of its path, and with its error responses."""
    names = [name for name in ("name", "version") if f"{{{name}}}" in path]
    parameters = [
        {"name": n, "in": "path", "required": True, "schema": {"const": getattr(manifest, n)}}
        for n in names
    ] + operation.get("parameters", [])
    suffix = "Json" if app.answers_problems_as_json(path) else ""
    problems = {
        str(status): {"$ref": f"#/components/responses/Problem{status}{suffix}"}
        for status in operation["problems"] + [404] * bool(names)
    }
    return {
        **{key: value for key, value in operation.items() if key != "problems"},
        "responses": operation["responses"] | problems,
        **({"parameters": parameters} if parameters else {}),
    }


def document(manifest: Manifest) -> Schema:
    """Return the document for every path in handler.app.ROUTES."""
    loader = _Loader(TEMPLATE.read_text(encoding="utf-8"))
    loader.values = _values(manifest)
    document: Schema = loader.get_single_data()
    predict = document["paths"]["/predict"]["post"]
    if any(map(has_base64_form, manifest.outputs)):  # the response is that of /invocations, too
        schemas = document["components"]["schemas"]
        plain, reference = schemas["Predictions"], "#/components/schemas/Base64Prediction"
        predictions = {"predictions": {"type": "array", "items": {"$ref": reference}}}
        schemas["Base64Prediction"] = prediction_schema(manifest, True)
        schemas["Base64Predictions"] = {**plain, "properties": plain["properties"] | predictions}
        content = predict["responses"]["200"]["content"]
        content |= _content({"$ref": f"{reference}s"}, BASE64_JSON)
    predict["requestBody"]["content"] |= _picture(manifest)  # of /jobs, too
    document["paths"] = {
        path: {method: _of_path(path, operation, manifest) for method, operation in item.items()}
        for path, item in document["paths"].items()
    }
    return document


def render(manifest: Manifest) -> bytes:
    """Return the document as the artifact's openapi.json.

    One with large examples is not indented: a picture's 6 MB of white space would not fit into a
    response, and init hashes them.
    """
    described = document(manifest)
    text = orjson.dumps(described)
    if len(text) < INDENTED_BYTES:
        text = orjson.dumps(described, option=orjson.OPT_INDENT_2)
    return text + b"\n"
