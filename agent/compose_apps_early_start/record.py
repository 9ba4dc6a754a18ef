"""The record of a run: everything that it has done so far, in a file that is kept up to date.

docs/record.md explains every key, status.schema.json describes them for programs.
"""

import contextlib
import datetime
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from . import __version__, uptime
from .container import Container
from .history import History
from .report import Event, Kind
from .settings import Settings
from .shortlist import UnknownName

SCHEMA = 2
"""The version of the format. It grows when a key changes its meaning or is removed."""

MAX_STEPS = 64
"""The maximum number of steps of an app or of the run. Steps in the middle are left out."""

MAX_RESTARTS = 32
"""The maximum number of restarts of a container whose times are recorded."""


@dataclass
class Step:
    """A `state` that began at `uptime`, in seconds since the kernel's start."""

    state: str
    uptime: float


@dataclass
class ContainerRecord:
    """One container of an app in its last known state. `_uptime`: seconds since the kernel's start.

    `state` and `health` have dockerd's values.
    """

    id: str = ""
    name: str = ""
    service: str = ""
    state: str = ""
    health: str | None = None
    exit_code: int = 0
    out_of_memory: bool = False
    restarts: int = 0
    error: str | None = None
    started_uptime: float | None = None
    healthy_uptime: float | None = None
    restart_uptimes: list[float] = field(default_factory=list)


@dataclass
class AppRecord:
    """One app in the record. Times are in seconds.

    `state` is one of: waiting, restoring, loading, starting, settling, retrying, running, failed.
    `up_seconds` is from the ready engine to the end of the compose call that brought the app up
    (None if none was needed), `settled_seconds` from the ready engine to the verdict.
    """

    name: str = ""
    state: str = "waiting"
    cause: str | None = None
    message: str | None = None
    hint: str | None = None
    attempts: int = 0
    up_seconds: float | None = None
    settled_seconds: float | None = None
    folder: str = ""
    version: str | None = None
    steps: list[Step] = field(default_factory=list)
    containers: list[ContainerRecord] = field(default_factory=list)

    def saw(self, containers: Collection[Container]) -> None:
        """Record the current state of the app's containers."""
        before = {each.id: each for each in self.containers}
        self.containers = [_seen(each, before.get(each.id)) for each in containers]


@dataclass
class RunRecord:
    """One run. `state` is one of: running, ok, degraded, failed, interrupted.

    `exit_status` is None while the run is in progress. `engine_wait_seconds` is None if dockerd was
    never ready or was not needed.
    """

    agent_version: str | None = None
    run: int = 0
    boot_id: str | None = None
    target: str | None = None
    state: str = "running"
    exit_status: int | None = None
    message: str | None = None
    hint: str | None = None
    started: str = ""
    pid: int = 0
    engine_wait_seconds: float | None = None
    seconds: float | None = None
    steps: list[Step] = field(default_factory=list)
    apps: list[AppRecord] = field(default_factory=list)
    unknown: list[dict[str, str | None]] = field(default_factory=list)
    schema: int = SCHEMA

    @classmethod
    def begun(cls, run: int) -> "RunRecord":
        """Return the record of the run number `run`, which this process has just begun."""
        now, pid = uptime.now(), os.getpid()
        started = uptime.process_started(pid)
        return cls(
            agent_version=__version__,
            run=run,
            boot_id=uptime.boot_id(),
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            pid=pid,
            steps=[Step("started", now if started is None else started), Step("loaded", now)],
        )

    @classmethod
    def from_json(cls, document: Any) -> "RunRecord":
        """Return the record in a document, which an older agent may have written.

        Keys that are missing or have another type count as not reached by the run. Raises
        ValueError if `document` is not a record, or has an unknown schema.
        """
        if not isinstance(document, dict) or not isinstance(document.get("state"), str):
            raise ValueError("not a record of a run")
        schema = document.get("schema")
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
            raise ValueError(f"schema {schema}, this version knows 1 to {SCHEMA}")
        found: RunRecord = _read(cls, document)
        found.schema = SCHEMA
        return found

    def app(self, name: str) -> AppRecord:
        """Return the record of app `name`; raises StopIteration if the run has no such app."""
        return next(each for each in self.apps if each.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the record as the object in the status file."""
        return {"schema": self.schema, **asdict(self)}


def _read(kind: Any, document: Mapping[str, Any]) -> Any:
    """Make the dataclass `kind` from the keys of `document` that have the right type."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for each in fields(kind):
        value, hint = document.get(each.name), hints[each.name]
        if get_origin(hint) is list and isinstance(value, list):
            values[each.name] = _read_list(get_args(hint)[0], value)
        elif get_origin(hint) is not list and _is_of(value, hint):
            values[each.name] = value
    try:
        return kind(**values)
    except TypeError:  # a step without its time
        return None


def _read_list(kind: Any, items: list[Any]) -> list[Any]:
    if kind is float:
        return [each for each in items if _is_of(each, float)]
    mappings = [each for each in items if isinstance(each, dict)]
    if get_origin(kind) is dict:
        return [
            {"name": each["name"], "nearest": each.get("nearest")}
            for each in mappings
            if isinstance(each.get("name"), str) and isinstance(each.get("nearest"), str | None)
        ]
    found = (_read(kind, each) for each in mappings)
    return [each for each in found if each is not None]


def _is_of(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, hint) or (isinstance(value, int) and isinstance(0.0, hint))


def _seen(container: Container, before: ContainerRecord | None) -> ContainerRecord:
    now = uptime.now()
    healthy = before.healthy_uptime if before else None
    if healthy is None and container.health == "healthy":
        healthy = now
    restarts = list(before.restart_uptimes) if before else []
    if before and container.restarts > before.restarts and len(restarts) < MAX_RESTARTS:
        restarts.append(now)
    return ContainerRecord(
        id=container.id,
        name=container.name,
        service=container.service,
        state=container.state,
        health=container.health,
        exit_code=container.exit_code,
        out_of_memory=container.out_of_memory,
        restarts=container.restarts,
        error=container.error or None,
        started_uptime=None if container.up_for is None else round(now - container.up_for, 3),
        healthy_uptime=healthy,
        restart_uptimes=restarts,
    )


class Recorder:
    """The listener that keeps the record, and its file, up to date.

    `warn` is called once with a message if the file cannot be written; the run continues.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._warn = warn
        self._began = time.monotonic()
        self._history = History(settings)
        self.record = RunRecord.begun(self._history.next_run())

    def begin(
        self, apps: Iterable[AppRecord], unknown: Iterable[UnknownName], target: str | None = None
    ) -> None:
        """Record the apps of the run."""
        self.record.apps = list(apps)
        self.record.unknown = [asdict(each) for each in unknown]
        self.record.target = target
        for app in self.record.apps:
            _step(app.steps, app.state)

    def __call__(self, event: Event) -> None:
        """Record `event`; events after the end are not part of the record."""
        if self.record.exit_status is not None or event.kind in (Kind.UNKNOWN, Kind.NOTE):
            return
        seconds = None if event.seconds is None else round(event.seconds, 3)
        if event.app is None:
            if event.kind in _RUN_STEPS:
                _step(self.record.steps, _RUN_STEPS[event.kind])
            if event.kind is Kind.READY:
                self.record.engine_wait_seconds = seconds
            if event.kind is Kind.ABORTED:
                self.record.message, self.record.hint = event.message, event.hint
        # A call that ends after its app was given up changes nothing.
        elif event.kind in _APP_STATES and self.record.app(event.app).state != "failed":
            app = self.record.app(event.app)
            app.state = _APP_STATES[event.kind]
            _step(app.steps, app.state)
            app.cause, app.hint = event.cause, event.hint
            app.message = event.message if event.cause or event.kind is Kind.PENDING else None
            if event.kind in (Kind.STARTING, Kind.RETRYING):
                app.attempts += 1
            elif event.kind is Kind.UP:
                app.up_seconds = seconds
            elif event.kind in (Kind.RUNNING, Kind.FAILED):
                app.settled_seconds = seconds
        self._write(self._settings.run_status)

    def saw(self, app: str, containers: Collection[Container]) -> None:
        """Record the state of the containers of `app`; the next event writes it to the file."""
        if self.record.exit_status is None:
            self.record.app(app).saw(containers)

    def end(self, state: str, exit_status: int) -> None:
        """Close the record, and save it as the last run."""
        self.record.state = state
        self.record.exit_status = exit_status
        self.record.seconds = round(time.monotonic() - self._began, 3)
        _step(self.record.steps, "ended")
        # If it cannot be written, the file in /run still has the outcome.
        self._write(self._settings.run_status)
        self._history.make_room()
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


_RUN_STEPS = {Kind.WAITING: "waiting", Kind.READY: "ready"}

_APP_STATES = {
    Kind.RESTORING: "restoring",
    Kind.RESTORED: "waiting",
    Kind.LOADING: "loading",
    Kind.LOADED: "waiting",
    Kind.STARTING: "starting",
    Kind.UP: "settling",
    Kind.PENDING: "settling",
    Kind.RETRYING: "retrying",
    Kind.RUNNING: "running",
    Kind.FAILED: "failed",
}


def _step(steps: list[Step], state: str) -> None:
    if steps and steps[-1].state == state:
        return
    steps.append(Step(state, uptime.now()))
    if len(steps) > MAX_STEPS:
        del steps[MAX_STEPS // 2]


def write(document: Mapping[str, Any], file: Path) -> None:
    """Write `document` to `file` as JSON: completely or not at all, even with a power cut.

    It is on the disk when this function returns. Raises OSError if it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    # Only root may read it, because it may quote secrets of an app.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        os.fchmod(descriptor, 0o600)
        # Not json.dump, and no indentation: both are done in Python and take ten times as long.
        stream.write(json.dumps(document) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    # The name, too, must be on the disk: the power may be cut as soon as the run has ended.
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
