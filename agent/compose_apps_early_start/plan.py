"""Pure: what is to be done for each app, as plain data. `start` executes it, `plan` prints it."""

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
    finished: Finished,
    stored: Mapping[str, Image | StoreError],
) -> Plan:
    """Plan the `selection` for an engine in `state`, or for one that was not asked (None).

    `finished` are the one-shots that ended well under this engine, `stored` what the store holds of
    the images that the engine lacks, by reference.
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
        # What is damaged or lost beside containers that run is put back for the next start, and
        # for aktualizr-lite, which would take down an app without its images.
        return AppPlan(app, (*restore, *loads), missing)
    if len(loads) < len(missing):
        return AppPlan(app, (), missing, _missing_images(missing, error))
    # Newer versions of compose make such a container anew, so it must be done before their `up`.
    reconnect = any(each.without_network or each.lost_networks(state.networks) for each in own)
    reconnects = (Step(Action.RECONNECT),) if reconnect else ()
    return AppPlan(app, (*restore, *loads, *reconnects, Step(Action.UP)), missing)


def _loads(
    missing: tuple[str, ...], stored: Mapping[str, Image | StoreError]
) -> tuple[tuple[Step, ...], StoreError | None]:
    """Return the steps for those images that the store has, and what is wrong with another."""
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
    # Compose would take them for containers of this app.
    for each in listed:
        if each.project == app.project and each.folder != str(app.folder):
            return Failure(
                Cause.PROJECT_TAKEN,
                f"container {each.name!r} of {each.folder or 'an unknown folder'} "
                f"belongs to the compose project {app.project!r} too",
            )
    return None


def _paused(own: Collection[Container]) -> Failure | None:
    # Compose would replace it.
    for each in own:
        if each.state == "paused":
            return Failure(Cause.PAUSED, f"container {each.name!r} is paused")
    return None
