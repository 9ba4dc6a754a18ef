"""Writing the restorable store: apps and images share one folder of blobs.

The layout is that of `reset-apps` on a device, as image builds and composectl make it, including
the copies that older programs expect beside the blobs.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..configuration.containers import COMPOSE_FILE
from . import oci, skopeo
from .app import App


def add(folder: Path, app: App, images: Mapping[str, oci.Image]) -> None:
    """Add an app to the store in `folder`, which already has the blobs of its images."""
    for digest, file in app.blobs.items():
        target = folder / "blobs/sha256" / digest.removeprefix("sha256:")
        if not target.exists():
            shutil.copyfile(file, target)
    version = folder / "apps" / app.name / app.sha256
    version.mkdir(parents=True)
    shutil.copyfile(app.manifest, version / "manifest.json")
    packed = app.bundle.removeprefix("sha256:")
    shutil.copyfile(app.blobs[app.bundle], version / f"{packed}.tgz")
    (version / COMPOSE_FILE).write_bytes(app.compose_file)
    for reference in app.images:
        _describe(version / "images", images[reference])
    # This file comes last, because it makes the folder an app.
    (version / "uri").write_text(app.uri)


def _describe(folder: Path, image: oci.Image) -> None:
    """Write the files that make an OCI layout of this image from the shared blobs."""
    digest = image.reference.partition("@")[2]
    layout = folder / skopeo.repository(image.reference) / digest.removeprefix("sha256:")
    layout.mkdir(parents=True, exist_ok=True)
    manifest = image.documents[-1]
    entry = {
        "mediaType": image.media_type,
        "digest": skopeo.digest_of(manifest),
        "size": len(manifest),
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
