"""The progress of an action with a known number of bytes: how many, how fast, how much longer."""

import time
from collections.abc import Callable

REPORT_SECONDS = 5.0
"""The time between two reports, in seconds."""


class Meter:
    """Counts bytes, and reports the progress now and then."""

    def __init__(
        self,
        total: int,
        on_progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total` is in bytes; `clock` returns seconds."""
        self._total = total
        self._on_progress = on_progress
        self._clock = clock
        self._start = self._reported_at = clock()
        self.done = 0

    def add(self, size: int) -> None:
        """Count `size` more bytes."""
        self.done += size
        now = self._clock()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._on_progress(words(self.done, self._total, now - self._start))


def words(done: int, total: int, seconds: float) -> str:
    """Describe the progress after this number of `seconds`."""
    text = f"{megabytes(done)} of {megabytes(total)}"
    if not done or seconds < 1.0:
        return text
    rate = done / seconds
    left = max(0, total - done) / rate
    return f"{text}, {megabytes(round(rate))}/s, {left:.0f} s left"


def megabytes(size: int) -> str:
    """Return a number of bytes as text for people."""
    return f"{size / 1e6:.1f} MB"
