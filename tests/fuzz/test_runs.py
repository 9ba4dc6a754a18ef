"""Whole runs in a simulated world end in time and report each app once, whatever happens."""

import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start import record, runner
from compose_apps_early_start.bundle import SpaceError
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.errors import EngineError, NotUnderstoodError, RefusedError
from compose_apps_early_start.plan import Action, AppPlan, Plan, Step
from compose_apps_early_start.preloaded import App, Service
from compose_apps_early_start.report import Event, Kind, Report
from compose_apps_early_start.restorable import Restorable
from compose_apps_early_start.runner import END_SECONDS, Runner
from compose_apps_early_start.selection import Selection
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Descriptor, Image, Store, StoreError, Version
from fuzz.fuzzing import Fuzz
from fuzz.world import Call, Change, Clock, Compose, Engine, Loss, Thread, World
from hypothesis import strategies as st

BLOB = Descriptor("c" * 64, 1, "")
LOAD = Step(Action.LOAD, Image("web@sha256:" + "c" * 64, (BLOB,), BLOB, ()))
RESTORE, RECONNECT, UP = Step(Action.RESTORE), Step(Action.RECONNECT), Step(Action.UP)
STEPS = st.sampled_from(
    [(UP,)] * 4
    + [(), (RESTORE,), (LOAD,), (RESTORE, LOAD), (LOAD, UP), (RESTORE, UP), (RESTORE, LOAD, UP)]
    + [(RECONNECT, UP), (RESTORE, RECONNECT, UP)]
)

MOMENTS = st.one_of(st.integers(0, 100).map(float), st.floats(0, 120))
ENDINGS = st.one_of(
    st.none(),
    st.none(),
    st.sampled_from(list(Cause)).map(lambda cause: Failure(cause, f"compose said {cause.label}")),
    st.sampled_from([EngineError("dockerd went away", "look"), KeyError("x"), MemoryError()]),
)
CALLS = st.lists(
    st.builds(
        Call,
        st.sampled_from([0.0, 0.1, 1.0, 15.0, 30.0, 1000.0]),
        ENDINGS,
        st.sampled_from([False] * 15 + [True]),
    ),
    min_size=1,
    max_size=4,
)
POLICY = st.sampled_from(["no", "always", "on-failure"])
CONTAINERS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"up_since": 0.0}),
    st.fixed_dictionaries(
        {"state": st.just("exited"), "exit_code": st.sampled_from([0, 1]), "restart_policy": POLICY}
    ),
    st.fixed_dictionaries({"health": st.sampled_from(["starting", "unhealthy", "healthy"])}),
    st.fixed_dictionaries({"restarts": st.sampled_from([1, 7])}),
    st.just({"state": "restarting", "restarts": 3}),
    st.sampled_from(["created", "dead", "paused", "removing", "unreadable", "x"]).map(
        lambda state: {"state": state}
    ),
    st.just({"state": "created", "error": "port is already allocated"}),
    st.just({"networks": ()}),
    st.just({"networks": (("net", "gone"),), "state": "exited", "restart_policy": "always"}),
)
CHANGES = st.lists(
    st.builds(Change, MOMENTS, st.integers(0, 4), st.integers(0, 1), st.none() | CONTAINERS),
    max_size=8,
).map(lambda found: sorted(found, key=lambda each: each.moment))
LOSSES = st.lists(
    st.builds(
        Loss, MOMENTS, st.sampled_from([0.1, 3.0, 30.0, 10_000.0]), st.booleans(), st.booleans()
    ),
    max_size=3,
)
PUTTING = st.one_of(
    st.none(),
    st.none(),
    st.sampled_from(
        [
            StoreError("a blob is damaged"),
            SpaceError("too little space"),
            OSError(5, "Input/output error", "/var/sota"),
            ValueError("a defect"),
            EngineError("dockerd went away", "look"),
        ]
    ),
)
REFUSALS = st.lists(st.sampled_from([None, "network x not found", "no"]), max_size=4)
ERRORS = st.lists(
    st.sampled_from(
        [
            EngineError("dockerd does not answer", "look"),
            RefusedError("500", "look", missing=False),
            NotUnderstoodError("KeyError: 'State'", "look"),
        ]
    ),
    max_size=3,
)
LIMITS = st.builds(
    lambda app, settle, run, engine, parallel: Settings(
        app_seconds=app,
        settle_seconds=settle,
        run_seconds=run,
        engine_seconds=engine,
        parallel=parallel,
    ),
    st.sampled_from([0.0, 5.0, 60.0]),
    st.sampled_from([0.0, 2.0, 10.0]),
    st.sampled_from([0.0, 10.0, 100.0]),
    st.sampled_from([0.0, 20.0]),
    st.sampled_from([1, 2, 4]),
)


@st.composite
def app_plans(draw: st.DrawFn) -> list[tuple[AppPlan, list[dict[str, Any] | None]]]:
    """Draw up to five apps, and which containers each service has from before."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        name = f"app{number}"
        services = tuple(
            Service(f"s{each}", "web", None) for each in range(draw(st.integers(1, 2)))
        )
        restorable = Restorable(Version(name, "uri", Path("/store")), {}, ("docker-compose.yml",))
        app = App(name, Path("/apps") / name, name, services, restorable=restorable)
        steps = draw(STEPS)
        failure = None
        if draw(st.sampled_from([False] * 9 + [True])):
            steps, failure = (), Failure(Cause.IMAGE_MISSING, "image x is not on this device")
        plan = AppPlan(app, steps, failure=failure)
        made.append((plan, [draw(st.none() | CONTAINERS) for _ in services]))
    return made


class Loading:
    """Stands for the loader."""

    def __init__(self, world: World, ending: Exception | None, seconds: float) -> None:
        self._world, self._ending, self._seconds = world, ending, seconds
        self.cancelled = False
        self.active = 0

    def load(self, _image: Image, app: str, _version: Version, deadline: float) -> Failure | None:
        self._world.log.append(("load", app, self._world.clock.now))
        self.active += 1
        assert self.active == 1, "two things are put back side by side"
        until = min(deadline, self._world.clock.now + self._seconds)
        while self._world.clock.now < until and not self.cancelled:
            self._world.clock.sleep(min(1.0, until - self._world.clock.now))
        self.active -= 1
        if self.cancelled or self._world.clock.now >= deadline:
            return Failure(Cause.RUN_TIMEOUT, "its time is up")
        if isinstance(self._ending, (StoreError, SpaceError, OSError)):
            return Failure(Cause.NO_SPACE, str(self._ending))
        if self._ending:
            raise self._ending
        return None

    def cancel(self) -> None:
        self.cancelled = True


class Locks:
    """Both locks, until aktualizr-lite takes its own."""

    def __init__(self, world: World) -> None:
        self._world = world

    def still_held(self) -> bool:
        return self._world.clock.now < self._world.taken_at


def run(
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    settings: Settings,
    plans: list[AppPlan],
    loading: Loading,
    restoring: Exception | None,
) -> tuple[bool, list[Event], Runner]:
    engine = Engine(world)
    compose = Compose(world, engine)
    clock = world.clock
    Thread.clock, Thread.made = clock, []

    def restore(*_: object) -> None:
        clock.sleep(0.5)
        if restoring:
            raise restoring

    for name, stand_in in (
        ("time", clock),
        ("threading", types.SimpleNamespace(Thread=Thread)),
        ("Engine", engine),
        ("Loader", lambda *_: loading),
        ("oneshots", types.SimpleNamespace(recall=lambda *_: (), remember=lambda *_: None)),
        ("bundle", types.SimpleNamespace(restore=restore)),
    ):
        monkeypatch.setattr(runner, name, stand_in)
    events: list[Event] = []
    recorder = record.Recorder(settings, lambda text: None)
    recorder.begin([record.AppRecord(each.app.name) for each in plans], ())
    monkeypatch.setattr(record, "write", lambda *_: None)
    report = Report([events.append, recorder])
    made = Runner(settings, engine, compose, Store(Path("/x")), Locks(world), report, clock.now)  # type: ignore[arg-type]
    selection = Selection(False, tuple(each.app for each in plans), (), (), Store(Path("/x")))
    try:
        complete = made.run(Plan(selection, tuple(plans), True))
    finally:
        clock.end()
        for each in Thread.made:
            each.really_join()
    for app in recorder.record.apps:
        assert app.state in ("running", "failed"), f"{app.name} is {app.state} on record"
    return complete, events, made


def check_told_once(plans: list[AppPlan], events: list[Event], made: Runner) -> None:
    for each in made._runs:
        told = [event.kind for event in events if event.app == each.app.name]
        final = [kind for kind in told if kind in (Kind.RUNNING, Kind.FAILED)]
        assert final, f"{each.app.name} was not told"
        assert told.count(Kind.FAILED) <= 1
        assert Kind.FAILED not in final[:-1], "more is told of an app that has failed"
        assert each.has_failed == (final[-1] is Kind.FAILED)


def check_truth(world: World, made: Runner) -> None:
    """What is told to run has containers that run, or are done."""
    for each in made._runs:
        if each.has_failed:
            continue
        held = world.containers[str(each.app.folder)]
        for service in each.app.services:
            found = held.get(service.name)
            assert found is not None, f"{each.app.name} runs without {service.name}"
            assert found.state == "running" or found.ended_well, found
            assert not found.without_network


def check_rounds(world: World, plans: list[AppPlan]) -> None:
    """No busy loop: each round has a reason, or took a while."""
    began = [round(moment) for moment in world.rounds]
    reasons = 10 + 10 * len(plans) + len(world.log)
    for moment, count in Counter(began).items():
        assert count <= reasons, f"{count} rounds in second {moment - world.begin:.0f}"


def test_runs(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(
        data: st.DataObject,
        wanted: list[tuple[AppPlan, list[dict[str, Any] | None]]],
        settings: Settings,
        putting: tuple[Exception | None, Exception | None, float],
        ends: tuple[float | None, float | None],
    ) -> None:
        plans = [plan for plan, _ in wanted]
        world = World(Clock(), [plan.app for plan in plans])
        world.calls = [data.draw(CALLS) for _ in plans]
        for plan, services in wanted:
            for service, found in zip(plan.app.services, services, strict=True):
                if found is not None:
                    made = world.container(plan.app, service.name, **found)
                    world.containers[str(plan.app.folder)][service.name] = made
        world.changes = data.draw(CHANGES)
        world.losses = data.draw(LOSSES)
        world.refusals = data.draw(REFUSALS)
        world.errors = data.draw(ERRORS)
        if ends[0] is not None:
            world.interrupted_at = world.begin + ends[0]
        if ends[1] is not None:
            world.taken_at = world.begin + ends[1]
        loading = Loading(world, putting[0], putting[2])
        # Before the run, which takes them one by one.
        odd = any(
            isinstance(each.ending, Failure) and each.ending.cause is Cause.INTERNAL_ERROR
            for calls in world.calls
            for each in calls
        )
        complete, events, ended = run(monkeypatch, world, settings, plans, loading, putting[1])
        assert world.watch.closed
        assert complete or ends[0] is not None
        most = settings.run_seconds + 2 * END_SECONDS + 5.0
        assert world.clock.now - world.begin <= most, f"{world.clock.now - world.begin:.1f} s"
        check_told_once(plans, events, ended)
        internal = [each for each in events if each.cause == Cause.INTERNAL_ERROR.label]
        assert (
            odd
            or world.unexpected
            or isinstance(putting[0], ValueError)
            or isinstance(putting[1], ValueError)
            or not internal
        ), internal
        if complete:
            check_truth(world, ended)
        check_rounds(world, plans)
        for what, name, moment in world.log:
            # The last one may have been on its way.
            assert moment <= world.begin + settings.run_seconds + 0.5 or what != "up", name

    seconds = st.none() | st.none() | MOMENTS
    fuzz(
        check,
        st.data(),
        app_plans(),
        LIMITS,
        st.tuples(PUTTING, PUTTING, st.sampled_from([0.1, 20.0, 1000.0])),
        st.tuples(seconds, seconds),
    )
