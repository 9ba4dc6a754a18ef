"""The last output of failed apps' containers and of compose, which survives a reboot.

On many devices, a reboot deletes the journal, and recreated containers lose their logs.
"""

import contextlib
import json
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
"""The version of the file's format. It grows when a key changes its meaning or is removed."""

MAX_LOG_BYTES = 64 << 10
"""How many bytes at the end of a container's log are kept."""

MAX_WORDS = 64 << 10
"""How many characters at the end of compose's output, or of a traceback, are kept."""

MAX_BYTES = 1 << 20
"""The maximum size of the file, in bytes."""

MAX_CONTAINERS = 64
"""The maximum number of containers of all apps, because their logs are held in memory."""

SECONDS = 5.0
"""How long reading may take in seconds, because registration waits for it."""

MIN_LOG_BYTES = 256
"""The minimum length of a log. Instead of shorter logs, fewer containers are kept."""


@dataclass
class Statement:
    """Why one app failed. `words` is compose's output, or the agent's traceback."""

    cause: str | None
    message: str
    words: str = ""
    containers: list[dict[str, Any]] = field(default_factory=list)


class Evidence:
    """The listener that collects why apps fail, and saves it when the run has ended."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.evidence
        self.engine: Engine | None = None
        """The engine to ask for the containers' logs, once it is known."""
        self._statements: dict[str | None, Statement] = {}

    def __call__(self, event: Event) -> None:
        """Note why an app failed, or (without an app) the run itself.

        An app that could not run because the run was interrupted has not failed.
        """
        if event.cause == Cause.INTERRUPTED.label:
            return
        if event.kind in (Kind.FAILED, Kind.ABORTED):
            words = event.details[-MAX_WORDS:]
            self._statements[event.app] = Statement(event.cause, event.message, words)

    def keep(self, run: record.RunRecord) -> None:
        """Save the evidence if anything failed; raises OSError if it cannot be written.

        States and logs of containers are read as long as there is time.
        """
        if not self._statements:
            return
        folders = {app.folder: app.name for app in run.apps if app.name in self._statements}
        if self.engine and folders:
            self._ask(self.engine.with_timeout(SECONDS), folders)
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

    def _ask(self, engine: "Engine", folders: Mapping[str, str]) -> None:
        deadline = time.monotonic() + SECONDS
        limit, count = max(1, MAX_CONTAINERS // len(folders)), 0
        with contextlib.suppress(EngineError):  # save the rest in any case
            found = engine.states(folders)
            for folder, app in folders.items():
                own = [each for each in found if each["folder"] == folder]
                for each in ([each for each in own if has_failed(each)] or own)[:limit]:
                    if time.monotonic() >= deadline or count == MAX_CONTAINERS:
                        return
                    count += 1
                    log = engine.log(each["id"], MAX_LOG_BYTES)
                    self._statements[app].containers.append({**each, "log": log})


def has_failed(container: Mapping[str, Any]) -> bool:
    """Whether a container of `Engine.states` has a problem."""
    state = container["state"]
    if container["restarts"]:
        return True
    if state.get("Status") == "exited":
        return bool(state.get("ExitCode"))
    health = state.get("Health") or {}
    return state.get("Status") != "running" or health.get("Status") == "unhealthy"


def bounded(document: Mapping[str, Any], most_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return `document` with its logs and words shortened to a file of `most_bytes`.

    All logs are shortened alike. If this is not enough, the last containers and apps are left out.
    """
    limit = MAX_LOG_BYTES
    apps = list(document["apps"])
    while True:
        cut = {**document, "apps": [_cut(each, limit) for each in apps]}
        if len(json.dumps(cut)) < most_bytes or not apps:
            return cut
        if limit > MIN_LOG_BYTES:
            limit //= 2
        else:
            apps = apps[: len(apps) // 2]


def _cut(app: Mapping[str, Any], limit: int) -> dict[str, Any]:
    return {
        **app,
        "words": app["words"][-limit:],
        "containers": [{**each, "log": each["log"][-limit:]} for each in app["containers"]],
    }


def load(settings: Settings, app: str | None = None) -> dict[str, Any] | None:
    """Return the saved evidence, or the part about one app; None if there is none.

    Raises OSError, or ValueError if the file is not evidence.
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
