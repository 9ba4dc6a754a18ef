"""Pure: the steps for each app, as plain data. `start` executes them, `plan` prints them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from .cause import Cause, Failure
from .container import Container, Listed, State
from .preloaded import App
from .selection import Selection
from .store import Image, StoreError
from .verdict import Finished, is_up_to_date


class Action(Enum):
    """What a step does."""

    RESTORE = "put the app's folder back from the store"
    LOAD = "load an image from the store"
    RECONNECT = "connect containers to their network again"
    UP = "docker compose up"


@dataclass(frozen=True)
class Step:
    """One action for an app. The plan lists actions in the order of their execution.

    `image` is the image to load.
    """

    action: Action
    image: Image | None = None


@dataclass(frozen=True)
class AppPlan:
    """The steps for one app. Without steps, it runs as wanted or has a `failure`."""

    app: App
    steps: tuple[Step, ...]
    missing_images: tuple[str, ...] = ()
    failure: Failure | None = None

    def does(self, action: Action) -> bool:
        """Whether one of the steps is `action`."""
        return any(step.action is action for step in self.steps)


@dataclass(frozen=True)
class Plan:
    """The steps for each app of the selection, in the order of their start.

    `engine_known` is False if the engine was not asked. Images and containers are then unchecked.
    """

    selection: Selection
    apps: tuple[AppPlan, ...]
    engine_known: bool


def make(
    selection: Selection,
    state: State | None,
    finished: Finished,
    stored: Mapping[str, Image | StoreError],
) -> Plan:
    """Plan the `selection` for an engine in `state`, or None if the engine was not asked.

    `finished` are the one-shots that exited with status 0 under this engine. `stored` are the
    images in the store that the engine lacks, by reference.
    """
    return Plan(
        selection=selection,
        apps=tuple(_plan_app(app, state, finished, stored) for app in selection.apps),
        engine_known=state is not None,
    )


def _plan_app(
    app: App,
    state: State | None,
    finished: Finished,
    stored: Mapping[str, Image | StoreError],
) -> AppPlan:
    if app.failure:
        return AppPlan(app, (), failure=app.failure)
    restore = (Step(Action.RESTORE),) if app.from_store else ()
    if state is None:
        return AppPlan(app, (*restore, Step(Action.UP)))
    own = [each for each in state.containers if each.folder == str(app.folder)]
    failure = _foreign(app, state.listed) or _paused(own)
    if failure:
        return AppPlan(app, (), failure=failure)
    missing = tuple(image for image in app.images if image not in state.images)
    loads, error = _loads(missing, stored)
    if is_up_to_date(app, own, finished):
        # Restore damaged files and lost images of running containers for the next start, and for
        # aktualizr-lite, which would stop an app without its images.
        return AppPlan(app, (*restore, *loads), missing)
    if len(loads) < len(missing):
        return AppPlan(app, (), missing, _missing_images(missing, error))
    # Newer versions of compose recreate such a container, so reconnect it before `up`.
    reconnect = any(each.without_network or each.lost_networks(state.networks) for each in own)
    reconnects = (Step(Action.RECONNECT),) if reconnect else ()
    return AppPlan(app, (*restore, *loads, *reconnects, Step(Action.UP)), missing)


def _loads(
    missing: tuple[str, ...], stored: Mapping[str, Image | StoreError]
) -> tuple[tuple[Step, ...], StoreError | None]:
    """Return the steps for the images in the store, and the error of another image."""
    found = [stored.get(reference) for reference in missing]
    errors = [each for each in found if isinstance(each, StoreError)]
    loads = tuple(Step(Action.LOAD, each) for each in found if isinstance(each, Image))
    return loads, errors[0] if errors else None


def _missing_images(missing: tuple[str, ...], error: StoreError | None) -> Failure:
    if error:
        return Failure(error.cause, str(error))
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return Failure(Cause.IMAGE_MISSING, f"image {missing[0]} is not on this device{more}")


def _foreign(app: App, listed: Collection[Listed]) -> Failure | None:
    # Compose would treat them as containers of this app.
    for each in listed:
        if each.project == app.project and each.folder != str(app.folder):
            return Failure(
                Cause.PROJECT_TAKEN,
                f"container {each.name!r} of {each.folder or 'an unknown folder'} "
                f"belongs to the compose project {app.project!r} too",
            )
    return None


def _paused(own: Collection[Container]) -> Failure | None:
    # Compose would replace a paused container.
    for each in own:
        if each.state == "paused":
            return Failure(Cause.PAUSED, f"container {each.name!r} is paused")
    return None
