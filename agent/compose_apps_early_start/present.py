"""The current state of apps, as dockerd reports it, because a verdict may be old."""

import os
from collections.abc import Collection, Mapping
from typing import Any

from . import uptime
from .container import Container
from .errors import EngineError
from .settings import Settings

SECONDS = 2.0
"""The time-out of dockerd in seconds. It is asked only if it runs: connecting could start it."""


def ask(settings: Settings, record: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the current state of each app in a record, in a few words; None if it is unknown."""
    if not _dockerd_runs(settings):
        return None
    from .engine import Engine  # loads the docker SDK

    folders = [app["folder"] for app in record["apps"] if app["folder"]]
    try:
        containers = Engine.connect(settings, SECONDS).with_timeout(SECONDS).containers(*folders)
    except EngineError:
        return None
    return {app["name"]: words(app, containers) for app in record["apps"]}


def _dockerd_runs(settings: Settings) -> bool:
    try:
        pid = int(settings.docker_pid.read_text())
        uptime.process_ticks(pid)
    except (OSError, ValueError, IndexError):
        return False
    return os.access(settings.docker_socket, os.R_OK | os.W_OK)


def words(app: Mapping[str, Any], containers: Collection[Container]) -> str:
    """Describe the state of an app by its current `containers`."""
    own = [each for each in containers if each.folder == app["folder"] and not each.one_off]
    there = {each.id for each in own}
    services = {each.service for each in own}
    gone = [
        each
        for each in app["containers"]
        if each["id"] not in there and each["service"] not in services
    ]
    if not own:
        return "gone" if gone else "-"
    troubles = [f"{each['service']} gone" for each in gone]
    troubles += [said for each in own if (said := _trouble(each))]
    return ", ".join(troubles) or "runs"


def _trouble(container: Container) -> str | None:
    service = container.service
    match container.state:
        case "running" if container.health == "unhealthy":
            return f"{service} unhealthy"
        case "running":
            return None
        case "restarting":
            times = "once" if container.restarts == 1 else f"{container.restarts} times"
            return f"{service} restarting, {times}"
        case "exited" if container.ended_well:
            return None
        case "exited":
            return f"{service} exited ({container.exit_code})"
        case state:
            return f"{service} {state}"
