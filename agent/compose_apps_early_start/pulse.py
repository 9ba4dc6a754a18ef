"""STATUS=, the line that `systemctl status` shows, which is updated during a run.

Source: sd_notify(3). It does not appear in the journal.
"""

import threading
import time
from collections.abc import Callable, Mapping

from .report import Event, Kind, line, printable

BEAT_SECONDS = 3.0
"""The time between two lines in seconds; with the request below, at most 5 seconds pass."""

ASK_SECONDS = 5.0
"""The time between two requests for what dockerd waits for, in seconds; each starts a process."""

MAX_APPS = 3
"""The maximum number of apps in the line."""

_RUN_ENDS = (Kind.SKIPPED, Kind.FINISHED, Kind.ABORTED, Kind.DEGRADED)
_VERDICTS = (Kind.RUNNING, Kind.FAILED)
_REMARKS = (Kind.NOTE, Kind.UNKNOWN, Kind.HEALED, Kind.REPLACED)
"""These events say what was done, not what is in progress."""


class Pulse:
    """The listener that sends each event to systemd and, between events, what is in progress.

    `notify` sends a text to systemd. `holding_up` returns what dockerd waits for, or None; only the
    thread of this object calls it.
    """

    def __init__(
        self,
        notify: Callable[[str], None],
        holding_up: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notify = notify
        self._holding_up = holding_up
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at = clock()
        self._reason: str | None = None
        self._waiting: tuple[str, float] | None = None
        self._apps: dict[str, tuple[Event, float]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        """Send `event` at once."""
        with self._lock:
            self._enter(event)
            self._say(line(event))
        if event.kind in _RUN_ENDS:
            self._ended.set()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
            self._thread.start()

    def _enter(self, event: Event) -> None:
        now = self._clock()
        if event.app is None:
            if event.kind is Kind.WAITING:
                self._waiting, self._reason = (event.message, now), None
            elif event.kind is Kind.READY:
                self._waiting = None
            return
        if event.kind in _REMARKS:
            return
        self._waiting = None
        before = self._apps.pop(event.app, None)
        if event.kind not in _VERDICTS:
            continues = before and before[0].kind is event.kind
            self._apps[event.app] = (event, before[1] if before and continues else now)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self.beat()

    def beat(self) -> None:
        """Send what is in progress now."""
        if self._waiting and self._clock() - self._asked_at >= ASK_SECONDS:
            self._reason = self._holding_up()
            self._asked_at = self._clock()
        with self._lock:
            text = self._text(self._clock())
            if text and not self._ended.is_set():
                self._say(text)

    def _text(self, now: float) -> str:
        if self._waiting:
            message, since = self._waiting
            reason = f": {self._reason}" if self._reason else ""
            return f"{message}, {now - since:.0f} s{reason}"
        apps = [
            f"{name}: {event.message}, {now - since:.0f} s"
            for name, (event, since) in list(self._apps.items())[:MAX_APPS]
        ]
        if len(self._apps) > MAX_APPS:
            apps.append(f"and {len(self._apps) - MAX_APPS} more apps")
        return "; ".join(apps)

    def _say(self, text: str) -> None:
        # sdnotify encodes as latin-1, and silently drops other characters. A line break would begin
        # another variable of sd_notify.
        self._notify(f"STATUS={printable(text).encode('ascii', errors='replace').decode()}")


def status(
    environment: Mapping[str, str], holding_up: Callable[[], str | None]
) -> Callable[[Event], None]:
    """Return a listener that shows the progress of the run in `systemctl status`.

    It does nothing if systemd does not listen. `holding_up` is as for `Pulse`.
    """
    if "NOTIFY_SOCKET" not in environment:
        return lambda event: None
    import sdnotify

    return Pulse(sdnotify.SystemdNotifier().notify, holding_up)
