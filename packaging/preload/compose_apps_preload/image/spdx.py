"""The bill of materials as an SPDX 2.3 document in JSON.

Debian has no SPDX library, so the document is written here. The tests check it with a library.
"""

import datetime
import re
import uuid
from typing import Any

from .. import __version__
from .bom import BillOfMaterials

_NONE = "NOASSERTION"


def document(bom: BillOfMaterials) -> dict[str, Any]:
    """Return the document: the image contains apps, apps depend on images, images have layers."""
    packages: dict[str, dict[str, Any]] = {}
    relations: dict[tuple[str, str, str], None] = {}

    def relate(element: str, kind: str, related: str) -> None:
        relations[element, kind, related] = None

    root = "SPDXRef-image"
    packages[root] = _package(root, bom.image, "FILE")
    relate("SPDXRef-DOCUMENT", "DESCRIBES", root)
    for app in bom.apps:
        name = f"SPDXRef-app-{_sanitized(app.name)}"
        packages[name] = _package(name, app.name, "APPLICATION", app.uri)
        relate(root, "CONTAINS", name)
        for image in app.images:
            digest = image.reference.rpartition(":")[2]
            container = f"SPDXRef-container-{digest}"
            repository = image.reference.partition("@")[0]
            packages[container] = _package(container, repository, "CONTAINER", image.reference)
            relate(name, "DEPENDS_ON", container)
            for layer in image.layers:
                archive = f"SPDXRef-layer-{layer.removeprefix('sha256:')}"
                packages[archive] = _package(archive, f"layer {layer}", "ARCHIVE", f"@{layer}")
                relate(container, "CONTAINS", archive)
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bom.image,
        "documentNamespace": f"https://spdx.org/spdxdocs/{_sanitized(bom.image)}-{uuid.uuid4()}",
        "creationInfo": {
            "created": made,
            "creators": [f"Tool: compose-apps-preload-{__version__}"],
        },
        "packages": list(packages.values()),
        "relationships": [
            {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": related}
            for element, kind, related in relations
        ],
    }


def _package(
    identifier: str, name: str, purpose: str, reference: str | None = None
) -> dict[str, Any]:
    """Return a package. `reference`, if there is one, ends with the digest of the package."""
    found: dict[str, Any] = {
        "SPDXID": identifier,
        "name": name,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
        "primaryPackagePurpose": purpose,
    }
    if reference:
        digest = reference.partition("@")[2]
        found["versionInfo"] = digest
        found["checksums"] = [
            {"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}
        ]
    if reference and purpose == "CONTAINER":
        last = name.rpartition("/")[2].lower()
        purl = f"pkg:oci/{last}@{digest.replace(':', '%3A')}?repository_url={name}"
        found["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ]
    return found


def _sanitized(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)
