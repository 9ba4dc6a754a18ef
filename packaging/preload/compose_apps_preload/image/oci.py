"""Images in a registry, for one platform."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import platforms, skopeo
from .cache import Blob
from .platforms import Platform
from .skopeo import Registries

_OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Image:
    """An image for one platform.

    `documents` are the exact bytes of the manifest. If the reference names an index, they are the
    index and the manifest of the platform.
    """

    reference: str
    documents: tuple[bytes, ...]
    media_type: str
    platform: Platform
    blobs: tuple[Blob, ...]

    @property
    def manifest_reference(self) -> str:
        """The reference of the platform's manifest."""
        return f"{skopeo.repository(self.reference)}@{skopeo.digest_of(self.documents[-1])}"


def find(reference: str, wanted: Platform, registries: Registries) -> Image:
    """Look up a pinned image for a platform; this fetches only small documents.

    Raises `PreloadError` if the image does not exist, or not for this platform.
    """
    documents = [registries.manifest(reference)]
    document = _parsed(documents[0], reference)
    platform = None
    if "manifests" in document:
        platform, child = _child(document, reference, wanted)
        documents.append(registries.manifest(f"{skopeo.repository(reference)}@{child}"))
        document = _parsed(documents[-1], reference)
    if "config" not in document:
        raise PreloadError(
            f"{reference} is neither an image manifest nor an index",
            "if it is a schema 1 image, push it again with a current docker",
        )
    media_type = document.get("mediaType") or f"{_OCI}.manifest.v1+json"
    try:
        found = (document["config"], *(document.get("layers") or ()))
        blobs = tuple(
            dict.fromkeys(Blob(str(entry["digest"]), int(entry["size"])) for entry in found)
        )
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(reference, "manifest") from error
    manifest = f"{skopeo.repository(reference)}@{skopeo.digest_of(documents[-1])}"
    if platform is None:
        config = _parsed(registries.config(manifest, blobs[0].digest), reference)
        platform = platforms.from_document(config)
        if platform is None or platform not in platforms.accepted(wanted):
            raise _lacks(reference, wanted, [platform] if platform else [])
    return Image(reference, tuple(documents), str(media_type), platform, blobs)


def fetch(image: Image, blobs: Path, registries: Registries) -> None:
    """Put all blobs of the image into `blobs/sha256`, via the cache; raises `PreloadError`."""
    registries.fetch(image.manifest_reference, image.media_type, image.blobs, blobs)
    for document in image.documents:
        put(document, blobs)


def put(data: bytes, blobs: Path) -> str:
    """Write a blob into `blobs/sha256` and return its digest."""
    digest = skopeo.digest_of(data)
    (blobs / "sha256").mkdir(parents=True, exist_ok=True)
    file = blobs / "sha256" / digest.removeprefix("sha256:")
    if not file.exists():
        file.write_bytes(data)
    return digest


def _parsed(data: bytes, reference: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PreloadError(
            f"{reference}: the registry did not send JSON", "check that the host is a registry"
        ) from error
    if not isinstance(document, dict):
        raise PreloadError(
            f"{reference}: the registry did not send a JSON object",
            "check that the host is a registry",
        )
    return document


def _child(index: dict[str, Any], reference: str, wanted: Platform) -> tuple[Platform, str]:
    """Return the best platform, and the digest of its manifest."""
    found: dict[Platform, str] = {}
    try:
        for entry in index["manifests"]:
            platform = platforms.from_document(entry.get("platform") or {})
            if platform is not None:  # attestations have "unknown"
                found.setdefault(platform, str(entry["digest"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise _damaged(reference, "index") from error
    for platform in platforms.accepted(wanted):
        if platform in found:
            return platform, found[platform]
    raise _lacks(reference, wanted, list(found))


def _damaged(reference: str, what: str) -> PreloadError:
    return PreloadError(
        f"{reference}: its {what} is damaged: an entry violates the OCI specification",
        "push the image again",
    )


def _lacks(reference: str, wanted: Platform, found: Sequence[Platform]) -> PreloadError:
    return PreloadError(
        f"{reference} does not support {wanted}, only "
        f"{', '.join(map(str, found)) or 'unknown platforms'}",
        "build the image for this architecture, or correct --arch",
    )
