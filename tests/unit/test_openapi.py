import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from answerable.packing import artifact, openapi
from handler import app, manifest
from handler.errors import ApiError
from handler.http import PROBLEM_JSON
from handler.scoring import Scorer
from handler.settings import Settings
from tests.fixtures import artifact as fixtures
from tests.fixtures.events import Context
from tests.fixtures.server import ROOT


def test_every_route_and_method_is_described(echo: Scorer) -> None:
    paths = openapi.document(echo.manifest)["paths"]
    described = {(path, method.upper()) for path, item in paths.items() for method in item}
    assert described == {(path, m) for path, methods in app.ROUTES.items() for m in methods}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (fixtures.echo, {"text/csv"}),  # it has strings
        (fixtures.classifier, {"text/csv", "application/x-npy"}),
        (fixtures.pair, set()),
        (fixtures.endless, {"text/csv", "application/x-npy"}),
    ],
)
def test_only_content_types_that_can_be_accepted_are_offered(
    tmp_path: Path, make: Any, expected: set[str]
) -> None:
    document = openapi.document(manifest.read(make(tmp_path)))
    content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert content.keys() - {"application/json"} == expected


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


def test_the_manifest_as_written_parses_to_itself_with_the_hash_of_the_document(
    echo: Scorer, tmp_path: Path
) -> None:
    artifact.write(tmp_path, echo.manifest)
    parsed = manifest.read(tmp_path)
    document = (tmp_path / "openapi.json").read_bytes()
    assert parsed.files["openapi.json"] == (sha256(document).hexdigest(), len(document))
    assert parsed._replace(files={}) == echo.manifest._replace(files={})


def test_every_error_has_its_own_slug_and_a_documented_status(echo: Scorer) -> None:
    def tree(error: type[ApiError]) -> list[type[ApiError]]:
        return [error, *(deeper for child in error.__subclasses__() for deeper in tree(child))]

    errors = tree(ApiError)[1:]
    assert len({error.slug for error in errors}) == len(errors)
    paths = openapi.document(echo.manifest)["paths"].values()
    documented = {
        status for path in paths for operation in path.values() for status in operation["responses"]
    }
    assert {str(error.status) for error in errors} <= documented


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
    document = openapi.document(echo.manifest)
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


def test_a_picture_s_document_is_not_indented(echo_dir: Path) -> None:
    picture = manifest.Tensor("image", "float32", (None, 3, 224, 224))
    text = openapi.render(manifest.read(echo_dir)._replace(features=(), inputs=(picture,)))
    assert text.count(b",") > text.count(b"\n")
    assert len(text) < 2_000_000


def test_every_problem_has_a_real_example(echo: Scorer) -> None:
    document = openapi.document(echo.manifest)
    for name, response in document["components"]["responses"].items():
        ((media_type, content),) = response["content"].items()
        ref = content["examples"]["problem"]["$ref"]
        example = document["components"]["examples"][ref.rpartition("/")[2]]["value"]
        assert name.startswith(f"Problem{example['status']}")
        assert media_type == ("application/json" if name.endswith("Json") else PROBLEM_JSON)
        assert example["title"] in response["description"]
        assert "string" not in example.values()
    violations = document["components"]["examples"]["Problem422"]["value"]
    assert violations["errors"][0]["pointer"] == "/instances/0/ratio"


def test_the_document_is_openapi_with_servers_and_items(echo: Scorer) -> None:
    document = openapi.document(echo.manifest)
    OpenAPIV31SpecValidator(document).validate()
    (server,) = document["servers"]
    assert re.findall(r"{(\w+)}", server["url"]) == list(server["variables"])

    def arrays(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if "array" in (value["type"] if isinstance(value.get("type"), list | str) else ()):
                yield value
            value = [*value.values()]
        for item in value if isinstance(value, list) else ():
            yield from arrays(item)

    # `in` is also true of a list of types; 3.1 does not require `items`, but generators do
    assert all("items" in array for array in arrays(document))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("rest-openapi", "https://a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com/prod"),
        ("rest-custom-domain-with-base-path", "https://ml.example.org/ml"),
        ("http-api-with-stage", "https://f6g7h8i9j0.execute-api.eu-west-1.amazonaws.com/prod"),
        ("function-url-one-row", "https://q2w3e4r5t6y7u8i9o0.lambda-url.eu-west-1.on.aws"),
        ("alb-ping", "{base_url}"),
    ],
)
def test_a_deployed_document_names_the_url_that_was_called(
    echo_dir: Path, name: str, url: str
) -> None:
    text = (ROOT / f"events/good/{name}.json").read_text()
    for path in ("predict", "ping", "openapi.json"):
        text = text.replace(f"/{path}", "/openapi.json").replace(f'"{path}"', '"openapi.json"')
    event = json.loads(text.replace("POST", "GET"))
    if "custom" in name:  # its domain and path, as the gateway puts them
        event["requestContext"] |= {"domainName": "ml.example.org", "path": "/ml/openapi.json"}
    response = app.create(Settings(echo_dir))(event, Context())
    document = json.loads(response["body"])
    assert [server["url"] for server in document["servers"]] == [url]
