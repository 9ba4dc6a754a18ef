"""Progress of long steps, shown as one line for each on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_REDRAW_SECONDS = 0.1
_BAR_WIDTH = 24


class Step:
    """A running step. `total` is in bytes, or None if it is unknown."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._drawn = 0.0
        self._terminal = sys.stderr.isatty()
        self._lock = threading.Lock()

    def advance(self, size: int) -> None:
        """Count `size` more bytes as done. Any thread may call this."""
        with self._lock:
            self._done += size
            now = time.monotonic()
            if self._terminal and now - self._drawn > _REDRAW_SECONDS:
                self._drawn = now
                print(f"\r{self._line()}\x1b[K", end="", file=sys.stderr, flush=True)

    def _line(self) -> str:
        if not self._total:
            return f"{self._name}, {megabytes(self._done)}"
        share = min(1.0, self._done / self._total)
        bar = ("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
        return f"{self._name} [{bar}] {megabytes(self._done)} of {megabytes(self._total)}"

    def end(self, seconds: float) -> None:
        """Replace the bar with the size and the duration."""
        size = f", {megabytes(self._done)}" if self._done else ""
        start = "\r\x1b[K" if self._terminal else ""
        print(f"{start}{self._name}{size}, {seconds:.1f} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(name: str, total: int | None = None) -> Iterator[Step]:
    """Show a step while it runs, and how long it took if it succeeds."""
    start = time.monotonic()
    progress = Step(name, total)
    yield progress
    progress.end(time.monotonic() - start)


@contextlib.contextmanager
def growing(folder: Path, progress: Step) -> Iterator[None]:
    """Advance a step by what another program writes into a folder meanwhile."""
    ended = threading.Event()
    size = 0

    def look() -> None:
        nonlocal size
        found = 0
        for file in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                found += file.stat().st_size
        progress.advance(max(0, found - size))
        size = max(size, found)

    def watch() -> None:
        while not ended.wait(_REDRAW_SECONDS):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        look()


def megabytes(size: int) -> str:
    """Return a number of bytes in MB or GB, for people."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
