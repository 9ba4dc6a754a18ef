"""Loading images from the restorable store into the engine, with their digests."""

import contextlib
import json
import os
import queue
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import plainfile, record
from .cause import NOT_TRIED, Cause, Failure
from .container import State, Storage
from .engine import Engine
from .progress import Meter, megabytes, words
from .report import Event, Kind, Report
from .selection import Selection, stored_images
from .settings import MAXIMUM, Settings
from .store import MAX_DOCUMENT_BYTES, Image, Store, StoreError, Version

GRACE_SECONDS = 5.0
"""How much later than the load its request times out, in seconds. The error is known by then."""

RETRY_FACTOR = 1.1
"""How much more time than in the last attempt an interrupted load needs to be tried again."""

CONTAINERD_ROOT = Path("/var/lib/containerd")

_BLOCK = tarfile.BLOCKSIZE


def oci_layout(store: Store, image: Image, version: Version) -> Iterator[bytes]:
    """Return the image as a stream of an OCI layout tar; each blob is verified while it is sent.

    This is for a containerd image store, which keeps the digest and takes the name of the image
    from an annotation. The name is the whole reference, as with `docker pull`. If it were another
    name, engines before 27.3 would remove the image while its containers use it, when
    aktualizr-lite prunes. Raises `StoreError` within the stream, so that the request fails and
    nothing is loaded.
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
            # There may only be a copy beside the uri.
            file = store.verified(blob.sha256, version, what, blob.size)
            yield plainfile.read(file, blob.size)
        else:
            yield from store.chunks(blob, what)
        yield _padding(blob.size)
    yield bytes(2 * _BLOCK)


def in_place(
    store: Store,
    image: Image,
    version: Version,
    counted: Callable[[int], None] = lambda size: None,
) -> Iterator[bytes]:
    """Return the stream that makes LmP's dockerd read the image's blobs in the store itself.

    Every blob is verified before, and its size is `counted`. Source: the patch of
    foundriesio/moby, as composectl uses it (`LayersRoot`, and digest references among `RepoTags`).
    """
    what = f"image {image.reference}"
    for blob in (image.config, *image.layers):
        for chunk in store.chunks(blob, what):
            counted(len(chunk))
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
    """The run has ended, so nothing more is sent to dockerd."""


class _OverdueError(Exception):
    """The time of the run is up, so nothing more is sent to dockerd."""


class Loader:
    """Loads one image at a time, and each image once, however many apps need it."""

    def __init__(self, settings: Settings, engine: Engine, store: Store, report: Report) -> None:
        self._too_slow = TooSlow(settings.slow_loads)
        self._unfinished = Unfinished(settings.unfinished_loads)
        self._engine = engine
        self._store = store
        self._report = report
        self._lock = threading.Lock()
        self._done: dict[str, Failure | None] = {}
        self._broken_off: _CancelledError | _OverdueError | None = None
        self._ended: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._meter = Meter(0, lambda text: None)

    def cancel(self) -> None:
        """Cancel the current load, and load nothing more."""
        self._broken_off = _CancelledError()
        self._ended.put(self._broken_off)

    def load(self, image: Image, app: str, version: Version, deadline: float) -> Failure | None:
        """Load `image` for `app`, or wait until it is loaded for another app; None on success.

        `deadline` is a time of `time.monotonic()`. It is the same for all images, because nothing
        is loaded after it. Raises `EngineError`.
        """
        with self._lock:
            if image.reference not in self._done:
                self._done[image.reference] = self._load(image, app, version, deadline)
            return self._done[image.reference]

    def _load(self, image: Image, app: str, version: Version, deadline: float) -> Failure | None:
        if isinstance(self._broken_off, _CancelledError):
            return NOT_TRIED
        what = f"image {image.reference}"
        start = time.monotonic()
        left = deadline - start
        if left <= 0 or self._broken_off:
            return Failure(Cause.RUN_TIMEOUT, f"{what}: the time of the run was up before its turn")
        seconds_tried = self._too_slow.seconds(image.reference)
        if left < seconds_tried * RETRY_FACTOR:
            return Failure(
                Cause.RUN_TIMEOUT,
                f"{what}: {seconds_tried:.0f} s were too short to load it in an earlier run, and "
                f"this run has {left:.0f} s left, so it is not begun",
            )
        storage = self._engine.storage()
        try:
            failure = self._obstacle(image, storage)
            if failure:
                return failure
            self._unfinished.add(image.reference)
            trouble = self._send(self._archive(image, app, version, storage), left)
        except StoreError as error:
            return Failure(error.cause, str(error))
        except _CancelledError:
            return NOT_TRIED
        except _OverdueError:
            self._too_slow.remember(image.reference, left)
            return Failure(
                Cause.RUN_TIMEOUT,
                f"{what}: {left:.0f} s were left of the run, too short to load it "
                f"({megabytes(self._meter.done)} of {megabytes(image.size)} sent)",
            )
        # A containerd store keeps the name of an image that it could not unpack.
        if not trouble and self._engine.has_image(image.reference):
            self._too_slow.forget(image.reference)
            os.sync()
            self._unfinished.clear()
            seconds = time.monotonic() - start
            self._report(Event(Kind.LOADED, f"{what} is loaded", app=app, seconds=seconds))
            return None
        trouble = trouble or "dockerd took the image, but not under its digest"
        cause = _cause(trouble)
        if cause is Cause.IMAGE_NOT_LOADED and not storage.containerd:
            trouble = f"this dockerd keeps images in overlay2 and lacks LmP's patch: {trouble}"
        if cause is Cause.NO_SPACE and _is_without_inodes(_data(storage)):
            trouble = f"no inodes are left in {_data(storage)}: {trouble}"
        return Failure(cause, f"{what}: {trouble}")

    def _obstacle(self, image: Image, storage: Storage) -> Failure | None:
        """Return why sending `image` would be useless, or None; raises `StoreError`."""
        if storage.containerd and not image.has_root:
            return Failure(
                Cause.STORE_DAMAGED,
                f"image {image.reference}: the store has the image, but not the index that its "
                "digest names, and this dockerd cannot load it under that digest without",
            )
        needed = space_needed(self._store, image, keeps_blobs=storage.containerd)
        place = _data(storage)
        if _is_without_inodes(place):
            return Failure(
                Cause.NO_SPACE, f"image {image.reference}: no inodes are left in {place}"
            )
        free = _free(place)
        if free is not None and needed > free:
            return Failure(
                Cause.NO_SPACE,
                f"image {image.reference} needs {megabytes(needed)} in {place}, "
                f"{megabytes(free)} are free",
            )
        return None

    def _send(self, archive: Iterator[bytes], seconds: float) -> str | None:
        """Send `archive`; raises `_CancelledError` at once when the run ends.

        It runs in its own thread, because dockerd may unpack for minutes after the last byte.
        Raises `_OverdueError` after `seconds`.
        """
        ended: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._ended = ended

        def send() -> None:
            try:
                ended.put(self._engine.load(archive, seconds + GRACE_SECONDS))
            except Exception as error:  # it is raised in the waiting thread
                ended.put(error)

        threading.Thread(target=send, name="load", daemon=True).start()
        try:
            end = self._broken_off or ended.get(timeout=seconds)
        except queue.Empty:
            end = self._broken_off = _OverdueError()
        if isinstance(end, Exception):
            raise end
        return end

    def _archive(
        self, image: Image, app: str, version: Version, storage: Storage
    ) -> Iterator[bytes]:
        """Return the stream for dockerd, which reports its progress now and then."""

        def report_progress(text: str) -> None:
            message = f"loading image {image.reference}: {text}"
            self._report(Event(Kind.LOADING, message, app=app))

        self._meter = Meter(image.size, report_progress)
        report_progress(words(0, image.size, 0.0))
        if storage.containerd:
            for chunk in oci_layout(self._store, image, version):
                self._counted(len(chunk))
                yield chunk
        else:
            yield from in_place(self._store, image, version, self._counted)

    def _counted(self, size: int) -> None:
        """Count `size` bytes; raises an exception to cancel the load."""
        if self._broken_off:
            raise self._broken_off
        self._meter.add(size)


class TooSlow:
    """The images that could not be loaded within the time of a run, and how long it tried.

    dockerd keeps nothing of an interrupted load. Without this file, a device would send such an
    image at each boot in vain, and registration would wait for it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def seconds(self, reference: str) -> float:
        """Return for how many seconds loading the image was tried in vain; 0 if it never was."""
        return self._read().get(reference, 0.0)

    def remember(self, reference: str, seconds: float) -> None:
        """Record that this number of seconds was too short."""
        self._write({**self._read(), reference: round(seconds, 3)})

    def forget(self, reference: str) -> None:
        """Forget the image, because it was loaded."""
        found = self._read()
        if found.pop(reference, None) is not None:
            self._write(found)

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(plainfile.read(self._file, MAX_DOCUMENT_BYTES))
            tried = {str(each): float(seconds) for each, seconds in found.items()}
            # A damaged file must not block an image for ever.
            return {each: seconds for each, seconds in tried.items() if seconds <= MAXIMUM}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(self, found: Mapping[str, float]) -> None:
        # If it cannot be written, the next run tries once more.
        with contextlib.suppress(OSError):
            record.write(found, self._file)


class Unfinished:
    """The images that dockerd may have registered before their files were on the disk.

    After a power cut, such an image looks complete, but its files may be empty: dockerd flushes its
    databases, but not the layers that it unpacks.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def references(self) -> frozenset[str]:
        """Return the references of these images."""
        try:
            return frozenset(map(str, json.loads(plainfile.read(self._file, MAX_DOCUMENT_BYTES))))
        except (OSError, ValueError, TypeError, RecursionError):
            return frozenset()

    def add(self, reference: str) -> None:
        """Record that the image is about to be loaded."""
        # Without the file, a power cut may cost the image; without the load, the app does not run.
        with contextlib.suppress(OSError):
            record.write(dict.fromkeys(self.references() | {reference}), self._file)

    def clear(self) -> None:
        """Record that all images are on the disk, or were removed."""
        with contextlib.suppress(OSError):
            self._file.unlink()


def discard_unfinished(
    settings: Settings, engine: Engine, wanted: Selection, state: State, report: Report
) -> State:
    """Remove images from the engine that a power cut may have torn; return the state without them.

    They are loaded again, so an image stays if the store lacks it. An image that a container uses
    stays as well: containers are only created when it is on the disk. Raises `EngineError`.
    """
    unfinished = Unfinished(settings.unfinished_loads)
    doubtful = unfinished.references() & state.images
    gone = set()
    stored: Mapping[str, Image | StoreError] = {}
    if doubtful:
        without = replace(state, images=state.images - doubtful)
        stored = stored_images(wanted, without, engine)
    for reference in sorted(doubtful):
        if isinstance(stored.get(reference), Image) and engine.discard(reference):
            gone.add(reference)
            message = f"image {reference} may be incomplete after a power cut, it is loaded again"
            report(Event(Kind.NOTE, message))
    unfinished.clear()
    return replace(state, images=state.images - gone)


def _cause(trouble: str) -> Cause:
    """Return the cause that dockerd's message describes."""
    folded = trouble.casefold()
    if "no space left" in folded or "quota exceeded" in folded:
        return Cause.NO_SPACE
    if "read-only file system" in folded:
        return Cause.READ_ONLY
    return Cause.IMAGE_NOT_LOADED


def _data(storage: Storage) -> Path:
    """Return the folder to which the engine's image store writes, which may be containerd's.

    The engine does not report containerd's folder. It is inside docker's folder if dockerd started
    containerd, and otherwise containerd's default.
    """
    places = (storage.root / "containerd/daemon", CONTAINERD_ROOT) if storage.containerd else ()
    return next((each for each in places if each.is_dir()), storage.root)


def _free(folder: Path) -> int | None:
    """Return the free space in bytes; None if it is unknown: dockerd then reports errors."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _is_without_inodes(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_files > 0 and not found.f_favail  # some file systems have no inode table


def space_needed(store: Store, image: Image, *, keeps_blobs: bool) -> int:
    """Return how many bytes an engine needs for `image`; raises `StoreError`.

    `keeps_blobs` is true for a containerd image store, which keeps compressed layers, too.
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
