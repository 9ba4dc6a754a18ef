"""Putting images from the restorable store back into the engine, with their digests."""

import json
import os
import queue
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cause import NOT_TRIED, Cause, Failure
from .engine import Engine
from .report import Event, Kind, Report
from .store import Image, Store, StoreError, Version

PROGRESS_SECONDS = 5.0
"""Between two words on how far a load is."""

_BLOCK = tarfile.BLOCKSIZE


def oci_layout(store: Store, image: Image, version: Version) -> Iterator[bytes]:
    """Return the image as the stream of an OCI layout tar, each blob verified as it is sent.

    For a containerd image store: it keeps the digest, and names the image by the annotation. That
    name is the whole reference, as `docker pull` leaves it: images under another name are pruned
    from below their containers by engines before 27.3, when aktualizr-lite asks for it.
    Raises `StoreError` within the stream, so that the request breaks off and nothing is loaded.
    """
    what = f"image {image.reference}"
    root = image.root
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": root.media_type,
                "digest": f"sha256:{root.sha256}",
                "size": root.size,
                "annotations": {"io.containerd.image.name": image.reference},
            }
        ],
    }
    yield from _member("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    yield from _member("index.json", _json(index))
    for blob in image.blobs:
        yield _header(f"blobs/sha256/{blob.sha256}", blob.size)
        if blob in image.documents:
            # Perhaps only there as a copy beside the uri.
            yield store.verified(blob.sha256, version, what).read_bytes()
        else:
            yield from store.chunks(blob, what)
        yield _padding(blob.size)
    yield bytes(2 * _BLOCK)


def in_place(store: Store, image: Image, version: Version) -> Iterator[bytes]:
    """Return the stream that lets LmP's dockerd read the image's blobs out of the store itself.

    Every blob is verified before. Source: the patch of foundriesio/moby, as composectl uses it
    (`LayersRoot`, and digest references among `RepoTags`).
    """
    what = f"image {image.reference}"
    for blob in (image.config, *image.layers):
        for _chunk in store.chunks(blob, what):
            pass
    repository = image.reference.rpartition("@")[0]
    tags: list[str] = []
    for sha256 in dict.fromkeys((image.sha256, *(each.sha256 for each in image.documents))):
        tags += [f"{repository}:{sha256[:7]}", f"{repository}@sha256:{sha256}"]
    manifest = {
        "Config": image.config.sha256,
        "RepoTags": tags,
        "Layers": [layer.sha256 for layer in image.layers],
        "LayersRoot": str(store.blobs),
    }
    yield from _member("manifest.json", _json([manifest]))
    yield bytes(2 * _BLOCK)


class _CancelledError(Exception):
    """The run is ended: dockerd is to get no more."""


class Loader:
    """Loads each image once, however many apps want it, and one at a time."""

    def __init__(self, engine: Engine, store: Store, report: Report) -> None:
        self._engine = engine
        self._store = store
        self._report = report
        self._lock = threading.Lock()
        self._done: dict[str, Failure | None] = {}
        self._cancelled = False
        self._ended: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()

    def cancel(self) -> None:
        """Break off what is being sent, and load nothing more."""
        self._cancelled = True
        self._ended.put(_CancelledError())

    def load(self, image: Image, app: str, version: Version, deadline: float) -> Failure | None:
        """Load `image` for `app`, or wait until it is loaded for another; None: it is there.

        `deadline` is a time of `time.monotonic()`. Raises `EngineError`.
        """
        with self._lock:
            if image.reference not in self._done:
                self._done[image.reference] = self._load(image, app, version, deadline)
            return self._done[image.reference]

    def _load(self, image: Image, app: str, version: Version, deadline: float) -> Failure | None:
        if self._cancelled:
            return NOT_TRIED
        storage = self._engine.storage()
        try:
            needed = space_needed(self._store, image, keeps_blobs=storage.containerd)
        except StoreError as error:
            return Failure(Cause.STORE_DAMAGED, str(error))
        free = _free(storage.root)
        if needed > free:
            return Failure(
                Cause.NO_SPACE,
                f"image {image.reference} needs {_megabytes(needed)} in {storage.root}, "
                f"{_megabytes(free)} are free",
            )
        if storage.containerd and not image.has_root:
            return Failure(
                Cause.STORE_DAMAGED,
                f"image {image.reference}: the store has the image, but not the index that its "
                "digest names, and this dockerd cannot load it under that digest without",
            )
        archive = (oci_layout if storage.containerd else in_place)(self._store, image, version)
        began = time.monotonic()
        try:
            trouble = self._send(self._told(archive, image, app), max(1.0, deadline - began))
        except StoreError as error:
            return Failure(Cause.STORE_DAMAGED, str(error))
        except _CancelledError:
            return NOT_TRIED
        # A containerd store keeps the name of an image that it could not unpack.
        if not trouble and self._engine.has_image(image.reference):
            seconds = time.monotonic() - began
            message = f"image {image.reference} is loaded"
            self._report(Event(Kind.LOADED, message, app=app, seconds=seconds))
            return None
        trouble = trouble or "dockerd took the image, but not under its digest"
        if not storage.containerd:
            trouble = f"this dockerd keeps images in overlay2 and lacks LmP's patch: {trouble}"
        return Failure(Cause.IMAGE_NOT_LOADED, f"image {image.reference}: {trouble}")

    def _send(self, archive: Iterator[bytes], seconds: float) -> str | None:
        """Send `archive`; raises `_CancelledError` at once when the run is ended.

        In a thread of its own: dockerd may unpack for minutes after the last byte.
        """

        def send() -> None:
            try:
                self._ended.put(self._engine.load(archive, seconds))
            except Exception as error:  # it is raised where the end is waited for
                self._ended.put(error)

        threading.Thread(target=send, name="load", daemon=True).start()
        ended = self._ended.get()
        if isinstance(ended, Exception):
            raise ended
        return ended

    def _told(self, archive: Iterator[bytes], image: Image, app: str) -> Iterator[bytes]:
        """Pass `archive` on, and tell now and then how far it is."""
        sent = 0
        told_at = time.monotonic()
        self._tell(image, app, sent)
        for chunk in archive:
            if self._cancelled:
                raise _CancelledError
            if time.monotonic() - told_at > PROGRESS_SECONDS:
                told_at = time.monotonic()
                self._tell(image, app, sent)
            sent += len(chunk)
            yield chunk

    def _tell(self, image: Image, app: str, sent: int) -> None:
        message = f"loading image {image.reference}: {_megabytes(sent)} of {_megabytes(image.size)}"
        self._report(Event(Kind.LOADING, message, app=app))


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def space_needed(store: Store, image: Image, *, keeps_blobs: bool) -> int:
    """Return how many bytes an engine needs for `image`; raises `StoreError`.

    `keeps_blobs`: a containerd image store keeps the packed layers beside the unpacked ones.
    """
    what = f"image {image.reference}"
    unpacked = sum(store.unpacked_size(layer, what) for layer in dict.fromkeys(image.layers))
    return unpacked + (image.size if keeps_blobs else 0)


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data))
    yield data
    yield _padding(len(data))


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf()


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
