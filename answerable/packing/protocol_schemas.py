"""The protocols in the OpenAPI document: schemas, and what differs between their paths."""

from typing import Any

from handler.http import INFERENCE_HEADER_LENGTH
from handler.manifest import Manifest
from handler.protocols import open_inference
from handler.protocols.open_inference import DATATYPES, accepted_datatypes

Schema = dict[str, Any]
NAMES: Schema = {"type": "array", "items": {"type": "string"}}
TABLE: Schema = {"type": "array", "items": {"type": "array"}}
SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
PARAMETERS: Schema = {
    "type": "object",
    "description": "See the extensions binary tensor data and classification.",
}


def _object(optional: tuple[str, ...] = (), **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def schemas(manifest: Manifest) -> Schema:
    """Return the schemas by the name that the paths refer to."""
    inputs = [tensor.name for tensor in manifest.inputs]
    outputs = open_inference.output_names(manifest)
    datatype = {"enum": sorted(set(DATATYPES.values()))}
    axes = _list({"type": "integer", "minimum": -1})
    tensor = _object(name={"type": "string"}, datatype=datatype, shape=axes)
    sent = _object(
        ("data", "parameters"),
        name={"enum": inputs},
        datatype={
            "enum": sorted({d for t in manifest.inputs for d in accepted_datatypes(t.dtype)}),
            "description": "Of another width, floats are rounded and integers have to fit.",
        },
        shape=SHAPE,
        data={
            "type": ["array", "string"],
            "description": "Row-major, flat or nested; base64; or one string of a BYTES tensor.",
        },
        parameters=PARAMETERS,
    )
    requested = _object(("parameters",), name={"enum": outputs}, parameters=PARAMETERS)
    returned = _object(
        ("data", "parameters"),
        name={"enum": outputs},
        datatype=datatype,
        shape=SHAPE,
        data={"type": "array"},
        parameters=_object(binary_data_size={"type": "integer", "minimum": 0}),
    )
    model, version = {"const": manifest.name}, {"const": manifest.version}
    return {
        "Version": _object(version={"type": "string"}),
        "Live": _object(live={"const": True}),
        "Ready": _object(ready={"const": True}),
        "ModelList": _object(models=_list(model)),
        "ModelReady": _object(name=model, ready={"const": True}),
        "Server": _object(
            name={"type": "string"}, version={"type": "string"}, extensions=NAMES
        ),
        "Model": _object(
            name=model,
            versions=_list(version),
            platform={"type": "string"},
            inputs=_list(tensor),
            outputs=_list(tensor),
        ),
        "InferenceRequest": _object(
            ("id", "parameters", "outputs"),
            id={"type": "string"},
            parameters=PARAMETERS,
            inputs=_list(sent, minItems=len(inputs), maxItems=len(inputs)),
            outputs=_list(requested),
        ),
        "InferenceResponse": _object(
            ("id",), model_name=model, model_version=version, id={"type": "string"},
            outputs=_list(returned),
        ),
        "Invocation": _invocation(),
    }  # fmt: skip


def _invocation() -> Schema:
    names = _list({"type": ["string", "integer"]})
    frame = _object(("columns", "index"), columns=names, index={"type": "array"}, data=TABLE)
    rows = _list({"$ref": "#/components/schemas/Instance"}, minItems=1)
    return {
        "oneOf": [
            _object(dataframe_split=frame),
            _object(dataframe_records=rows),
            _object(instances={"anyOf": [rows, {"type": "array"}]}),
            _object(inputs={"type": ["object", "array"]}),
        ]
    }


# summary and schema of each GET
GET_PATHS = {
    "/version": ("Version of this server", "Version"),
    "/v1/models": ("Names of the models", "ModelList"),
    "/v1/models/{name}": ("Whether the model is ready (KServe v1)", "ModelReady"),
    "/v2": ("Server metadata", "Server"),
    "/v2/health/live": ("Whether the server lives", "Live"),
    "/v2/health/ready": ("Whether the server is ready", "Ready"),
    "/v2/models": ("Names of the models", "ModelList"),
    "/v2/models/{name}": ("Model metadata: the graph's tensors", "Model"),
    "/v2/models/{name}/ready": ("Whether the model is ready", "ModelReady"),
    "/v2/models/{name}/versions/{version}": ("Model metadata: the graph's tensors", "Model"),
    "/v2/models/{name}/versions/{version}/ready": ("Whether the model is ready", "ModelReady"),
}
INFER_PATHS = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
INVOCATION_PATHS = ("/invocations", "/v1/models/{name}:predict")
INFERENCE_HEADER_LENGTH_PARAMETER: Schema = {
    "name": INFERENCE_HEADER_LENGTH.title(),
    "in": "header",
    "description": "The length of the JSON that precedes binary tensors.",
    "schema": {"type": "integer", "minimum": 1},
}


def path_parameters(path: str, manifest: Manifest) -> list[Schema]:
    """Return the {parameters} of a path."""
    values = {"name": manifest.name, "version": manifest.version}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"const": value}}
        for name, value in values.items()
        if f"{{{name}}}" in path
    ]
