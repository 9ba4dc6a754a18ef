"""Restorable stores, made blob by blob as publishing an app makes them, and the real one.

`tests/data/reset-apps.tgz` was made by composectl 96: the apps `shop` (services web and worker, a
file beside the compose file) and `telemetry`, for amd64.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPOSECTLS = Path(__file__).parent / "data/reset-apps.tgz"
HOST = "hub.example.test"

_OCI, _DOCKER = "application/vnd.oci.image", "application/vnd.docker"


@dataclass(frozen=True)
class Types:
    """The media types of an image's documents and blobs."""

    index: str
    manifest: str
    config: str
    layer: str


OCI = Types(
    f"{_OCI}.index.v1+json",
    f"{_OCI}.manifest.v1+json",
    f"{_OCI}.config.v1+json",
    f"{_OCI}.layer.v1.tar+gzip",
)
DOCKER = Types(
    f"{_DOCKER}.distribution.manifest.list.v2+json",
    f"{_DOCKER}.distribution.manifest.v2+json",
    f"{_DOCKER}.container.image.v1+json",
    f"{_DOCKER}.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True)
class MadeImage:
    """An image in a store: how a compose file names it, and the sha256 of each of its blobs."""

    reference: str
    manifest: str
    config: str
    layers: tuple[str, ...]
    index: str | None = None


@dataclass(frozen=True)
class MadeApp:
    """A version of an app in a store: its uri, and the sha256 of each of its blobs."""

    uri: str
    folder: Path
    manifest: str
    bundle: str
    index: str | None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def member(name: str, data: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member of an archive, a plain file unless its `attributes` (of TarInfo) say otherwise."""
    made = tarfile.TarInfo(name)
    made.size, made.mode = len(data), 0o644
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made, data


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tgz(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    return gzip.compress(tar(members), 1, mtime=0)


def files(content: Mapping[str, bytes]) -> bytes:
    """A bundle with these files."""
    return tgz(member(name, data) for name, data in content.items())


class Builder:
    """Puts blobs and apps into the store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs/sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Put a blob there; return its descriptor."""
        (self.blobs / sha256(data)).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data)}

    def document(self, content: object, media_type: str) -> dict[str, Any]:
        """Put a JSON document there; return its descriptor."""
        return self.blob(json.dumps(content, indent=1).encode(), media_type)

    def image(
        self,
        repository: str,
        layers: Sequence[bytes],
        *,
        types: Types = OCI,
        platforms: Sequence[str] = (),
        architecture: str | None = None,
        level: int = 1,
        diff_ids: Sequence[str] | None = None,
    ) -> MadeImage:
        """Put an image of `layers` (tar archives, packed by gzip at `level`) there.

        With `platforms` it is an image index, and only the first of them is there. `diff_ids` are
        what the config says of the layers, unless that is the truth.
        """
        packed = [self.blob(gzip.compress(each, level, mtime=0), types.layer) for each in layers]
        if architecture is None:
            architecture = platforms[0] if platforms else "amd64"
        settings = self.document(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/bin/sleep", "1000000"]},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [f"sha256:{each}" for each in diff_ids or map(sha256, layers)],
                },
            },
            types.config,
        )
        manifest = self.document(
            {
                "schemaVersion": 2,
                "mediaType": types.manifest,
                "config": settings,
                "layers": packed,
            },
            types.manifest,
        )
        root = manifest
        if platforms:
            absent = {"mediaType": types.manifest, "size": 1234}
            listed = [
                {
                    **(absent | {"digest": f"sha256:{sha256(each.encode())}"} if number else root),
                    "platform": {"os": "linux", "architecture": each},
                }
                for number, each in enumerate(platforms)
            ]
            root = self.document(
                {"schemaVersion": 2, "mediaType": types.index, "manifests": listed}, types.index
            )
        return MadeImage(
            f"{HOST}/{repository}@{root['digest']}",
            _hex(manifest),
            _hex(settings),
            tuple(map(_hex, packed)),
            _hex(root) if platforms else None,
        )

    def app(
        self, name: str, bundle: bytes, hashes: Mapping[str, str] | None, **changes: object
    ) -> MadeApp:
        """Put a version of an app there; `hashes` None: without a bundle index.

        `changes` are to its manifest.
        """
        packed = self.blob(bundle, "application/octet-stream")
        index = None
        if hashes is not None:
            listed = {file: f"sha256:{each}" for file, each in hashes.items()}
            index = self.document(listed, "application/json")
            packed["annotations"] = {
                "org.foundries.app.bundle.index.digest": index["digest"],
                "org.foundries.app.bundle.index.size": str(index["size"]),
            }
        manifest = self.document(
            {
                "schemaVersion": 2,
                "mediaType": OCI.manifest,
                "config": {
                    "mediaType": "application/vnd.oci.empty.v1+json",
                    "digest": f"sha256:{sha256(b'{}')}",
                    "size": 2,
                },
                "layers": [packed],
                "annotations": {"compose-app": "v1"},
                **changes,
            },
            OCI.manifest,
        )
        folder = self.folder / "apps" / name / _hex(manifest)
        folder.mkdir(parents=True)
        uri = f"{HOST}/factory/{name}@{manifest['digest']}"
        (folder / "uri").write_text(uri)
        return MadeApp(uri, folder, _hex(manifest), _hex(packed), _hex(index) if index else None)

    def app_of_files(
        self, name: str, content: Mapping[str, bytes], *, indexed: bool = True
    ) -> MadeApp:
        """Put an app with these files there."""
        hashes = {file: sha256(data) for file, data in content.items()}
        return self.app(name, files(content), hashes if indexed else None)


def composectls(folder: Path) -> Path:
    """Unpack the store that composectl made into `folder`; return where it is."""
    with tarfile.open(COMPOSECTLS) as archive:
        archive.extractall(folder, filter="data")
    return folder / "reset-apps"


def _hex(descriptor: Mapping[str, Any]) -> str:
    return str(descriptor["digest"]).removeprefix("sha256:")


def remove(blob: Path) -> None:
    """Damages a blob: it is missing."""
    blob.unlink()


def truncate(blob: Path) -> None:
    """Damages a blob: its last byte is missing."""
    blob.write_bytes(blob.read_bytes()[:-1])


def flip(blob: Path) -> None:
    """Damages a blob: one bit is wrong."""
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
