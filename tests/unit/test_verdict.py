"""Does an app run, by what the engine says of its containers?"""

from typing import Any

import pytest
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.container import Container
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.verdict import (
    MOST_RESTARTS,
    Pending,
    Runs,
    Verdict,
    judge,
    keeps_restarting,
    runs_as_wanted,
)
from unit.given import HASH, IMAGE, NOW, app, container, service

SETTINGS = Settings(settle_seconds=2.0, health_seconds=60.0)
ID = "id-of-shop-web"


def verdict(*containers: Container, of: App | None = None, waited: float = 1.0) -> Verdict:
    return judge(of or app(), containers, now=NOW, waited=waited, settings=SETTINGS)


def web(state: str = "running", **changes: Any) -> Container:
    return container(state=state, **changes)


def exited(code: int, policy: str, **changes: Any) -> Container:
    ended = {"finished_at": NOW - 1, "exit_code": code, "restart_policy": policy}
    return web("exited", **{**ended, **changes})


def started(seconds_ago: float, **changes: Any) -> Container:
    return web(started_at=NOW - seconds_ago, **changes)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(started(3600), Runs(), id="has been running for an hour"),
        pytest.param(started(2), Runs(), id="has just settled"),
        pytest.param(started(1.5), Pending(0.5), id="has not settled yet"),
        pytest.param(started(0), Pending(2.0), id="started this moment"),
        pytest.param(web(started_at=None), Pending(2.0), id="runs, and has no start time yet"),
        pytest.param(web(health="healthy"), Runs(), id="healthy"),
        pytest.param(web(health="starting"), Pending(59.0), id="health not known yet"),
        pytest.param(
            started(0.5, health="starting"), Pending(1.5), id="not settled, health not known"
        ),
        pytest.param(started(0.5, health="healthy"), Pending(1.5), id="healthy, but not settled"),
        pytest.param(exited(0, "no"), Runs(), id="one-shot that ended with 0"),
        pytest.param(exited(0, "on-failure"), Runs(), id="on-failure, ended with 0"),
        pytest.param(web("restarting", restarts=1, exit_code=1), Pending(2.0), id="one restart"),
        pytest.param(
            web("restarting", restarts=MOST_RESTARTS, exit_code=1), Pending(2.0), id="some restarts"
        ),
        pytest.param(
            started(0.5, restarts=MOST_RESTARTS), Pending(1.5), id="runs again after some restarts"
        ),
        pytest.param(started(10, restarts=9), Runs(), id="settled after many restarts"),
        # Failures.
        pytest.param(
            web("restarting", restarts=4, exit_code=7),
            Failure(
                Cause.CRASH_LOOP,
                "container 'shop-web-1' was restarted 4 times, last exit status 7",
                ID,
            ),
            id="restarted too often",
        ),
        pytest.param(
            started(0.1, restarts=4, exit_code=0),
            Failure(
                Cause.CRASH_LOOP,
                "container 'shop-web-1' was restarted 4 times, last exit status 0",
                ID,
            ),
            id="runs for a moment, as crash loops do",
        ),
        pytest.param(
            exited(1, "no"),
            Failure(Cause.EXITED, "container 'shop-web-1' ended with exit status 1", ID),
            id="one-shot that ended with 1",
        ),
        pytest.param(
            exited(137, "on-failure"),
            Failure(Cause.EXITED, "container 'shop-web-1' ended with exit status 137", ID),
            id="on-failure that is not tried any more",
        ),
        pytest.param(
            exited(0, "always"),
            Failure(Cause.EXITED, "container 'shop-web-1' ended with exit status 0", ID),
            id="always, and yet stopped",
        ),
        pytest.param(
            exited(0, "unless-stopped"),
            Failure(Cause.EXITED, "container 'shop-web-1' ended with exit status 0", ID),
            id="unless-stopped, and stopped",
        ),
        *(
            pytest.param(
                web(state),
                Failure(Cause.NOT_STARTED, f"container 'shop-web-1' is {state}"),
                id=state,
            )
            for state in ("created", "paused", "dead", "removing")
        ),
        pytest.param(
            web(health="unhealthy"),
            Failure(Cause.UNHEALTHY, "container 'shop-web-1' is unhealthy"),
            id="unhealthy",
        ),
        pytest.param(
            started(0.1, health="unhealthy"),
            Failure(Cause.UNHEALTHY, "container 'shop-web-1' is unhealthy"),
            id="unhealthy before it settled",
        ),
    ],
)
def test_one_container(found: Container, expected: Verdict) -> None:
    assert verdict(found) == expected


def test_a_health_check_is_waited_for_within_its_bound() -> None:
    checked = web(health="starting")
    assert verdict(checked, waited=59) == Pending(1)
    assert verdict(checked, waited=60) == Failure(
        Cause.HEALTH_TIMEOUT, "container 'shop-web-1' was not healthy after 60 s"
    )


def test_a_clock_that_was_set_back_by_a_year_does_not_hold_up_the_verdict() -> None:
    from_the_future = web(started_at=NOW + 365 * 86400)
    assert verdict(from_the_future, waited=0.5) == Pending(1.5)
    assert verdict(from_the_future, waited=2.0) == Runs()


PAIR = app("shop", service("web"), service("worker"))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([web(), container(service="worker")], Runs(), id="both run"),
        pytest.param(
            [container(service="worker"), exited(0, "no")], Runs(), id="one runs, one is done"
        ),
        pytest.param(
            [started(1), container(service="worker", started_at=NOW - 1.5)],
            Pending(0.5),
            id="neither has settled: asked again when the first may have",
        ),
        pytest.param(
            [started(1), container(service="worker", health="starting")],
            Pending(1),
            id="one settles, one is checked",
        ),
        pytest.param(
            [web()],
            Failure(Cause.NOT_STARTED, "service 'worker' has no container"),
            id="one was never made",
        ),
        pytest.param(
            [],
            Failure(Cause.NOT_STARTED, "service 'web' has no container"),
            id="none was made",
        ),
        pytest.param(
            [started(0), container(service="worker", state="created")],
            Failure(Cause.NOT_STARTED, "container 'shop-worker-1' is created"),
            id="a failure is told at once, though another is pending",
        ),
        pytest.param(
            [web(), container(service="worker", one_off=True)],
            Failure(Cause.NOT_STARTED, "service 'worker' has no container"),
            id="somebody's 'compose run' is no service",
        ),
        pytest.param(
            [web(), container(service="worker"), container(service="old", state="dead")],
            Runs(),
            id="a container of no service is not judged",
        ),
    ],
)
def test_an_app_of_two_services(found: list[Container], expected: Verdict) -> None:
    assert verdict(*found, of=PAIR) == expected


def test_each_replica_of_a_service_counts() -> None:
    second = {"name": "shop-web-2", "id": "second"}
    assert verdict(web(), web(**second)) == Runs()
    assert verdict(web(), started(0, **second)) == Pending(2.0)
    assert verdict(web(), exited(1, "no", **second)) == Failure(
        Cause.EXITED, "container 'shop-web-2' ended with exit status 1", "second"
    )


BOOT = NOW - 600


@pytest.mark.parametrize(
    ("found", "known"),
    [
        pytest.param([web()], True, id="runs, by hash and image"),
        pytest.param([web(), web(id="second")], True, id="both of its replicas"),
        pytest.param(
            [web(), web("exited", one_off=True, image="x")], True, id="beside a 'compose run'"
        ),
        pytest.param([exited(0, "no")], True, id="one-shot, done since this boot"),
        pytest.param([exited(0, "no", finished_at=BOOT)], True, id="one-shot, done as it began"),
        # Else compose decides.
        pytest.param([], False, id="nothing there"),
        pytest.param([web(published_hash="6" * 64)], False, id="made of another text"),
        pytest.param([web(published_hash=None)], False, id="not published"),
        pytest.param([web(image=IMAGE.replace("a", "b"))], False, id="made of another image"),
        pytest.param([web(project="other")], False, id="run as another project"),
        pytest.param([web(), container(service="old")], False, id="an orphan beside it"),
        pytest.param([container(service="old")], False, id="only an orphan"),
        pytest.param([web("created")], False, id="never started"),
        pytest.param([web("paused")], False, id="paused"),
        pytest.param([web("restarting")], False, id="restarting"),
        pytest.param([web(), web("exited", id="second")], False, id="one replica ended"),
        pytest.param([exited(0, "no", finished_at=BOOT - 1)], False, id="one-shot, last boot"),
        pytest.param([exited(0, "no", finished_at=None)], False, id="one-shot that never ended"),
        pytest.param([exited(1, "no")], False, id="one-shot that failed"),
        pytest.param([exited(0, "always")], False, id="stopped, but should run"),
        pytest.param([exited(0, "unless-stopped")], False, id="stopped by hand"),
    ],
)
def test_runs_as_wanted(found: list[Container], known: bool) -> None:
    assert runs_as_wanted(app(), found, BOOT) is known


def test_an_app_that_was_not_published_is_left_to_compose() -> None:
    unpublished = app("shop", service(published_hash=None))
    assert not runs_as_wanted(unpublished, [web(published_hash=None)], BOOT)


def test_an_app_of_which_one_service_is_missing_is_left_to_compose() -> None:
    assert not runs_as_wanted(PAIR, [web()], BOOT)
    assert runs_as_wanted(PAIR, [web(), container(service="worker", published_hash=HASH)], BOOT)


@pytest.mark.parametrize(
    ("checked", "expected"),
    [
        pytest.param(started(1, restarts=1), True, id="restarted a moment ago"),
        pytest.param(started(2, restarts=1), False, id="restarted, and has settled since"),
        pytest.param(started(-60, restarts=1), False, id="restarted, the clock was set back since"),
        pytest.param(started(1), False, id="started a moment ago"),
        pytest.param(web("restarting", restarts=1), True, id="waits for its next start"),
        pytest.param(exited(1, "no", restarts=1), False, id="ended for good"),
    ],
)
def test_a_restarted_container_keeps_restarting_until_it_has_settled(
    checked: Container, expected: bool
) -> None:
    assert keeps_restarting(checked, NOW, Settings()) is expected
