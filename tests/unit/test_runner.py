"""Executing a plan: order, bounds, repairs and verdicts, with stand-ins for compose and dockerd."""

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest
from compose_apps_early_start import bundle, runner
from compose_apps_early_start.bundle import SpaceError
from compose_apps_early_start.cause import NOT_TRIED, Cause, Failure
from compose_apps_early_start.compose import Compose
from compose_apps_early_start.container import Container
from compose_apps_early_start.engine import Engine, Watch
from compose_apps_early_start.errors import EngineError, InterruptedRun
from compose_apps_early_start.plan import Action, AppPlan, Plan, Step
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.report import Event, Kind, Report
from compose_apps_early_start.restorable import Restorable
from compose_apps_early_start.runner import Runner
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Descriptor, Image, Store, StoreError, Version
from unit.given import NO_STORE, app, container, selection

LONG = 10.0
"""Seconds that no test waits through unless it fails."""


class FakeWatch(Watch):
    """No events: everybody looks again soon."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.losses = 0

    def count(self, project: str) -> int:
        return 0

    def wait(self, project: str, count: int, seconds: float) -> None:
        self.closed.wait(min(seconds, 0.005))

    def close(self) -> None:
        self.closed.set()


class FakeEngine(Engine):
    """A dockerd that holds what a test puts into it: containers by folder, or an error."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[Container, ...]] = {}
        self.words: dict[str, str] = {}
        self.errors: list[EngineError] = []
        self.watching = FakeWatch()

    def containers(self, folder: str | None = None) -> tuple[Container, ...]:
        if self.errors:
            raise self.errors.pop()
        assert folder is not None
        return self.held.get(folder, ())

    def last_words(self, container: str) -> str | None:
        return self.words.get(container)

    def watch(self) -> Watch:
        return self.watching


Ending = Failure | None | Callable[[float], Failure | None]
"""How a call of compose ends; a function gets the deadline."""


class FakeCompose(Compose):
    """A compose whose calls end as a test says, and with containers if they end well."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.calls: list[str] = []
        self.log: list[str] = []
        self.endings: dict[str, list[Ending]] = defaultdict(list)
        self.active: set[str] = set()
        self.together: list[set[str]] = []
        self.cancelled = threading.Event()
        self._guard = threading.Lock()

    def up(self, folder: Path, deadline: float, *, recreate: bool = False) -> Failure | None:
        return self._call("recreate" if recreate else "up", folder.name, deadline)

    def down(self, folder: Path, deadline: float) -> Failure | None:
        with self._guard:
            self.calls.append(f"down {folder.name}")
        return None

    def cancel(self) -> None:
        self.cancelled.set()

    def _call(self, what: str, name: str, deadline: float) -> Failure | None:
        with self._guard:
            self.calls.append(f"{what} {name}")
            self.log.append(f"{what} {name}")
            self.active.add(name)
            self.together.append(set(self.active))
            endings = self.endings[name]
            # The last ending stays.
            ending = None if not endings else endings.pop(0) if len(endings) > 1 else endings[0]
        try:
            failure = ending(deadline) if callable(ending) else ending
        finally:
            with self._guard:
                self.active.discard(name)
                self.log.append(f"end {name}")
        of = app(name)
        if failure is None:
            self.engine.held.setdefault(str(of.folder), (container(of),))
        return failure

    def hang(self, deadline: float) -> Failure:
        """End no sooner than time is up, or the run is cancelled."""
        if self.cancelled.wait(deadline - time.monotonic()):
            return Failure(Cause.INTERRUPTED, "cancelled")
        return Failure(Cause.TIMEOUT, "'docker compose up' did not end in time")


@dataclass
class Device:
    """Everything that a run touches, and what it told."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    events: list[Event] = field(default_factory=list)
    store: Store = NO_STORE
    settings: Settings = field(
        default_factory=lambda: Settings(
            app_seconds=LONG, run_seconds=LONG, engine_seconds=0.2, settle_seconds=0.0
        )
    )

    def __post_init__(self) -> None:
        self.compose = FakeCompose(self.engine)

    def run(self, *wanted: App | AppPlan, ready: float | None = None) -> bool:
        """Run the apps; each that is no plan yet has to be brought up."""
        plans = tuple(
            each if isinstance(each, AppPlan) else AppPlan(each, (Step(Action.UP),))
            for each in wanted
        )
        ready = time.monotonic() if ready is None else ready
        made = Runner(
            self.settings,
            self.engine,
            self.compose,
            self.store,
            Report([self.events.append]),
            ready,
        )
        complete = made.run(Plan(selection(*(each.app for each in plans)), plans, True))
        assert self.engine.watching.closed.is_set()  # else its thread would stay
        return complete

    def told(self, name: str) -> list[Kind]:
        return [each.kind for each in self.events if each.app == name]

    def ends(self) -> dict[str, str | None]:
        """How each app ended: its cause, None if it runs. Fails if one was told twice."""
        final = [each for each in self.events if each.kind in (Kind.RUNNING, Kind.FAILED)]
        names = [str(each.app) for each in final]
        assert len(set(names)) == len(names), f"told twice: {names}"
        return {str(each.app): each.cause for each in final}

    def message(self, name: str) -> str:
        """What was told in the end of an app that failed."""
        (event,) = [each for each in self.events if each.app == name and each.kind is Kind.FAILED]
        return event.message


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(runner, "FIRST_BACK_OFF", 0.01)
    monkeypatch.setattr(runner, "LONGEST_BACK_OFF", 0.02)
    return Device()


def fail(cause: Cause) -> Failure:
    return Failure(cause, f"compose said {cause.label}")


# When all goes well


def test_an_app_is_brought_up_and_told_to_run(device: Device) -> None:
    assert device.run(app("shop")) is True
    assert device.compose.calls == ["up shop"]
    assert device.told("shop") == [Kind.STARTING, Kind.UP, Kind.RUNNING]
    assert device.ends() == {"shop": None}
    assert all(0 <= (each.seconds or 0) < LONG for each in device.events)


def test_nothing_wanted_is_nothing_done(device: Device) -> None:
    assert device.run() is True
    assert device.events == []


def test_apps_are_dispatched_in_order(device: Device) -> None:
    device.settings = Settings(parallel=1, settle_seconds=0.0)
    names = ["c", "a", "d", "b"]
    assert device.run(*(app(name) for name in names))
    assert device.compose.calls == [f"up {name}" for name in names]


def test_no_more_come_up_at_once_than_is_allowed_and_no_fewer(device: Device) -> None:
    device.settings = Settings(parallel=2, settle_seconds=0.0)
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        device.compose.endings[name] = [lambda _: time.sleep(0.03)]
    device.run(*(app(name) for name in names))
    assert max(len(each) for each in device.compose.together) == 2
    assert device.ends() == dict.fromkeys(names)


def test_settling_takes_no_place_from_those_that_wait_to_come_up(device: Device) -> None:
    device.settings = Settings(parallel=1, settle_seconds=0.0, health_seconds=LONG)
    checked = container(app("slow"), health="starting")
    device.engine.held[checked.folder] = (checked,)

    def slow_becomes_healthy(_: float) -> None:
        device.engine.held[checked.folder] = (container(app("slow"), health="healthy"),)

    device.compose.endings["quick"] = [slow_becomes_healthy]
    device.run(app("slow"), app("quick"))
    assert device.ends() == {"slow": None, "quick": None}


def test_an_app_that_runs_already_costs_no_compose_but_is_judged(device: Device) -> None:
    running = container(app("shop"))
    device.engine.held[running.folder] = (running,)
    device.run(AppPlan(app("shop"), ()))
    assert device.compose.calls == []
    assert device.told("shop") == [Kind.RUNNING]


def test_an_app_that_the_plan_gave_up_is_told_and_not_touched(device: Device) -> None:
    missing = Failure(Cause.IMAGE_MISSING, "image x is not on this device")
    device.run(AppPlan(app("shop"), (), ("x",), missing), app("other"))
    assert device.compose.calls == ["up other"]
    assert device.told("shop") == [Kind.FAILED]
    assert device.ends() == {"shop": "image-missing", "other": None}


# What has to be put back first


class Putting:
    """Stands for the loader, which waits until a test says that it may end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.failure: Failure | None = None
        self.loads: list[str] = []

    def load(self, image: Image, app: str, _version: Version, deadline: float) -> Failure | None:
        self.loads.append(app)
        assert self.may_end.wait(deadline - time.monotonic())
        return self.failure

    def cancel(self) -> None:
        self.failure = NOT_TRIED
        self.may_end.set()


@pytest.fixture
def putting(monkeypatch: pytest.MonkeyPatch) -> Putting:
    made = Putting()
    monkeypatch.setattr(runner, "Loader", lambda *_: made)
    return made


BLOB = Descriptor("c" * 64, 1, "")
LOAD = Step(Action.LOAD, Image("hub.example.test/web@sha256:" + "c" * 64, (BLOB,), BLOB, ()))
RESTORE = Step(Action.RESTORE)


def stored(name: str, *steps: Step) -> AppPlan:
    """An app of which something has to be put back, according to `steps`."""
    damaged = ("docker-compose.yml",) if RESTORE in steps else ()
    restorable = Restorable(Version(name, "uri", Path("/store") / name), {}, damaged)
    return AppPlan(app(name, restorable=restorable), (*steps, Step(Action.UP)))


def test_an_app_that_waits_for_its_image_takes_no_place_from_others(
    device: Device, putting: Putting
) -> None:
    device.settings = Settings(parallel=1, settle_seconds=0.0, run_seconds=LONG)
    device.compose.endings["last"] = [lambda _: putting.may_end.set()]
    device.run(stored("a", LOAD), stored("b", LOAD), app("first"), app("last"))
    assert device.compose.calls[:2] == ["up first", "up last"]
    assert sorted(device.compose.calls[2:]) == ["up a", "up b"]
    assert max(len(each) for each in device.compose.together) == 1
    assert device.ends() == dict.fromkeys(("a", "b", "first", "last"))


def test_the_first_load_waits_until_the_apps_are_up_that_need_none(
    device: Device, putting: Putting, monkeypatch: pytest.MonkeyPatch
) -> None:
    putting.may_end.set()
    monkeypatch.setattr(bundle, "restore", lambda *_: time.sleep(0.02))
    device.settings = Settings(parallel=1, settle_seconds=0.0, run_seconds=LONG)
    begun: list[list[str]] = []
    for name in ("b", "c"):
        device.compose.endings[name] = [lambda _: begun.append(list(putting.loads))]
    device.run(stored("a", LOAD), app("b"), stored("c", RESTORE))
    assert begun == [[], []]
    assert putting.loads == ["a"]


def test_a_load_does_not_wait_for_ever_for_an_app_that_hangs(
    device: Device, putting: Putting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOADING_PATIENCE", 0.05)
    device.settings = Settings(app_seconds=0.5, settle_seconds=0.0)
    putting.may_end.set()
    device.compose.endings["hangs"] = [device.compose.hang]
    device.run(stored("shop", LOAD), app("hangs"))
    assert device.ends() == {"shop": None, "hangs": "timeout"}
    assert device.compose.log.index("end shop") < device.compose.log.index("end hangs")


def test_an_app_whose_image_cannot_be_loaded_is_told_and_not_brought_up(
    device: Device, putting: Putting
) -> None:
    putting.failure = fail(Cause.IMAGE_NOT_LOADED)
    putting.may_end.set()
    device.run(stored("shop", LOAD, LOAD), app("other"))
    assert device.compose.calls == ["up other"]
    assert putting.loads == ["shop"]
    assert device.ends() == {"shop": "image-not-loaded", "other": None}


def test_the_time_that_a_load_takes_is_not_the_apps_own(device: Device, putting: Putting) -> None:
    device.settings = Settings(app_seconds=0.2, run_seconds=LONG, settle_seconds=0.0)
    threading.Timer(0.4, putting.may_end.set).start()
    device.run(stored("shop", LOAD))
    assert device.ends() == {"shop": None}


def test_an_interrupted_run_ends_a_load(
    device: Device, putting: Putting, interrupt: Callable[[], None]
) -> None:
    device.compose.endings["other"] = [lambda _: interrupt()]
    assert device.run(stored("shop", LOAD), app("other")) is False
    assert device.ends()["shop"] == "interrupted"
    assert "up shop" not in device.compose.calls


def test_an_app_is_not_put_back_again_when_it_is_tried_again(
    device: Device, putting: Putting
) -> None:
    putting.may_end.set()
    device.compose.endings["shop"] = [fail(Cause.PORT_TAKEN), None]
    device.run(stored("shop", LOAD))
    assert putting.loads == ["shop"]
    assert device.compose.calls == ["up shop", "up shop"]


def test_containers_over_a_folder_that_was_put_back_are_not_created_anew(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[str] = []
    monkeypatch.setattr(
        bundle, "restore", lambda _store, _version, _hashes, to, _: restored.append(to.name)
    )
    device.run(stored("shop", RESTORE))
    assert restored == ["shop"]
    assert device.compose.calls == ["up shop"]
    assert device.told("shop") == [Kind.RESTORED, Kind.STARTING, Kind.UP, Kind.RUNNING]


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (StoreError("blob x is damaged"), Cause.STORE_DAMAGED, "blob x is damaged"),
        (SpaceError("9 bytes, 1 are free"), Cause.NO_SPACE, "9 bytes, 1 are free"),
        (OSError(30, "Read-only file system", "/x"), Cause.FOLDER_NOT_RESTORED,
         "/x: Read-only file system"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_put_back_fails_its_app_alone(
    device: Device, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: Cause, words: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(bundle, "restore", fails)
    device.run(stored("shop", RESTORE), app("other"))
    assert device.compose.calls == ["up other"]
    assert device.ends() == {"shop": cause.label, "other": None}
    assert device.message("shop") == words


# Repairs

UP, RECREATE, DOWN = "up shop", "recreate shop", "down shop"


@pytest.mark.parametrize(
    ("cause", "calls"),
    [
        (Cause.IMAGE_MISSING, [UP]),
        (Cause.NO_SPACE, [UP]),
        (Cause.COMPOSE_FILE_INVALID, [UP]),
        (Cause.TIMEOUT, [UP]),
        (Cause.PORT_TAKEN, [UP, UP]),
        (Cause.SUBNET_TAKEN, [UP, UP]),
        (Cause.NAME_TAKEN, [UP, UP]),
        (Cause.DEPENDENCY_FAILED, [UP, UP, RECREATE]),
        (Cause.START_FAILED, [UP, UP, RECREATE]),
        (Cause.NETWORK_STALE, [UP, RECREATE, DOWN, UP]),
        (Cause.COMPOSE_FAILED, [UP, UP, RECREATE, DOWN, UP]),
    ],
    ids=lambda value: value.label if isinstance(value, Cause) else "",
)
def test_the_ladder_of_each_cause_is_climbed_once_to_its_end(
    device: Device, cause: Cause, calls: list[str]
) -> None:
    device.compose.endings["shop"] = [fail(cause)]
    assert device.run(app("shop")) is True
    assert device.compose.calls == calls
    assert device.ends() == {"shop": cause.label}
    assert device.message("shop") == f"compose said {cause.label}"
    tries = calls.count(UP) + calls.count(RECREATE)
    assert device.told("shop") == [Kind.STARTING, *[Kind.RETRYING] * (tries - 1), Kind.FAILED]


def test_the_ladder_ends_where_the_app_runs(device: Device) -> None:
    device.compose.endings["shop"] = [fail(Cause.COMPOSE_FAILED), fail(Cause.NETWORK_STALE), None]
    device.run(app("shop"))
    assert device.compose.calls == [UP, UP, RECREATE]
    assert device.ends() == {"shop": None}
    retries = [each for each in device.events if each.kind is Kind.RETRYING]
    assert [(each.cause, each.message) for each in retries] == [
        ("compose-failed", "compose said compose-failed; trying up again, alone"),
        ("network-stale", "compose said network-stale; trying up --force-recreate"),
    ]


def test_a_container_that_failed_is_repaired_like_a_compose_that_did(device: Device) -> None:
    ended = container(app("shop"), state="exited", exit_code=1, restart_policy="no")
    device.engine.held[ended.folder] = (ended,)
    device.run(app("shop"))
    assert device.compose.calls == [UP, UP, RECREATE]
    assert device.ends() == {"shop": "exited"}


def test_an_app_that_ran_already_and_does_not_any_more_is_brought_up(device: Device) -> None:
    lost = AppPlan(app("shop"), ())
    device.run(lost)
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": None}


def test_the_last_words_of_a_container_are_told(device: Device) -> None:
    ended = container(app("shop"), state="exited", exit_code=3, restart_policy="no")
    device.engine.held[ended.folder] = (ended,)
    device.engine.words[ended.id] = "cannot open db"
    device.run(app("shop"))
    assert device.message("shop") == (
        "container 'shop-web-1' ended with exit status 3: cannot open db"
    )


def test_first_attempts_run_side_by_side_and_later_ones_alone(device: Device) -> None:
    everybody = threading.Barrier(3)

    def clash(_: float) -> Failure:
        everybody.wait(LONG)
        return fail(Cause.PORT_TAKEN)

    def alone(_: float) -> None:
        time.sleep(0.02)

    for name in ("a", "b", "c"):
        device.compose.endings[name] = [clash, alone]
    device.run(app("a"), app("b"), app("c"))
    assert device.ends() == {"a": None, "b": None, "c": None}
    assert device.compose.together[3:] == [{"a"}, {"b"}, {"c"}]


def test_what_comes_later_is_tried_until_it_is_there(device: Device) -> None:
    not_yet = fail(Cause.NETWORK_MISSING)
    device.compose.endings["shop"] = [not_yet] * 6 + [None]
    device.run(app("shop"))
    assert device.compose.calls == [UP] * 7
    assert device.ends() == {"shop": None}


def test_what_never_comes_is_tried_until_the_apps_time_is_up(device: Device) -> None:
    device.settings = Settings(app_seconds=0.3, settle_seconds=0.0)
    device.compose.endings["shop"] = [fail(Cause.VOLUME_MISSING)]
    began = time.monotonic()
    assert device.run(app("shop")) is True
    assert time.monotonic() - began < LONG / 2
    assert len(device.compose.calls) > 5
    assert device.ends() == {"shop": "external-volume-missing"}


# Hangs


def test_an_app_that_hangs_holds_back_no_other_for_longer_than_patience(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.05)
    device.settings = Settings(parallel=1, app_seconds=0.5, settle_seconds=0.0)
    device.compose.endings["hangs"] = [device.compose.hang]
    device.run(app("hangs"), app("shop"), app("other"))
    assert device.ends() == {"hangs": "timeout", "shop": None, "other": None}
    assert device.compose.log.index("end other") < device.compose.log.index("end hangs")


def test_an_app_that_hangs_holds_back_no_others_retry(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.05)
    device.settings = Settings(app_seconds=0.5, settle_seconds=0.0)
    device.compose.endings["hangs"] = [device.compose.hang]
    device.compose.endings["shop"] = [fail(Cause.NETWORK_STALE), None]
    device.run(app("hangs"), app("shop"))
    assert device.ends() == {"hangs": "timeout", "shop": None}
    assert device.compose.log[-1] == "end hangs"


def test_an_app_that_hangs_when_it_is_tried_again_holds_back_no_other(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.05)
    device.settings = Settings(app_seconds=0.5, settle_seconds=0.0)
    device.compose.endings["hangs"] = [fail(Cause.NETWORK_STALE), device.compose.hang]
    device.compose.endings["shop"] = [fail(Cause.NETWORK_STALE), None]
    device.run(app("hangs"), app("shop"))
    assert device.ends() == {"hangs": "timeout", "shop": None}
    assert device.compose.log[-1] == "end hangs"


def test_a_timeout_names_what_was_waited_for(device: Device) -> None:
    device.settings = Settings(app_seconds=0.1, settle_seconds=0.0)
    device.engine.held[str(app().folder)] = (
        container(service="web"),
        container(service="db", health="starting"),
        container(service="job", state="created"),
    )
    device.compose.endings["shop"] = [device.compose.hang]
    device.run(app("shop"))
    assert device.ends() == {"shop": "timeout"}
    assert device.message("shop") == (
        "'docker compose up' did not end in time; container 'shop-db-1' is starting; "
        "container 'shop-job-1' is created"
    )


def test_containers_that_do_not_settle_in_the_apps_time_are_a_timeout(device: Device) -> None:
    device.settings = Settings(app_seconds=0.1, settle_seconds=0.0, health_seconds=LONG)
    checked = container(health="starting")
    device.engine.held[checked.folder] = (checked,)
    device.run(app("shop"))
    assert device.ends() == {"shop": "timeout"}
    assert device.message("shop") == (
        "the containers did not settle in time; container 'shop-web-1' is starting"
    )


@pytest.mark.parametrize("state", ["restarting", "running"])
def test_a_crash_loop_too_slow_to_be_counted_in_the_apps_time_is_told_as_one(
    device: Device, state: str
) -> None:
    device.settings = Settings(app_seconds=0.1, settle_seconds=LONG)
    looping = container(state=state, restarts=1, exit_code=7, started_at=time.time())
    device.engine.held[looping.folder] = (looping,)
    device.run(app("shop"))
    assert device.ends() == {"shop": "crash-loop"}
    assert device.message("shop").startswith(
        "container 'shop-web-1' was restarted 1 times, last exit status 7"
    )


def test_the_time_of_the_whole_run_bounds_that_of_an_app(device: Device) -> None:
    device.settings = Settings(app_seconds=LONG, run_seconds=0.1, settle_seconds=0.0)
    device.compose.endings["shop"] = [device.compose.hang]
    began = time.monotonic()
    device.run(app("shop"))
    assert time.monotonic() - began < LONG / 2
    assert device.ends() == {"shop": "run-timeout"}


def test_an_app_whose_turn_comes_too_late_is_told_so(device: Device) -> None:
    device.settings = Settings(run_seconds=60, settle_seconds=0.0)
    device.run(app("shop"), ready=time.monotonic() - 61)
    assert device.compose.calls == []
    assert device.ends() == {"shop": "run-timeout"}
    assert device.message("shop") == "the time of the whole run was up before its turn"


# An engine that goes away

LOST = fail(Cause.ENGINE_LOST)


class Connect:
    """Stands for `Engine.connect`: how long it was to wait, and whether dockerd comes back."""

    def __init__(self, *, comes: bool) -> None:
        self.comes = comes
        self.seconds: list[float] = []

    def __call__(self, settings: Settings, seconds: float) -> None:
        self.seconds.append(seconds)
        if not self.comes:
            time.sleep(max(0.0, seconds))
            raise EngineError("dockerd did not answer", "look at it")


def test_a_dockerd_that_comes_back_is_waited_for(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Connect(comes=True)
    monkeypatch.setattr(Engine, "connect", connect)
    device.compose.endings["a"] = [LOST, None]
    device.compose.endings["b"] = [LOST, None]
    device.run(app("a"), app("b"))
    assert device.ends() == {"a": None, "b": None}
    assert connect.seconds == pytest.approx([0.2, 0.2], abs=0.05)


def test_a_dockerd_that_does_not_is_waited_for_once_by_all_apps_together(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Connect(comes=False)
    monkeypatch.setattr(Engine, "connect", connect)
    names = ["a", "b", "c", "d"]
    for name in names:
        device.compose.endings[name] = [LOST]
    device.run(*(app(name) for name in names))
    assert set(device.ends().values()) <= {"engine-lost", "engine-unavailable"}
    assert sorted(device.ends()) == names
    assert sum(max(0.0, each) for each in connect.seconds) < 0.25
    assert len(device.compose.calls) == len(names)


def test_a_dockerd_that_goes_while_the_containers_settle_is_an_engine_lost(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "connect", Connect(comes=True))
    device.engine.errors = [EngineError("dockerd does not answer: EOF", "look at it")]
    device.run(app("shop"))
    retries = [each for each in device.events if each.kind is Kind.RETRYING]
    assert [each.cause for each in retries] == ["engine-lost"]
    assert retries[0].message.startswith("dockerd does not answer: EOF; trying ")
    assert device.ends() == {"shop": None}


# Ends from outside, and defects


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Ask the main thread for an end, as the handler of SIGTERM does."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedRun

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_an_interrupted_run_ends_compose_and_tells_every_app(
    device: Device, interrupt: Callable[[], None]
) -> None:
    device.settings = Settings(parallel=2, app_seconds=LONG, settle_seconds=0.0)
    checked = container(app("settles"), health="starting")
    device.engine.held[checked.folder] = (checked,)

    def interrupted(deadline: float) -> Failure:
        interrupt()
        return device.compose.hang(deadline)

    missing = Failure(Cause.IMAGE_MISSING, "image x is not on this device")
    device.compose.endings["hangs"] = [device.compose.hang]
    device.compose.endings["last"] = [interrupted]
    began = time.monotonic()
    complete = device.run(
        AppPlan(app("broken"), (), failure=missing),
        app("runs"),
        app("settles"),
        app("hangs"),
        app("last"),
        app("never"),
    )
    assert time.monotonic() - began < LONG / 2
    assert complete is False
    assert device.compose.cancelled.is_set()
    assert "up never" not in device.compose.calls
    assert device.ends() == {
        "broken": "image-missing",
        "runs": None,
        "settles": "interrupted",
        "hangs": "interrupted",
        "last": "interrupted",
        "never": "interrupted",
    }
    assert device.message("never") == "the run was ended before its turn"
    assert device.message("settles") == "the run was ended before the app had settled"


def test_an_app_whose_repair_was_interrupted_is_told_with_its_own_cause(
    device: Device, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FIRST_BACK_OFF", LONG / 2)

    def clash(_: float) -> Failure:
        threading.Timer(0.05, interrupt).start()
        return fail(Cause.PORT_TAKEN)

    device.compose.endings["shop"] = [clash]
    assert device.run(app("shop")) is False
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": "port-taken"}


def test_a_defect_of_ours_fails_one_app_and_hangs_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def defect(_: float) -> None:
        raise ValueError("a defect")

    device.compose.endings["shop"] = [defect]
    began = time.monotonic()
    assert device.run(app("shop"), app("other")) is True
    assert time.monotonic() - began < LONG / 2
    assert device.ends() == {"shop": "interrupted", "other": None}
    assert device.message("shop") == "the attempt ended unexpectedly"
    assert [each.exc_type for each in shown] == [ValueError]  # and it is not swallowed


def test_an_app_that_ended_with_dockerd_is_not_taken_for_a_one_shot(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart(_deadline: float) -> None:
        device.engine.watching.losses += 1
        # As a worker without a restart policy looks after that.
        ended = container(app("shop"), state="exited", exit_code=0, restart_policy="no")
        device.engine.held[ended.folder] = (ended,)

    monkeypatch.setattr(Engine, "connect", lambda *_: device.engine)
    device.compose.endings["shop"] = [restart, None]
    assert device.run(app("shop")) is True
    assert device.compose.calls == ["up shop", "up shop"]
    assert Kind.RETRYING in device.told("shop")
