"""Events, and two of their listeners: the journal and the terminal.

The other listeners are in the modules `record`, `evidence` and `pulse`.
"""

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TextIO

from .cause import Failure
from .container import Container


class Priority(Enum):
    """The syslog levels that are used."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


class Kind(Enum):
    """The kinds of events: their message ids (explained in systemd/*.catalog) and priorities."""

    SKIPPED = ("96424201f0c74389ae2fc8b14836282d", Priority.INFO)
    WAITING = ("bdb541be710644c0a8949f67518dd93a", Priority.INFO)
    READY = ("7fc916212f5d493db6e45a0ad861f89f", Priority.INFO)
    RESTORING = ("9d2c1f7a6b3e4a58a1f04c6e8d7b2c95", Priority.INFO)
    RESTORED = ("5f6f0c9d5e0b4a2f8a0a4d4f7a1b9c33", Priority.NOTICE)
    LOADING = ("0d6a1c5be7f24d3c9e3d0b5a6f7c8e21", Priority.INFO)
    LOADED = ("a3b7f1d2c4e54f0a8b9c6d5e4f3a2b10", Priority.INFO)
    STARTING = ("194b6fac239347fdbf40d3a9cef2c7fe", Priority.INFO)
    UP = ("1e6ee2dd2dd64a1d9f0f5b4f2b8a6c21", Priority.INFO)
    PENDING = ("5d0a3f0d6f0c4d7cb2b9a7f6c1e84b52", Priority.INFO)
    HEALED = ("2f4f7e3f9b1d4f0c8f7b6d1a0c9e5a71", Priority.NOTICE)
    REPLACED = ("b8c6d7e14a1f4b6f9d3c2e5f7a8091b4", Priority.WARNING)
    RETRYING = ("e70a1e487dbd462f918aafea43dec031", Priority.NOTICE)
    RUNNING = ("431a6ce6e0444c1895c8c7e2376e458f", Priority.INFO)
    FAILED = ("738707a932f746c6b522ea56b26f50fc", Priority.ERROR)
    UNKNOWN = ("96302148ebfa4c1e8a90d060ee0bef6c", Priority.WARNING)
    NOTE = ("798d7c5b67b1427e89f752293a179813", Priority.NOTICE)
    FINISHED = ("609f2dffe7064fac8c43534963547166", Priority.INFO)
    ABORTED = ("c2f2c5b0b3a54bd5a5b9d1f86f7d1a64", Priority.ERROR)
    DEGRADED = ("ddcf353f42c049e1ab1cbd237c0b6bc0", Priority.ERROR)

    def __init__(self, message_id: str, priority: Priority) -> None:
        self.message_id = message_id
        self.priority = priority


@dataclass(frozen=True)
class Event:
    """An event. `message` describes it completely; the other fields are for programs.

    `seconds` is the duration of an action that ends with this event. `details` may have many lines,
    and are only for the evidence.
    """

    kind: Kind
    message: str
    app: str | None = None
    cause: str | None = None
    hint: str | None = None
    seconds: float | None = None
    details: str = field(default="", compare=False, repr=False)

    @classmethod
    def failed(cls, app: str, failure: Failure, seconds: float | None = None) -> "Event":
        """Return the event that `app` has failed for good."""
        cause = failure.cause
        return cls(
            Kind.FAILED, failure.message, app, cause.label, cause.hint, seconds, failure.details
        )


Listener = Callable[[Event], None]

Observer = Callable[[str, Collection[Container]], None]
"""Is called with the containers of an app each time they are checked."""


class Report:
    """Passes each event to every listener, one event at a time."""

    def __init__(self, listeners: Iterable[Listener], observers: Iterable[Observer] = ()) -> None:
        self._listeners = tuple(listeners)
        self._observers = tuple(observers)
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Report `event`; any thread may call this."""
        with self._lock:
            for listener in self._listeners:
                listener(event)

    def saw(self, app: str, containers: Collection[Container]) -> None:
        """Pass the containers of `app` to the observers; any thread may call this."""
        with self._lock:
            for observer in self._observers:
                observer(app, containers)


def connected_to_journal(environment: Mapping[str, str]) -> bool:
    """Whether systemd connected standard error to the journal (JOURNAL_STREAM of sd-daemon)."""
    stat = os.fstat(sys.stderr.fileno())
    return environment.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def journal(event: Event) -> None:
    """Send `event` to journald, with its fields."""
    import systemd.journal

    fields = {
        "MESSAGE_ID": event.kind.message_id,
        "PRIORITY": str(event.kind.priority.value),
        "SYSLOG_IDENTIFIER": "compose-apps-early-start",
        "APP": event.app,
        "CAUSE": event.cause,
        "HINT": event.hint,
        "DURATION_USEC": None if event.seconds is None else str(round(event.seconds * 1_000_000)),
    }
    systemd.journal.send(
        printable(line(event)), **{key: printable(text) for key, text in fields.items() if text}
    )


def terminal(stream: TextIO) -> Listener:
    """Return a listener that writes one line per event to `stream`.

    If the terminal or pipe is closed, the output ends, but not the run.
    """

    def listen(event: Event) -> None:
        try:
            print(printable(line(event)), file=stream, flush=True)
        except OSError:
            silence(stream)

    return listen


def silence(stream: TextIO) -> None:
    """Discard all further output to `stream`, which nobody reads any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def line(event: Event) -> str:
    """Return `event` as one line: app, cause, message, duration and the next step."""
    text = f"{event.app}: {event.message}" if event.app else event.message
    if event.cause:
        text = f"{event.app}: {event.cause}: {event.message}"
    if event.seconds is not None:
        text += f" ({event.seconds:.1f} s)"
    return f"{text}. Next: {event.hint}" if event.hint else text


def printable(text: str) -> str:
    """Return `text` with line breaks and control characters escaped.

    The name of a folder may not even be valid text.
    """
    clean = text.encode("utf-8", errors="backslashreplace").decode()
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in clean)
