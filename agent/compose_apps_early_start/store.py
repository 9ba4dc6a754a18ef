"""The restorable store: bundles and images of apps, which can be restored from it offline.

Two programs write it: skopeo in an image build, and composectl on the device. They differ only in
copies beside the blobs. A blob is trusted if its sha256 is its name. Only blobs that are needed are
read. Source of the layout: composectl 96 (foundriesio/composeapp).
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import plainfile
from .cause import Cause

CHUNK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 4 << 20
"""The maximum size of a manifest, an index or a config; registries have the same limit."""

_HEX = re.compile(r"[0-9a-f]{64}")


MAX_URI_BYTES = 4096

_ALSO_RUNS = {"arm64": ("arm",), "amd64": ("386",)}
"""For some architectures, others whose programs their processors can run; docker's names."""


class StoreError(Exception):
    """Something in the store is missing or damaged; the text names it."""

    cause = Cause.STORE_DAMAGED


class BlobMissingError(StoreError):
    """A blob is missing in the store."""


class PlatformError(StoreError):
    """An image is in the store, but not for this device's architecture."""

    cause = Cause.PLATFORM_MISSING


@dataclass(frozen=True)
class Descriptor:
    """A document's description of a blob: its sha256 in hex, size in bytes, and media type."""

    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Version:
    """One version of an app in the store; `folder` has its `uri` and copies of small blobs."""

    app: str
    uri: str
    folder: Path

    @property
    def sha256(self) -> str:
        """The digest of the app's manifest."""
        return self.folder.name


@dataclass(frozen=True)
class Manifest:
    """The manifest of an app, which names its bundle and the sha256 of the bundle's index.

    An old app has no index.
    """

    bundle: Descriptor
    index: str | None


@dataclass(frozen=True)
class Image:
    """One image of the store, for one platform.

    `documents` are the root and, if the root is an index, the manifest. They are small, and have to
    be sent unchanged. `blobs` are the config and the layers. Without `has_root`, the store lacks
    the index that the reference names.
    """

    reference: str
    documents: tuple[Descriptor, ...]
    config: Descriptor
    layers: tuple[Descriptor, ...]
    has_root: bool = True

    @property
    def root(self) -> Descriptor:
        """The image index or manifest that the reference names; valid if `has_root`."""
        return self.documents[0]

    @property
    def manifest(self) -> Descriptor:
        """The manifest of the platform."""
        return self.documents[-1]

    @property
    def sha256(self) -> str:
        """The digest in the reference: of an index or of a manifest."""
        return self.reference.rpartition(":")[2]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All blobs, each once."""
        return tuple(dict.fromkeys((*self.documents, self.config, *self.layers)))

    @property
    def size(self) -> int:
        """The size of all blobs, in bytes."""
        return sum(blob.size for blob in self.blobs)


class Store:
    """A store on the disk, which is only read. A missing folder is an empty store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def blobs(self) -> Path:
        """The folder of the blobs, each named by its sha256."""
        return self.folder / "blobs/sha256"

    def versions(self) -> Mapping[str, tuple[Version, ...]]:
        """Return the versions of each app. Folders without a `uri` file are not apps.

        Raises OSError if the store exists but cannot be listed.
        """
        found: dict[str, list[Version]] = {}
        for uri in sorted(self.folder.glob("apps/*/*/uri")):
            if _HEX.fullmatch(uri.parent.name) and uri.is_file():
                version = Version(uri.parent.parent.name, _text(uri), uri.parent)
                found.setdefault(version.app, []).append(version)
        return {app: tuple(versions) for app, versions in found.items()}

    def manifest(self, version: Version) -> Manifest:
        """Read the app's manifest; raises `StoreError`."""
        what = f"the manifest of app {version.app!r}"
        document, _ = self._document(version.sha256, version, what)
        layers = _mappings(document.get("layers"))
        if _mapping(document.get("annotations")).get("compose-app") != "v1" or not layers:
            raise StoreError(f"{what} (sha256 {version.sha256}) is not that of a compose app")
        annotations = _mapping(layers[0].get("annotations"))
        index = annotations.get("org.foundries.app.bundle.index.digest")
        return Manifest(_descriptor(layers[0], what), _sha256(index, what) if index else None)

    def index(self, version: Version, sha256: str) -> Mapping[str, str]:
        """Read a bundle index: the sha256 in hex of every file of the app; raises `StoreError`."""
        what = f"the bundle index of app {version.app!r}"
        document, _ = self._document(sha256, version, what)
        return {str(name): _sha256(digest, what) for name, digest in document.items()}

    def image(self, reference: str, version: Version, architecture: str | None) -> Image:
        """Find the image that a compose file pins; raises `StoreError`.

        Of an image index, any platform may be present. Among several platforms, the one for
        `architecture` (docker's name) is used.
        """
        what = f"image {reference}"
        root = _sha256(reference.rpartition("@")[2], what)
        documents = []
        try:
            document, size = self._document(root, version, what)
            documents.append(Descriptor(root, size, _media_type(document)))
        except BlobMissingError:
            layout = self._layout(reference, version, what)
            if layout is None:
                raise
            document = layout
        if "manifests" in document:
            child = self._platform(document, architecture, what)
            document, size = self._document(child.sha256, version, what)
            documents.append(Descriptor(child.sha256, size, child.media_type))
        config = _descriptor(_mapping(document.get("config")), what)
        layers = tuple(_descriptor(layer, what) for layer in _mappings(document.get("layers")))
        for blob in (config, *layers):
            self._check_size(blob, what)
        self._check_architecture(config, version, architecture, what)
        has_root = documents[0].sha256 == root
        return Image(reference, tuple(documents), config, layers, has_root)

    def _layout(self, reference: str, version: Version, what: str) -> dict[str, Any] | None:
        """Read the index of the OCI layout that stands for an image index beside the `uri`.

        It names the manifest of one platform, and is not the same document as that index. So its
        digest is not compared; composectl does not compare it either.
        """
        name, _, digest = reference.partition("@sha256:")
        file = version.folder / "images" / name / digest / "index.json"
        with _naming(digest, what):
            try:
                document = _json(plainfile.read(file, MAX_DOCUMENT_BYTES), digest, what)
            except FileNotFoundError:
                return None
        return document if _mappings(document.get("manifests")) else None

    def _platform(
        self, index: Mapping[str, Any], architecture: str | None, what: str
    ) -> Descriptor:
        present = [
            each
            for each in _mappings(index["manifests"])
            if (self.blobs / _sha256(each.get("digest"), what)).is_file()
            and _mapping(each.get("platform")).get("os") != "unknown"  # an attestation
        ]
        if not present:
            raise StoreError(f"{what}: none of the platforms of its index is in the store")
        # If an index does not name the architecture, the config does.
        platforms = [
            str(_mapping(each.get("platform")).get("architecture", "")) for each in present
        ]
        for wanted in (*_runs(architecture), "") if architecture else platforms:
            if wanted in platforms:
                return _descriptor(present[platforms.index(wanted)], what)
        raise _not_for(str(architecture), platforms, what)

    def _check_architecture(
        self, config: Descriptor, version: Version, architecture: str | None, what: str
    ) -> None:
        document, _ = self._document(config.sha256, version, what)
        found = str(document.get("architecture", ""))
        if found and architecture and found not in _runs(architecture):
            raise _not_for(architecture, [found], what)

    def verified(self, sha256: str, version: Version, what: str, most_bytes: int) -> Path:
        """Return an intact file of a blob: in the store, or a copy beside the `uri`.

        It is read completely, unless it is larger than `most_bytes`. Raises `StoreError`; `what`
        names the purpose of the blob.
        """
        own = self.blobs / sha256
        copies = (
            version.folder / "manifest.json",
            version.folder / f"{sha256}.tgz",
            *version.folder.glob("images/**/index.json"),
        )
        with _naming(sha256, what):
            for file in (own, *copies):
                if file.is_file() and _sha256_of(file, most_bytes) == sha256:
                    return file
            if not os.path.lexists(own):
                raise BlobMissingError(f"{what}: blob {sha256} is missing in {self.blobs}")
            larger = own.is_file() and own.stat().st_size > most_bytes
        state = f"larger than {most_bytes} bytes" if larger else "damaged"
        raise StoreError(f"{what}: blob {sha256} is {state} in {self.blobs}")

    def chunks(self, blob: Descriptor, what: str) -> Iterator[bytes]:
        """Read a blob in pieces, and raise `StoreError` at the end if its digest is wrong.

        Reading and verifying are one pass, so the caller must be able to undo what it did with the
        pieces.
        """
        digest = hashlib.sha256()
        size = 0
        with _naming(blob.sha256, what), plainfile.opened(self.blobs / blob.sha256) as stream:
            while size <= blob.size and (chunk := stream.read(CHUNK_BYTES)):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        if size != blob.size or digest.hexdigest() != blob.sha256:
            raise StoreError(f"{what}: blob {blob.sha256} is damaged in {self.blobs}")

    def unpacked_size(self, blob: Descriptor, what: str) -> int:
        """Estimate the size of a layer after decompression, in bytes; raises `StoreError`.

        gzip writes the size modulo 4 GiB at its end. If this value is impossible, the estimate is
        three times the size. Incompressible data hardly grows when it is compressed.
        """
        with _naming(blob.sha256, what), plainfile.opened(self.blobs / blob.sha256) as stream:
            packed = stream.read(2) == b"\x1f\x8b"
            stream.seek(max(0, blob.size - 4))
            recorded = int.from_bytes(stream.read(4), "little")
        minimum = blob.size - blob.size // 100 - 1024
        return recorded if packed and recorded >= minimum else 3 * blob.size

    def _document(self, sha256: str, version: Version, what: str) -> tuple[dict[str, Any], int]:
        """Return a JSON object in the store, and its size in bytes."""
        file = self.verified(sha256, version, what, MAX_DOCUMENT_BYTES)
        with _naming(sha256, what):
            data = plainfile.read(file, MAX_DOCUMENT_BYTES)
        return _json(data, sha256, what), len(data)

    def _check_size(self, blob: Descriptor, what: str) -> None:
        with _naming(blob.sha256, what):
            found = (self.blobs / blob.sha256).stat().st_size
        if found != blob.size:
            raise StoreError(f"{what}: blob {blob.sha256} has {found} bytes, not {blob.size}")


@contextlib.contextmanager
def _naming(sha256: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{what}: blob {sha256} is missing") from error
    except OSError as error:
        raise StoreError(f"{what}: blob {sha256} cannot be read: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        return plainfile.read(file, MAX_URI_BYTES).decode(errors="replace").strip()
    except OSError:  # the version exists nevertheless; nothing refers to it by an empty uri
        return ""


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _mappings(found: object) -> list[Mapping[str, Any]]:
    return [_mapping(each) for each in found] if isinstance(found, list) else []


def _json(data: bytes, sha256: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what}: blob {sha256} is no JSON") from error
    if not isinstance(document, dict):
        raise StoreError(f"{what}: blob {sha256} is no JSON object")
    return document


def _runs(architecture: str) -> tuple[str, ...]:
    """Return the architectures whose programs run on `architecture`, best first."""
    return (architecture, *_ALSO_RUNS.get(architecture, ()))


def _not_for(architecture: str, found: Iterable[str], what: str) -> PlatformError:
    there = " and ".join(f"linux/{each}" for each in dict.fromkeys(found))
    return PlatformError(
        f"{what}: only {there} is in the store, this device is linux/{architecture}"
    )


def _sha256_of(file: Path, most_bytes: int) -> str | None:
    with plainfile.opened(file) as stream:
        if os.fstat(stream.fileno()).st_size > most_bytes:
            return None
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256(digest: object, what: str) -> str:
    """Return the hex digits of `sha256:<hex>`; raises `StoreError` for anything else."""
    prefix, _, digits = str(digest).partition(":")
    if prefix != "sha256" or not _HEX.fullmatch(digits):
        raise StoreError(f"{what}: {digest!r} is no sha256 digest")
    return digits


def _descriptor(found: Mapping[str, Any], what: str) -> Descriptor:
    if not isinstance(found.get("size"), int) or found["size"] < 0:
        raise StoreError(f"{what}: a descriptor without a size")
    return Descriptor(
        _sha256(found.get("digest"), what), found["size"], str(found.get("mediaType", ""))
    )


def _media_type(document: Mapping[str, Any]) -> str:
    """Return the media type of a root; OCI documents need not contain it."""
    kind = "index" if "manifests" in document else "manifest"
    return str(document.get("mediaType") or f"application/vnd.oci.image.{kind}.v1+json")
