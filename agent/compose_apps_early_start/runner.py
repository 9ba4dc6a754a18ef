"""Executes a plan: brings apps up side by side, and watches them until each runs or its time is up.

There is one tool, `docker compose up -d`. A container that fails is dockerd's to restart, by its
own policy; what has no policy, or what dockerd refused to start, is tried again by another `up`,
later and later. Nothing is ever taken down, and no container that ran is replaced, but for the one
case in `Runner._reconnect`. What cannot pass by waiting is told at once, see `cause.Cause`.

One thread decides. Calls that take long have threads of their own, which only hand back how
the call ended: so no lock guards the state of an app.
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
from .verdict import LEAST_TELLING, Finished, Need, Runs, Waits, judge

Ending = Failure | None
"""How a call ended; None: well."""

HOLD_SECONDS = 20.0
"""For how many seconds a `docker compose up` counts among those that come up side by side.

It may wait for a health check until the app's time is up, and must not keep others from starting.
"""

LOADING_SECONDS = 5.0
"""For how many seconds the first load of an image waits until the apps are up that need none.

Loading keeps all cores and the disk busy: beside it a start took three times as long.
"""

FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 10.0
"""Seconds before the second `docker compose up` of an app, doubled with each, and the most."""

STATUS_SECONDS = 5.0
"""Between two words on what one app waits for."""

LOOK_PAUSE = 0.2
"""Seconds from a change of an app's containers to the look at them: changes come in flocks.

While others come up each look costs processor time that these need.
"""

ENGINE_PAUSE = 0.5
"""Seconds before a dockerd that failed is asked again."""

END_SECONDS = 8.0
"""For all calls together to end, in a run that is told to end."""


@dataclass
class AppRun:
    """How far one app is in this run. All times are of `time.monotonic()`.

    `prepares` while something of it has to be put back, `wants_up` while it needs a (further) `up`,
    not before `next_up`. `busy` is since when a call for it goes on. `losses` is how often dockerd
    had been lost when its last `up` began, None before that. `trouble` is why it does not run, as
    far as is known. With an `outcome` it is decided: `Runs` may still change, a `Failure` not.
    `what` it waits for was told at `told_at`.
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
    look_at: float = 0.0
    trouble: Failure = NOT_TRIED
    outcome: Runs | Failure | None = None
    what: str = ""
    told_at: float = 0.0
    replaced: set[str] = field(default_factory=set)

    @property
    def app(self) -> App:
        """The app itself."""
        return self.plan.app

    @property
    def has_failed(self) -> bool:
        """Whether it is decided that it does not run."""
        return isinstance(self.outcome, Failure)

    @property
    def is_watched(self) -> bool:
        """Whether its containers are what decides next."""
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
        """`ready` is when the engine was, a time of `time.monotonic()`."""
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
        self._finished: Finished = oneshots.recall(settings, self._identity)
        self._watch = engine.watch()
        self._losses = 0
        self._now = ready
        self._ended: collections.deque[tuple[AppRun, Ending]] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._runs: tuple[AppRun, ...] = ()

    def run(self, plan: Plan) -> bool:
        """Execute `plan`, report how each app ended, and return whether everything was tried.

        It was not if SIGTERM or SIGINT asked for an end (`InterruptedRun` in this thread): compose
        is ended then, and the containers are left as they are.
        """
        self._runs = tuple(
            AppRun(
                each,
                prepares=each.does(Action.RESTORE) or each.does(Action.LOAD),
                wants_up=each.does(Action.UP),
                reconnects=each.does(Action.RECONNECT),
            )
            for each in plan.apps
        )
        complete = False
        try:
            for each in self._runs:
                if each.plan.failure:
                    self._fail(each, each.plan.failure)
            while True:
                self._now = time.monotonic()
                self._take_endings()
                self._begin_calls()
                self._look_at_containers()
                self._keep_deadlines()
                if self._all_decided() and self._all_still_run():
                    break
                self._wait()
            complete = True
        except InterruptedRun:
            pass
        finally:
            # In a run that ends by itself calls go on for apps only whose time is up.
            self._loader.cancel()
            self._compose.cancel()
            self._watch.close()
            self._await_calls()
        for each in self._runs:
            if each.outcome is None:
                self._fail(each, self._interrupted(each))
        return complete

    def _interrupted(self, each: AppRun) -> Failure:
        if each.trouble == NOT_TRIED and not each.tried and each.busy is None:
            return NOT_TRIED
        message = "the run was ended before the app ran"
        if each.trouble != NOT_TRIED:
            message += f": {each.trouble.message}"
        return Failure(Cause.INTERRUPTED, message)

    def _all_decided(self) -> bool:
        return all(each.outcome is not None for each in self._runs)

    def _wait(self) -> None:
        """Wait until a call ended, a container changed or the next moment came."""
        changed = self._watch.changes(self._next_moment() - time.monotonic())
        for each in self._runs:
            if each.app.project in changed:
                each.look_at = min(each.look_at, time.monotonic() + LOOK_PAUSE)
        if self._watch.losses != self._losses:
            self._await_engine(EngineError("dockerd went away", Cause.ENGINE_LOST.hint))

    def _next_moment(self) -> float:
        moments = [self._deadline, self._deadline + END_SECONDS]
        for each in self._runs:
            if each.busy is not None:
                moments.append(each.busy + HOLD_SECONDS)
            elif each.prepares:
                moments += [self._ready + LOADING_SECONDS, each.next_up]
            elif each.outcome is None:
                moments += [each.deadline, each.next_up if each.wants_up else each.look_at]
            elif not each.has_failed:
                moments.append(each.look_at)
        # What was due in this round is done, or waits for something else.
        return min((each for each in moments if each > self._now), default=self._now + ENGINE_PAUSE)

    # Calls that take long.

    def _begin_calls(self) -> None:
        if self._now >= self._deadline:
            return
        # Those that were never tried go first, in the order of the plan.
        for each in sorted(self._runs, key=lambda each: each.tried):
            if each.has_failed or each.busy is not None or each.next_up > self._now:
                continue
            if each.prepares:
                if self._may_prepare(each):
                    self._call(each, self._prepare)
            elif each.wants_up and self._now < each.deadline and self._has_place():
                self._call_up(each)

    def _has_place(self) -> bool:
        coming_up = [
            each
            for each in self._runs
            if each.busy is not None and not each.prepares and each.busy + HOLD_SECONDS > self._now
        ]
        return len(coming_up) < self._settings.parallel

    def _may_prepare(self, each: AppRun) -> bool:
        """One app at a time: folders before images, and images once the others had their start."""
        others = [other for other in self._runs if other is not each and not other.has_failed]
        if any(other.prepares and other.busy is not None for other in others):
            return False
        if not each.plan.does(Action.LOAD) or self._now >= self._ready + LOADING_SECONDS:
            return True
        return all(other.plan.does(Action.LOAD) or not other.wants_up for other in others)

    def _call_up(self, each: AppRun) -> None:
        self._begin_time(each)
        if not self._lock.still_held():
            message = "aktualizr-lite has begun to work on the apps"
            self._fail(each, Failure(Cause.APPS_TAKEN, message))
            return
        if each.tried:
            message = f"{each.trouble.message}; trying again"
            event = Event(Kind.RETRYING, message, each.app.name, each.trouble.cause.label)
            self._report(event)
        else:
            self._report(Event(Kind.STARTING, "coming up", app=each.app.name))
        each.losses = self._losses
        self._call(each, self._bring_up)

    def _begin_time(self, each: AppRun) -> None:
        """An app's own time is for its containers; gigabytes from the store are the run's."""
        if each.deadline == math.inf:
            each.deadline = min(self._deadline, self._now + self._settings.app_seconds)
            # Settling is what everybody expects: only what comes after it is worth a word.
            each.told_at = self._now + self._settings.settle_seconds

    def _call(self, each: AppRun, function: Callable[[AppRun], Ending]) -> None:
        def call() -> None:
            try:
                ending = function(each)
            except EngineError as error:
                ending = Failure(Cause.ENGINE_LOST, str(error))
            except Exception as error:  # a defect of ours is this app's failure, nobody else's
                ending = Failure.unexpected(error)
            self._ended.append((each, ending))
            self._watch.wake()

        each.busy = self._now
        # A daemon: one that hangs in the kernel must not keep the run from its end.
        thread = threading.Thread(target=call, name=each.app.name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _await_calls(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _prepare(self, each: AppRun) -> Ending:
        """Put back what the plan says: the app's folder, and images."""
        app = each.app
        if app.restorable is None:
            return None
        for step in each.plan.steps:
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

        def tell(text: str) -> None:
            message = f"putting its folder back: {text}"
            self._report(Event(Kind.RESTORING, message, app=app.name))

        self._report(Event(Kind.RESTORING, "putting its folder back", app=app.name))
        try:
            bundle.restore(self._store, version, hashes, app.folder, self._settings.staging, tell)
        except StoreError as error:
            return Failure(error.cause, str(error))
        except SpaceError as error:
            return Failure(Cause.NO_SPACE, str(error))
        except OSError as error:
            return Failure(Cause.FOLDER_NOT_RESTORED, f"{error.filename}: {error.strerror}")
        message = f"folder put back ({', '.join(restorable.damaged[:3])})"
        self._report(Event(Kind.RESTORED, message, app=app.name))
        return None

    def _bring_up(self, each: AppRun) -> Ending:
        refused = self._reconnect(each) if each.reconnects else None
        return self._compose.up(each.app.folder, each.deadline) or refused

    def _reconnect(self, each: AppRun) -> Ending:
        """Connect containers to their network again, which a power cut has taken away.

        So what they wrote is kept. A stopped one that dockerd refuses to connect is made anew, once
        in a run and only if no other of its service runs: nothing else would ever start it.
        """
        app = each.app
        # What goes wrong there, the `up` after it says again.
        self._compose.make_networks(app.folder, each.deadline)
        known = self._engine.networks()
        containers = self._engine.containers(str(app.folder))
        running = {container.service for container in containers if container.state == "running"}
        refused = None
        for container in containers:
            lost = container.lost_networks(known)
            if container.without_network:
                lost = (container.network_mode,)
            for network in lost:
                # dockerd would take the name of one that is not there, too.
                if network not in known.values():
                    continue
                words = self._engine.reconnect(container, network)
                if words is None:
                    message = f"container {container.name!r} is connected to {network!r} again"
                    self._report(Event(Kind.HEALED, message, app=app.name))
                    continue
                cause = cause_of(words) or Cause.NETWORK_STALE
                refused = Failure(cause, f"container {container.name!r}: {words}")
                if container.service not in running | each.replaced:
                    refused = self._make_anew(each, container, words)
        return refused

    def _make_anew(self, each: AppRun, container: Container, words: str) -> Ending:
        each.replaced.add(container.service)
        message = (
            f"container {container.name!r} cannot be connected to its network ({words}); "
            f"service {container.service!r} is made anew, what it wrote outside volumes is lost"
        )
        self._report(Event(Kind.REPLACED, message, app=each.app.name))
        return self._compose.recreate(each.app.folder, container.service, each.deadline)

    def _take_endings(self) -> None:
        while self._ended:
            each, ending = self._ended.popleft()
            if each.has_failed or each.busy is None:  # nobody waits for it any more
                each.busy = None
                continue
            each.busy = None
            if each.prepares:
                self._take_prepared(each, ending)
            else:
                self._take_up(each, ending)

    def _take_prepared(self, each: AppRun, ending: Ending) -> None:
        if ending and ending.cause is Cause.ENGINE_LOST:
            self._delay(each, ending)
        elif ending and each.plan.does(Action.UP):
            self._fail(each, ending)
        else:
            each.prepares = False
            if ending:  # its containers run all the same
                event = Event(Kind.NOTE, ending.message, each.app.name, hint=ending.cause.hint)
                self._report(event)

    def _take_up(self, each: AppRun, ending: Ending) -> None:
        each.tried = True
        each.wants_up = False
        each.look_at = self._now + LOOK_PAUSE
        if ending and each.losses != self._watch.losses:
            ending = Failure(Cause.ENGINE_LOST, f"dockerd went away meanwhile: {ending.message}")
        if ending is None:
            each.reconnects = False
            each.told_at = self._now + self._settings.settle_seconds
            seconds = self._now - self._ready
            self._report(Event(Kind.UP, "up, settling", each.app.name, seconds=seconds))
        elif ending.cause is Cause.TIMEOUT:
            # What was wrong before says more than that time was up in the next attempt.
            each.trouble = ending if each.trouble == NOT_TRIED else each.trouble
        elif ending.cause.passes:
            self._plan_up(each, ending)
        else:
            self._fail(each, ending)

    def _plan_up(self, each: AppRun, trouble: Failure) -> None:
        """Have the app brought up again, each time later."""
        each.wants_up = True
        each.reconnects = each.reconnects or trouble.cause is Cause.NETWORK_STALE
        self._delay(each, trouble)

    def _delay(self, each: AppRun, trouble: Failure) -> None:
        each.trouble = trouble
        each.next_up = self._now + each.back_off
        each.back_off = min(2 * each.back_off, LONGEST_BACK_OFF)

    # What the containers do.

    def _look_at_containers(self) -> None:
        for each in self._runs:
            due = each.look_at if each.outcome else min(each.look_at, each.deadline)
            if not each.is_watched or due > self._now:
                continue
            self._begin_time(each)
            try:
                containers = self._engine.containers(str(each.app.folder))
                self._report.saw(each.app.name, containers)
                self._decide(each, containers)
            except EngineError as error:
                self._await_engine(error)
                return
            except Exception as error:  # dockerd may answer anything
                self._fail(each, Failure.unexpected(error))

    def _decide(self, each: AppRun, containers: tuple[Container, ...]) -> None:
        verdict = judge(
            each.app,
            containers,
            settle_seconds=self._settings.settle_seconds,
            finished=self._finished,
            brought_up=each.losses == self._watch.losses,
        )
        each.look_at = math.inf
        if isinstance(verdict, Waits) and self._now >= each.deadline:
            verdict = self._at_last(each, verdict)
        if isinstance(verdict, Failure):
            self._fail(each, verdict)
        elif isinstance(verdict, Runs):
            if each.outcome is None:
                self._tell_runs(each, verdict)
            each.outcome = verdict
        else:
            each.outcome = None
            each.look_at = self._now + verdict.seconds
            self._tell_what(each, verdict.what)
            if verdict.need is not Need.TIME and isinstance(verdict.at_last, Failure):
                self._plan_up(each, self._with_last_words(verdict.at_last))
                each.reconnects = each.reconnects or verdict.need is Need.NETWORK

    def _at_last(self, each: AppRun, verdict: Waits) -> Runs | Failure:
        """Return what an app comes to whose time is up while `verdict` still waits."""
        at_last = verdict.at_last
        if isinstance(at_last, Runs) or at_last.cause not in LEAST_TELLING:
            return at_last
        if each.trouble == NOT_TRIED:
            return at_last
        if each.trouble.cause is Cause.TIMEOUT:
            return replace(each.trouble, message=f"{each.trouble.message}; {verdict.what}")
        return each.trouble

    def _all_still_run(self) -> bool:
        """Look once more at all apps that run: nobody does after this run."""
        running = [each for each in self._runs if isinstance(each.outcome, Runs)]
        try:
            containers = self._engine.containers(*(str(each.app.folder) for each in running))
        except EngineError as error:
            self._await_engine(error)
            return self._all_decided()
        for each in running:
            own = tuple(found for found in containers if found.folder == str(each.app.folder))
            self._report.saw(each.app.name, own)
            try:
                self._decide(each, own)
            except Exception as error:  # as above
                self._fail(each, Failure.unexpected(error))
        self._remember_one_shots(containers)
        return self._all_decided()

    def _remember_one_shots(self, containers: tuple[Container, ...]) -> None:
        if self._identity is None or not any(each.ended_well for each in containers):
            return
        try:
            oneshots.remember(self._settings, self._identity, containers)
        except OSError as error:
            message = f"{self._settings.finished}: cannot be written: {error.strerror}"
            self._report(Event(Kind.NOTE, message))

    def _await_engine(self, error: EngineError) -> None:
        """Wait for a dockerd that went away by `error`; everything is judged again after that."""
        began = time.monotonic()
        if began >= self._deadline:
            self._lose_engine(Failure(Cause.ENGINE_LOST, str(error)))
            return
        # The end of its events comes a moment later than its first failure.
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
        self._finished = oneshots.recall(self._settings, self._identity)
        outage = time.monotonic() - began
        for each in self._runs:
            if each.deadline < math.inf:
                each.deadline = min(self._deadline, each.deadline + outage)
            each.look_at = 0.0
            if isinstance(each.outcome, Runs):
                each.outcome = None
        # They are to be looked at now, not when the next container changes.
        self._watch.wake()

    def _lose_engine(self, failure: Failure) -> None:
        for each in self._runs:
            if not each.has_failed:
                self._fail(each, failure)

    def _keep_deadlines(self) -> None:
        for each in self._runs:
            if each.outcome is not None:
                continue
            if each.busy is not None and self._now < self._deadline + END_SECONDS:
                continue  # the call has the same deadline, and knows best how far it came
            if self._now >= self._deadline and each.prepares and not each.plan.does(Action.UP):
                self._leave_unprepared(each)
            elif self._now >= self._deadline and (
                each.prepares or (each.wants_up and not each.tried)
            ):
                doing = "and a call for it does not end" if each.busy else "before its turn"
                message = f"the time of the whole run was up {doing}"
                self._fail(each, Failure(Cause.RUN_TIMEOUT, message))
            elif self._now >= each.deadline and each.wants_up:
                self._fail(each, each.trouble)

    def _leave_unprepared(self, each: AppRun) -> None:
        """Judge an app that runs, though not all could be put back beside it."""
        message = "the time of the whole run was up before all was put back"
        self._report(Event(Kind.NOTE, message, each.app.name, hint=Cause.RUN_TIMEOUT.hint))
        each.prepares = False
        each.busy = None
        self._watch.wake()

    # What is told.

    def _with_last_words(self, failure: Failure) -> Failure:
        words = self._engine.last_words(failure.container) if failure.container else None
        if not words:
            return failure
        return replace(failure, message=f"{failure.message}: {words}", container=None)

    def _tell_what(self, each: AppRun, what: str) -> None:
        if what == each.what:
            return
        if self._now < each.told_at + STATUS_SECONDS:
            each.look_at = min(each.look_at, each.told_at + STATUS_SECONDS)
            return
        each.what, each.told_at = what, self._now
        self._report(Event(Kind.PENDING, what, app=each.app.name))

    def _tell_runs(self, each: AppRun, verdict: Runs) -> None:
        message = f"runs, {verdict.note}" if verdict.note else "runs"
        seconds = self._now - self._ready
        self._report(Event(Kind.RUNNING, message, app=each.app.name, seconds=seconds))

    def _fail(self, each: AppRun, failure: Failure) -> None:
        details = failure.details or each.trouble.details
        each.outcome = replace(self._with_last_words(failure), details=details)
        seconds = time.monotonic() - self._ready
        self._report(Event.failed(each.app.name, each.outcome, seconds))
