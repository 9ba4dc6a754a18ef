"""Executes a plan: apps side by side within a bound, each with its own time and own verdict.

First every app is brought up, in order of dispatch. Then those that failed climb the ladder of
their cause, round by round, one at a time, so that two apps that fight for a port or a subnet are
told apart. No app waits long for another: see `PATIENCE`.
"""

import threading
import time
from dataclasses import dataclass, field, replace

from . import bundle
from .bundle import SpaceError
from .catalog import App
from .cause import NOT_TRIED, Cause, Failure, Remedy
from .compose import Compose
from .engine import Engine
from .errors import EngineError, InterruptedRun
from .images import Loader
from .plan import Action, AppPlan, Plan
from .report import Event, Kind, Report
from .restorable import Restorable
from .settings import Settings
from .store import Store, StoreError
from .verdict import Runs, crash_loop, judge, keeps_restarting

PATIENCE = 20.0
"""So many seconds an app waits for a free place, or for others to end before it is tried alone.

After that it goes ahead beside them: one app that hangs must not hold back another.
"""

LOADING_PATIENCE = 5.0
"""So many seconds the first image waits until the apps are up that need none.

Loading keeps all cores and the disk busy: beside it a start took three times as long.
"""

FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 8.0
"""Before the first round of retries, doubled with each, in seconds."""


@dataclass
class Attempts:
    """How far one app is. `failure` is None once it runs, `told` when that is final and reported.

    `prepares` while something of it is still to be put back, `has_place` while it is among the
    few that come up, `tried` once it has been. `spent` is in seconds: its own attempts, and the
    back-offs that it waited for.
    """

    plan: AppPlan
    failure: Failure | None = NOT_TRIED
    active: bool = False
    has_place: bool = False
    prepares: bool = False
    tried: bool = False
    told: bool = False
    spent: float = 0.0
    used: set[Remedy] = field(default_factory=set)

    @property
    def app(self) -> App:
        """The app itself."""
        return self.plan.app

    def next_remedy(self) -> Remedy | None:
        """Return the next rung for what failed last, None if there is nothing left to try."""
        if self.failure is None:
            return None
        if self.failure.cause.comes_later:
            return Remedy.AGAIN
        return next((each for each in self.failure.cause.remedies if each not in self.used), None)


class Runner:
    """Runs one plan on one engine."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        compose: Compose,
        store: Store,
        report: Report,
        ready: float,
    ) -> None:
        """`ready` is when the engine was, a time of `time.monotonic()`; so are all deadlines."""
        self._settings = settings
        self._engine = engine
        self._compose = compose
        self._store = store
        self._loader = Loader(settings, engine, store, report)
        self._report = report
        self._ready = ready
        self._deadline = ready + settings.run_seconds
        self._changed = threading.Condition()
        self._coming_up = 0
        self._restoring = threading.Lock()
        self._before_loading: tuple[Attempts, ...] = ()
        self._loading_began = False
        self._back_off = FIRST_BACK_OFF
        self._lost_since: float | None = None
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._watch = engine.watch()

    def run(self, plan: Plan) -> bool:
        """Execute `plan`, report how each app ended, and return whether everything was tried.

        It was not if SIGTERM or SIGINT asked for an end (`InterruptedRun` in this thread): compose
        is ended then, and the containers are left as they are.
        """
        every = tuple(
            Attempts(each, prepares=each.does(Action.RESTORE) or each.does(Action.LOAD))
            for each in plan.apps
        )
        self._before_loading = tuple(
            each for each in every if each.plan.steps and not each.plan.does(Action.LOAD)
        )
        complete = False
        try:
            self._dispatch(every)
            self._retry(every)
            complete = True
        except InterruptedRun:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            self._loader.cancel()
            self._compose.cancel()
        finally:
            self._watch.close()
            for thread in self._threads:
                if thread.ident is not None:  # the interruption did not come before its start
                    thread.join()
        for each in every:
            self._tell_end(each)
        return complete

    def _dispatch(self, every: tuple[Attempts, ...]) -> None:
        for each in every:
            if each.plan.failure:
                each.failure = each.plan.failure
                self._tell_end(each)
                continue
            # Here and not in its thread, to keep the order. What has to be put back first does
            # not keep a place from others meanwhile.
            if each.plan.steps and not each.prepares:
                self._take_place(each, PATIENCE)
            self._start(each, None)

    def _take_place(self, each: Attempts, patience: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._coming_up < self._settings.parallel, patience)
            self._coming_up += 1
            each.has_place = True

    def _leave_place(self, each: Attempts) -> None:
        with self._changed:
            self._coming_up -= each.has_place
            each.has_place = False
            each.tried = True
            self._changed.notify_all()

    def _retry(self, every: tuple[Attempts, ...]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._coming_up, PATIENCE)
                waiting = [each for each in every if self._worth_a_retry(each)]
                if not waiting:
                    if not any(each.active for each in every):
                        return
                    self._changed.wait()  # each of them is bounded by its own time
                    continue
            time.sleep(self._back_off)
            for each in waiting:
                each.spent += self._back_off
                self._take_place(each, 0.0)
                self._start(each, each.next_remedy()).join(PATIENCE)
            self._back_off = min(2 * self._back_off, LONGEST_BACK_OFF)

    def _worth_a_retry(self, each: Attempts) -> bool:
        return (
            not each.active
            and not self._stopping
            and each.next_remedy() is not None
            and self._time_left(each) > self._back_off
        )

    def _time_left(self, each: Attempts) -> float:
        return min(self._settings.app_seconds - each.spent, self._deadline - time.monotonic())

    def _start(self, each: Attempts, remedy: Remedy | None) -> threading.Thread:
        with self._changed:
            each.active = True
        thread = threading.Thread(target=self._attempt, args=(each, remedy), name=each.app.name)
        self._threads.append(thread)
        thread.start()
        return thread

    def _attempt(self, each: Attempts, remedy: Remedy | None) -> None:
        began = time.monotonic()
        # Stays if a defect of ours ends this thread.
        failure: Failure | None = Failure(Cause.INTERRUPTED, "the attempt ended unexpectedly")
        try:
            found = self._wait_for_engine(each) or self._prepare(each)
            # An app's own time is for its containers; gigabytes from the store are the run's.
            began = time.monotonic()
            deadline = began + self._time_left(each)
            losses = self._watch.losses
            if found is None and (each.plan.steps or remedy):
                found = self._bring_up(each, remedy, deadline)
            failure = found or self._settle(each.app, time.monotonic(), deadline)
            if failure is None and self._watch.losses != losses:
                # A container that ended with dockerd looks like a one-shot that is done.
                failure = Failure(Cause.ENGINE_LOST, "dockerd went away while the app came up")
        except EngineError as error:
            failure = Failure(Cause.ENGINE_LOST, str(error))
        finally:
            self._leave_place(each)
            if remedy:
                each.used.add(remedy)
            each.failure = failure
            each.spent += time.monotonic() - began
            with self._changed:
                each.active = False
                if not self._worth_a_retry(each):
                    self._tell_end(each)
                self._changed.notify_all()

    def _prepare(self, each: Attempts) -> Failure | None:
        """Put back what the plan says: the app's folder, and images; None: all is there."""
        app = each.app
        if not each.prepares or app.restorable is None:
            return None
        for step in each.plan.steps:
            if step.action is Action.RESTORE:
                failure = self._restore_folder(app, app.restorable)
            elif step.image:
                version = app.restorable.version
                self._let_others_come_up()
                failure = self._loader.load(step.image, app.name, version, self._deadline)
            else:
                continue
            if failure:
                return failure
        each.prepares = False
        return None

    def _let_others_come_up(self) -> None:
        with self._changed:
            if not self._loading_began:
                self._changed.wait_for(
                    lambda: self._stopping or all(each.tried for each in self._before_loading),
                    LOADING_PATIENCE,
                )
                self._loading_began = True

    def _restore_folder(self, app: App, restorable: Restorable) -> Failure | None:
        version, hashes = restorable.version, restorable.hashes
        try:
            with self._restoring:  # there is one staging folder
                bundle.restore(self._store, version, hashes, app.folder, self._settings.staging)
        except StoreError as error:
            return Failure(Cause.STORE_DAMAGED, str(error))
        except SpaceError as error:
            return Failure(Cause.NO_SPACE, str(error))
        except OSError as error:
            return Failure(Cause.FOLDER_NOT_RESTORED, f"{error.filename}: {error.strerror}")
        message = f"folder put back ({', '.join(restorable.damaged[:3])})"
        self._report(Event(Kind.RESTORED, message, app=app.name))
        return None

    def _bring_up(self, each: Attempts, remedy: Remedy | None, deadline: float) -> Failure | None:
        """Run compose, for the plan or for a rung; then the place is free for another app."""
        app = each.app
        if not each.has_place:
            self._take_place(each, PATIENCE)
        if deadline <= time.monotonic():
            return Failure(Cause.RUN_TIMEOUT, "the time of the whole run was up before its turn")
        if remedy is None:
            self._report(Event(Kind.STARTING, "coming up", app=app.name))
        else:
            self._tell_retry(each, remedy)
        if remedy is Remedy.DOWN_UP:
            self._compose.down(app.folder, deadline)
        recreate = remedy is Remedy.RECREATE
        failure = self._compose.up(app.folder, deadline, recreate=recreate)
        self._leave_place(each)
        if failure is None:
            seconds = time.monotonic() - self._ready
            self._report(Event(Kind.UP, "up, settling", app=app.name, seconds=seconds))
        elif failure.cause is Cause.TIMEOUT:
            return self._timed_out(app, failure.message)
        return failure

    def _settle(self, app: App, up_at: float, deadline: float) -> Failure | None:
        """Watch the app's containers until the verdict on them; None: it runs."""
        while not self._stopping:
            count = self._watch.count(app.project)
            containers = self._engine.containers(str(app.folder))
            waited = time.monotonic() - up_at
            verdict = judge(
                app, containers, now=time.time(), waited=waited, settings=self._settings
            )
            if isinstance(verdict, Failure):
                return self._with_last_words(verdict)
            if isinstance(verdict, Runs):
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                return self._timed_out(app, "the containers did not settle in time")
            self._watch.wait(app.project, count, min(verdict.seconds, left))
        return Failure(Cause.INTERRUPTED, "the run was ended before the app had settled")

    def _wait_for_engine(self, each: Attempts) -> Failure | None:
        """Wait for a dockerd that went away; all apps together wait no longer than at first."""
        if each.failure is None or each.failure.cause is not Cause.ENGINE_LOST:
            return None
        if self._lost_since is None:
            self._lost_since = time.monotonic()
        until = min(self._deadline, self._lost_since + self._settings.engine_seconds)
        try:
            Engine.connect(self._settings, until - time.monotonic())
        except EngineError as error:
            return Failure(Cause.ENGINE_UNAVAILABLE, str(error))
        self._lost_since = None
        return None

    def _timed_out(self, app: App, message: str) -> Failure:
        # Say what it waited for: the service that is not there yet, as far as the engine tells.
        for each in self._engine.containers(str(app.folder)):
            if keeps_restarting(each, time.time(), self._settings):
                return self._with_last_words(crash_loop(each))
            if each.state != "running" or each.health not in (None, "healthy"):
                message += f"; container {each.name!r} is {each.health or each.state}"
        if time.monotonic() >= self._deadline:
            return Failure(Cause.RUN_TIMEOUT, message)
        return Failure(Cause.TIMEOUT, message)

    def _with_last_words(self, failure: Failure) -> Failure:
        words = self._engine.last_words(failure.container) if failure.container else None
        return replace(failure, message=f"{failure.message}: {words}") if words else failure

    def _tell_retry(self, each: Attempts, remedy: Remedy) -> None:
        assert each.failure is not None
        self._report(
            Event(
                Kind.RETRYING,
                f"{each.failure.message}; trying {remedy.value}",
                app=each.app.name,
                cause=each.failure.cause.label,
            )
        )

    def _tell_end(self, each: Attempts) -> None:
        if each.told:
            return
        each.told = True
        seconds = time.monotonic() - self._ready
        if each.failure is None:
            self._report(Event(Kind.RUNNING, "runs", app=each.app.name, seconds=seconds))
        else:
            self._report(Event.failed(each.app.name, each.failure, seconds))
