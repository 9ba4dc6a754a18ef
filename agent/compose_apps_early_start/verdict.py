"""Pure: judging whether an app runs, by the state of its containers.

The exit status of compose is not enough: it is 0 for a container that crash-loops.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from .cause import Cause, Failure
from .container import Container
from .preloaded import App, Service

RESTART_SETTLE_FACTOR = 6
"""How many times longer a container must run to be settled after its policy restarted it.

With a settling time of 10 seconds, this is a minute. A service that gives up after some seconds
without its server looks like a running one at most moments.
"""

Finished = Collection[tuple[str, str]]
"""Ids of one-shots that exited with status 0 under this dockerd, with the times of their ends."""


@dataclass(frozen=True)
class Runs:
    """Every service runs and has settled, or is a one-shot that exited with status 0.

    `note` says what is still unknown.
    """

    note: str = ""


class Need(Enum):
    """What can change the state of an app that does not run."""

    TIME = "dockerd or the container itself goes on"
    UP = "'docker compose up' starts what does not run"
    NETWORK = "a container has to be connected to its network before that"


@dataclass(frozen=True)
class Waits:
    """The app is not decided yet. `what` says in a few words what it waits for.

    Check again in `seconds`, or when a container changes. `at_last` is the outcome if the app's
    time is up before anything changes.
    """

    what: str
    seconds: float
    at_last: Runs | Failure
    need: Need = Need.TIME


Verdict = Runs | Waits | Failure

_UNTIL_IT_CHANGES = 60.0


def judge(
    app: App,
    containers: Collection[Container],
    *,
    settle_seconds: float,
    finished: Finished,
    brought_up: bool,
) -> Verdict:
    """Judge an app by its containers. Waiting cannot cure a `Failure`.

    `settle_seconds` is how long a container must keep running. A one-shot that exited with status 0
    is done if it is among the `finished`, or if the app was `brought_up` under this dockerd.
    Otherwise it may be a service that ended together with dockerd, which looks the same.
    """
    waits = []
    for service in app.services:
        for verdict in _judge_service(service, containers, settle_seconds, finished, brought_up):
            if isinstance(verdict, Failure):
                return verdict
            waits.append(verdict)
    return _together(waits) if waits else Runs()


def _judge_service(
    service: Service,
    containers: Collection[Container],
    settle_seconds: float,
    finished: Finished,
    brought_up: bool,
) -> list[Waits | Failure]:
    found = [each for each in containers if each.service == service.name and not each.one_off]
    verdicts = []
    for each in found:
        if each.ended_well and (brought_up or (each.id, each.finished_at) in finished):
            continue
        verdict = _judge_container(each, settle_seconds)
        if verdict:
            verdicts.append(verdict)
    missing = service.replicas - len(found)
    if missing > 0:
        number = f"{missing} of its {service.replicas} containers" if found else "no container"
        what = f"{service.name} has {number}" if not found else f"{service.name} lacks {number}"
        verdicts.append(_needs_up(what, Cause.NOT_STARTED, f"service {what}"))
    return verdicts


def _judge_container(container: Container, settle_seconds: float) -> Waits | Failure | None:
    """Return what the container waits for; None if it runs as wanted."""
    service, named = container.service, f"container {container.name!r}"
    match container.state:
        case "running":
            return _judge_running(container, settle_seconds)
        case "restarting":
            return Waits(_restarted(container), settle_seconds, _crash_loop(container))
        case "paused":
            return Failure(Cause.PAUSED, f"{named} is paused")
        case "exited":
            status = _exit_status(container)
            return _needs_up(
                f"{service} ended with {status}",
                Cause.EXITED,
                f"{named} ended with {status}",
                container,
            )
        case state:
            return _needs_up(
                f"{service} is {state}", Cause.NOT_STARTED, f"{named} is {state}", container
            )


def _needs_up(what: str, cause: Cause, message: str, container: Container | None = None) -> Waits:
    words = f": {container.error}" if container and container.error else ""
    # If dockerd could not start a container, its log is of no use.
    logged = container.id if container and not words else None
    return Waits(what, _UNTIL_IT_CHANGES, Failure(cause, message + words, logged), Need.UP)


def _judge_running(container: Container, settle_seconds: float) -> Waits | None:
    service, named = container.service, f"container {container.name!r}"
    up_for = container.up_for or 0.0
    if container.without_network:
        failure = Failure(Cause.NETWORK_STALE, f"{named} runs without a network")
        return Waits(f"{service} has no network", _UNTIL_IT_CHANGES, failure, Need.NETWORK)
    left = RESTART_SETTLE_FACTOR * settle_seconds - up_for
    if container.restarts and left > 0:
        return Waits(_restarted(container), left, _crash_loop(container))
    if up_for < settle_seconds:
        failure = Failure(Cause.TIMEOUT, f"{named} has run for {up_for:.0f} s only")
        return Waits(f"{service} is settling", settle_seconds - up_for, failure)
    if container.health == "unhealthy":
        failure = Failure(Cause.UNHEALTHY, f"{named} is unhealthy", container.id)
        return Waits(f"{service} is unhealthy", _UNTIL_IT_CHANGES, failure)
    if container.health == "starting":
        note = f"the health of {service} is not known yet"
        return Waits(f"{service} is starting", _UNTIL_IT_CHANGES, Runs(note))
    return None


def _restarted(container: Container) -> str:
    times = "once" if container.restarts == 1 else f"{container.restarts} times"
    return f"{container.service} restarted {times}"


def _crash_loop(container: Container) -> Failure:
    message = f"container {container.name!r} was restarted {container.restarts} times"
    if container.state == "restarting":
        message += f", last {_exit_status(container)}"
    else:
        message += f", the last time {container.up_for or 0.0:.0f} s ago"
    return Failure(Cause.CRASH_LOOP, message, container.id)


def _exit_status(container: Container) -> str:
    killed = " (killed for lack of memory)" if container.out_of_memory else ""
    return f"exit status {container.exit_code}{killed}"


VAGUE_CAUSES = (Cause.TIMEOUT, Cause.NOT_STARTED)
"""These causes are reported only if no other service has a more specific one."""


def _together(waits: Collection[Waits]) -> Waits:
    failures = [each.at_last for each in waits if isinstance(each.at_last, Failure)]
    failures.sort(key=lambda each: each.cause in VAGUE_CAUSES)
    notes = [each.at_last.note for each in waits if isinstance(each.at_last, Runs)]
    needs = {each.need for each in waits}
    return Waits(
        what=", ".join(each.what for each in waits),
        seconds=min(each.seconds for each in waits),
        at_last=failures[0] if failures else Runs(", ".join(notes)),
        need=next((need for need in (Need.NETWORK, Need.UP) if need in needs), Need.TIME),
    )


def is_up_to_date(app: App, containers: Collection[Container], finished: Finished) -> bool:
    """Whether it is certain, without asking compose, that compose would change nothing.

    `containers` are those of the app's folder. Only published apps can be certain: their hash label
    shows from which text a container was created. A container that dockerd restarts needs no
    compose either.
    """
    for service in app.services:
        found = [each for each in containers if each.service == service.name and not each.one_off]
        if service.published_hash is None or len(found) != service.replicas:
            return False
        for each in found:
            goes_on = each.state in ("running", "restarting") and not each.without_network
            done = each.ended_well and (each.id, each.finished_at) in finished
            as_made = (each.image, each.published_hash) == (service.image, service.published_hash)
            if not as_made or each.project != app.project or not (goes_on or done):
                return False
    return True
