"""What is to be done for each app, decided without doing it."""

import pytest
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.container import Container, State
from compose_apps_early_start.plan import Action, AppPlan, Step, make
from unit.given import IMAGE, NOW, app, container, selection, service

BOOT = NOW - 600
UP = Step(Action.UP)
SHOP = app()
OTHER_IMAGE = "hub.example.test/factory/db@sha256:" + "b" * 64
TWO_IMAGES = app("shop", service(), service("db", OTHER_IMAGE))
BROKEN = Failure(Cause.COMPOSE_FILE_INVALID, "docker-compose.yml is empty")


def state(*containers: Container, images: tuple[str, ...] = (IMAGE,)) -> State:
    return State(frozenset(images), containers)


def missing(message: str) -> Failure:
    return Failure(Cause.IMAGE_MISSING, message)


@pytest.mark.parametrize(
    ("wanted", "engine", "expected"),
    [
        pytest.param(SHOP, state(), AppPlan(SHOP, (UP,)), id="not there yet: up"),
        pytest.param(SHOP, state(container()), AppPlan(SHOP, ()), id="runs as wanted: nothing"),
        pytest.param(
            SHOP,
            state(container(state="exited", finished_at=NOW)),
            AppPlan(SHOP, (UP,)),
            id="stopped: up",
        ),
        pytest.param(
            SHOP,
            state(container(), images=()),
            AppPlan(SHOP, ()),
            id="runs from an image whose reference is gone: nothing",
        ),
        pytest.param(
            SHOP,
            state(container(app("other"))),
            AppPlan(SHOP, (UP,)),
            id="containers of other apps do not matter",
        ),
        pytest.param(SHOP, None, AppPlan(SHOP, (UP,)), id="engine not asked: up"),
        # What cannot be started.
        pytest.param(
            SHOP,
            state(images=()),
            AppPlan(SHOP, (), (IMAGE,), missing(f"image {IMAGE} is not on this device")),
            id="its image is missing",
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
            state(container(folder="/home/dev/shop")),
            AppPlan(
                SHOP,
                (),
                failure=Failure(
                    Cause.PROJECT_TAKEN,
                    "container 'shop-web-1' of /home/dev/shop belongs to the compose project "
                    "'shop' too",
                ),
            ),
            id="its project name is another folder's",
        ),
        pytest.param(
            SHOP,
            state(container(), container(folder="", name="mine")),
            AppPlan(
                SHOP,
                (),
                failure=Failure(
                    Cause.PROJECT_TAKEN,
                    "container 'mine' of an unknown folder belongs to the compose project "
                    "'shop' too",
                ),
            ),
            id="a foreign container carries its project's label",
        ),
    ],
)
def test_one_app(wanted: App, engine: State | None, expected: AppPlan) -> None:
    plan = make(selection(wanted), engine, BOOT, {})
    assert plan.apps == (expected,)
    assert plan.engine_known is (engine is not None)


def test_each_app_is_planned_for_itself_and_in_order() -> None:
    wanted = selection(app("c"), app("a", failure=BROKEN), app("b"))
    plan = make(wanted, state(container(app("b"))), BOOT, {})
    assert plan.selection is wanted
    assert [(each.app.name, each.steps) for each in plan.apps] == [
        ("c", (UP,)),
        ("a", ()),
        ("b", ()),
    ]
