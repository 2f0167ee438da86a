"""The bill of materials of an image, in CycloneDX (https://cyclonedx.org/docs/1.6/json/).

It is read from the image, not from the lock: the Dockerfile removes what serving does not need.
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
listed = [(d.metadata["Name"], d.version, d.metadata.get("License-Expression")
         or d.metadata.get("License") or "") for d in distributions(path=["/var/task"])]
print(json.dumps(sorted(listed)))
"""
Package = tuple[str, str, str]


def packages(docker: str, tag: str) -> list[Package]:
    """Return name, version and licence of each package in an image."""
    run = [docker, "run", "--rm", "--network=none", "--entrypoint=python3", tag, "-c", LIST]
    listed = json.loads(subprocess.run(run, capture_output=True, check=True).stdout)
    return [(name, version, licence) for name, version, licence in listed]


def document(
    packages: list[Package], model: str, manifest: Manifest, base: str, image_id: str
) -> dict[str, Any]:
    """Return the document: the packages, the model's files and the base image.

    `image_id` is Docker's, `sha256:…`, the hash of the configuration that names every layer.
    """
    licences = LicenseFactory()
    digest = base.partition("@sha256:")[2]
    components = [
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
    components += [
        Component(
            name=f"model_artifacts/{model}/{name}",
            type=ComponentType.FILE,
            bom_ref=f"model/{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        )
        for name, file in manifest.files.items()
    ]
    for name, version, licence in packages:
        purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
        one_line = licence.strip().partition("\n")[0]  # some packages have the whole text
        components.append(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=str(purl),
                purl=purl,
                licenses=[licences.make_from_string(one_line)] if one_line else None,
            )
        )
    bom = Bom(components=components)
    bom.metadata.component = Component(
        name=f"answerable-{model}",
        version=manifest.version,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        properties=[Property(name="answerable:image-id", value=image_id)],
    )
    bom.register_dependency(bom.metadata.component, components)
    document: dict[str, Any] = json.loads(
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    )
    return document
