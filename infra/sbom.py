"""What is in an image, as a CycloneDX document (https://cyclonedx.org/docs/1.6/json/).

Told by the image itself and not by the lock: the Dockerfile takes out what serving never touches.
"""

import json
import subprocess
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from handler.manifest import Manifest

# runs in the image: name, version and licence of every distribution in /var/task
LIST = """
import json
from importlib.metadata import distributions
told = [(d.metadata["Name"], d.version, d.metadata.get("License-Expression")
         or d.metadata.get("License") or "") for d in distributions(path=["/var/task"])]
print(json.dumps(sorted(told)))
"""
Package = tuple[str, str, str]


def packages(docker: str, tag: str) -> list[Package]:
    """Name, version and licence of what is installed in an image."""
    run = [docker, "run", "--rm", "--network=none", "--entrypoint=python3", tag, "-c", LIST]
    found = json.loads(subprocess.run(run, capture_output=True, check=True).stdout)
    return [(name, version, licence) for name, version, licence in found]


def document(
    found: list[Package], model: str, manifest: Manifest, base: str, image_id: str
) -> dict[str, Any]:
    """The document of an image: its packages, the model's files and the base image as it was named.

    `image_id` is Docker's, `sha256:…`: of the image's configuration, which names every layer.
    """
    licences = LicenseFactory()
    digest = base.partition("@sha256:")[2]
    parts = [
        Component(
            name=base.partition("@")[0],
            type=ComponentType.CONTAINER,
            bom_ref="base-image",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else None,
        ),
        Component(
            name=manifest.name,
            version=manifest.version,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref="model",
            description=manifest.description or None,
        ),
    ]
    parts += [
        Component(
            name=f"model_artifacts/{model}/{name}",
            type=ComponentType.FILE,
            bom_ref=f"model/{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        )
        for name, file in manifest.files.items()
    ]
    for name, version, licence in found:
        purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
        one_line = licence.strip().partition("\n")[0]  # some have the whole text there
        parts.append(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=str(purl),
                purl=purl,
                licenses=[licences.make_from_string(one_line)] if one_line else None,
            )
        )
    bom = Bom(components=parts)
    bom.metadata.component = Component(
        name=f"answerable-{model}",
        version=manifest.version,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        properties=[Property(name="answerable:image-id", value=image_id)],
    )
    bom.register_dependency(bom.metadata.component, parts)
    told: dict[str, Any] = json.loads(
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    )
    return told
