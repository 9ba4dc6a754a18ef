"""Reading docker's own store (overlay2) and verifying the layers of its images.

docker does not keep a layer as it was pulled. It keeps the files, and the rest of the archive in
`tar-split.json.gz`. This module reassembles the archive, which must have the digest that the
image's config names. Source of the formats: moby's layer store, tar-split.
"""

import base64
import gzip
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import skopeo

Dump = Callable[[str, Path], None]
"""Copies a folder of docker's data root into a new folder; see `FileSystem.dump`."""

_CHUNK = 1 << 20
_SEGMENT = 2
_FOLDER = re.compile(r"[0-9A-Za-z]+")
_DOCKER_HUB = "docker.io/"


class DockerError(Exception):
    """An image is missing in docker's store, or damaged there; the text says how."""


@dataclass(frozen=True)
class StoredImage:
    """An image in docker's store: the digest of its config, and its unpacked size in bytes."""

    config: str
    architecture: str
    size: int
    layers: tuple[str, ...]


class DockerContents:
    """docker's store. `image` is its folder `image/overlay2`; `dump` reads the layers.

    Raises `DockerError` if docker's list of images is damaged.
    """

    def __init__(self, image: Path, dump: Dump, scratch: Path) -> None:
        self._image = image
        self._dump = dump
        self._scratch = scratch
        self._layers: dict[str, int] = {}
        self._references: dict[str, str] = {}
        file = image / "repositories.json"
        if file.is_file():
            try:
                for references in json.loads(file.read_bytes())["Repositories"].values():
                    self._references |= {
                        str(key): str(config) for key, config in references.items()
                    }
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise DockerError(f"docker's {file.name} is damaged: {error}") from error

    @property
    def is_filled(self) -> bool:
        """Whether the store has any image."""
        return bool(self._references)

    def check(self, reference: str) -> StoredImage:
        """Read the whole image that a compose file pins; raises `DockerError`."""
        config = self._references.get(_familiar(reference))
        if config is None:
            raise DockerError("docker has no image with this digest")
        file = self._image / "imagedb/content/sha256" / config.removeprefix("sha256:")
        data = file.read_bytes() if file.is_file() else b""
        if skopeo.digest_of(data) != config:
            raise DockerError(f"its config {config} is {'damaged' if data else 'missing'}")
        try:
            document: dict[str, Any] = json.loads(data)
            diff_ids = [str(diff) for diff in document["rootfs"].get("diff_ids") or ()]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DockerError(f"its config {config} names no layers") from error
        chain = ""
        size = 0
        for diff in diff_ids:
            chain = skopeo.digest_of(f"{chain} {diff}".encode()) if chain else diff
            if chain not in self._layers:
                self._layers[chain] = self._check_layer(chain, diff)
            size += self._layers[chain]
        return StoredImage(config, str(document.get("architecture")), size, tuple(diff_ids))

    def _check_layer(self, chain: str, diff: str) -> int:
        """Read a whole layer; return the size of its archive in bytes."""
        record = self._image / "layerdb/sha256" / chain.removeprefix("sha256:")
        target = self._scratch / "layer"
        try:
            cache = (record / "cache-id").read_text()
            recorded = (record / "diff").read_text()
            if not _FOLDER.fullmatch(cache):
                raise ValueError(f"{cache!r} is not the name of a folder")
            self._dump(f"overlay2/{cache}/diff", target)
            digest, size = hashlib.sha256(), 0
            for piece in _archive(record / "tar-split.json.gz", target / "diff"):
                digest.update(piece)
                size += len(piece)
        except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error) as error:
            raise DockerError(f"layer {diff} is incomplete: {error}") from error
        finally:
            shutil.rmtree(target, ignore_errors=True)
        if recorded != diff or f"sha256:{digest.hexdigest()}" != diff:
            raise DockerError(f"layer {diff} is damaged")
        return size


def _archive(split: Path, folder: Path) -> Iterator[bytes]:
    """Reassemble a layer's archive from tar-split's file and the files in `folder`."""
    with gzip.open(split) as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["type"] == _SEGMENT:
                yield base64.b64decode(entry.get("payload") or "")
            elif entry.get("size"):
                raw = entry.get("name_raw")
                name = base64.b64decode(raw).decode(errors="surrogateescape") if raw else None
                file = (folder / (name or entry["name"]).lstrip("/")).resolve()
                if not file.is_relative_to(folder.resolve()):
                    raise ValueError(f"{entry['name']!r} points outside the layer")
                with file.open("rb") as stream:
                    while piece := stream.read(_CHUNK):
                        yield piece


def _familiar(reference: str) -> str:
    """Return a reference as docker records it, without Docker Hub's name."""
    name = f"{skopeo.repository(reference)}@{reference.partition('@')[2]}"
    name = name.removeprefix(f"{_DOCKER_HUB}library/").removeprefix(_DOCKER_HUB)
    return name.removeprefix("library/")
