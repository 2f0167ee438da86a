"""The contract as an OpenAPI 3.1 document, and the public view of a manifest.

https://spec.openapis.org/oas/v3.1.1.html
"""

from typing import Any

from handler import prediction_id
from handler.contract import example, number_bounds
from handler.errors import MAX_VIOLATIONS, ApiError, Violation
from handler.manifest import BY_CLASS, Feature, Manifest, Output

Schema = dict[str, Any]


def describe(manifest: Manifest) -> Schema:
    """What `GET /model` answers: the manifest but for its baseline, which shows the data."""
    view: Schema = to_plain(manifest._replace(baseline=None))
    return view


def to_plain(value: Any) -> Any:
    """A manifest, or a part of one, as JSON would hold it; what equals its default is left out."""
    if hasattr(value, "_fields"):
        defaults = value._field_defaults
        return {
            name: to_plain(part)
            for name, part in value._asdict().items()
            if name not in defaults or part != defaults[name]
        }
    if isinstance(value, tuple):
        return [to_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: to_plain(part) for name, part in value.items()}
    return value


def feature_schema(feature: Feature, dtype: str) -> Schema:
    """JSON Schema of one feature, as `contract.feature_schema` enforces it."""
    kind = {"category": "string", "text": "string", "boolean": "boolean"}.get(
        feature.type, feature.type
    )
    schema: Schema = {"type": kind}
    text = [feature.description, f"Unit: {feature.unit}." if feature.unit else ""]
    if feature.type == "category":
        if feature.unknown_category == "reject":
            schema = {"enum": list(feature.categories)}
        else:
            schema = element_schema(dtype)
            text.append(f"Known: {', '.join(map(str, feature.categories))}.")
    elif feature.type in ("number", "integer"):
        low, high = feature.minimum, feature.maximum
        if feature.out_of_range == "reject":
            schema |= {"minimum": low} if low is not None else {}
            schema |= {"maximum": high} if high is not None else {}
        elif low is not None or high is not None:
            text.append(f"Usual range: {low} to {high}.")
    elif feature.max_length is not None:
        schema["maxLength"] = feature.max_length
    if feature.nullable:
        schema = {"anyOf": [schema, {"type": "null"}]}
    if any(text):
        schema["description"] = " ".join(filter(None, text))
    if feature.example is not None:
        schema["examples"] = [feature.example]
    return schema


def element_schema(dtype: str) -> Schema:
    """JSON Schema of one element of a tensor."""
    if dtype in ("string", "bool"):
        return {"type": "string" if dtype == "string" else "boolean"}
    if dtype.startswith("float"):
        return {"type": "number"}
    low, high = number_bounds(dtype)
    return {"type": "integer", "minimum": low, "maximum": high}


def tensor_schema(dtype: str, shape: tuple[int | None, ...]) -> Schema:
    """Nested arrays of `shape`; a None axis is of any length."""
    schema = element_schema(dtype)
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def output_schema(output: Output, batched: bool) -> Schema:
    """JSON Schema of one field of a prediction."""
    if output.kind == "value":
        schema: Schema = {"type": "integer" if "int" in output.dtype else "number"}
    elif output.kind == "label":
        schema = {"enum": list(output.classes)} if output.classes else element_schema(output.dtype)
    elif output.kind in BY_CLASS:
        names = [str(value) for value in output.classes]
        schema = _closed({name: {"type": "number"} for name in names})
    else:
        schema = tensor_schema(output.dtype, output.shape[1:] if batched else output.shape)
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
    """JSON Schema of one instance."""
    if not manifest.features:
        skip = 0 if manifest.execution.batch == "none" else 1
        return _closed({t.name: tensor_schema(t.dtype, t.shape[skip:]) for t in manifest.inputs})
    dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}
    return _closed(
        {f.name: feature_schema(f, dtypes[f.input]) for f in manifest.features},
        optional=tuple(f.name for f in manifest.features if f.nullable),
    )


def prediction_schema(manifest: Manifest) -> Schema:
    """JSON Schema of one prediction."""
    batched = manifest.execution.batch != "none"
    fields = {output.name: output_schema(output, batched) for output in manifest.outputs}
    for output in manifest.outputs:
        if output.decision:
            answers = [output.decision.above, output.decision.below]
            answers += ["review"] if output.decision.review else []
            fields[f"{output.name}_decision"] = {"enum": answers}
    named = {"type": "string", "pattern": f"^[-_0-9A-Za-z]{{{prediction_id.ID_CHARS}}}$"}
    named |= {"description": "Says which version predicted what, and when; for /feedback."}
    return _closed({"id": named, **fields})


VIOLATION = _closed({name: {"type": "string"} for name in Violation._fields})
PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457, and the Open Inference Protocol's `error`.",
    "required": ["type", "title", "status", "detail", "instance", "error"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request's id."},
        "error": {"type": "string"},
        "errors": {
            "type": "array",
            "maxItems": MAX_VIOLATIONS,
            "items": VIOLATION,
        },
    },
}


def outcomes_schema(manifest: Manifest) -> Schema:
    """JSON Schema of the body of `/feedback`."""
    output = prediction_id.primary_output(manifest)[1]
    actual: Schema = {"type": ["number", "string", "boolean"]}
    if output is not None and output.kind == "value":
        actual = {"type": "number"}
    elif output is not None and output.classes:
        actual = {"enum": list(output.classes)}
    unit = manifest.outcome_value.unit if manifest.outcome_value else ""
    worth = " ".join(filter(None, ["What the outcome was worth", unit and f"({unit})"]))
    outcome = _closed(
        {
            "prediction_id": {"type": "string"},
            "actual": actual | {"description": "What really came"},
            "value": {"type": "number", "description": worth},
        },
        optional=("value",),
    )
    most = {"minItems": 1, "maxItems": prediction_id.MAX_OUTCOMES}
    return _closed({"outcomes": {"type": "array", "items": outcome, **most}})


def _feedback(manifest: Manifest) -> Schema:
    taken = _closed(
        {"accepted": {"type": "integer"}, "refused": {"type": "array", "items": VIOLATION}},
        optional=("refused",),
    )
    return {
        "summary": "Say how predictions turned out",
        "operationId": "feedback",
        "tags": ["scoring"],
        "requestBody": {"required": True, "content": _json(outcomes_schema(manifest))},
        "responses": {
            "202": {
                "description": "Taken; outcomes that could not be, are listed",
                "content": _json(taken),
            },
            **_problems(400, 405, 413, 415, 422, 500, 503),
        },
    }


def _refusals(kind: type[ApiError] = ApiError) -> dict[int, list[str]]:
    """Titles by status, from the tree of refusals itself."""
    found: dict[int, list[str]] = {kind.status: [kind.title]} if kind is not ApiError else {}
    for child in kind.__subclasses__():
        for status, titles in _refusals(child).items():
            found.setdefault(status, []).extend(titles)
    return found


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _problems(*statuses: int) -> Schema:
    titles = _refusals()
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        str(status): {"description": ". ".join(dict.fromkeys(titles[status])), "content": content}
        for status in statuses
    }


def _get(summary: str, content: Schema) -> Schema:
    ok = {"description": "OK", "content": content}
    tags = ["about the model"]
    return {
        "get": {
            "summary": summary,
            "tags": tags,
            "responses": {"200": ok, **_problems(405, 500, 503)},
        }
    }


def _protocols(manifest: Manifest, predict: Schema) -> Schema:
    """The paths of handler.protocols. `predict`: the operation whose answers are theirs too."""
    from handler.protocols import openapi_schemas

    def found(path: str, operation: Schema) -> Schema:
        parts = openapi_schemas.parameters(path, manifest)
        missing = _problems(404) if parts else {}
        parts += operation.get("parameters", [])
        told = {**operation["responses"], **missing}
        if path.startswith(("/v1/", "/v2/")):  # see handler.app._problem
            told |= {
                status: {**answer, "content": _json(reference("Problem"))}
                for status, answer in told.items()
                if status != "200"
            }
        return {**operation, **({"parameters": parts} if parts else {}), "responses": told}

    def reference(name: str) -> Schema:
        return {"$ref": f"#/components/schemas/{name}"}

    def post(name: str, summary: str, content: Schema, answer: Schema) -> Schema:
        # a reply is JSON even where bytes were asked for, if the front would not hand them on
        body = {"required": True, "content": _json(reference(name)) | content}
        told = {**predict["responses"], "200": answer}
        return {"summary": summary, "tags": ["protocols"], "requestBody": body, "responses": told}

    octets: Schema = {"application/octet-stream": {"schema": {"type": "string"}}}
    tables: Schema = {
        "text/csv": {"schema": {"type": "string"}},
        "application/x-npy": {"schema": {"type": "string"}},
    }
    tensors = {"description": "OK", "content": _json(reference("InferenceResponse")) | octets}
    infer = post("InferenceRequest", "Open Inference Protocol v2", octets, tensors)
    infer["parameters"] = [openapi_schemas.LENGTH]
    invoke = post("Invocation", "SageMaker, MLflow, KServe v1", tables, predict["responses"]["200"])
    paths: Schema = {}
    for path, (summary, name) in openapi_schemas.TOLD.items():
        operation = {**_get(summary, _json(reference(name)))["get"], "tags": ["protocols"]}
        paths[path] = {"get": found(path, operation)}
    for path in openapi_schemas.INFER:
        paths[path] = {"post": found(path, infer)}
    for path in openapi_schemas.PREDICT:
        paths[path] = {"post": found(path, invoke)}
    return paths


def _jobs(predict: Schema) -> Schema:
    """The paths of jobs, which take and give what `predict` does."""
    told = {"id": {"type": "string"}, "expires_at": {"type": "string", "format": "date-time"}}

    def state(status: str, **part: Schema) -> Schema:
        return _closed({"job": _closed({**told, "status": {"const": status}}), **part})

    queued = state("queued")
    succeeded = state(
        "succeeded", result=predict["responses"]["200"]["content"]["application/json"]["schema"]
    )
    failed = state("failed", problem={"$ref": "#/components/schemas/Problem"})
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key is the same job, until that expires.",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
    }
    id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    location = {"description": "Where to ask, relative to here", "schema": {"type": "string"}}
    again = {"description": "Seconds, while it is queued", "schema": {"type": "integer"}}
    submit = {
        "summary": "Score later",
        "operationId": "submit",
        "tags": ["jobs"],
        "parameters": [key],
        "requestBody": predict["requestBody"],
        "responses": {
            "202": {
                "description": "Accepted; if the job was there before, with its status",
                "headers": {"Location": location},
                "content": _json(_closed({"job": _closed({**told, "status": {"type": "string"}})})),
            },
            **_problems(400, 405, 409, 413, 415, 422, 500, 503),
        },
    }
    result = {
        "summary": "A job: queued, succeeded with the result, or failed with the problem",
        "operationId": "result",
        "tags": ["jobs"],
        "parameters": [id],
        "responses": {
            "200": {
                "description": "OK",
                "headers": {"Retry-After": again},
                "content": _json({"oneOf": [queued, succeeded, failed]}),
            },
            **_problems(404, 405, 500, 503),
        },
    }
    return {"/jobs": {"post": submit}, "/jobs/{id}": {"get": result}}


def document(manifest: Manifest, jobs: bool = False) -> Schema:
    """The whole document, for every path in handler.app.ROUTES: with those of jobs, or without."""
    from handler.protocols import openapi_schemas

    rows = manifest.limits.rows
    instances = {
        "type": "array",
        "minItems": 1,
        "maxItems": rows,
        "items": {"$ref": "#/components/schemas/Instance"},
    }
    predictions = {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
    served = _closed({"name": {"const": manifest.name}, "version": {"const": manifest.version}})
    predict = {
        "summary": f"Score up to {rows} instances",
        "operationId": "predict",
        "tags": ["scoring"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _closed({"instances": instances}),
                    "example": {"instances": [example(manifest)]},
                }
            },
        },
        "responses": {
            "200": {
                "description": "One prediction per instance, in their order",
                "content": _json(_closed({"predictions": predictions, "model": served})),
            },
            **_problems(400, 405, 413, 415, 422, 500, 503, 504),
        },
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
            "/model": _get("Contract and lineage of the model", _json({"type": "object"})),
            "/openapi.json": _get("This document", _json({"type": "object"})),
            "/ping": _get(
                "Readiness: 503 says why not", _json(_closed({"status": {"const": "ready"}}))
            ),
            **_protocols(manifest, predict),
            **(_jobs(predict) if jobs else {}),
        },
        "components": {
            "schemas": {
                "Instance": instance_schema(manifest),
                "Prediction": prediction_schema(manifest),
                "Problem": PROBLEM,
                **openapi_schemas.schemas(manifest),
            }
        },
    }
