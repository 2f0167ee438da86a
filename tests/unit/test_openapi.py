import json
from pathlib import Path
from typing import Any

import pytest

from handler import app, manifest, openapi
from handler.errors import ApiError
from handler.scoring import Scorer


def test_every_route_and_method_is_described(echo: Scorer) -> None:
    paths = openapi.document(echo.manifest, jobs=True)["paths"]
    described = {(path, method.upper()) for path, item in paths.items() for method in item}
    assert described == {(path, m) for path, methods in app.ROUTES.items() for m in methods}


def test_the_schema_states_what_the_contract_enforces(echo: Scorer) -> None:
    schema = openapi.instance_schema(echo.manifest)
    fields = schema["properties"]
    assert fields["ratio"]["minimum"] == 0
    assert fields["ratio"]["maximum"] == 10
    assert fields["colour"]["enum"] == ["red", "blue"]
    assert fields["note/~"]["maxLength"] == 20
    assert "serum" not in schema["required"]
    assert {"type": "null"} in fields["serum"]["anyOf"]
    assert "0 to 1" in fields["serum"]["description"]
    assert "minimum" not in fields["serum"]["anyOf"][0]


def test_plain_and_parse_are_each_other_s_inverse(echo: Scorer) -> None:
    text = json.dumps(openapi.to_plain(echo.manifest))
    assert manifest.parse(text) == echo.manifest


def test_every_refusal_has_its_own_kind_and_a_documented_status(echo: Scorer) -> None:
    def tree(kind: type[ApiError]) -> list[type[ApiError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in tree(child))]

    kinds = tree(ApiError)[1:]
    assert len({kind.kind for kind in kinds}) == len(kinds)
    paths = openapi.document(echo.manifest, jobs=True)["paths"].values()
    told = {status for path in paths for call in path.values() for status in call["responses"]}
    assert {str(kind.status) for kind in kinds} <= told


def resolve(node: Any, document: Any) -> None:
    if isinstance(node, dict):
        if "$ref" in node:
            place = document
            for part in node["$ref"].removeprefix("#/").split("/"):
                place = place[part]
        for part in node.values():
            resolve(part, document)
    elif isinstance(node, list):
        for part in node:
            resolve(part, document)


def test_every_reference_leads_somewhere(echo: Scorer) -> None:
    document = openapi.document(echo.manifest, jobs=True)
    resolve(document, document)


@pytest.mark.parametrize("batch", ["dynamic", "none"])
def test_a_tensor_contract_is_nested_arrays(echo_dir: Path, batch: Any) -> None:
    tensors = manifest.read(echo_dir)
    shape = (None, 3, None)
    document = tensors._replace(
        features=(),
        inputs=(manifest.Tensor("t", "int64", shape),),
        execution=manifest.Execution(batch=batch),
    )
    schema = openapi.instance_schema(document)["properties"]["t"]
    depth = 0
    while schema["type"] == "array":
        schema, depth = schema["items"], depth + 1
    assert depth == (2 if batch == "dynamic" else 3)
    assert schema["minimum"] == -(2**63)
