"""Pure: does an app run, by what the engine says of its containers?

Compose's word is not enough: it ends with 0 for a container that crash-loops.
"""

from collections.abc import Collection
from dataclasses import dataclass

from .catalog import App
from .cause import Cause, Failure
from .container import Container
from .settings import Settings

MOST_RESTARTS = 3
"""A container that needed more restarts before it settled is in a crash loop.

Fewer are forgiven: at a first boot many a service dies until its database listens.
"""

_ALWAYS = ("always", "unless-stopped")


@dataclass(frozen=True)
class Pending:
    """Not decided yet: ask again in `seconds`, or when a container changes."""

    seconds: float


@dataclass(frozen=True)
class Runs:
    """Every service runs and has settled, or is a one-shot that ended with 0."""


Verdict = Runs | Pending | Failure


def judge(
    app: App,
    containers: Collection[Container],
    *,
    now: float,
    waited: float,
    settings: Settings,
) -> Verdict:
    """Judge an app by its containers.

    `now` is the time of the epoch in seconds, `waited` how many seconds ago the app was brought
    up (it bounds the wait for health checks). A failure of one service is the app's, and is told
    at once though others may be pending.
    """
    pending = None
    for service in app.services:
        found = [each for each in containers if each.service == service.name and not each.one_off]
        if not found:
            return Failure(Cause.NOT_STARTED, f"service {service.name!r} has no container")
        for container in found:
            verdict = _judge_container(container, now, waited, settings)
            if isinstance(verdict, Failure):
                return verdict
            if isinstance(verdict, Pending) and (
                pending is None or verdict.seconds < pending.seconds
            ):
                pending = verdict
    return pending or Runs()


def _judge_container(
    container: Container, now: float, waited: float, settings: Settings
) -> Verdict:
    what = f"container {container.name!r}"
    match container.state:
        case "running":
            return _judge_running(container, now, waited, settings)
        case "restarting":
            return _judge_unsettled(container, settings.settle_seconds)
        case "exited" if container.exit_code == 0 and container.restart_policy not in _ALWAYS:
            return Runs()
        case "exited":
            message = f"{what} ended with exit status {container.exit_code}"
            return Failure(Cause.EXITED, message, container.id)
        case _:
            return Failure(Cause.NOT_STARTED, f"{what} is {container.state}")


def _judge_running(container: Container, now: float, waited: float, settings: Settings) -> Verdict:
    if container.health == "unhealthy":
        return Failure(Cause.UNHEALTHY, f"container {container.name!r} is unhealthy")
    up_for = now - (container.started_at or now)
    if up_for < 0:  # the clock was set back since, and might not catch up in this run
        up_for = waited
    if up_for < settings.settle_seconds:
        return _judge_unsettled(container, settings.settle_seconds - up_for)
    if container.health == "starting":
        left = settings.health_seconds - waited
        if left <= 0:
            return Failure(
                Cause.HEALTH_TIMEOUT,
                f"container {container.name!r} was not healthy after {settings.health_seconds:g} s",
            )
        return Pending(left)
    return Runs()


def _judge_unsettled(container: Container, seconds: float) -> Verdict:
    if container.restarts > MOST_RESTARTS:
        return crash_loop(container)
    return Pending(seconds)


def keeps_restarting(container: Container, now: float, settings: Settings) -> bool:
    """Tell whether it was restarted, and has not settled since.

    A slow machine restarts it too seldom for `MOST_RESTARTS`: when the app's time is up, this says
    as much. `now` is the time of the epoch in seconds; if the clock was set back since the start,
    nothing is known of a container that is up.
    """
    if container.state == "running" and container.restarts:
        return 0 <= now - (container.started_at or now) < settings.settle_seconds
    return container.state == "restarting"


def crash_loop(container: Container) -> Failure:
    """Return the failure of an app that has this container, which does not stay up."""
    return Failure(
        Cause.CRASH_LOOP,
        f"container {container.name!r} was restarted {container.restarts} times, "
        f"last exit status {container.exit_code}",
        container.id,
    )


def runs_as_wanted(app: App, containers: Collection[Container], boot_time: float) -> bool:
    """Tell whether compose would change nothing, where that can be known without compose.

    `containers` are those of the app's folder. It is known for published apps only: the hash label
    tells of which text a container was made. A one-shot counts if it ended with 0 since this boot.
    """
    wanted = {each.name: (each.image, each.published_hash) for each in app.services}
    found = [each for each in containers if not each.one_off]
    if {each.service for each in found} != set(wanted):
        return False
    return all(
        each.published_hash is not None
        and (each.image, each.published_hash) == wanted[each.service]
        and each.project == app.project
        and (each.state == "running" or _done_since(each, boot_time))
        for each in found
    )


def _done_since(container: Container, boot_time: float) -> bool:
    return (
        container.state == "exited"
        and container.exit_code == 0
        and container.restart_policy not in _ALWAYS
        and container.finished_at is not None
        and container.finished_at >= boot_time
    )
