"""Whether an app runs, judged by what the engine says of its containers."""

from typing import Any

import pytest
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.container import Container
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.verdict import (
    RESTART_SETTLE_FACTOR,
    Finished,
    Need,
    Runs,
    Verdict,
    Waits,
    is_up_to_date,
    judge,
)
from unit.builders import HASH, IMAGE, app, container, service

SETTLE = 10.0
ID = "id-of-shop-web"
LONG = 60.0
"""Seconds until a container is looked at again that only an event can change."""


def verdict(
    *containers: Container,
    of: App | None = None,
    finished: Finished = (),
    brought_up: bool = False,
) -> Verdict:
    return judge(
        of or app(),
        containers,
        settle_seconds=SETTLE,
        finished=finished,
        brought_up=brought_up,
    )


def web(state: str = "running", **changes: Any) -> Container:
    return container(state=state, **changes)


def exited(code: int, policy: str = "no", **changes: Any) -> Container:
    return web("exited", **{"exit_code": code, "restart_policy": policy, "up_for": None, **changes})


def loops(message: str) -> Failure:
    return Failure(Cause.CRASH_LOOP, f"container 'shop-web-1' was restarted {message}", ID)


def ended(message: str, words: str = "") -> Failure:
    return Failure(Cause.EXITED, f"container 'shop-web-1' ended with {message}", None if words
                   else ID)  # fmt: skip


def not_started(state: str, words: str = "") -> Failure:
    identifier = None if words else ID
    return Failure(Cause.NOT_STARTED, f"container 'shop-web-1' is {state}{words}", identifier)


def only_for(seconds: str) -> Failure:
    return Failure(Cause.TIMEOUT, f"container 'shop-web-1' has run for {seconds} s only")


UNKNOWN_HEALTH = Runs("the health of web is not known yet")
NO_NETWORK = Failure(Cause.NETWORK_STALE, "container 'shop-web-1' runs without a network")
UNHEALTHY = Failure(Cause.UNHEALTHY, "container 'shop-web-1' is unhealthy", ID)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(web(), Runs(), id="has been running for an hour"),
        pytest.param(web(up_for=10.0), Runs(), id="has just settled"),
        pytest.param(web(health="healthy"), Runs(), id="healthy"),
        pytest.param(web(restarts=9), Runs(), id="many restarts, an hour ago"),
        pytest.param(web(restarts=1, up_for=60.0), Runs(), id="a restart, a minute ago"),
        pytest.param(web(network_mode="host", networks=()), Runs(), id="on the host's network"),
        pytest.param(web(network_mode="none", networks=()), Runs(), id="wants no network"),
        pytest.param(
            web(network_mode="container:ab12", networks=()), Runs(), id="in another's network"
        ),
        # Time may change it.
        pytest.param(
            web(up_for=4.0), Waits("web is settling", 6.0, only_for("4")), id="settling"
        ),
        pytest.param(
            web(up_for=None), Waits("web is settling", 10.0, only_for("0")), id="just begun"
        ),
        pytest.param(
            web(up_for=4.0, health="healthy"),
            Waits("web is settling", 6.0, only_for("4")),
            id="healthy, and settling",
        ),
        pytest.param(
            web(up_for=4.0, health="unhealthy"),
            Waits("web is settling", 6.0, only_for("4")),
            id="settles first, whatever its check says",
        ),
        pytest.param(
            web(health="starting"),
            Waits("web is starting", LONG, UNKNOWN_HEALTH),
            id="its check has not spoken yet: no failure",
        ),
        pytest.param(
            web(health="unhealthy"),
            Waits("web is unhealthy", LONG, UNHEALTHY),
            id="unhealthy, which may pass",
        ),
        pytest.param(
            web(restarts=1, up_for=12.0),
            Waits("web restarted once", 48.0, loops("1 times, the last time 12 s ago")),
            id="restarted: six times as long",
        ),
        pytest.param(
            web(restarts=5, up_for=59.5, health="healthy"),
            Waits("web restarted 5 times", 0.5, loops("5 times, the last time 60 s ago")),
            id="restarted, nearly settled",
        ),
        pytest.param(
            web("restarting", restarts=5, exit_code=7, up_for=None),
            Waits("web restarted 5 times", 10.0, loops("5 times, last exit status 7")),
            id="waits for its next start",
        ),
        pytest.param(
            web("restarting", restarts=2, exit_code=137, out_of_memory=True, up_for=None),
            Waits(
                "web restarted 2 times",
                10.0,
                loops("2 times, last exit status 137 (killed for lack of memory)"),
            ),
            id="killed for memory again and again",
        ),
        # A network may change it.
        pytest.param(
            web(networks=()),
            Waits("web has no network", LONG, NO_NETWORK, Need.NETWORK),
            id="without the network that it should have",
        ),
        pytest.param(
            web(networks=(), up_for=1.0, restarts=3, health="unhealthy"),
            Waits("web has no network", LONG, NO_NETWORK, Need.NETWORK),
            id="without a network, which explains the rest",
        ),
        # `up` may change it.
        pytest.param(
            exited(0),
            Waits("web ended with exit status 0", LONG, ended("exit status 0"), Need.UP),
            id="ended with 0, but nobody saw it",
        ),
        pytest.param(
            exited(1),
            Waits("web ended with exit status 1", LONG, ended("exit status 1"), Need.UP),
            id="ended with 1",
        ),
        pytest.param(
            exited(137, out_of_memory=True),
            Waits(
                "web ended with exit status 137 (killed for lack of memory)",
                LONG,
                ended("exit status 137 (killed for lack of memory)"),
                Need.UP,
            ),
            id="killed for memory",
        ),
        pytest.param(
            exited(137, "on-failure", restarts=3),
            Waits("web ended with exit status 137", LONG, ended("exit status 137"), Need.UP),
            id="on-failure that dockerd does not try any more",
        ),
        pytest.param(
            exited(128, "always", error="no such device"),
            Waits(
                "web ended with exit status 128",
                LONG,
                ended("exit status 128: no such device", "no such device"),
                Need.UP,
            ),
            id="dockerd could not start it: its words, not its log",
        ),
        *(
            pytest.param(
                web(state, up_for=None),
                Waits(f"web is {state}", LONG, not_started(state), Need.UP),
                id=state,
            )
            for state in ("created", "dead", "removing", "unreadable")
        ),
        pytest.param(
            web("created", up_for=None, error="port is taken"),
            Waits("web is created", LONG, not_started("created", ": port is taken"), Need.UP),
            id="created, and dockerd said why",
        ),
        # Nothing that the agent may do changes it.
        pytest.param(
            web("paused"),
            Failure(Cause.PAUSED, "container 'shop-web-1' is paused"),
            id="paused",
        ),
    ],
)  # fmt: skip
def test_one_container(found: Container, expected: Verdict) -> None:
    assert verdict(found) == expected


@pytest.mark.parametrize("policy", ["no", "on-failure"])
def test_a_one_shot_is_done_if_it_ended_under_this_dockerd(policy: str) -> None:
    done = exited(0, policy, finished_at="2026-11-23T08:00:00Z")
    assert verdict(done, brought_up=True) == Runs()
    assert verdict(done, finished={(done.id, "2026-11-23T08:00:00Z")}) == Runs()


@pytest.mark.parametrize(
    "finished",
    [
        pytest.param((), id="nothing is remembered"),
        pytest.param({(ID, "2026-11-22T08:00:00Z")}, id="another end of it is remembered"),
        pytest.param({("other", "2026-11-23T08:00:00Z")}, id="another container is remembered"),
    ],
)
def test_a_one_shot_that_may_have_ended_with_dockerd_is_not_done(finished: Finished) -> None:
    found = verdict(exited(0, finished_at="2026-11-23T08:00:00Z"), finished=finished)
    assert isinstance(found, Waits)
    assert found.need is Need.UP


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_what_should_run_is_not_done_because_it_ended_with_0(policy: str) -> None:
    stopped = exited(0, policy, finished_at="x")
    found = verdict(stopped, finished={(stopped.id, "x")}, brought_up=True)
    assert isinstance(found, Waits)
    assert (found.need, found.at_last) == (Need.UP, ended("exit status 0"))


def test_a_one_shot_that_failed_is_not_done() -> None:
    found = verdict(exited(1, finished_at="x"), finished={(ID, "x")}, brought_up=True)
    assert isinstance(found, Waits)
    assert found.need is Need.UP


def test_a_restarted_container_is_settled_after_six_times_the_settling_time() -> None:
    assert RESTART_SETTLE_FACTOR == 6
    almost = verdict(web(restarts=1, up_for=RESTART_SETTLE_FACTOR * SETTLE - 0.25))
    assert isinstance(almost, Waits)
    assert almost.seconds == 0.25
    assert verdict(web(restarts=1, up_for=RESTART_SETTLE_FACTOR * SETTLE)) == Runs()


# Several containers of one service, and several services

PAIR = app("shop", service("web"), service("worker"))
WORKER = container(service="worker")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([web(), WORKER], Runs(), id="both run"),
        pytest.param(
            [web(), WORKER, container(service="old", state="dead")],
            Runs(),
            id="a container of no service is not judged",
        ),
        pytest.param(
            [web(), WORKER, web("exited", one_off=True, exit_code=1)],
            Runs(),
            id="somebody's 'compose run' is not judged",
        ),
        pytest.param(
            [web(up_for=1.0), container(service="worker", up_for=4.0)],
            Waits("web is settling, worker is settling", 6.0, only_for("1")),
            id="neither has settled: looked at again when the first may have",
        ),
        pytest.param(
            [web(health="starting"), container(service="worker", health="starting")],
            Waits(
                "web is starting, worker is starting",
                LONG,
                Runs("the health of web is not known yet, the health of worker is not known yet"),
            ),
            id="neither check has spoken",
        ),
        pytest.param(
            [web(health="starting"), container(service="worker", health="unhealthy")],
            Waits(
                "web is starting, worker is unhealthy",
                LONG,
                Failure(
                    Cause.UNHEALTHY, "container 'shop-worker-1' is unhealthy", "id-of-shop-worker"
                ),
            ),
            id="a failure is told rather than what is not known",
        ),
        pytest.param(
            [web(up_for=1.0), container(service="worker", health="unhealthy")],
            Waits(
                "web is settling, worker is unhealthy",
                9.0,
                Failure(
                    Cause.UNHEALTHY, "container 'shop-worker-1' is unhealthy", "id-of-shop-worker"
                ),
            ),
            id="the more telling failure is told",
        ),
        pytest.param(
            [web("created", up_for=None), container(service="worker", restarts=1, up_for=3.0)],
            Waits(
                "web is created, worker restarted once",
                57.0,
                Failure(
                    Cause.CRASH_LOOP,
                    "container 'shop-worker-1' was restarted 1 times, the last time 3 s ago",
                    "id-of-shop-worker",
                ),
                Need.UP,
            ),
            id="one waits for 'up', the other is the reason",
        ),
        pytest.param(
            [web("created", up_for=None), container(service="worker", networks=())],
            Waits(
                "web is created, worker has no network",
                LONG,
                Failure(Cause.NETWORK_STALE, "container 'shop-worker-1' runs without a network"),
                Need.NETWORK,
            ),
            id="the network comes before 'up'",
        ),
        pytest.param(
            [web()],
            Waits(
                "worker has no container",
                LONG,
                Failure(Cause.NOT_STARTED, "service worker has no container"),
                Need.UP,
            ),
            id="one was never made",
        ),
        pytest.param(
            [],
            Waits(
                "web has no container, worker has no container",
                LONG,
                Failure(Cause.NOT_STARTED, "service web has no container"),
                Need.UP,
            ),
            id="none was made",
        ),
        pytest.param(
            [web(up_for=0.0), container(service="worker", state="paused")],
            Failure(Cause.PAUSED, "container 'shop-worker-1' is paused"),
            id="what cannot pass is told at once",
        ),
    ],
)
def test_an_app_of_two_services(found: list[Container], expected: Verdict) -> None:
    assert verdict(*found, of=PAIR) == expected


THREE = app("shop", service(replicas=3))


def replica(number: int, **changes: Any) -> Container:
    return web(**{"name": f"shop-web-{number}", "id": f"id-{number}", **changes})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([replica(1), replica(2), replica(3)], Runs(), id="as many as wanted"),
        pytest.param(
            [replica(number) for number in range(1, 6)], Runs(), id="more than wanted, all run"
        ),
        pytest.param(
            [replica(1), replica(2)],
            Waits(
                "web lacks 1 of its 3 containers",
                LONG,
                Failure(Cause.NOT_STARTED, "service web lacks 1 of its 3 containers"),
                Need.UP,
            ),
            id="one is lost",
        ),
        pytest.param(
            [replica(1), replica(2), replica(3, restarts=2, up_for=1.0)],
            Waits(
                "web restarted 2 times",
                59.0,
                Failure(
                    Cause.CRASH_LOOP,
                    "container 'shop-web-3' was restarted 2 times, the last time 1 s ago",
                    "id-3",
                ),
            ),
            id="one loops",
        ),
        pytest.param(
            [],
            Waits(
                "web has no container",
                LONG,
                Failure(Cause.NOT_STARTED, "service web has no container"),
                Need.UP,
            ),
            id="none",
        ),
    ],
)
def test_each_replica_counts(found: list[Container], expected: Verdict) -> None:
    assert verdict(*found, of=THREE) == expected


def test_an_app_without_services_runs() -> None:
    assert judge(
        App("shop", app().folder, "shop"), (), settle_seconds=1, finished=(), brought_up=False
    ) == Runs()  # fmt: skip


# What compose need not be called for

DONE = exited(0, finished_at="2026-11-23T08:00:00Z")
FINISHED = {(DONE.id, DONE.finished_at)}


@pytest.mark.parametrize(
    ("found", "known"),
    [
        pytest.param([web()], True, id="runs, by hash and image"),
        pytest.param([web(up_for=0.0, restarts=9)], True, id="runs, however long"),
        pytest.param([web("restarting")], True, id="dockerd restarts it by itself"),
        pytest.param(
            [web(), web("exited", one_off=True, image="x")], True, id="beside a 'compose run'"
        ),
        pytest.param([web(), container(service="old")], True, id="beside an orphan, left alone"),
        pytest.param([web(network_mode="host", networks=())], True, id="on the host's network"),
        pytest.param([DONE], True, id="a one-shot that is known to be done"),
        # Else compose decides.
        pytest.param([], False, id="nothing there"),
        pytest.param([container(service="old")], False, id="only an orphan"),
        pytest.param([web(published_hash="6" * 64)], False, id="made of another text"),
        pytest.param([web(published_hash=None)], False, id="not published"),
        pytest.param([web(image=IMAGE.replace("a", "b"))], False, id="made of another image"),
        pytest.param([web(project="other")], False, id="run as another project"),
        pytest.param([web(networks=())], False, id="without its network"),
        pytest.param([web("created")], False, id="never started"),
        pytest.param([web("paused")], False, id="paused"),
        pytest.param([web("unreadable")], False, id="cannot be inspected"),
        pytest.param([web(), replica(2)], False, id="more containers than wanted"),
        pytest.param([exited(0, finished_at="2026-11-22T08:00:00Z")], False, id="another end"),
        pytest.param([exited(0, "always", finished_at=DONE.finished_at)], False, id="stopped"),
        pytest.param([exited(1, finished_at=DONE.finished_at)], False, id="one-shot that failed"),
    ],
)
def test_is_up_to_date(found: list[Container], known: bool) -> None:
    assert is_up_to_date(app(), found, FINISHED) is known


def test_every_replica_has_to_be_there() -> None:
    three = [replica(1), replica(2), replica(3)]
    assert is_up_to_date(THREE, three, ())
    assert not is_up_to_date(THREE, three[:2], ())
    assert not is_up_to_date(THREE, [*three[:2], replica(3, state="exited")], ())


def test_an_app_that_was_not_published_is_left_to_compose() -> None:
    unpublished = app("shop", service(published_hash=None))
    assert not is_up_to_date(unpublished, [web(published_hash=None)], ())


def test_an_app_of_which_one_service_is_missing_is_left_to_compose() -> None:
    assert not is_up_to_date(PAIR, [web()], ())
    assert is_up_to_date(PAIR, [web(), container(service="worker", published_hash=HASH)], ())


# What a container says about itself


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        pytest.param(web("exited"), ("shop_default",), id="stopped, its network is gone"),
        pytest.param(web("created"), ("shop_default",), id="never started, its network is gone"),
        pytest.param(
            web("exited", networks=(("front", "f1"), ("back", "b1"))),
            ("back",),
            id="one of two is gone",
        ),
        pytest.param(web(), (), id="running: dockerd keeps what it uses"),
        pytest.param(web("exited", networks=(("front", "f1"),)), (), id="all are there"),
        pytest.param(web("created", networks=(("front", ""),)), (), id="never had one"),
        pytest.param(web("exited", networks=()), (), id="has none"),
    ],
)
def test_lost_networks(found: Container, lost: tuple[str, ...]) -> None:
    assert found.lost_networks({"f1"}) == lost


@pytest.mark.parametrize(
    ("found", "without"),
    [
        pytest.param(web(), False, id="connected"),
        pytest.param(web(networks=(), network_mode="none"), False, id="none wanted"),
        pytest.param(web(networks=(), network_mode="host"), False, id="the host's"),
        pytest.param(web(networks=(), network_mode="container:x"), False, id="another's"),
        pytest.param(web("exited", networks=()), False, id="does not run"),
        pytest.param(web(networks=()), True, id="runs without its network"),
        pytest.param(web(networks=(), network_mode="bridge"), True, id="without the bridge"),
    ],
)
def test_without_network(found: Container, without: bool) -> None:
    assert found.without_network is without
