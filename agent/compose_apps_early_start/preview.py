"""`plan`: show the plan that `start` would execute now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import oneshots, registration, selection
from .compose import Compose
from .errors import EngineError
from .plan import AppPlan, Plan, Step, make
from .report import printable
from .settings import Settings
from .store import Image, StoreError
from .verdict import Finished

SCHEMA = 1
"""The version of the JSON document. It grows when a key changes its meaning or is removed."""

ENGINE_SECONDS = 2.0
"""The time-out for dockerd in seconds. A running dockerd is asked, but a start is not awaited."""


@dataclass(frozen=True)
class Preview:
    """The plan and its inputs. `unchecked` says what could not be checked."""

    plan: Plan
    settings: Settings
    registered_by: Path | None
    unchecked: tuple[str, ...]


def preview(settings: Settings) -> Preview:
    """Make the plan. This needs neither dockerd nor a lock, and changes nothing.

    Raises `EarlyStartError` if the files of the device cannot be read.
    """
    from .engine import Engine  # loads the docker SDK

    wanted = selection.select(settings, Compose(settings).config)
    state = None
    finished: Finished = ()
    stored: Mapping[str, Image | StoreError] = {}
    unchecked = (f"restorable store: {wanted.store_error}",) if wanted.store_error else ()
    try:
        engine = Engine.connect(settings, ENGINE_SECONDS)
        state = engine.state(wanted.images, wanted.folders)
        finished = oneshots.recall(settings, engine.identity())
        stored = selection.stored_images(wanted, state, engine)
    except EngineError as error:
        unchecked = (*unchecked, f"images and containers: {error}")
    the_plan = make(wanted, state, finished, stored)
    return Preview(the_plan, settings, registration.registered_by(settings), unchecked)


def to_json(shown: Preview) -> dict[str, Any]:
    """Return the preview as the object that `plan --json` prints."""
    wanted = shown.plan.selection
    return {
        "schema": SCHEMA,
        "registered_by": str(shown.registered_by) if shown.registered_by else None,
        "shortlist": str(shown.settings.default_apps) if wanted.shortlisted else None,
        "apps": [_app_to_json(each, shown) for each in shown.plan.apps],
        "unknown": [{"name": each.name, "nearest": each.nearest} for each in wanted.unknown],
        "strays": list(wanted.not_apps),
        "unchecked": list(shown.unchecked),
    }


def _app_to_json(each: AppPlan, shown: Preview) -> dict[str, Any]:
    app = each.app
    known = shown.plan.engine_known
    return {
        "name": app.name,
        "reason": "shortlist" if shown.plan.selection.shortlisted else "all",
        "folder": str(app.folder),
        "project": app.project,
        "services": [service.name for service in app.services],
        "source": "store" if app.from_store else "folder",
        "version": app.restorable.version.uri if app.restorable else None,
        "images": [
            {"reference": image, "present": image not in each.missing_images if known else None}
            for image in app.images
        ],
        "notes": list(app.notes),
        "steps": [_step_to_json(step) for step in each.steps],
        "cause": each.failure.cause.label if each.failure else None,
        "message": each.failure.message if each.failure else None,
        "hint": each.failure.cause.hint if each.failure else None,
    }


def _step_to_json(step: Step) -> dict[str, Any]:
    if step.image is None:
        return {"action": step.action.name.lower()}
    return {"action": "load", "image": step.image.reference, "bytes": step.image.size}


def text(shown: Preview) -> str:
    """Return the preview as readable lines."""
    return "\n".join(map(printable, _lines(shown)))


def _lines(shown: Preview) -> Iterator[str]:
    wanted = shown.plan.selection
    if shown.registered_by:
        yield f"This device is registered ({shown.registered_by}): 'start' would do nothing."
        yield "On an unregistered device it would be:"
    if wanted.shortlisted:
        yield f"{len(shown.plan.apps)} apps, from the shortlist {shown.settings.default_apps}:"
    else:
        yield f"{len(shown.plan.apps)} apps, all preloaded ones: no {shown.settings.default_apps}"
    for each in shown.plan.apps:
        yield f"  {each.app.name}: {_outcome(each, shown)}"
        store = f", put back from {shown.settings.reset_apps}" if each.app.from_store else ""
        yield f"    from {each.app.folder}{store}"
        for image in each.app.images:
            missing = "  MISSING" if image in each.missing_images else ""
            yield f"    image {image}{missing}"
        for note in each.app.notes:
            yield f"    note: {note}"
        if each.failure:
            yield f"    next: {each.failure.cause.hint}"
    for unknown in wanted.unknown:
        nearest = f"; did you mean {unknown.nearest!r}?" if unknown.nearest else ""
        yield f"Not preloaded: {unknown.name!r}{nearest}"
    for name in wanted.not_apps:
        yield f"No app, left alone: {shown.settings.compose_apps / name}"
    for unchecked in shown.unchecked:
        yield f"Not checked: {unchecked}"


def _outcome(each: AppPlan, shown: Preview) -> str:
    if each.failure:
        return f"cannot start: {each.failure.cause.label}: {each.failure.message}"
    if each.steps:
        return ", then ".join(_step_text(step) for step in each.steps)
    return "already runs" if shown.plan.engine_known else "nothing to do"


def _step_text(step: Step) -> str:
    if step.image is None:
        return step.action.value
    return f"{step.action.value} ({step.image.size / 1e6:.1f} MB)"
