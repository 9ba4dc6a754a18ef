"""What the containers of failed apps, and compose, said: kept beyond the end of the boot.

The journal and the logs of containers that are made anew do not outlive a reboot on every device.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import history, record
from .cause import Cause
from .errors import EngineError
from .report import Event, Kind, printable
from .settings import Settings

if TYPE_CHECKING:  # it loads the docker SDK
    from .engine import Engine

SCHEMA = 1
"""Of the file; raised when a key changes its meaning or goes away."""

MOST_LOG_BYTES = 64 << 10
"""Of one container's log: its end."""

MOST_WORDS = 64 << 10
"""Characters of what compose said, or of a traceback: the end."""

MOST_BYTES = 1 << 20
"""Of the whole file."""

MOST_CONTAINERS = 64
"""Of all apps together, alike of each: their logs are held in memory."""

SECONDS = 5.0
"""For reading all of it, while registration waits."""

LEAST_LOG_BYTES = 256
"""Shorter logs are no help: containers are left out instead."""


@dataclass
class Statement:
    """Why one app failed. `words` is what compose said, or the traceback of a defect of ours."""

    cause: str | None
    message: str
    words: str = ""
    containers: list[dict[str, Any]] = field(default_factory=list)


class Evidence:
    """The listener that hears why apps fail, and keeps it when the run has ended."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.evidence
        self.engine: Engine | None = None
        """Is asked for what the containers said, once it is there."""
        self._statements: dict[str | None, Statement] = {}

    def __call__(self, event: Event) -> None:
        """Note why an app failed, or (without an app) the run itself.

        An app that had no time to run, because the run was told to end, has not failed.
        """
        if event.cause == Cause.INTERRUPTED.label:
            return
        if event.kind in (Kind.FAILED, Kind.ABORTED):
            words = event.details[-MOST_WORDS:]
            self._statements[event.app] = Statement(event.cause, event.message, words)

    def keep(self, run: record.RunRecord) -> None:
        """Write the evidence down, if anything failed; raises OSError if the disk does not take it.

        States and logs of containers are read as far as the time for that goes.
        """
        if not self._statements:
            return
        folders = {app.folder: app.name for app in run.apps if app.name in self._statements}
        if self.engine and folders:
            self._ask(self.engine.hurried(SECONDS), folders)
        document = {
            "schema": SCHEMA,
            "run": run.run,
            "boot_id": run.boot_id,
            "started": run.started,
            "apps": [
                {"name": name, **vars(statement)} for name, statement in self._statements.items()
            ],
        }
        record.write(bounded(document), self._file)
        # The power may go as soon as the run has ended: the file's name must be on the disk, too.
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _ask(self, engine: "Engine", folders: Mapping[str, str]) -> None:
        deadline = time.monotonic() + SECONDS
        most, count = max(1, MOST_CONTAINERS // len(folders)), 0
        with contextlib.suppress(EngineError):  # what was told is kept all the same
            found = engine.states(folders)
            for folder, app in folders.items():
                own = [each for each in found if each["folder"] == folder]
                for each in ([each for each in own if has_failed(each)] or own)[:most]:
                    if time.monotonic() >= deadline or count == MOST_CONTAINERS:
                        return
                    count += 1
                    log = engine.log(each["id"], MOST_LOG_BYTES)
                    self._statements[app].containers.append({**each, "log": log})


def has_failed(container: Mapping[str, Any]) -> bool:
    """Tell whether a container of `Engine.states` does not run as it should."""
    state = container["state"]
    if container["restarts"]:
        return True
    if state.get("Status") == "exited":
        return bool(state.get("ExitCode"))
    health = state.get("Health") or {}
    return state.get("Status") != "running" or health.get("Status") == "unhealthy"


def bounded(document: Mapping[str, Any], most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Return `document` with its logs and words cut so that as a file it fits into `most_bytes`.

    All logs are cut alike. What is left out, in the end whole apps, is what comes last.
    """
    most = MOST_LOG_BYTES
    apps = list(document["apps"])
    while True:
        cut = {**document, "apps": [_cut(each, most) for each in apps]}
        if len(json.dumps(cut)) < most_bytes or not apps:
            return cut
        if most > LEAST_LOG_BYTES:
            most //= 2
        else:
            apps = apps[: len(apps) // 2]


def _cut(app: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {
        **app,
        "words": app["words"][-most:],
        "containers": [{**each, "log": each["log"][-most:]} for each in app["containers"]],
    }


def load(settings: Settings, app: str | None = None) -> dict[str, Any] | None:
    """Return the evidence that is kept, or what is on one app in it; None if nothing is.

    Raises OSError, or ValueError for what is no evidence.
    """
    document = history.read(settings.evidence)
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}")
        apps = [each for each in document["apps"] if app in (None, each["name"])]
        found = {**document, "apps": apps}
        text(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not evidence") from error
    return found if apps else None


def text(document: Mapping[str, Any]) -> str:
    """Return evidence as readable lines."""
    return "\n".join(map(printable, _lines(document)))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"Run {document['run']} of {document['started']}"
    for app in document["apps"]:
        who = app["name"] or "the run"
        yield ""
        yield f"{who}: {app['cause'] or 'failed'}: {app['message']}"
        if app["words"]:
            yield ""
            yield f"--- {who}: all that was said"
            yield from app["words"].splitlines()
        for each in app["containers"]:
            yield ""
            yield f"--- {each['name']}: state"
            yield from json.dumps(each["state"], indent=2).splitlines()
            yield ""
            yield f"--- {each['name']}: end of the log"
            yield from each["log"].splitlines()
