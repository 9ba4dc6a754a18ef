"""Locks: only one run at a time, and none beside aktualizr-lite or fioup.

Two `docker compose up` for the same project conflict: they make duplicate networks, name conflicts,
and containers that stay `Created` for ever.
"""

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from .errors import BusyError, EarlyStartError
from .settings import Settings

ATTEMPTS = 10
"""How often to try to lock a file which other programs may remove meanwhile."""


class Held:
    """The locks of a run: the agent's and those of the OTA clients. It is thread-safe."""

    def __init__(self, own: "_Lock", aktualizr: "_Lock", fioup: "_Lock") -> None:
        self._own = own
        self._aktualizr = aktualizr
        self._fioup = fioup
        self._checking = threading.Lock()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for people about the lock files."""
        return (self._aktualizr.note,) if self._aktualizr.note else ()

    def still_held(self) -> bool:
        """Whether no other program works on the apps; this takes two system calls per lock.

        aktualizr-lite removes its lock file when it ends, even if another program holds it. The
        next program then locks a new file. So this creates and locks a removed file again; False
        means that another program was faster.
        """
        with self._checking:
            try:
                return self._own.take() and self._aktualizr.take() and self._fioup.take()
            except EarlyStartError:
                return False


@contextlib.contextmanager
def held(settings: Settings) -> Iterator[Held]:
    """Hold the agent's lock and those of the OTA clients during the block.

    Raises `BusyError` at once if one of them is taken, `EarlyStartError` if it cannot be opened.
    The kernel releases them when the process ends, however it ends, so no lock can be left behind.
    """
    own = _Lock(settings.own_lock)
    # On OpenEmbedded, any user may create files in its folder.
    aktualizr = _Lock(settings.aktualizr_lock, shared_folder=True)
    # The unit may not write to /run. If fioup has never run, there is nothing to lock.
    fioup = _Lock(settings.fioup_lock, create=False)
    try:
        if not own.take():
            raise BusyError(
                f"another run is at work ({own.file} is locked)",
                "wait for it: 'compose-apps-early-start status' shows how far it is",
            )
        if not aktualizr.take():
            raise BusyError(
                f"aktualizr-lite is at work on the apps ({aktualizr.file} is locked)",
                "leave the apps to it, or run 'compose-apps-early-start start' when it has ended",
            )
        if not fioup.take():
            raise BusyError(
                f"fioup is at work on the apps ({fioup.file} is locked)",
                "leave the apps to it, or run 'compose-apps-early-start start' when it has ended",
            )
        yield Held(own, aktualizr, fioup)
    finally:
        fioup.drop()
        own.drop()
        aktualizr.drop()


class _Lock:
    """A `flock` on a file, which others may remove.

    In a `shared_folder`, a file that root does not own is not trusted and locks nothing; `note`
    says so then. Without `create`, the file is locked only if it exists.
    """

    def __init__(self, file: Path, *, shared_folder: bool = False, create: bool = True) -> None:
        self.file = file
        self.note: str | None = None
        self._create = create
        self._shared_folder = shared_folder
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take the lock on the file with this name; return False if another program has it.

        Raises `EarlyStartError` if the file cannot be opened.
        """
        try:
            for _ in range(ATTEMPTS):
                if self._is_open():
                    return True
                self.drop()
                if self._belongs_to_other():
                    return True
                try:
                    self._descriptor = self._open()
                except FileNotFoundError:
                    if self._create:
                        raise
                    return True
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    taken = self._is_open()
                    self.drop()
                    if taken:
                        return False
            raise OSError(errno.EAGAIN, "it is removed again and again")
        except OSError as error:
            raise EarlyStartError(
                f"{self.file}: cannot open: {error.strerror}",
                "run it as root"
                if isinstance(error, PermissionError)
                else "the lock must be a plain file, or nothing, in a folder where root may write",
            ) from error

    def drop(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_open(self) -> bool:
        """Whether the open file is still the one with this name."""
        if self._descriptor is None:
            return False
        try:
            there = self.file.lstat()
        except FileNotFoundError:
            return False
        here = os.fstat(self._descriptor)
        return stat.S_ISREG(here.st_mode) and os.path.samestat(there, here)

    def _belongs_to_other(self) -> bool:
        self.note = None
        try:
            there = self.file.lstat()
        except FileNotFoundError:
            return False
        if self._shared_folder and there.st_uid not in (0, os.geteuid()):
            self.note = (
                f"{self.file} belongs to user {there.st_uid}, not to root: "
                "it is not taken for aktualizr-lite's lock"
            )
            return True
        if not stat.S_ISREG(there.st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        return False

    def _open(self) -> int:
        flags = os.O_RDONLY
        if self._create:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT
        # If it has become a link or a FIFO, it is neither followed nor does opening it block.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self.file, flags, 0o644)
