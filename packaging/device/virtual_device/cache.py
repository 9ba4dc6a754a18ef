"""Folders that are expensive to make, kept between runs under a key of what they were made from."""

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

# Open folders, under shared locks for the life of this process: a folder in use is not pruned.
_in_use: dict[Path, int] = {}


def home() -> Path:
    """Returns the cache's folder, which is created if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "compose-apps-early-start"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file ``path``, which is created if it is missing."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(folder: Path) -> int | None:
    """Returns a descriptor that locks ``folder`` exclusively, or None if it is in use."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def cached(kind: str, inputs: list[str], build: Callable[[Path], None]) -> Path:
    """Returns the folder that ``build`` makes from ``inputs``, and builds it only if needed.

    ``build`` gets an empty folder, which takes its final name only when ``build`` returns: an
    interruption leaves nothing that looks complete. Other folders of this ``kind`` are removed
    unless a process uses them. Two processes that want the same folder build it once.
    """
    key = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    folder = home() / f"{kind}-{key}"
    if folder in _in_use:
        return folder
    with locked(home() / f"{kind}.lock"):
        if not folder.is_dir():
            _prune(kind)
            partial = home() / f"{kind}-{key}.partial"
            partial.mkdir()
            started = time.monotonic()
            log.info("making %s", folder.name)
            build(partial)
            partial.rename(folder)
            log.info("made %s in %.1f s", folder.name, time.monotonic() - started)
        _in_use[folder] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(_in_use[folder], fcntl.LOCK_SH)
    return folder


def _prune(kind: str) -> None:
    for old in home().glob(f"{kind}-{'[0-9a-f]' * 16}*"):
        descriptor = try_lock(old)
        if descriptor is not None:
            shutil.rmtree(old)
            os.close(descriptor)
