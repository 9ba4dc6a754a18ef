"""Executing a plan with stand-ins for compose and dockerd: order, limits, repairs, verdicts."""

import itertools
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from compose_apps_early_start import bundle, lock, oneshots, runner
from compose_apps_early_start.bundle import SpaceError
from compose_apps_early_start.cause import NOT_TRIED, Cause, Failure
from compose_apps_early_start.compose import Compose
from compose_apps_early_start.container import Container
from compose_apps_early_start.engine import Engine, Watch
from compose_apps_early_start.errors import EngineError, InterruptedRun, RefusedError
from compose_apps_early_start.plan import Action, AppPlan, Plan, Step
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.report import Event, Kind, Report
from compose_apps_early_start.restorable import Restorable
from compose_apps_early_start.runner import Runner
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Descriptor, Image, Store, StoreError, Version
from compose_apps_early_start.verdict import Verdict, judge
from unit.builders import NETWORK, NO_STORE, app, container, selection, service

LONG = 10.0
"""Seconds that no test waits through unless it fails."""


class FakeWatch(Watch):
    """The real waiting, and the events that a test gives by `wake`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._changed: set[str] = set()
        self._closed = False
        self.losses = 0
        self.waits: list[float] = []

    def changes(self, seconds: float) -> frozenset[str]:
        self.waits.append(seconds)
        return super().changes(seconds)

    def lose(self) -> None:
        """dockerd went away."""
        self.losses += 1
        self.wake()

    @property
    def closed(self) -> bool:
        return self._closed


Held = tuple[Container, ...] | Callable[[], tuple[Container, ...]]


class FakeEngine(Engine):
    """A dockerd that holds what a test puts into it: containers by folder, or an error."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.words: dict[str, str] = {}
        self.errors: list[Exception] = []
        self.asked = 0
        self.known: dict[str, str] = {NETWORK: "shop_default", "made anew": "front"}
        self.refusal: str | None = None
        self.reconnected: list[str] = []
        self.process: str | None = "1:1"
        self.watching = FakeWatch()

    def containers(self, *folders: str) -> tuple[Container, ...]:
        if not folders:
            return ()
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        found: list[Container] = []
        for folder in folders:
            held = self.held.get(folder, ())
            found += held() if callable(held) else held
        return tuple(found)

    def hold(self, *containers: Container) -> None:
        """Have these be the containers of their folder from now on, and tell of the change."""
        self.held[containers[0].folder] = containers
        self.watching.wake(containers[0].project)

    def networks(self) -> Mapping[str, str]:
        return self.known

    def reconnect(self, container: Container, network: str) -> str | None:
        self.reconnected.append(f"{container.service} {network}")
        return self.refusal

    def identity(self) -> str | None:
        return self.process

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
        self.times: list[tuple[float, str]] = []
        self.endings: dict[str, list[Ending]] = defaultdict(list)
        self.active: set[str] = set()
        self.together: list[set[str]] = []
        self.cancelled = threading.Event()
        self._guard = threading.Lock()

    def up(self, folder: Path, deadline: float) -> Failure | None:
        return self._call("up", folder.name, deadline)

    def make_networks(self, folder: Path, deadline: float) -> Failure | None:
        self.calls.append(f"networks {folder.name}")
        return None

    def recreate(self, folder: Path, service: str, deadline: float) -> Failure | None:
        self.calls.append(f"recreate {folder.name} {service}")
        return None

    def cancel(self) -> None:
        self.cancelled.set()

    def _call(self, what: str, name: str, deadline: float) -> Failure | None:
        with self._guard:
            self.calls.append(f"{what} {name}")
            self.times.append((time.monotonic(), f"{what} {name}"))
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


class FakeLock(lock.Held):
    """The lock of the run, until a test gives it away."""

    def __init__(self) -> None:
        self.is_held = True

    def still_held(self) -> bool:
        return self.is_held


@dataclass
class Device:
    """Everything that a run touches, and what it told."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    lock: FakeLock = field(default_factory=FakeLock)
    events: list[Event] = field(default_factory=list)
    store: Store = NO_STORE
    settings: Settings = field(default_factory=Settings)

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
            self.lock,
            Report([self.events.append]),
            ready,
        )
        complete = made.run(Plan(selection(*(each.app for each in plans)), plans, True))
        assert self.engine.watching.closed  # else its thread would stay
        assert self.compose.cancelled.is_set()  # no compose outlives its run
        return complete

    def told(self, name: str) -> list[Kind]:
        return [each.kind for each in self.events if each.app == name]

    def ends(self) -> dict[str, str | None]:
        """How each app ended: its cause, None if it runs. Fails if that was not its last word."""
        final: dict[str, str | None] = {}
        for each in self.events:
            if each.app and each.kind is not Kind.NOTE:
                assert final.get(each.app) is None, f"{each} after the failure"
                final.pop(each.app, None)
            if each.kind in (Kind.RUNNING, Kind.FAILED):
                final[str(each.app)] = each.cause
        return final

    def times(self, name: str) -> list[float]:
        """When this app was brought up, in seconds since the first time."""
        began = [at for at, call in self.compose.times if call == f"up {name}"]
        return [at - began[0] for at in began]

    def message(self, name: str) -> str:
        """What was told in the end of an app that failed."""
        (event,) = [each for each in self.events if each.app == name and each.kind is Kind.FAILED]
        return event.message


def quick(settings: Settings, **changes: Any) -> Settings:
    """The settings of a run in which nothing is waited for long, with `changes`."""
    usual = {"app_seconds": LONG, "run_seconds": 2 * LONG, "engine_seconds": 0.2}
    return replace(settings, **{**usual, "settle_seconds": 0.0, **changes})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Device]:
    for name, seconds in {
        "FIRST_BACK_OFF": 0.01,
        "MAX_BACK_OFF": 0.04,
        "STATUS_SECONDS": 0.0,
        "ENGINE_PAUSE": 0.01,
        "CHECK_DELAY": 0.01,
        "ALONE_SECONDS": 0.05,
        "END_SECONDS": LONG,
    }.items():
        monkeypatch.setattr(runner, name, seconds)
    began = time.monotonic()
    yield Device(settings=quick(settings))
    assert time.monotonic() - began < LONG / 2  # nothing waited for what does not come


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
    device.settings = quick(device.settings, parallel=1)
    names = ["c", "a", "d", "b"]
    assert device.run(*(app(name) for name in names))
    assert device.compose.calls == [f"up {name}" for name in names]


def test_no_more_come_up_at_once_than_is_allowed_and_no_fewer(device: Device) -> None:
    device.settings = quick(device.settings, parallel=2)
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        device.compose.endings[name] = [lambda _: time.sleep(0.03)]
    device.run(*(app(name) for name in names))
    assert max(len(each) for each in device.compose.together) == 2
    assert device.ends() == dict.fromkeys(names)


def test_the_first_app_comes_up_before_all_others(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "ALONE_SECONDS", LONG)
    for name in ("first", "b", "c"):
        device.compose.endings[name] = [lambda _: time.sleep(0.03)]
    device.run(app("first"), app("b"), app("c"))
    assert device.compose.together == [{"first"}, {"b"}, {"b", "c"}]


def test_the_others_begin_when_the_first_container_of_the_first_app_starts(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "ALONE_SECONDS", LONG)
    others_began = threading.Event()

    def starts(_: float) -> None:
        device.engine.watching.wake("first")
        assert others_began.wait(LONG)

    device.compose.endings["first"] = [starts]
    device.compose.endings["b"] = [lambda _: others_began.set()]
    device.run(app("first"), app("b"))
    assert device.compose.log.index("end b") < device.compose.log.index("end first")
    assert device.ends() == {"first": None, "b": None}


@pytest.mark.parametrize("cause", [Cause.PORT_TAKEN, Cause.COMPOSE_FILE_INVALID])
def test_a_first_app_that_fails_lets_the_others_begin(
    device: Device, monkeypatch: pytest.MonkeyPatch, cause: Cause
) -> None:
    monkeypatch.setattr(runner, "ALONE_SECONDS", LONG)
    device.settings = quick(device.settings, app_seconds=0.3)
    device.compose.endings["first"] = [fail(cause)]
    device.run(app("first"), app("b"))
    assert device.compose.calls[:2] == ["up first", "up b"]
    assert device.ends() == {"first": cause.label, "b": None}


def test_settling_takes_no_place_from_those_that_wait_to_come_up(device: Device) -> None:
    device.settings = quick(device.settings, parallel=1)
    checked = container(app("slow"), health="starting")
    device.engine.held[checked.folder] = (checked,)

    def slow_becomes_healthy(_: float) -> None:
        device.engine.hold(container(app("slow"), health="healthy"))

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
        if not self.may_end.wait(deadline - time.monotonic()):
            return Failure(Cause.RUN_TIMEOUT, "too short to load it")
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
    device.settings = quick(device.settings, parallel=1, settle_seconds=0.0)
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
    device.settings = quick(device.settings, parallel=1, settle_seconds=0.0)
    begun: list[list[str]] = []
    for name in ("b", "c"):
        device.compose.endings[name] = [lambda _: begun.append(list(putting.loads))]
    device.run(stored("a", LOAD), app("b"), stored("c", RESTORE))
    assert begun == [[], []]
    assert putting.loads == ["a"]


def test_a_load_does_not_wait_for_ever_for_an_app_that_hangs(
    device: Device, putting: Putting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOADING_SECONDS", 0.05)
    device.settings = quick(device.settings, app_seconds=0.5)
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
    device.settings = quick(device.settings, app_seconds=0.2)
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


def test_a_folder_is_put_back_before_up(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[str] = []
    monkeypatch.setattr(
        bundle, "restore", lambda _store, _version, _hashes, to, *_: restored.append(to.name)
    )
    device.run(stored("shop", RESTORE))
    assert restored == ["shop"]
    assert device.compose.calls == ["up shop"]
    assert device.told("shop") == [
        Kind.RESTORING,
        Kind.RESTORED,
        Kind.STARTING,
        Kind.UP,
        Kind.RUNNING,
    ]


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


def test_what_dockerd_says_against_an_image_is_the_reason(
    device: Device, putting: Putting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RefusedError("write /x: no space left on device", "look", missing=False)

    monkeypatch.setattr(putting, "load", refuse)
    device.run(stored("shop", LOAD))
    assert device.ends() == {"shop": "no-space"}
    assert "no space left" in device.message("shop")


def test_a_load_that_dockerd_did_not_survive_is_tried_again(
    device: Device, putting: Putting, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[EngineError | None] = [EngineError("dockerd does not answer: EOF", "look"), None]

    def load(*_: object) -> None:
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(putting, "load", load)
    device.run(stored("shop", LOAD))
    assert answers == []
    assert device.ends() == {"shop": None}


def running_beside(name: str, *steps: Step) -> AppPlan:
    """An app that runs, and of which something has to be put back all the same."""
    return replace(stored(name, *steps), steps=steps)


def test_what_cannot_be_put_back_beside_an_app_that_runs_is_noted(
    device: Device, putting: Putting
) -> None:
    device.engine.held[str(app().folder)] = (container(),)
    putting.failure = fail(Cause.IMAGE_NOT_LOADED)
    putting.may_end.set()
    device.run(running_beside("shop", LOAD))
    assert device.compose.calls == []
    assert device.told("shop") == [Kind.NOTE, Kind.RUNNING]
    assert device.events[0].message == "compose said image-not-loaded"


@pytest.mark.parametrize("hangs", [True, False])
def test_a_load_that_does_not_end_in_the_runs_time_fails_no_app_that_runs(
    device: Device, putting: Putting, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(runner, "END_SECONDS", 0.05)
    monkeypatch.setattr(putting, "load", lambda *_: putting.may_end.wait(LONG) and NOT_TRIED)
    if hangs:
        monkeypatch.setattr(putting, "cancel", lambda: None)
    device.settings = quick(device.settings, run_seconds=0.2)
    for name in ("loads", "waits"):
        device.engine.held[str(app(name).folder)] = (container(app(name)),)
    device.run(running_beside("loads", LOAD), running_beside("waits", LOAD))
    putting.may_end.set()
    assert device.ends() == {"loads": None, "waits": None}
    assert {each.message for each in device.events if each.kind is Kind.NOTE} == {
        "the time of the whole run was up before all was put back"
    }


def test_a_load_that_does_not_end_in_the_runs_time_fails_the_app_that_needs_it(
    device: Device, putting: Putting
) -> None:
    device.settings = quick(device.settings, run_seconds=0.2)
    device.run(stored("loads", LOAD), stored("waits", LOAD))
    assert device.ends() == {"loads": "run-timeout", "waits": "run-timeout"}
    assert device.message("loads") == "too short to load it"
    assert device.message("waits") == "the time of the whole run was up before its turn"


# Patience

UP = "up shop"


@pytest.mark.parametrize(
    "cause", [each for each in Cause if not each.passes], ids=lambda cause: cause.label
)
def test_what_cannot_pass_is_told_at_once(device: Device, cause: Cause) -> None:
    device.compose.endings["shop"] = [fail(cause)]
    assert device.run(app("shop")) is True
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": cause.label}
    assert device.message("shop") == f"compose said {cause.label}"
    assert device.told("shop") == [Kind.STARTING, Kind.FAILED]


PASSING = [each for each in Cause if each.passes and each is not Cause.TIMEOUT]


@pytest.mark.parametrize("cause", PASSING, ids=lambda cause: cause.label)
def test_what_may_pass_is_waited_for(device: Device, cause: Cause) -> None:
    device.compose.endings["shop"] = [fail(cause), fail(cause), None]
    device.run(app("shop"))
    ups = [call for call in device.compose.calls if call == UP]
    assert len(ups) == 3
    assert device.ends() == {"shop": None}
    retries = [each for each in device.events if each.kind is Kind.RETRYING]
    assert [(each.cause, each.message) for each in retries] == [
        (cause.label, f"compose said {cause.label}; trying again")
    ] * 2


@pytest.mark.parametrize(
    "cause",
    [Cause.PORT_TAKEN, Cause.COMPOSE_FAILED, Cause.NETWORK_MISSING],
    ids=lambda cause: cause.label,
)
def test_what_does_not_pass_is_told_when_the_apps_time_is_up(device: Device, cause: Cause) -> None:
    device.settings = quick(device.settings, app_seconds=1.0)
    device.compose.endings["shop"] = [fail(cause)]
    assert device.run(app("shop"), app("other")) is True
    assert 2 <= device.compose.calls.count(UP) < 60
    assert device.ends() == {"shop": cause.label, "other": None}
    assert device.message("shop") == f"compose said {cause.label}"


def test_nothing_but_up_is_ever_called_for_what_fails(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.2)
    causes = [each for each in PASSING if each is not Cause.NETWORK_STALE]
    for cause in causes:
        device.compose.endings[cause.label] = [fail(cause)]
    device.run(*(app(cause.label) for cause in causes))
    assert {call.split()[0] for call in device.compose.calls} == {"up"}


def test_the_next_attempt_comes_later_each_time(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FIRST_BACK_OFF", 0.05)
    monkeypatch.setattr(runner, "MAX_BACK_OFF", 0.2)
    device.compose.endings["shop"] = [*[fail(Cause.PORT_TAKEN)] * 4, None]
    device.run(app("shop"))
    times = device.times("shop")
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2), strict=True):
        assert least <= gap < least + 0.15


def test_an_app_that_was_tried_lets_those_go_first_that_were_not(device: Device) -> None:
    device.settings = quick(device.settings, parallel=1)
    device.compose.endings["a"] = [fail(Cause.PORT_TAKEN), None]
    for name in ("b", "c"):
        device.compose.endings[name] = [lambda _: time.sleep(0.03)]
    device.run(app("a"), app("b"), app("c"))
    assert device.compose.calls == ["up a", "up b", "up c", "up a"]


def ended(**changes: Any) -> Container:
    return container(state="exited", restart_policy="no", up_for=None, **changes)


def test_a_container_that_ended_is_brought_up_until_it_runs(device: Device) -> None:
    device.engine.held[str(app().folder)] = (ended(exit_code=1),)

    def heal(_: float) -> None:
        if device.compose.calls.count(UP) > 2:
            device.engine.hold(container())

    device.compose.endings["shop"] = [heal]
    device.run(app("shop"))
    assert device.compose.calls == [UP] * 3
    assert device.ends() == {"shop": None}


def test_the_last_words_of_a_container_are_told(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.1)
    dead = ended(exit_code=3)
    device.engine.held[dead.folder] = (dead,)
    device.engine.words[dead.id] = "cannot open db"
    device.run(app("shop"))
    assert device.ends() == {"shop": "exited"}
    assert device.message("shop") == (
        "container 'shop-web-1' ended with exit status 3: cannot open db"
    )


def test_an_app_that_ran_already_and_does_not_any_more_is_brought_up(device: Device) -> None:
    device.run(AppPlan(app("shop"), ()))
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": None}


def test_a_crash_loop_is_dockerds_to_restart(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.2)
    looping = container(state="restarting", restarts=4, exit_code=7, up_for=None)
    device.engine.held[looping.folder] = (looping,)
    device.run(app("shop"))
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": "crash-loop"}
    assert device.message("shop") == (
        "container 'shop-web-1' was restarted 4 times, last exit status 7"
    )


def test_a_crash_loop_that_ends_in_time_is_no_failure(device: Device) -> None:
    looping = container(state="restarting", restarts=4, exit_code=7, up_for=None)
    device.engine.held[looping.folder] = (looping,)
    threading.Timer(0.05, lambda: device.engine.hold(container(restarts=4))).start()
    device.run(app("shop"))
    assert device.ends() == {"shop": None}


def test_a_paused_container_is_told_at_once(device: Device) -> None:
    device.engine.held[str(app().folder)] = (container(state="paused"),)
    device.run(app("shop"))
    assert device.ends() == {"shop": "container-paused"}


def test_a_check_that_has_not_spoken_by_the_end_is_no_failure(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.1)
    device.engine.held[str(app().folder)] = (container(health="starting"),)
    device.run(app("shop"))
    (runs,) = [each for each in device.events if each.kind is Kind.RUNNING]
    assert runs.message == "runs, the health of web is not known yet"


def test_a_container_that_becomes_healthy_late_is_no_failure(device: Device) -> None:
    device.engine.held[str(app().folder)] = (container(health="unhealthy"),)
    threading.Timer(0.05, lambda: device.engine.hold(container(health="healthy"))).start()
    device.run(app("shop"))
    assert device.ends() == {"shop": None}


def test_what_is_waited_for_is_told(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.2)
    device.engine.held[str(app().folder)] = (container(health="unhealthy"),)
    device.run(app("shop"))
    pending = [each.message for each in device.events if each.kind is Kind.PENDING]
    assert pending == ["web is unhealthy"]  # and not in each round
    assert device.ends() == {"shop": "unhealthy"}


def test_what_is_waited_for_is_not_told_all_the_time(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STATUS_SECONDS", 0.1)
    device.settings = quick(device.settings, app_seconds=1.0)
    counter = itertools.count(1)

    def restarted() -> tuple[Container, ...]:
        device.engine.watching.wake("shop")
        return (container(state="restarting", restarts=next(counter), exit_code=1, up_for=None),)

    device.engine.held[str(app().folder)] = restarted
    device.run(app("shop"))
    pending = [each.message for each in device.events if each.kind is Kind.PENDING]
    assert 2 <= len(pending) <= 11
    assert len(set(pending)) == len(pending)


def test_settling_is_waited_for_by_the_containers_own_time(device: Device) -> None:
    device.settings = quick(device.settings, settle_seconds=0.3)
    began = time.monotonic()
    first = {"at": 0.0}

    def running() -> tuple[Container, ...]:
        first["at"] = first["at"] or time.monotonic()
        return (container(up_for=time.monotonic() - first["at"]),)

    device.engine.held[str(app().folder)] = running
    device.run(app("shop"))
    assert 0.3 <= time.monotonic() - began < LONG / 4
    assert device.ends() == {"shop": None}
    assert device.engine.asked < 8  # once more than needed here and there, no busy loop


def test_what_fell_after_it_was_told_is_told(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.3)

    def fall(_: float) -> None:
        while Kind.RUNNING not in device.told("falls"):
            time.sleep(0.005)
        device.engine.hold(container(app("falls"), state="dead"))

    device.compose.endings["last"] = [fall]
    device.run(app("falls"), app("last"))
    kinds = device.told("falls")
    assert kinds.index(Kind.RUNNING) < kinds.index(Kind.FAILED)
    assert [each.cause for each in device.events if each.kind is Kind.FAILED] == [
        "container-not-started"
    ]


def test_what_fell_in_silence_is_seen_at_the_end(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=1)
    looks = iter([(container(),)])
    dead = (container(state="dead", up_for=None),)
    device.engine.held[str(app().folder)] = lambda: next(looks, dead)
    device.run(app("shop"))
    kinds = device.told("shop")
    assert kinds.index(Kind.RUNNING) < kinds.index(Kind.RETRYING) < kinds.index(Kind.FAILED)


def test_an_app_that_fell_and_got_up_runs(device: Device) -> None:
    looks = iter([(container(),), (container(state="dead", up_for=None),)])
    device.engine.held[str(app().folder)] = lambda: next(looks, (container(),))
    device.run(app("shop"))
    assert device.ends() == {"shop": None}


# Networks that are gone

STALE = container(state="exited", networks=(("front", "gone"), ("shop_default", NETWORK)))


def reconnecting(name: str = "shop") -> AppPlan:
    return AppPlan(app(name), (Step(Action.RECONNECT), Step(Action.UP)))


def test_a_stopped_container_is_connected_again_before_up(device: Device) -> None:
    device.engine.held[STALE.folder] = (STALE, container(service="db"))
    device.compose.endings["shop"] = [lambda _: device.engine.hold(container())]
    device.run(reconnecting())
    assert device.engine.reconnected == ["web front"]
    assert device.compose.calls == ["networks shop", UP]
    healed = [each.message for each in device.events if each.kind is Kind.HEALED]
    assert healed == ["container 'shop-web-1' is connected to 'front' again"]
    assert device.ends() == {"shop": None}


def test_a_stopped_container_that_cannot_be_connected_is_made_anew_once(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.3)
    device.engine.refusal = "network is gone"
    device.engine.held[STALE.folder] = (STALE,)
    device.run(reconnecting())
    assert device.compose.calls.count("recreate shop web") == 1
    (replaced,) = [each for each in device.events if each.kind is Kind.REPLACED]
    assert replaced.message == (
        "container 'shop-web-1' cannot be connected to its network (network is gone); service "
        "'web' is made anew, what it wrote outside volumes is lost"
    )


def test_a_running_container_is_never_made_anew_for_its_network(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=1)
    device.engine.refusal = "network is busy"
    device.engine.held[str(app().folder)] = (container(networks=()),)
    device.run(app("shop"))
    assert "recreate" not in " ".join(device.compose.calls)
    assert "web shop_default" in device.engine.reconnected
    assert device.ends() == {"shop": "network-stale"}


def test_a_running_container_without_its_network_is_connected(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.engine.held[str(app().folder)] = (container(networks=()),)

    def connect(_container: Container, network: str) -> None:
        device.engine.reconnected.append(network)
        device.engine.hold(container())

    monkeypatch.setattr(device.engine, "reconnect", connect)
    device.run(app("shop"))
    assert device.engine.reconnected == ["shop_default"]
    assert device.ends() == {"shop": None}


def test_a_network_that_is_still_not_there_is_not_connected_to(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.3)
    device.engine.known = {NETWORK: "shop_default"}
    device.engine.held[STALE.folder] = (STALE,)
    device.compose.endings["shop"] = [fail(Cause.NETWORK_MISSING)]
    device.run(reconnecting())
    assert device.engine.reconnected == []
    assert device.ends() == {"shop": "external-network-missing"}


def test_a_service_of_which_a_container_runs_is_not_made_anew(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.3)
    device.engine.held[STALE.folder] = (replace(STALE, id="second"), container())
    device.engine.refusal = "Address already in use"
    device.run(reconnecting())
    assert not [call for call in device.compose.calls if call.startswith("recreate")]


def test_a_network_that_compose_finds_gone_is_reconnected(device: Device) -> None:
    device.engine.held[STALE.folder] = (STALE,)

    def heal(_: float) -> None:
        device.engine.hold(container())

    device.compose.endings["shop"] = [fail(Cause.NETWORK_STALE), heal]
    device.run(app("shop"))
    assert device.compose.calls == [UP, "networks shop", UP]
    assert device.engine.reconnected == ["web front"]
    assert device.ends() == {"shop": None}


# One-shots


def test_a_one_shot_that_up_started_is_done(device: Device) -> None:
    device.engine.held[str(app().folder)] = (ended(),)
    device.run(app("shop"))
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": None}


def test_a_one_shot_that_is_done_is_remembered_for_this_dockerd(device: Device) -> None:
    done = ended(finished_at="2026-11-23T08:00:00Z")
    device.engine.held[done.folder] = (done, container(service="db"))
    device.run(app("shop"))
    assert oneshots.recall(device.settings, "1:1") == {(done.id, done.finished_at)}
    for other in ("2:1", None):
        assert oneshots.recall(device.settings, other) == frozenset()
    # The next run of this boot needs no compose for it.
    again = Device(settings=device.settings)
    again.engine.held[done.folder] = (done,)
    again.run(AppPlan(app("shop"), ()))
    assert again.compose.calls == []
    assert again.ends() == {"shop": None}


def test_a_one_shot_of_another_dockerd_is_brought_up(device: Device) -> None:
    done = ended(finished_at="2026-11-23T08:00:00Z")
    device.engine.held[done.folder] = (done,)
    oneshots.remember(device.settings, "2:1", [done])
    device.run(AppPlan(app("shop"), ()))
    assert device.compose.calls == [UP]


def test_of_an_unknown_dockerd_nothing_is_remembered(device: Device) -> None:
    device.engine.process = None
    device.engine.held[str(app().folder)] = (ended(),)
    device.run(app("shop"))
    assert not device.settings.finished.exists()


def test_a_one_shot_that_cannot_be_remembered_is_done_all_the_same(device: Device) -> None:
    device.settings.finished.mkdir(parents=True)
    device.engine.held[str(app().folder)] = (ended(),)
    device.run(app("shop"))
    assert device.ends() == {"shop": None}
    (note,) = [each for each in device.events if each.kind is Kind.NOTE]
    assert note.message.startswith(f"{device.settings.finished}: cannot be written: ")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"engine": "1:1"}', '{"engine": "1:1", "containers": 3}']
)
def test_a_broken_memory_of_one_shots_is_none(settings: Settings, text: str) -> None:
    settings.finished.parent.mkdir(parents=True)
    settings.finished.write_text(text)
    assert oneshots.recall(settings, "1:1") == frozenset()


# Hangs


def test_an_app_that_hangs_holds_back_no_other_for_long(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HOLD_SECONDS", 0.05)
    device.settings = quick(device.settings, parallel=1, app_seconds=2)
    device.compose.endings["hangs"] = [device.compose.hang]
    device.run(app("hangs"), app("shop"), app("other"))
    assert device.ends()["shop"] is None
    assert device.ends()["other"] is None
    assert device.compose.log.index("end other") < device.compose.log.index("end hangs")


def test_a_timeout_names_what_was_waited_for(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.1, settle_seconds=1.0)
    device.engine.held[str(app().folder)] = (
        container(service="web", up_for=0.5),
        container(service="job", state="created", up_for=None),
    )
    two = app("shop", service("web"), service("job"))
    device.compose.endings["shop"] = [device.compose.hang]
    device.run(two)
    assert device.ends() == {"shop": "timeout"}
    assert device.message("shop") == (
        "'docker compose up' did not end in time; web is settling, job is created"
    )


def test_of_a_compose_that_hangs_the_container_that_fails_is_the_reason(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.1)
    device.engine.held[str(app().folder)] = (
        container(service="db", health="unhealthy"),
        container(service="web", state="created", up_for=None),
    )
    device.compose.endings["shop"] = [device.compose.hang]
    device.run(app("shop", service("web"), service("db")))
    assert device.ends() == {"shop": "unhealthy"}


def test_a_compose_that_hangs_though_all_run_is_no_failure(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.1)
    device.engine.held[str(app().folder)] = (container(),)
    device.compose.endings["shop"] = [device.compose.hang]
    device.run(app("shop"))
    assert device.ends() == {"shop": None}


def test_the_time_of_the_whole_run_bounds_that_of_an_app(device: Device) -> None:
    device.settings = quick(device.settings, run_seconds=0.1)
    device.compose.endings["hangs"] = [device.compose.hang]
    device.compose.endings["fails"] = [fail(Cause.PORT_TAKEN)]
    device.run(app("hangs"), app("fails"))
    assert device.ends() == {"hangs": "timeout", "fails": "port-taken"}


def test_an_app_whose_turn_comes_too_late_is_told_so(device: Device) -> None:
    device.settings = quick(device.settings, run_seconds=60)
    device.run(app("shop"), ready=time.monotonic() - 61)
    assert device.compose.calls == []
    assert device.ends() == {"shop": "run-timeout"}
    assert device.message("shop") == "the time of the whole run was up before its turn"


def test_an_app_that_finds_no_place_in_the_runs_time_is_told_so(device: Device) -> None:
    device.settings = quick(device.settings, parallel=1, run_seconds=0.2)
    device.compose.endings["hangs"] = [device.compose.hang]
    device.run(app("hangs"), app("waits"))
    assert device.compose.calls == ["up hangs"]
    assert device.ends()["waits"] == "run-timeout"


def test_waiting_is_no_busy_loop(device: Device) -> None:
    device.settings = quick(device.settings, app_seconds=0.4, run_seconds=0.4)
    device.engine.held[str(app("sick").folder)] = (container(app("sick"), health="unhealthy"),)
    device.compose.endings["hangs"] = [device.compose.hang]
    device.compose.endings["fails"] = [fail(Cause.PORT_TAKEN)]
    device.run(app("sick"), app("hangs"), app("fails"), app("good"))
    assert len(device.engine.watching.waits) < 80


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


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    made = Connect(comes=True)
    monkeypatch.setattr(Engine, "connect", made)
    return made


def test_a_dockerd_that_comes_back_is_waited_for(device: Device, connect: Connect) -> None:
    def lose(_: float) -> Failure:
        device.engine.watching.lose()
        return fail(Cause.COMPOSE_FAILED)

    device.compose.endings["a"] = [lose, None]
    device.compose.endings["b"] = [None]
    device.run(app("a"), app("b"))
    assert device.ends() == {"a": None, "b": None}
    assert connect.seconds == [pytest.approx(0.2, abs=0.05)]
    waiting = [each.message for each in device.events if each.kind is Kind.WAITING]
    assert waiting == ["dockerd went away: waiting until it is back"]


@pytest.mark.parametrize("cause", [Cause.UNHEALTHY, Cause.COMPOSE_FILE_INVALID, Cause.TIMEOUT])
def test_whatever_up_says_after_dockerd_was_lost_is_tried_again(
    device: Device, connect: Connect, cause: Cause
) -> None:
    def lose(_: float) -> Failure:
        device.engine.watching.lose()
        return fail(cause)

    device.compose.endings["shop"] = [lose, None]
    device.run(app("shop"))
    assert device.compose.calls == [UP, UP]
    retries = [each for each in device.events if each.kind is Kind.RETRYING]
    assert [(each.cause, each.message) for each in retries] == [
        ("engine-lost", f"dockerd went away meanwhile: compose said {cause.label}; trying again")
    ]
    assert device.ends() == {"shop": None}


def test_a_dockerd_that_does_not_come_back_is_waited_for_once_by_all_apps_together(
    device: Device, connect: Connect
) -> None:
    connect.comes = False
    names = ["a", "b", "c", "d"]
    for name in names:
        device.compose.endings[name] = [LOST]

    def lose(_: float) -> Failure:
        device.engine.watching.lose()
        return LOST

    device.compose.endings["d"] = [lose]
    device.run(*(app(name) for name in names))
    assert device.ends() == dict.fromkeys(names, "engine-unavailable")
    assert sum(connect.seconds) == pytest.approx(0.2, abs=0.1)


def test_an_app_that_ran_when_dockerd_was_lost_for_good_is_told(
    device: Device, connect: Connect
) -> None:
    connect.comes = False

    def lose(_: float) -> Failure:
        while Kind.RUNNING not in device.told("runs"):
            time.sleep(0.005)
        device.engine.watching.lose()
        return LOST

    device.compose.endings["last"] = [lose]
    device.run(app("runs"), app("last"))
    assert device.told("runs")[-1] is Kind.FAILED


def test_all_apps_are_judged_again_after_dockerd_was_lost(device: Device, connect: Connect) -> None:
    def lose(_: float) -> None:
        while Kind.RUNNING not in device.told("first"):
            time.sleep(0.005)
        # As a worker without a restart policy looks after that.
        worker = ended(of=app("first"))
        device.engine.held[worker.folder] = (worker,)
        device.engine.watching.lose()

    device.compose.endings["first"] = [None, lambda _: device.engine.hold(container(app("first")))]
    device.compose.endings["last"] = [lose, None]
    device.run(app("first"), app("last"))
    assert device.compose.calls.count("up first") == 2
    assert device.ends() == {"first": None, "last": None}


def test_an_app_that_ended_with_dockerd_is_not_taken_for_a_one_shot(
    device: Device, connect: Connect
) -> None:
    def restart(_deadline: float) -> None:
        device.engine.watching.lose()
        device.engine.held[str(app().folder)] = (ended(),)

    device.compose.endings["shop"] = [restart, None]
    assert device.run(app("shop")) is True
    assert device.compose.calls == [UP, UP]
    assert Kind.RETRYING in device.told("shop")


def test_a_request_that_fails_once_is_made_again(device: Device, connect: Connect) -> None:
    device.engine.errors = [EngineError("dockerd does not answer: EOF", "look at it")]
    device.run(app("shop"))
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": None}


def test_the_last_look_that_fails_is_taken_again(device: Device, connect: Connect) -> None:
    error = EngineError("dockerd does not answer: EOF", "look at it")
    looks = iter([(container(),)])

    def second_fails() -> tuple[Container, ...]:
        for found in looks:
            return found
        if device.engine.asked == 2:
            raise error
        return (container(),)

    device.engine.held[str(app().folder)] = second_fails
    device.run(app("shop"))
    assert device.ends() == {"shop": None}


def test_a_dockerd_that_refuses_every_request_ends_with_the_run(
    device: Device, connect: Connect
) -> None:
    device.settings = quick(device.settings, run_seconds=0.3)
    refused = RefusedError("layer does not exist", "look", missing=False)
    device.engine.errors = [refused] * 10_000
    device.run(app("shop"))
    assert device.ends() == {"shop": "engine-lost"}
    assert device.message("shop") == "layer does not exist"
    assert len([each for each in device.events if each.kind is Kind.WAITING]) == 0


def test_an_outage_is_not_the_apps_own_time(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.settings = quick(device.settings, app_seconds=1)
    monkeypatch.setattr(Engine, "connect", lambda *_: time.sleep(1.2))

    def lose(_: float) -> Failure:
        device.engine.watching.lose()
        return LOST

    device.compose.endings["shop"] = [lose, None]
    device.run(app("shop"))
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
    device.settings = quick(device.settings, parallel=2)
    checked = container(app("settles"), health="starting")
    device.engine.held[checked.folder] = (checked,)

    def interrupted(deadline: float) -> Failure:
        while Kind.RUNNING not in device.told("runs"):
            time.sleep(0.005)
        interrupt()
        return device.compose.hang(deadline)

    missing = Failure(Cause.IMAGE_MISSING, "image x is not on this device")
    device.compose.endings["hangs"] = [device.compose.hang]
    device.compose.endings["last"] = [interrupted]
    complete = device.run(
        AppPlan(app("broken"), (), failure=missing),
        app("runs"),
        app("settles"),
        app("hangs"),
        app("last"),
        app("never"),
    )
    assert complete is False
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
    assert device.message("settles") == "the run was ended before the app ran"


def test_an_app_that_failed_until_the_run_was_ended_is_told_with_the_reason(
    device: Device, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FIRST_BACK_OFF", LONG)

    def clash(_: float) -> Failure:
        threading.Timer(0.5, interrupt).start()
        return fail(Cause.PORT_TAKEN)

    device.compose.endings["shop"] = [clash]
    assert device.run(app("shop")) is False
    assert device.compose.calls == [UP]
    assert device.ends() == {"shop": "interrupted"}
    assert device.message("shop") == (
        "the run was ended before the app ran: compose said port-taken"
    )


def test_a_call_that_does_not_end_is_left_behind(
    device: Device, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "END_SECONDS", 0.1)
    never = threading.Event()

    def hang(_: float) -> None:
        interrupt()
        never.wait(LONG)

    device.compose.endings["shop"] = [hang]
    assert device.run(app("shop")) is False
    assert device.ends() == {"shop": "interrupted"}
    never.set()


def test_a_defect_in_a_call_fails_one_app(device: Device) -> None:
    def defect(_: float) -> None:
        raise ValueError("a defect")

    device.compose.endings["shop"] = [defect]
    assert device.run(app("shop"), app("other")) is True
    assert device.ends() == {"shop": "internal-error", "other": None}
    assert device.message("shop").startswith("ValueError: a defect at test_runner.py:")


@pytest.mark.parametrize("good_looks", [0, 1], ids=["while it starts", "at the last look"])
def test_a_defect_in_judging_fails_one_app(
    device: Device, monkeypatch: pytest.MonkeyPatch, good_looks: int
) -> None:
    looks = {"left": good_looks}

    def judged(of: App, *arguments: Any, **more: Any) -> Verdict:
        if of.name == "shop":
            looks["left"] -= 1
            if looks["left"] < 0:
                raise KeyError("State")
        return judge(of, *arguments, **more)

    monkeypatch.setattr(runner, "judge", judged)
    assert device.run(app("shop"), app("other")) is True
    assert device.told("shop")[-1] is Kind.FAILED
    assert device.message("shop").startswith("KeyError: 'State' at ")
    assert device.told("other")[-1] is Kind.RUNNING


def test_an_odd_answer_of_dockerd_fails_one_app(device: Device) -> None:
    device.engine.errors = [KeyError("Id")]
    device.run(app("shop"))
    assert device.ends() == {"shop": "internal-error"}


def test_no_app_is_brought_up_once_aktualizr_lite_is_at_work(device: Device) -> None:
    device.settings = replace(device.settings, parallel=1)

    def taken(_: float) -> None:
        device.lock.is_held = False

    device.compose.endings["first"] = [taken]
    device.run(app("first"), app("second"))
    assert device.compose.calls == ["up first"]
    assert device.ends() == {"first": None, "second": "apps-taken"}
