"""Apps in a registry, as the real composectl publishes them."""

import gzip
import io
import json
import tarfile

from preload_image.registry import Registry, digest

_TYPE = "application/vnd.oci.image.manifest.v1+json"


def published(registry: Registry, name: str, image: str, *, index: str = "as Go writes it") -> str:
    """Publish an app with one service of this image and `Q&A.html`; return its uri."""
    compose = f"""services:
    web:
        image: {image}
        labels:
            io.compose-spec.config-hash: {"0" * 64}
        restart: always
"""
    files = {"Q&A.html": b"<p>", "docker-compose.yml": compose.encode()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    bundle = gzip.compress(buffer.getvalue(), mtime=1)
    hashes = {path: digest(data) for path, data in files.items()}
    if index == "as nobody writes it":
        listed = json.dumps(hashes, indent=8).encode()
    else:
        listed = json.dumps(hashes, separators=(",", ":")).replace("&", "\\u0026").encode()
    layer = {"mediaType": "application/octet-stream", "size": len(bundle), "digest": digest(bundle)}
    if index != "without one":
        layer["annotations"] = {
            "org.foundries.app.bundle.index.digest": digest(listed),
            "org.foundries.app.bundle.index.size": str(len(listed)),
        }
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": digest(b"{}")}
    document = {
        "schemaVersion": 2,
        "mediaType": _TYPE,
        "config": config,
        "layers": [layer],
        "annotations": {"compose-app": "v1"},
        "artifactType": "application/vnd.fio+compose-app",
    }
    # Three blanks: composectl writes manifests so.
    manifest = json.dumps(document, indent=3).encode()
    return registry.push_app(name, manifest, (b"{}", bundle, listed))
