"""One at a time: neither two runs of ours, nor one beside aktualizr-lite.

Two `docker compose up` on one project race: duplicate networks, name conflicts, containers that
stay `Created` for ever.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import BusyError, EarlyStartError
from .settings import Settings


@contextlib.contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Hold our own lock and aktualizr-lite's for as long as the context lasts.

    Raises `BusyError` at once if one of them is taken, `EarlyStartError` if it cannot be opened.
    The kernel drops both when the process ends, however it ends, so none can be left behind.
    """
    with (
        _flock(
            settings.own_lock,
            "another run is at work",
            "wait for it: 'compose-apps-early-start status' shows how far it is",
        ),
        _flock(
            settings.aktualizr_lock,
            "aktualizr-lite is at work on the apps",
            "leave the apps to it, or run 'compose-apps-early-start start' when it has ended",
        ),
    ):
        yield


@contextlib.contextmanager
def _flock(file: Path, taken: str, hint: str) -> Iterator[None]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise EarlyStartError(f"{file}: cannot open: {error.strerror}", "run it as root") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{taken} ({file} is locked)", hint) from error
        yield
    finally:
        os.close(descriptor)
