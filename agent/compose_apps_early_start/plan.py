"""Pure: what is to be done for each app, as plain data. `start` executes it, `plan` prints it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from .catalog import App
from .cause import Cause, Failure
from .container import Container, State
from .selection import Selection
from .store import Image, StoreError
from .verdict import runs_as_wanted


class Action(Enum):
    """What a step does."""

    RESTORE = "put the app's folder back from the store"
    LOAD = "load an image from the store"
    UP = "docker compose up"


@dataclass(frozen=True)
class Step:
    """One thing that is done for an app, in the order in which the plan lists them.

    `image` is the one that is loaded.
    """

    action: Action
    image: Image | None = None


@dataclass(frozen=True)
class AppPlan:
    """What is to be done for one app. No step: it runs as wanted, or it has a `failure`."""

    app: App
    steps: tuple[Step, ...]
    missing_images: tuple[str, ...] = ()
    failure: Failure | None = None

    def does(self, action: Action) -> bool:
        """Tell whether one of the steps does `action`."""
        return any(step.action is action for step in self.steps)


@dataclass(frozen=True)
class Plan:
    """What is to be done for each app of the selection, in order of dispatch.

    `engine_known` is False where the engine was not asked: images and containers are unchecked.
    """

    selection: Selection
    apps: tuple[AppPlan, ...]
    engine_known: bool


def make(
    selection: Selection,
    state: State | None,
    boot_time: float,
    stored: Mapping[str, Image | StoreError],
) -> Plan:
    """Plan the `selection` for an engine in `state`, or for one that was not asked (None).

    `boot_time` is the time of the epoch in seconds at which this boot began, `stored` what the
    store holds of the images that the engine lacks, by reference.
    """
    return Plan(
        selection=selection,
        apps=tuple(_plan_app(app, state, boot_time, stored) for app in selection.apps),
        engine_known=state is not None,
    )


def _plan_app(
    app: App,
    state: State | None,
    boot_time: float,
    stored: Mapping[str, Image | StoreError],
) -> AppPlan:
    if app.failure:
        return AppPlan(app, (), failure=app.failure)
    steps = [Step(Action.RESTORE)] if app.from_store else []
    if state is None:
        return AppPlan(app, (*steps, Step(Action.UP)))
    own = [each for each in state.containers if each.folder == str(app.folder)]
    foreign = _foreign(app, state.containers)
    if foreign:
        return AppPlan(app, (), failure=foreign)
    if runs_as_wanted(app, own, boot_time) and not app.from_store:
        return AppPlan(app, ())
    missing = tuple(image for image in app.images if image not in state.images)
    for reference in missing:
        image = stored.get(reference)
        if not isinstance(image, Image):
            return AppPlan(app, (), missing, _not_there(missing, image))
        steps.append(Step(Action.LOAD, image))
    return AppPlan(app, (*steps, Step(Action.UP)), missing)


def _not_there(missing: tuple[str, ...], error: StoreError | None) -> Failure:
    if error:
        return Failure(error.cause, str(error))
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return Failure(Cause.IMAGE_MISSING, f"image {missing[0]} is not on this device{more}")


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
