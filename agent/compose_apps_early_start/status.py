"""The record of a run: kept up to date in a file while it goes on, and shown by `status`."""

import contextlib
import datetime
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from . import plainfile
from .errors import EarlyStartError
from .report import Event, Kind, printable
from .settings import Settings
from .shortlist import UnknownName

SCHEMA = 1
"""Raised when a key changes its meaning or goes away; new keys may come without."""

MOST_BYTES = 16 << 20
"""Of the status file: an app takes half a kilobyte in it."""


@dataclass
class AppRecord:
    """One app in the record. Times are in seconds.

    `state` is one of: waiting, restoring, loading, starting, settling, retrying, running, failed.
    `up_seconds` is from the ready engine to the end of the compose call that brought the app up
    (None if none was needed), `settled_seconds` from the ready engine to the verdict.
    """

    name: str
    state: str = "waiting"
    cause: str | None = None
    message: str | None = None
    hint: str | None = None
    attempts: int = 0
    up_seconds: float | None = None
    settled_seconds: float | None = None


@dataclass
class RunRecord:
    """One run. `state` is one of: running, ok, degraded, failed, interrupted.

    `exit_status` is None while the run goes on, `engine_wait_seconds` None if dockerd never was
    ready or was not needed.
    """

    state: str = "running"
    exit_status: int | None = None
    message: str | None = None
    hint: str | None = None
    started: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    pid: int = field(default_factory=os.getpid)
    engine_wait_seconds: float | None = None
    seconds: float | None = None
    apps: list[AppRecord] = field(default_factory=list)
    unknown: list[dict[str, str | None]] = field(default_factory=list)
    schema: int = SCHEMA

    def app(self, name: str) -> AppRecord:
        """Return the record of app `name`; raises StopIteration if the run has no such app."""
        return next(each for each in self.apps if each.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the record as the object that the status file holds."""
        return {"schema": self.schema, **asdict(self)}


class Recorder:
    """The listener that keeps the record, and its file, up to date.

    `warn` is told once, in one line, if the file cannot be written; the run goes on without it.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._warn = warn
        self._began = time.monotonic()
        self.record = RunRecord()

    def begin(self, apps: Iterable[str], unknown: Iterable[UnknownName]) -> None:
        """Enter what the run is about."""
        self.record.apps = [AppRecord(name) for name in apps]
        self.record.unknown = [asdict(each) for each in unknown]

    def __call__(self, event: Event) -> None:
        """Enter `event`; what comes after the end is not part of the record."""
        if self.record.exit_status is not None or event.kind in (Kind.UNKNOWN, Kind.NOTE):
            return
        seconds = None if event.seconds is None else round(event.seconds, 3)
        if event.app is None:
            if event.kind is Kind.READY:
                self.record.engine_wait_seconds = seconds
            if event.kind is Kind.ABORTED:
                self.record.message, self.record.hint = event.message, event.hint
        # A call that ends after its app was given up changes nothing of that.
        elif event.kind in _APP_STATES and self.record.app(event.app).state != "failed":
            app = self.record.app(event.app)
            app.state = _APP_STATES[event.kind]
            app.cause, app.hint = event.cause, event.hint
            app.message = event.message if event.cause or event.kind is Kind.PENDING else None
            if event.kind in (Kind.STARTING, Kind.RETRYING):
                app.attempts += 1
            elif event.kind is Kind.UP:
                app.up_seconds = seconds
            elif event.kind in (Kind.RUNNING, Kind.FAILED):
                app.settled_seconds = seconds
        self._write(self._settings.run_status)

    def end(self, state: str, exit_status: int) -> None:
        """Close the record, and keep it as that of the last run."""
        self.record.state = state
        self.record.exit_status = exit_status
        self.record.seconds = round(time.monotonic() - self._began, 3)
        # Should the disk not take it, /run still tells how it ended.
        self._write(self._settings.run_status)
        if self._write(self._settings.last_run):
            with contextlib.suppress(OSError):
                self._settings.run_status.unlink()

    def _write(self, file: Path) -> bool:
        try:
            write(self.record.to_json(), file)
        except OSError as error:
            self._warn(f"{file}: cannot write the status file: {error.strerror}")
            self._warn = lambda text: None
            return False
        return True


_APP_STATES = {
    Kind.RESTORED: "restoring",
    Kind.LOADING: "loading",
    Kind.LOADED: "loading",
    Kind.STARTING: "starting",
    Kind.UP: "settling",
    Kind.PENDING: "settling",
    Kind.RETRYING: "retrying",
    Kind.RUNNING: "running",
    Kind.FAILED: "failed",
}


def write(document: Mapping[str, Any], file: Path) -> None:
    """Write `document` to `file` as JSON: whole or not at all, also across a power cut.

    Raises OSError if the disk does not take it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("w", encoding="ascii") as stream:
        json.dump(document, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def load(settings: Settings) -> dict[str, Any]:
    """Return the record of the run that goes on, else of the last one.

    A run whose process is gone without an end is `interrupted`. Raises `EarlyStartError` if there
    is no record, or it cannot be read.
    """
    for file in (settings.run_status, settings.last_run):
        try:
            data = plainfile.read(file, MOST_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EarlyStartError(
                f"{file}: cannot read: {error.strerror}", "run it as root"
            ) from error
        try:
            record = json.loads(data)
            if record["schema"] != SCHEMA:
                found = f"schema {record['schema']}, this version knows {SCHEMA}"
            elif _is_whole(record):
                return _without_dead_run(record)
            else:
                found = "not a whole record of a run"
        except (ValueError, KeyError, TypeError, RecursionError):
            found = "not a record of a run"
        raise EarlyStartError(
            f"{file}: {found}", "run 'compose-apps-early-start start' to have a new one written"
        )
    raise EarlyStartError(
        "there is no record of a run on this device",
        "see 'systemctl status compose-apps-early-start'; on a registered device nothing is run",
    )


def _is_whole(record: dict[str, Any]) -> bool:
    """Tell whether everything is in `record`, and of the right type."""
    return (
        _fits(record, RunRecord)
        and all(_fits(each, AppRecord) for each in record["apps"])
        and all(_fits(each, UnknownName) for each in record["unknown"])
    )


def _fits(found: object, kind: type) -> bool:
    if not isinstance(found, dict):
        return False
    for name, hint in get_type_hints(kind).items():
        kind_of_value = list if get_origin(hint) is list else hint
        if name not in found or not isinstance(found[name], kind_of_value):
            return False
    return True


def _without_dead_run(record: dict[str, Any]) -> dict[str, Any]:
    if record["state"] != "running" or Path(f"/proc/{record['pid']}").exists():
        return record
    return {
        **record,
        "state": "interrupted",
        "message": "the run was killed before it ended",
        "hint": "run 'systemctl start compose-apps-early-start' again",
    }


def table(record: Mapping[str, Any]) -> str:
    """Return a readable table of a record as `load` returns it."""
    rows = [("APP", "STATE", "UP", "SETTLED", "TRIES", "CAUSE")]
    for app in record["apps"]:
        rows.append(
            (
                app["name"],
                app["state"],
                _duration(app["up_seconds"]),
                _duration(app["settled_seconds"]),
                str(app["attempts"]),
                app["cause"] or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for app in record["apps"]:
        if app["message"]:
            lines += ["", f"{app['name']}: {app['message']}"]
            lines += [f"  Next: {app['hint']}"] if app["hint"] else []
    for each in record["unknown"]:
        nearest = f"; did you mean {each['nearest']!r}?" if each["nearest"] else ""
        lines += ["", f"{each['name']}: no preloaded app has this name{nearest}"]
    if record["message"]:
        lines += ["", record["message"], f"  Next: {record['hint']}"]
    lines += [
        "",
        f"{record['state']}: run of {record['started']}, "
        f"engine waited for {_duration(record['engine_wait_seconds'])}, "
        f"whole run {_duration(record['seconds'])}",
    ]
    return "\n".join(map(printable, lines))


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
