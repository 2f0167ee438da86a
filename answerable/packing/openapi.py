"""The contract as an OpenAPI 3.1 document, which `pack` writes into the artifact.

https://spec.openapis.org/oas/v3.1.1.html
"""

from typing import Any

import orjson

from answerable.packing import feature_types as packed_types
from answerable.packing import protocol_schemas
from answerable.packing.feature_types import element_json_schema
from handler import app, feature_types, prediction_id
from handler.errors import (
    MAX_VIOLATIONS,
    ApiError,
    BadRequest,
    Conflict,
    ContractViolation,
    DeadlineExceeded,
    MethodNotAllowed,
    NotFound,
    NotReady,
    PayloadTooLarge,
    ServerError,
    UnsupportedMediaType,
    Violation,
    pointer,
)
from handler.http import CSV, JSON, NPY, OCTET_STREAM, PROBLEM_JSON
from handler.manifest import BY_CLASS, Manifest, Output, Shape
from handler.validate import example

Schema = dict[str, Any]


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
            {"enum": list(output.classes)} if output.classes else element_json_schema(output.dtype)
        )
    elif output.kind in BY_CLASS:
        names = [str(value) for value in output.classes]
        schema = _closed({name: {"type": "number"} for name in names})
    else:
        schema = tensor_schema(element_json_schema(output.dtype), shape)
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
    if not manifest.features:
        return _closed(
            {
                t.name: tensor_schema(
                    element_json_schema(t.dtype, t.minimum, t.maximum), manifest.row_shape(t)
                )
                for t in manifest.inputs
            }
        )
    return _closed(
        {
            kind.feature.name: packed_types.of(kind).json_schema()
            for kind in feature_types.of(manifest)
        },
        optional=tuple(f.name for f in manifest.features if f.nullable),
    )


def prediction_schema(manifest: Manifest) -> Schema:
    """Return the JSON Schema of one prediction."""
    fields = {o.name: output_schema(o, manifest.row_shape(o)) for o in manifest.outputs}
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


VIOLATION = _closed({name: {"type": "string"} for name in Violation._fields})
PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457, and the `error` of the Open Inference Protocol.",
    "required": ["type", "title", "status", "detail", "instance", "error"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request id."},
        "error": {"type": "string"},
        "errors": {"type": "array", "maxItems": MAX_VIOLATIONS, "items": VIOLATION},
    },
}


def outcomes_schema(manifest: Manifest) -> Schema:
    """Return the JSON Schema of the body of `/feedback`."""
    output = prediction_id.primary_output(manifest)[1]
    actual: Schema = {"type": ["number", "string", "boolean"]}
    if output is not None and output.kind == "value":
        actual = {"type": "number"}
    elif output is not None and output.classes:
        actual = {"enum": list(output.classes)}
    unit = manifest.outcome_value.unit if manifest.outcome_value else ""
    value = " ".join(filter(None, ["Value of the outcome", unit and f"in {unit}"]))
    outcome = _closed(
        {
            "prediction_id": {"type": "string"},
            "actual": actual | {"description": "The ground truth."},
            "value": {"type": "number", "description": value},
        },
        optional=("value",),
    )
    limits = {"minItems": 1, "maxItems": prediction_id.MAX_OUTCOMES}
    return _closed({"outcomes": {"type": "array", "items": outcome, **limits}})


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Schema, media_type: str = JSON) -> Schema:
    return {media_type: {"schema": schema}}


def _titles_by_status(error: type[ApiError] = ApiError) -> dict[int, list[str]]:
    """Return the titles of all problems with a status."""
    titles: dict[int, list[str]] = {error.status: [error.title]} if error is not ApiError else {}
    for child in error.__subclasses__():
        for status, child_titles in _titles_by_status(child).items():
            titles.setdefault(status, []).extend(child_titles)
    return titles


def _problems(*statuses: int, media_type: str = PROBLEM_JSON) -> Schema:
    """Return references to the shared responses of `_problem_responses`."""
    suffix = "" if media_type == PROBLEM_JSON else "Json"
    return {
        str(status): {"$ref": f"#/components/responses/Problem{status}{suffix}"}
        for status in statuses
    }


def _problem_responses(manifest: Manifest) -> Schema:
    """Return the response of each status and media type, with an example as the function sends."""
    name = (manifest.features or manifest.inputs)[0].name
    examples: list[ApiError] = [
        BadRequest("the body is not valid JSON (line 1 column 15)"),
        NotFound("there is no such path"),
        MethodNotAllowed("send POST"),
        Conflict("the Idempotency-Key was used with another body"),
        PayloadTooLarge.request(manifest.limits.body_bytes),
        UnsupportedMediaType(f"send {JSON}"),
        ContractViolation([Violation(pointer("instances", 0, name), "missing", "is required")]),
        ServerError("the request failed"),
        NotReady("the model is not loaded"),
        DeadlineExceeded("the model did not finish in time"),
    ]
    titles, responses = _titles_by_status(), {}
    for error in examples:
        body = error.problem("5f0c1f3e-6c0b-4a57-9d5c-2b7d3f6a1e90")
        for media_type, suffix in ((PROBLEM_JSON, ""), (JSON, "Json")):
            responses[f"Problem{error.status}{suffix}"] = {
                "description": ". ".join(dict.fromkeys(titles[error.status])),
                "content": {media_type: {"schema": _reference("Problem"), "example": body}},
            }
    return responses


def _predict(manifest: Manifest) -> Schema:
    """Return the operation of `/predict`."""
    rows = manifest.limits.rows
    instances = {
        "type": "array",
        "minItems": 1,
        "maxItems": rows,
        "items": _reference("Instance"),
    }
    predictions = {"type": "array", "items": _reference("Prediction")}
    served = _closed({"name": {"const": manifest.name}, "version": {"const": manifest.version}})
    request = {
        "schema": _closed({"instances": instances}),
        "example": {"instances": [example(manifest)]},
    }
    return {
        "summary": f"Score up to {rows} instances",
        "operationId": "predict",
        "tags": ["scoring"],
        "requestBody": {"required": True, "content": {JSON: request}},
        "responses": {
            "200": {
                "description": "One prediction per instance, in the same order",
                "content": _content(_closed({"predictions": predictions, "model": served})),
            },
            **_problems(400, 405, 413, 415, 422, 500, 503, 504),
        },
    }


def _feedback(manifest: Manifest) -> Schema:
    """Return the operation of `/feedback`."""
    accepted = _closed(
        {"accepted": {"type": "integer"}, "refused": {"type": "array", "items": VIOLATION}},
        optional=("refused",),
    )
    return {
        "summary": "Record the outcomes of predictions",
        "operationId": "feedback",
        "tags": ["scoring"],
        "requestBody": {"required": True, "content": _content(outcomes_schema(manifest))},
        "responses": {
            "202": {
                "description": "Accepted; refused outcomes are listed",
                "content": _content(accepted),
            },
            **_problems(400, 405, 413, 415, 422, 500, 503),
        },
    }


def _jobs(predict: Schema) -> Schema:
    """Return the paths of jobs, whose bodies are those of `predict`."""
    fields = {"id": {"type": "string"}, "expires_at": {"type": "string", "format": "date-time"}}

    def job(status: Schema, **content: Schema) -> Schema:
        return _closed({"job": _closed({**fields, "status": status}), **content})

    prediction = predict["responses"]["200"]["content"][JSON]["schema"]
    queued = job({"const": "queued"})
    succeeded = job({"const": "succeeded"}, result=prediction)
    failed = job({"const": "failed"}, problem=_reference("Problem"))
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key returns the same job, until that job expires.",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
    }
    id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    location = {"description": "Path of the job, relative", "schema": {"type": "string"}}
    retry = {"description": "Seconds, while the job is queued", "schema": {"type": "integer"}}
    submit = {
        "summary": "Submit a job: score later",
        "operationId": "submit",
        "tags": ["jobs"],
        "parameters": [key],
        "requestBody": predict["requestBody"],
        "responses": {
            "202": {
                "description": "Accepted; for a repeated key, the status of the earlier job",
                "headers": {"Location": location},
                "content": _content(job({"type": "string"})),
            },
            **_problems(400, 405, 409, 413, 415, 422, 500, 503),
        },
    }
    result = {
        "summary": "Get a job: queued, succeeded with the result, or failed with the problem",
        "operationId": "result",
        "tags": ["jobs"],
        "parameters": [id],
        "responses": {
            "200": {
                "description": "OK",
                "headers": {"Retry-After": retry},
                "content": _content({"oneOf": [queued, succeeded, failed]}),
            },
            **_problems(404, 405, 500, 503),
        },
    }
    return {"/jobs": {"post": submit}, "/jobs/{id}": {"get": result}}


def _get(summary: str, schema: Schema, tag: str = "about the model") -> Schema:
    """Return the operation of a GET without parameters."""
    ok = {"description": "OK", "content": _content(schema)}
    responses = {"200": ok, **_problems(405, 500, 503)}
    return {"summary": summary, "tags": [tag], "responses": responses}


def _protocols(manifest: Manifest, predict: Schema) -> Schema:
    """Return the paths of handler.protocols. `/invocations` answers as `predict` does."""

    def post(name: str, summary: str, content: Schema, ok: Schema) -> Schema:
        body = {"required": True, "content": _content(_reference(name)) | content}
        responses = {**predict["responses"], "200": ok}
        return {
            "summary": summary,
            "tags": ["protocols"],
            "requestBody": body,
            "responses": responses,
        }

    text = {"type": "string"}
    tensors = {
        "description": "OK",
        "content": _content(_reference("InferenceResponse")) | _content(text, OCTET_STREAM),
    }
    infer = post(
        "InferenceRequest", "Open Inference Protocol v2", _content(text, OCTET_STREAM), tensors
    )
    infer["parameters"] = [protocol_schemas.INFERENCE_HEADER_LENGTH_PARAMETER]
    tables = _content(text, CSV) if manifest.features else {}
    dtypes = {tensor.dtype for tensor in manifest.inputs}
    # an array of numbers or booleans can be a whole request
    if "string" not in dtypes and (manifest.features or len(manifest.inputs) == 1):
        tables |= _content(text, NPY)
    invoke = post("Invocation", "SageMaker, MLflow, KServe v1", tables, predict["responses"]["200"])
    operations = {
        path: {"get": _get(summary, _reference(name), "protocols")}
        for path, (summary, name) in protocol_schemas.GET_PATHS.items()
    }
    operations |= {path: {"post": infer} for path in protocol_schemas.INFER_PATHS}
    operations |= {path: {"post": invoke} for path in protocol_schemas.INVOCATION_PATHS}
    return {
        path: {method: _of_path(path, operation, manifest) for method, operation in item.items()}
        for path, item in operations.items()
    }


def _of_path(path: str, operation: Schema, manifest: Manifest) -> Schema:
    """Return the operation with the path's parameters and the media type of its problems."""
    path_parameters = protocol_schemas.path_parameters(path, manifest)
    parameters = path_parameters + operation.get("parameters", [])
    responses = operation["responses"] | (_problems(404) if path_parameters else {})
    if app.answers_problems_as_json(path):
        responses |= _problems(*(int(s) for s in responses if s != "200"), media_type=JSON)
    return {
        **operation,
        **({"parameters": parameters} if parameters else {}),
        "responses": responses,
    }


def document(manifest: Manifest) -> Schema:
    """Return the document for every path in handler.app.ROUTES."""
    predict = _predict(manifest)
    ready = _closed({key: {"const": value} for key, value in app.READY.items()})
    about = {
        "/": _get("The model, and links to the other paths", {"type": "object"}),
        "/model": _get("Contract and lineage of the model", {"type": "object"}),
        "/openapi.json": _get("This document", {"type": "object"}),
        "/ping": _get("Readiness; 503 says why not", ready),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": manifest.name,
            "version": manifest.version,
            "description": manifest.description,
            "contact": {"name": manifest.owner},
        },
        "paths": {
            "/predict": {"post": predict},
            "/feedback": {"post": _feedback(manifest)},
            **{path: {"get": operation} for path, operation in about.items()},
            **_protocols(manifest, predict),
            **_jobs(predict),
        },
        "components": {
            "responses": _problem_responses(manifest),
            "schemas": {
                "Instance": instance_schema(manifest),
                "Prediction": prediction_schema(manifest),
                "Problem": PROBLEM,
                **protocol_schemas.schemas(manifest),
            },
        },
    }


def render(manifest: Manifest) -> bytes:
    """Return the document as the artifact's openapi.json."""
    return orjson.dumps(document(manifest), option=orjson.OPT_INDENT_2) + b"\n"
