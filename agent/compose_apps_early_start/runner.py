"""Executing a plan: bring apps up side by side, and watch them until each runs or its time is up.

There is only one tool, `docker compose up -d`. dockerd restarts a container that fails, if the
container has a restart policy. Otherwise, or if dockerd refused to start a container, the runner
calls `up` again, with growing pauses. It never takes anything down, and never replaces a container
that ran, except in one case; see `Runner._reconnect`. A failure that waiting cannot cure is
reported at once; see `cause.Cause`.

One thread decides. Long calls have threads of their own, which only return how the call ended. So
the state of an app needs no lock.
"""

import collections
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from . import bundle, oneshots
from .bundle import SpaceError
from .cause import NOT_TRIED, Cause, Failure
from .compose import Compose
from .container import Container
from .diagnosis import cause_of
from .engine import Engine
from .errors import EngineError, InterruptedRun, RefusedError
from .images import Loader
from .lock import Held
from .plan import Action, AppPlan, Plan
from .preloaded import App
from .report import Event, Kind, Report
from .restorable import Restorable
from .settings import Settings
from .store import Store, StoreError
from .verdict import VAGUE_CAUSES, Finished, Need, Runs, Waits, judge

Ending = Failure | None
"""How a call ended; None means success."""

HOLD_SECONDS = 20.0
"""How long a `docker compose up` occupies a place among those side by side, in seconds.

It may wait for a health check until the app's time is up, and must not keep others from starting.
"""

ALONE_SECONDS = 5.0
"""How long the first app comes up alone at most, in seconds.

Somebody waits to see this app. Side by side with others, it would be as late as they are. Usually,
it is alone until its first container starts; from then on, there is little for compose to do.
"""

LOADING_SECONDS = 5.0
"""How long the first load of an image waits for apps that need none, in seconds.

Loading keeps all cores and the disk busy. Starting an app beside it took three times as long.
"""

FIRST_BACK_OFF, MAX_BACK_OFF = 1.0, 10.0
"""The pause before the second `docker compose up` of an app, in seconds, which doubles each time,
and its maximum."""

STATUS_SECONDS = 5.0
"""The minimum time between two messages about what an app waits for, in seconds."""

CHECK_DELAY = 0.2
"""The delay between a change of an app's containers and their check, in seconds.

Changes come in groups, and while other apps come up, they need the processor time of a check.
"""

ENGINE_PAUSE = 0.5
"""The pause before a dockerd that failed is asked again, in seconds."""

END_SECONDS = 8.0
"""How long all calls together may take to end when the run has to end, in seconds."""


@dataclass
class AppRun:
    """The progress of one app in this run. All times are of `time.monotonic()`.

    `prepares` is true while folders or images have to be restored, `wants_up` while the app needs
    another `up`, which may begin at `next_up`. `busy` is the time at which a running call began.
    `losses` is how often dockerd had been lost when the last `up` began, or None before the first.
    `has_started` is true since a container of the app started, or changed after its start.
    `problem` is the reason why the app does not run yet, as far as it is known. An `outcome`
    decides the app: `Runs` may still change, a `Failure` is final. `waiting_for` was reported at
    `reported_at`.
    """

    plan: AppPlan
    prepares: bool
    wants_up: bool
    reconnects: bool
    next_up: float = 0.0
    back_off: float = field(default_factory=lambda: FIRST_BACK_OFF)
    busy: float | None = None
    tried: bool = False
    deadline: float = math.inf
    losses: int | None = None
    check_at: float = 0.0
    has_started: bool = False
    problem: Failure = NOT_TRIED
    outcome: Runs | Failure | None = None
    waiting_for: str = ""
    reported_at: float = 0.0
    replaced: set[str] = field(default_factory=set)

    @property
    def app(self) -> App:
        """The app of the plan."""
        return self.plan.app

    @property
    def has_failed(self) -> bool:
        """Whether the app has failed for good."""
        return isinstance(self.outcome, Failure)

    @property
    def is_watched(self) -> bool:
        """Whether the state of its containers decides next."""
        return not (self.has_failed or self.prepares or self.wants_up or self.busy)


class Runner:
    """Runs one plan on one engine."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        compose: Compose,
        store: Store,
        lock: Held,
        report: Report,
        ready: float,
    ) -> None:
        """`ready` is the time of `time.monotonic()` at which the engine was ready."""
        self._settings = settings
        self._lock = lock
        self._engine = engine
        self._compose = compose
        self._store = store
        self._loader = Loader(settings, engine, store, report)
        self._report = report
        self._ready = ready
        self._deadline = ready + settings.run_seconds
        self._identity = engine.identity()
        self.finished: Finished = oneshots.recall(settings, self._identity)
        """The one-shots that this dockerd has run to their end, for the plan too."""
        self._watch = engine.watch()
        self._losses = 0
        self._now = ready
        self._ended: collections.deque[tuple[AppRun, Ending]] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._runs: tuple[AppRun, ...] = ()

    def run(self, plan: Plan) -> bool:
        """Execute `plan`, report the outcome of each app, and return whether the run is complete.

        It is not complete if SIGTERM or SIGINT ends it (`InterruptedRun` in this thread). Compose
        is ended then, and the containers are left as they are.
        """
        self._runs = tuple(
            AppRun(
                app_plan,
                prepares=app_plan.does(Action.RESTORE) or app_plan.does(Action.LOAD),
                wants_up=app_plan.does(Action.UP),
                reconnects=app_plan.does(Action.RECONNECT),
            )
            for app_plan in plan.apps
        )
        complete = False
        try:
            for run in self._runs:
                if run.plan.failure:
                    self._fail(run, run.plan.failure)
            while True:
                self._now = time.monotonic()
                self._take_endings()
                self._begin_calls()
                self._check_containers()
                self._keep_deadlines()
                if self._all_decided() and self._all_still_run():
                    break
                self._wait()
            complete = True
        except InterruptedRun:
            pass
        finally:
            # In a run that ends by itself, only calls for apps whose time is up still go on.
            self._loader.cancel()
            self._compose.cancel()
            self._watch.close()
            self._await_calls()
        for run in self._runs:
            if run.outcome is None:
                self._fail(run, self._interruption(run))
        return complete

    def _interruption(self, run: AppRun) -> Failure:
        if run.problem == NOT_TRIED and not run.tried and run.busy is None:
            return NOT_TRIED
        message = "the run was ended before the app ran"
        if run.problem != NOT_TRIED:
            message += f": {run.problem.message}"
        return Failure(Cause.INTERRUPTED, message)

    def _all_decided(self) -> bool:
        return all(run.outcome is not None for run in self._runs)

    def _wait(self) -> None:
        """Wait until a call ends, a container changes, or the next moment comes."""
        changed = self._watch.changes(self._next_moment() - time.monotonic())
        for run in self._runs:
            if run.app.project in changed:
                run.has_started = True
                run.check_at = min(run.check_at, time.monotonic() + CHECK_DELAY)
        if self._watch.losses != self._losses:
            self._await_engine(EngineError("dockerd went away", Cause.ENGINE_LOST.hint))

    def _next_moment(self) -> float:
        moments = [self._deadline, self._deadline + END_SECONDS]
        for run in self._runs:
            if run.busy is not None:
                moments += [run.busy + ALONE_SECONDS, run.busy + HOLD_SECONDS]
            elif run.prepares:
                moments += [self._ready + LOADING_SECONDS, run.next_up]
            elif run.outcome is None:
                moments += [run.deadline, run.next_up if run.wants_up else run.check_at]
            elif not run.has_failed:
                moments.append(run.check_at)
        # Everything that was due in this round is done, or waits for something else.
        return min(
            (moment for moment in moments if moment > self._now), default=self._now + ENGINE_PAUSE
        )

    # Long calls.

    def _begin_calls(self) -> None:
        if self._now >= self._deadline:
            return
        # Apps that were never tried go first, in the order of the plan.
        for run in sorted(self._runs, key=lambda run: run.tried):
            if run.has_failed or run.busy is not None or run.next_up > self._now:
                continue
            if run.prepares:
                if self._may_prepare(run):
                    self._call(run, self._prepare)
            elif run.wants_up and self._now < run.deadline and self._has_slot(run):
                self._call_up(run)

    def _has_slot(self, run: AppRun) -> bool:
        if run is not self._runs[0] and self._first_is_alone():
            return False
        coming_up = sum(
            other.busy is not None and not other.prepares and other.busy + HOLD_SECONDS > self._now
            for other in self._runs
        )
        return coming_up < self._settings.parallel

    def _first_is_alone(self) -> bool:
        """Whether the first app still has to come up before all others."""
        first = self._runs[0]
        if first.tried or first.has_failed or first.prepares or not first.wants_up:
            return False
        if first.busy is None:
            return True
        return not first.has_started and first.busy + ALONE_SECONDS > self._now

    def _may_prepare(self, run: AppRun) -> bool:
        """One app at a time; folders come before images, and images after the other apps."""
        others = [other for other in self._runs if other is not run and not other.has_failed]
        if any(other.prepares and other.busy is not None for other in others):
            return False
        if not run.plan.does(Action.LOAD) or self._now >= self._ready + LOADING_SECONDS:
            return True
        return all(other.plan.does(Action.LOAD) or not other.wants_up for other in others)

    def _call_up(self, run: AppRun) -> None:
        self._begin_time(run)
        if not self._lock.still_held():
            message = "aktualizr-lite has begun to work on the apps"
            self._fail(run, Failure(Cause.APPS_TAKEN, message))
            return
        if run.tried:
            message = f"{run.problem.message}; trying again"
            event = Event(Kind.RETRYING, message, run.app.name, run.problem.cause.label)
            self._report(event)
        else:
            self._report(Event(Kind.STARTING, "coming up", app=run.app.name))
        run.losses = self._losses
        self._call(run, self._bring_up)

    def _begin_time(self, run: AppRun) -> None:
        """Begin the app's time. It is for containers, not for loading images from the store."""
        if run.deadline == math.inf:
            run.deadline = min(self._deadline, self._now + self._settings.app_seconds)
            # Settling is expected, so only what comes after it is reported.
            run.reported_at = self._now + self._settings.settle_seconds

    def _call(self, run: AppRun, function: Callable[[AppRun], Ending]) -> None:
        def call() -> None:
            try:
                ending = function(run)
            except EngineError as error:
                ending = Failure(Cause.ENGINE_LOST, str(error))
            except Exception as error:  # a defect of the agent fails only this app
                ending = Failure.unexpected(error)
            self._ended.append((run, ending))
            self._watch.wake()

        run.busy = self._now
        # A daemon thread, because a call that hangs in the kernel must not keep the run from
        # ending.
        thread = threading.Thread(target=call, name=run.app.name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _await_calls(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _prepare(self, run: AppRun) -> Ending:
        """Restore the app's folder and images as the plan says."""
        app = run.app
        if app.restorable is None:
            return None
        for step in run.plan.steps:
            failure = None
            if step.action is Action.RESTORE:
                failure = self._restore_folder(app, app.restorable)
            elif step.image:
                version = app.restorable.version
                try:
                    failure = self._loader.load(step.image, app.name, version, self._deadline)
                except RefusedError as error:
                    cause = cause_of(str(error)) or Cause.IMAGE_NOT_LOADED
                    failure = Failure(cause, f"image {step.image.reference}: {error}")
            if failure:
                return failure
        return None

    def _restore_folder(self, app: App, restorable: Restorable) -> Ending:
        version, hashes = restorable.version, restorable.hashes

        def report_progress(text: str) -> None:
            message = f"putting its folder back: {text}"
            self._report(Event(Kind.RESTORING, message, app=app.name))

        self._report(Event(Kind.RESTORING, "putting its folder back", app=app.name))
        try:
            bundle.restore(
                self._store, version, hashes, app.folder, self._settings.staging, report_progress
            )
        except StoreError as error:
            return Failure(error.cause, str(error))
        except SpaceError as error:
            return Failure(Cause.NO_SPACE, str(error))
        except OSError as error:
            return Failure(Cause.FOLDER_NOT_RESTORED, f"{error.filename}: {error.strerror}")
        message = f"folder put back ({', '.join(restorable.damaged[:3])})"
        self._report(Event(Kind.RESTORED, message, app=app.name))
        return None

    def _bring_up(self, run: AppRun) -> Ending:
        refused = self._reconnect(run) if run.reconnects else None
        return self._compose.up(run.app.folder, run.deadline) or refused

    def _reconnect(self, run: AppRun) -> Ending:
        """Connect containers to their network again, which a power cut has removed.

        This keeps what they wrote. If dockerd refuses to connect a stopped container, it is
        recreated, but only once in a run and only if no other container of its service runs.
        Nothing else would ever start it.
        """
        app = run.app
        # If this fails, the `up` after it reports the same error.
        self._compose.make_networks(app.folder, run.deadline)
        known = self._engine.networks()
        containers = self._engine.containers(str(app.folder))
        running = {container.service for container in containers if container.state == "running"}
        refused = None
        for container in containers:
            lost = container.lost_networks(known)
            if container.without_network:
                lost = (container.network_mode,)
            for network in lost:
                # dockerd would also accept the name of a network that does not exist.
                if network not in known.values():
                    continue
                words = self._engine.reconnect(container, network)
                if words is None:
                    message = f"container {container.name!r} is connected to {network!r} again"
                    self._report(Event(Kind.HEALED, message, app=app.name))
                    continue
                cause = cause_of(words) or Cause.NETWORK_STALE
                refused = Failure(cause, f"container {container.name!r}: {words}")
                if container.service not in running | run.replaced:
                    refused = self._recreate(run, container, words)
        return refused

    def _recreate(self, run: AppRun, container: Container, words: str) -> Ending:
        run.replaced.add(container.service)
        message = (
            f"container {container.name!r} cannot be connected to its network ({words}); "
            f"service {container.service!r} is made anew, what it wrote outside volumes is lost"
        )
        self._report(Event(Kind.REPLACED, message, app=run.app.name))
        return self._compose.recreate(run.app.folder, container.service, run.deadline)

    def _take_endings(self) -> None:
        while self._ended:
            run, ending = self._ended.popleft()
            if run.has_failed or run.busy is None:  # its app was given up
                run.busy = None
                continue
            run.busy = None
            if run.prepares:
                self._take_prepared(run, ending)
            else:
                self._take_up(run, ending)

    def _take_prepared(self, run: AppRun, ending: Ending) -> None:
        if ending and ending.cause is Cause.ENGINE_LOST:
            self._delay(run, ending)
        elif ending and run.plan.does(Action.UP):
            self._fail(run, ending)
        else:
            run.prepares = False
            if ending:  # its containers run nevertheless
                event = Event(Kind.NOTE, ending.message, run.app.name, hint=ending.cause.hint)
                self._report(event)

    def _take_up(self, run: AppRun, ending: Ending) -> None:
        run.tried = True
        run.wants_up = False
        run.check_at = self._now + CHECK_DELAY
        if ending and run.losses != self._watch.losses:
            ending = Failure(Cause.ENGINE_LOST, f"dockerd went away meanwhile: {ending.message}")
        if ending is None:
            run.reconnects = False
            run.reported_at = self._now + self._settings.settle_seconds
            seconds = self._now - self._ready
            self._report(Event(Kind.UP, "up, settling", run.app.name, seconds=seconds))
        elif ending.cause is Cause.TIMEOUT:
            # The earlier problem says more than the time-out of the next attempt.
            run.problem = ending if run.problem == NOT_TRIED else run.problem
        elif ending.cause.passes:
            self._plan_up(run, ending)
        else:
            self._fail(run, ending)

    def _plan_up(self, run: AppRun, problem: Failure) -> None:
        """Plan another `up`, with a longer pause each time."""
        run.wants_up = True
        run.reconnects = run.reconnects or problem.cause is Cause.NETWORK_STALE
        self._delay(run, problem)

    def _delay(self, run: AppRun, problem: Failure) -> None:
        run.problem = problem
        run.next_up = self._now + run.back_off
        run.back_off = min(2 * run.back_off, MAX_BACK_OFF)

    # Checking the containers.

    def _check_containers(self) -> None:
        for run in self._runs:
            due = run.check_at if run.outcome else min(run.check_at, run.deadline)
            if not run.is_watched or due > self._now:
                continue
            self._begin_time(run)
            try:
                containers = self._engine.containers(str(run.app.folder))
                self._report.saw(run.app.name, containers)
                self._decide(run, containers)
            except EngineError as error:
                self._await_engine(error)
                return
            except Exception as error:  # dockerd may answer anything
                self._fail(run, Failure.unexpected(error))

    def _decide(self, run: AppRun, containers: tuple[Container, ...]) -> None:
        verdict = judge(
            run.app,
            containers,
            settle_seconds=self._settings.settle_seconds,
            finished=self.finished,
            brought_up=run.losses == self._watch.losses,
        )
        run.check_at = math.inf
        if isinstance(verdict, Waits) and self._now >= run.deadline:
            verdict = self._at_last(run, verdict)
        if isinstance(verdict, Failure):
            self._fail(run, verdict)
        elif isinstance(verdict, Runs):
            if run.outcome is None:
                self._report_running(run, verdict)
            run.outcome = verdict
        else:
            run.outcome = None
            run.check_at = self._now + verdict.seconds
            self._report_waiting(run, verdict.what)
            if verdict.need is not Need.TIME and isinstance(verdict.at_last, Failure):
                self._plan_up(run, self._with_last_words(verdict.at_last))
                run.reconnects = run.reconnects or verdict.need is Need.NETWORK

    def _at_last(self, run: AppRun, verdict: Waits) -> Runs | Failure:
        """Return the outcome of an app whose time is up while `verdict` still waits."""
        at_last = verdict.at_last
        if isinstance(at_last, Runs) or at_last.cause not in VAGUE_CAUSES:
            return at_last
        if run.problem == NOT_TRIED:
            return at_last
        if run.problem.cause is Cause.TIMEOUT:
            return replace(run.problem, message=f"{run.problem.message}; {verdict.what}")
        return run.problem

    def _all_still_run(self) -> bool:
        """Check all running apps once more, because nothing watches them after this run."""
        running = [run for run in self._runs if isinstance(run.outcome, Runs)]
        try:
            containers = self._engine.containers(*(str(run.app.folder) for run in running))
        except EngineError as error:
            self._await_engine(error)
            return self._all_decided()
        for run in running:
            own = tuple(found for found in containers if found.folder == str(run.app.folder))
            self._report.saw(run.app.name, own)
            try:
                self._decide(run, own)
            except Exception as error:  # as above
                self._fail(run, Failure.unexpected(error))
        self._remember_one_shots(containers)
        return self._all_decided()

    def _remember_one_shots(self, containers: tuple[Container, ...]) -> None:
        if self._identity is None or not any(container.ended_well for container in containers):
            return
        try:
            oneshots.remember(self._settings, self._identity, containers)
        except OSError as error:
            message = f"{self._settings.finished}: cannot be written: {error.strerror}"
            self._report(Event(Kind.NOTE, message))

    def _await_engine(self, error: EngineError) -> None:
        """Wait for dockerd, which went away with `error`, and have all apps judged again."""
        began = time.monotonic()
        if began >= self._deadline:
            self._lose_engine(Failure(Cause.ENGINE_LOST, str(error)))
            return
        # The stream of events ends a moment after the first failed request.
        self._watch.changes(ENGINE_PAUSE)
        if self._losses != self._watch.losses:
            self._report(Event(Kind.WAITING, "dockerd went away: waiting until it is back"))
        self._losses = self._watch.losses
        seconds = min(self._settings.engine_seconds, self._deadline - began)
        try:
            Engine.connect(self._settings, max(0.0, seconds))
        except EngineError as lost:
            self._lose_engine(Failure(Cause.ENGINE_UNAVAILABLE, str(lost)))
            return
        self._identity = self._engine.identity()
        self.finished = oneshots.recall(self._settings, self._identity)
        outage = time.monotonic() - began
        for run in self._runs:
            if run.deadline < math.inf:
                run.deadline = min(self._deadline, run.deadline + outage)
            run.check_at = 0.0
            if isinstance(run.outcome, Runs):
                run.outcome = None
        # Check the apps now, not when the next container changes.
        self._watch.wake()

    def _lose_engine(self, failure: Failure) -> None:
        for run in self._runs:
            if not run.has_failed:
                self._fail(run, failure)

    def _keep_deadlines(self) -> None:
        for run in self._runs:
            if run.outcome is not None:
                continue
            if run.busy is not None and self._now < self._deadline + END_SECONDS:
                continue  # the call has the same deadline, and a better message
            if self._now >= self._deadline and run.prepares and not run.plan.does(Action.UP):
                self._leave_unprepared(run)
            elif self._now >= self._deadline and (run.prepares or (run.wants_up and not run.tried)):
                doing = "and a call for it does not end" if run.busy else "before its turn"
                message = f"the time of the whole run was up {doing}"
                self._fail(run, Failure(Cause.RUN_TIMEOUT, message))
            elif self._now >= run.deadline and run.wants_up:
                self._fail(run, run.problem)

    def _leave_unprepared(self, run: AppRun) -> None:
        """Judge a running app although not everything of it could be restored."""
        message = "the time of the whole run was up before all was put back"
        self._report(Event(Kind.NOTE, message, run.app.name, hint=Cause.RUN_TIMEOUT.hint))
        run.prepares = False
        run.busy = None
        self._watch.wake()

    # Reporting.

    def _with_last_words(self, failure: Failure) -> Failure:
        words = self._engine.last_words(failure.container) if failure.container else None
        if not words:
            return failure
        return replace(failure, message=f"{failure.message}: {words}", container=None)

    def _report_waiting(self, run: AppRun, what: str) -> None:
        if what == run.waiting_for:
            return
        if self._now < run.reported_at + STATUS_SECONDS:
            run.check_at = min(run.check_at, run.reported_at + STATUS_SECONDS)
            return
        run.waiting_for, run.reported_at = what, self._now
        self._report(Event(Kind.PENDING, what, app=run.app.name))

    def _report_running(self, run: AppRun, verdict: Runs) -> None:
        message = f"runs, {verdict.note}" if verdict.note else "runs"
        seconds = self._now - self._ready
        self._report(Event(Kind.RUNNING, message, app=run.app.name, seconds=seconds))

    def _fail(self, run: AppRun, failure: Failure) -> None:
        details = failure.details or run.problem.details
        run.outcome = replace(self._with_last_words(failure), details=details)
        seconds = time.monotonic() - self._ready
        self._report(Event.failed(run.app.name, run.outcome, seconds))
