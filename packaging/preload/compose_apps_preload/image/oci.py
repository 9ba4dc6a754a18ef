"""Images in a registry, for one architecture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import skopeo

_OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Blob:
    """A config or a layer: its digest `sha256:<hex>`, its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """An image as one architecture gets it.

    `documents` are what the reference names and, if that is an index, the manifest of the
    platform, both byte by byte. `platform` is as `docker pull --platform` takes it.
    """

    reference: str
    documents: tuple[bytes, ...]
    media_type: str
    platform: str
    blobs: tuple[Blob, ...]

    @property
    def manifest_reference(self) -> str:
        """The reference of the platform's manifest itself."""
        return f"{skopeo.repository(self.reference)}@{skopeo.digest_of(self.documents[-1])}"


def find(reference: str, arch: str) -> Image:
    """Look up a pinned image for `arch`, as docker names it: `arm64`, `arm/v7`.

    Fetches small documents only. Raises `PreloadError` if the image is not there, or not for this
    architecture.
    """
    root = skopeo.raw(reference)
    documents = [root]
    document = _parsed(root, reference)
    if "manifests" in document:
        child = _child(document, reference, arch)
        documents.append(skopeo.raw(f"{skopeo.repository(reference)}@{child}"))
        document = _parsed(documents[-1], reference)
    if "config" not in document:
        raise PreloadError(
            f"{reference} is neither an image manifest nor an index",
            "schema 1 images have to be pushed anew",
        )
    media_type = document.get("mediaType") or f"{_OCI}.manifest.v1+json"
    found = (document["config"], *document.get("layers", ()))
    blobs = tuple(dict.fromkeys(Blob(each["digest"], each["size"]) for each in found))
    image = Image(reference, tuple(documents), media_type, "", blobs)
    config = _parsed(skopeo.config(image.manifest_reference), reference)
    platform = _platform(config)
    if not _fits(platform, arch):
        raise _lacks(reference, arch, [platform])
    return Image(reference, tuple(documents), media_type, f"linux/{platform}", blobs)


def fetch(image: Image, blobs: Path, scratch: Path) -> None:
    """Put all of the image into `blobs/sha256`; raises `PreloadError`."""
    skopeo.copy(image.manifest_reference, image.media_type, blobs, scratch)
    for document in image.documents:
        put(document, blobs)


def put(data: bytes, blobs: Path) -> str:
    """Write a blob into `blobs/sha256` and return its digest."""
    digest = skopeo.digest_of(data)
    (blobs / "sha256").mkdir(parents=True, exist_ok=True)
    (blobs / "sha256" / digest.removeprefix("sha256:")).write_bytes(data)
    return digest


def _parsed(data: bytes, reference: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise PreloadError(
            f"{reference}: the registry sent no JSON", "is it a registry?"
        ) from error
    if not isinstance(document, dict):
        raise PreloadError(f"{reference}: this is no JSON object", "is it a registry?")
    return document


def _child(index: dict[str, Any], reference: str, arch: str) -> str:
    """Return the digest of the manifest for `arch`."""
    platforms: dict[str, str] = {}
    for entry in index["manifests"]:
        platform = entry.get("platform", {})
        if platform.get("os") == "linux":  # attestations have "unknown"
            platforms.setdefault(_platform(platform), str(entry["digest"]))
    for platform, digest in platforms.items():
        if _fits(platform, arch):
            return digest
    raise _lacks(reference, arch, list(platforms))


def _platform(found: dict[str, Any]) -> str:
    variant = found.get("variant")
    return f"{found.get('architecture')}/{variant}" if variant else str(found.get("architecture"))


def _fits(platform: str, arch: str) -> bool:
    return platform == arch or platform.partition("/")[0] == arch


def _lacks(reference: str, arch: str, platforms: list[str]) -> PreloadError:
    return PreloadError(
        f"{reference} is not for {arch}: it has {', '.join(platforms) or 'no platform'}",
        "build the app's images for this architecture, or name the right --arch",
    )
