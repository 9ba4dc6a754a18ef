"""The plan: the steps for each app, decided without executing any."""

from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.container import Container, Listed, State
from compose_apps_early_start.plan import Action, AppPlan, Step, make
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.restorable import Restorable
from compose_apps_early_start.store import Descriptor, Image, StoreError, Version
from compose_apps_early_start.verdict import Finished
from unit.builders import IMAGE, NETWORK, app, container, selection, service

UP, RECONNECT, RESTORE = Step(Action.UP), Step(Action.RECONNECT), Step(Action.RESTORE)
SHOP = app()
OTHER_IMAGE = "hub.example.test/factory/db@sha256:" + "b" * 64
TWO_IMAGES = app("shop", service(), service("db", OTHER_IMAGE))
BROKEN = Failure(Cause.COMPOSE_FILE_INVALID, "docker-compose.yml is empty")
BLOB = Descriptor("c" * 64, 1, "")


def stored(reference: str) -> Image:
    return Image(reference, (BLOB,), BLOB, ())


def load(reference: str) -> Step:
    return Step(Action.LOAD, stored(reference))


def damaged(*files: str) -> App:
    """An app that the store has, and of whose folder these files are damaged."""
    return app(restorable=Restorable(Version("shop", "uri", Path("/store")), {}, files))


def state(
    *containers: Container,
    images: tuple[str, ...] = (IMAGE,),
    listed: tuple[Listed, ...] = (),
    networks: tuple[str, ...] = (NETWORK,),
) -> State:
    return State(frozenset(images), (*containers, *listed), containers, frozenset(networks))


def listed(**changes: Any) -> Listed:
    return Listed(**{"id": "x", "name": "mine", "project": "shop", "folder": "", **changes})


def missing(message: str) -> Failure:
    return Failure(Cause.IMAGE_MISSING, message)


def taken(message: str) -> Failure:
    return Failure(Cause.PROJECT_TAKEN, f"{message} belongs to the compose project 'shop' too")


ENDED = container(state="exited", restart_policy="no", finished_at="2026-11-23T08:00:00Z")


@pytest.mark.parametrize(
    ("wanted", "engine", "expected"),
    [
        pytest.param(SHOP, state(), AppPlan(SHOP, (UP,)), id="not there yet: up"),
        pytest.param(SHOP, state(container()), AppPlan(SHOP, ()), id="runs as wanted: nothing"),
        pytest.param(SHOP, state(ENDED), AppPlan(SHOP, (UP,)), id="stopped: up"),
        pytest.param(
            SHOP, state(container(state="restarting")), AppPlan(SHOP, ()), id="dockerd's to restart"
        ),
        pytest.param(
            SHOP,
            state(container(app("other"))),
            AppPlan(SHOP, (UP,)),
            id="containers of other apps do not matter",
        ),
        pytest.param(SHOP, None, AppPlan(SHOP, (UP,)), id="engine not asked: up"),
        # Networks that are gone.
        pytest.param(
            SHOP,
            state(container(state="exited"), networks=()),
            AppPlan(SHOP, (RECONNECT, UP)),
            id="stopped, its network is gone: reconnect before up",
        ),
        pytest.param(
            SHOP,
            state(container(), container(service="old", state="exited"), networks=()),
            AppPlan(SHOP, ()),
            id="it runs, an orphan has lost its network: nothing",
        ),
        pytest.param(
            SHOP,
            state(container(networks=())),
            AppPlan(SHOP, (Step(Action.RECONNECT), UP)),
            id="runs without a network: connected before up, which may make it anew",
        ),
        # What the store puts back.
        pytest.param(
            damaged("web.env"),
            state(),
            AppPlan(damaged("web.env"), (RESTORE, UP)),
            id="its folder is damaged: put back before up",
        ),
        pytest.param(
            damaged("web.env"),
            None,
            AppPlan(damaged("web.env"), (RESTORE, UP)),
            id="its folder is damaged, engine not asked",
        ),
        pytest.param(
            damaged("web.env"),
            state(container()),
            AppPlan(damaged("web.env"), (RESTORE,)),
            id="it runs, its folder is damaged: put back, no up",
        ),
        pytest.param(damaged(), state(), AppPlan(damaged(), (UP,)), id="its folder is as stored"),
        # What cannot be started.
        pytest.param(
            SHOP,
            state(images=()),
            AppPlan(SHOP, (), (IMAGE,), missing(f"image {IMAGE} is not on this device")),
            id="its image is missing",
        ),
        pytest.param(
            SHOP,
            state(container(), images=()),
            AppPlan(SHOP, (), (IMAGE,)),
            id="its image is missing, but it runs",
        ),
        pytest.param(
            TWO_IMAGES,
            state(),
            AppPlan(
                TWO_IMAGES,
                (),
                (OTHER_IMAGE,),
                missing(f"image {OTHER_IMAGE} is not on this device"),
            ),
            id="one of two images is missing",
        ),
        pytest.param(
            TWO_IMAGES,
            state(images=("something",)),
            AppPlan(
                TWO_IMAGES,
                (),
                (IMAGE, OTHER_IMAGE),
                missing(f"image {IMAGE} is not on this device (and 1 more)"),
            ),
            id="both images are missing",
        ),
        pytest.param(
            app(failure=BROKEN),
            state(container()),
            AppPlan(app(failure=BROKEN), (), failure=BROKEN),
            id="its files are broken, whatever runs",
        ),
        pytest.param(
            app(failure=BROKEN),
            None,
            AppPlan(app(failure=BROKEN), (), failure=BROKEN),
            id="its files are broken, engine not asked",
        ),
        pytest.param(
            SHOP,
            state(listed=(listed(folder="/home/dev/shop"),)),
            AppPlan(SHOP, (), failure=taken("container 'mine' of /home/dev/shop")),
            id="its project name is another folder's",
        ),
        pytest.param(
            SHOP,
            state(container(), listed=(listed(),)),
            AppPlan(SHOP, (), failure=taken("container 'mine' of an unknown folder")),
            id="a foreign container carries its project's label",
        ),
        pytest.param(
            SHOP,
            state(container(state="paused")),
            AppPlan(
                SHOP, (), failure=Failure(Cause.PAUSED, "container 'shop-web-1' is paused")
            ),
            id="paused by somebody: compose would replace it",
        ),
        pytest.param(
            SHOP,
            state(container(), container(service="old", state="paused")),
            AppPlan(
                SHOP, (), failure=Failure(Cause.PAUSED, "container 'shop-old-1' is paused")
            ),
            id="an orphan of it is paused",
        ),
    ],
)  # fmt: skip
def test_one_app(wanted: App, engine: State | None, expected: AppPlan) -> None:
    plan = make(selection(wanted), engine, (), {})
    assert plan.apps == (expected,)
    assert plan.engine_known is (engine is not None)


@pytest.mark.parametrize(
    ("finished", "steps"),
    [({(ENDED.id, ENDED.finished_at)}, ()), ({(ENDED.id, "another time")}, (UP,)), ((), (UP,))],
    ids=["done under this dockerd", "another end of it", "nothing known"],
)
def test_a_one_shot_is_done_only_if_it_is_known_to_be(
    finished: Finished, steps: tuple[Step, ...]
) -> None:
    (plan,) = make(selection(SHOP), state(ENDED), finished, {}).apps
    assert plan.steps == steps


BAD = StoreError("blob x is missing")


@pytest.mark.parametrize(
    ("containers", "in_store", "expected"),
    [
        pytest.param(
            (),
            {IMAGE: stored(IMAGE), OTHER_IMAGE: stored(OTHER_IMAGE)},
            ((load(IMAGE), load(OTHER_IMAGE), UP), None),
            id="both are loaded before up",
        ),
        pytest.param(
            (container(), container(service="db", image=OTHER_IMAGE)),
            {IMAGE: stored(IMAGE), OTHER_IMAGE: stored(OTHER_IMAGE)},
            ((load(IMAGE), load(OTHER_IMAGE)), None),
            id="lost images of containers that run are loaded, no up",
        ),
        pytest.param(
            (container(), container(service="db", image=OTHER_IMAGE)),
            {IMAGE: BAD, OTHER_IMAGE: stored(OTHER_IMAGE)},
            ((load(OTHER_IMAGE),), None),
            id="what the store cannot give fails no app that runs",
        ),
        pytest.param(
            (),
            {OTHER_IMAGE: stored(OTHER_IMAGE)},
            ((), missing(f"image {IMAGE} is not on this device (and 1 more)")),
            id="one is nowhere: nothing is loaded for nothing",
        ),
        pytest.param(
            (),
            {IMAGE: BAD, OTHER_IMAGE: stored(OTHER_IMAGE)},
            ((), Failure(Cause.STORE_DAMAGED, "blob x is missing")),
            id="one is damaged",
        ),
    ],
)
def test_images_that_the_engine_lacks(
    containers: tuple[Container, ...],
    in_store: dict[str, Image | StoreError],
    expected: tuple[tuple[Step, ...], Failure | None],
) -> None:
    (plan,) = make(selection(TWO_IMAGES), state(*containers, images=()), (), in_store).apps
    assert (plan.steps, plan.failure) == expected
    assert plan.missing_images == (IMAGE, OTHER_IMAGE)


def test_each_app_is_planned_for_itself_and_in_order() -> None:
    wanted = selection(app("c"), app("a", failure=BROKEN), app("b"))
    plan = make(wanted, state(container(app("b"))), (), {})
    assert plan.selection is wanted
    assert [(each.app.name, each.steps) for each in plan.apps] == [
        ("c", (UP,)),
        ("a", ()),
        ("b", ()),
    ]
