"""The SBOM: valid, and of what the image holds."""

import json
from importlib.metadata import distributions

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from handler import manifest
from infra import sbom
from tests.fixtures.artifact import DIABETES

BASE = "public.ecr.aws/lambda/python"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the validator's own schemas
def test_it_is_valid_and_names_everything() -> None:
    # this environment's licences are as untidy as any image's
    told = [(d.metadata["Name"], d.version, d.metadata["License"] or "") for d in distributions()]
    found = manifest.read(DIABETES)
    digest = "ab" * 32
    bill = sbom.document(told, "diabetes", found, f"{BASE}@sha256:{digest}", "sha256:1")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert parts["base-image"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert parts["model"]["version"] == found.version
    (file,) = parts["model/model.onnx"]["hashes"]
    assert file["content"] == found.files["model.onnx"].sha256
    purls = {part["purl"] for part in bill["components"] if part["type"] == "library"}
    assert purls >= {f"pkg:pypi/{name.lower().replace('_', '-')}@{v}" for name, v, _ in told}


def test_a_base_image_by_tag_has_no_hash() -> None:
    found = manifest.read(DIABETES)
    bill = sbom.document([("numpy", "2.0", "")], "diabetes", found, f"{BASE}:3.13", "sha256:1")
    base = next(part for part in bill["components"] if part["bom-ref"] == "base-image")
    assert base["name"] == f"{BASE}:3.13"
    assert "hashes" not in base
