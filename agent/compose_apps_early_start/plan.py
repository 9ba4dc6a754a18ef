"""Pure: what is to be done for each app, as plain data. `start` executes it, `plan` prints it."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from .catalog import App
from .cause import Cause, Failure
from .container import Container, State
from .selection import Selection
from .verdict import runs_as_wanted


class Step(Enum):
    """One thing that is done for an app, in the order in which the plan lists them."""

    UP = "docker compose up"


@dataclass(frozen=True)
class AppPlan:
    """What is to be done for one app. No step: it runs as wanted, or it has a `failure`."""

    app: App
    steps: tuple[Step, ...]
    missing_images: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done for each app of the selection, in order of dispatch.

    `engine_known` is False where the engine was not asked: images and containers are unchecked.
    """

    selection: Selection
    apps: tuple[AppPlan, ...]
    engine_known: bool


def make(selection: Selection, state: State | None, boot_time: float) -> Plan:
    """Plan the `selection` for an engine in `state`, or for one that was not asked (None).

    `boot_time` is the time of the epoch in seconds at which this boot began.
    """
    return Plan(
        selection=selection,
        apps=tuple(_plan_app(app, state, boot_time) for app in selection.apps),
        engine_known=state is not None,
    )


def _plan_app(app: App, state: State | None, boot_time: float) -> AppPlan:
    if app.failure:
        return AppPlan(app, (), failure=app.failure)
    if state is None:
        return AppPlan(app, (Step.UP,))
    own = [each for each in state.containers if each.folder == str(app.folder)]
    foreign = _foreign(app, state.containers)
    if foreign:
        return AppPlan(app, (), failure=foreign)
    if runs_as_wanted(app, own, boot_time):
        return AppPlan(app, ())
    missing = tuple(image for image in app.images if image not in state.images)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        failure = Failure(Cause.IMAGE_MISSING, f"image {missing[0]} is not on this device{more}")
        return AppPlan(app, (), missing_images=missing, failure=failure)
    return AppPlan(app, (Step.UP,))


def _foreign(app: App, containers: Collection[Container]) -> Failure | None:
    # --remove-orphans would remove them: they are not in this app's compose file.
    for each in containers:
        if each.project == app.project and each.folder != str(app.folder):
            return Failure(
                Cause.PROJECT_TAKEN,
                f"container {each.name!r} of {each.folder or 'an unknown folder'} "
                f"belongs to the compose project {app.project!r} too",
            )
    return None
