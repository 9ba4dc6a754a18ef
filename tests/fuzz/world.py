"""A world in which one run takes place: apps, dockerd, compose, and a clock that costs no time.

Everything that waits waits for this clock. One thread goes on at a time, in an order that the clock
alone decides, so that an example always runs in the same way.
"""

import heapq
import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compose_apps_early_start.cause import NOT_TRIED, Cause, Failure
from compose_apps_early_start.container import Container
from compose_apps_early_start.errors import EngineError, InterruptedRun
from compose_apps_early_start.preloaded import App

PATIENCE = 100_000
"""Turns of all threads together, in a run; more are a run without an end."""


class EndOfWorldError(BaseException):
    """Ends a thread that would wait for ever."""


class Clock:
    """Time that goes on when everybody waits. In `time` of the module that is tested."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ended = False
        self.turns = 0
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, threading.Semaphore]] = []
        self._wakes: dict[threading.Semaphore, float] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, turn: threading.Semaphore | None = None) -> None:
        """Let the others go on for `seconds`; `turn` is by what `wake` knows who sleeps."""
        turn = turn or threading.Semaphore(0)
        self._add(self.now + max(0.0, seconds), turn)
        self.next()
        turn.acquire()
        if self.ended:
            raise EndOfWorldError

    def wake(self, turn: threading.Semaphore) -> None:
        """Let who sleeps by `turn` go on at once."""
        if turn in self._wakes and self._wakes[turn] > self.now:
            self._add(self.now, turn)

    def _add(self, moment: float, turn: threading.Semaphore) -> None:
        self._wakes[turn] = moment
        heapq.heappush(self._waiting, (moment, next(self._order), turn))

    def next(self) -> None:
        """Give the turn to who is due next."""
        while self._waiting:
            moment, _, turn = heapq.heappop(self._waiting)
            if self._wakes.get(turn) == moment:
                del self._wakes[turn]
                self.now = max(self.now, moment)
                self.turns += 1
                turn.release()
                return

    def end(self) -> None:
        """Let every thread that still waits end."""
        self.ended = True
        for turn in list(self._wakes):
            turn.release()


class Thread:
    """Stands for threading.Thread: takes its turns by the clock."""

    clock: Clock
    made: list["Thread"]

    def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
        assert daemon
        self.done = False
        self._turn = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(target,), name=name, daemon=True)
        self.made.append(self)

    def _run(self, target: Callable[[], None]) -> None:
        self._turn.acquire()
        try:
            if not self.clock.ended:
                target()
        except EndOfWorldError:
            return
        finally:
            self.done = True
            if not self.clock.ended:
                self.clock.next()

    def start(self) -> None:
        self.clock._add(self.clock.now, self._turn)
        self._thread.start()

    def join(self, timeout: float) -> None:
        deadline = self.clock.now + timeout
        while not self.done and self.clock.now < deadline:
            self.clock.sleep(min(0.25, deadline - self.clock.now))

    def really_join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@dataclass(frozen=True)
class Call:
    """How one call of compose goes: how long it takes, and its end; None: well."""

    seconds: float
    ending: Failure | Exception | None
    hangs: bool = False


@dataclass(frozen=True)
class Change:
    """At `moment`, in seconds from the begin, a container becomes as `made` says; None: gone."""

    moment: float
    app: int
    service: int
    made: dict[str, Any] | None


@dataclass(frozen=True)
class Loss:
    """dockerd goes away at `moment` for so many seconds; its containers end with it, or do not.

    One that is only `sick` is still there, and answers every question with an error.
    """

    moment: float
    seconds: float
    stops: bool
    sick: bool = False


@dataclass
class World:
    """What a run meets. `calls` are by app, the last one for ever."""

    clock: Clock
    apps: list[App]
    calls: list[list[Call]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    refusals: list[str | None] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)
    interrupted_at: float = math.inf
    taken_at: float = math.inf
    containers: dict[str, dict[str, Container]] = field(default_factory=lambda: defaultdict(dict))
    log: list[tuple[str, str, float]] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    unexpected: int = 0

    def __post_init__(self) -> None:
        self.begin = self.clock.now
        self.main = threading.current_thread()
        self.turn = threading.Semaphore(0)
        self.asleep = False
        self.watch = Watch(self)
        self._number = itertools.count()

    def container(self, app: App, service: str, **made: Any) -> Container:
        number = next(self._number)
        up_since = made.pop("up_since", self.clock.now)
        found = Container(
            id=f"{number:064x}",
            name=f"{app.name}-{service}-1",
            project=app.project,
            folder=str(app.folder),
            service=service,
            **{"state": "running", "network_mode": "net", "networks": (("net", "id"),), **made},
        )
        self.started = getattr(self, "started", {})
        self.started[found.id] = up_since
        return found

    def settle_past(self) -> None:
        """Let happen what is due."""
        while self.changes and self.begin + self.changes[0].moment <= self.clock.now:
            change = self.changes.pop(0)
            app = self.apps[change.app % len(self.apps)]
            name = app.services[change.service % len(app.services)].name
            if change.made is None:
                self.containers[str(app.folder)].pop(name, None)
            elif name in self.containers[str(app.folder)]:
                self.containers[str(app.folder)][name] = self.container(app, name, **change.made)

    def next_change(self) -> float:
        moments = [self.begin + each.moment for each in self.changes[:1]]
        for each in self.losses:
            moments += [self.begin + each.moment, self.begin + each.moment + each.seconds]
        moments += [self.interrupted_at]
        return min((each for each in moments if each > self.clock.now), default=math.inf)

    def loss(self) -> Loss | None:
        since = self.clock.now - self.begin
        return next(
            (each for each in self.losses if each.moment <= since < each.moment + each.seconds),
            None,
        )

    def step(self) -> None:
        """Whatever is asked takes its time, and may find an end."""
        self.clock.sleep(0.001)
        self.settle_past()
        self.watch.look()
        if threading.current_thread() is self.main and self.clock.now >= self.interrupted_at:
            self.interrupted_at = math.inf
            raise InterruptedRun
        assert self.clock.turns < PATIENCE, "the run does not end"


class Watch:
    """Events of dockerd: every change wakes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._changed: set[str] = set()
        self._seen: set[int] = set()
        self.losses = 0
        self.closed = False

    def look(self) -> None:
        """Notice the losses that have begun."""
        since = self._world.clock.now - self._world.begin
        for number, each in enumerate(self._world.losses):
            if each.moment <= since and number not in self._seen and not each.sick:
                self._seen.add(number)
                self.losses += 1
                self._changed.add("")
                if each.stops:
                    for held in self._world.containers.values():
                        for name, found in held.items():
                            if found.state == "running":
                                held[name] = replace(found, state="exited", exit_code=0)

    def changes(self, seconds: float) -> frozenset[str]:
        world = self._world
        world.rounds.append(world.clock.now)
        deadline = world.clock.now + max(0.0, seconds)
        before = len(world.changes)
        world.step()
        while not self._changed and world.clock.now < deadline and len(world.changes) == before:
            until = min(deadline, world.next_change())
            world.asleep = True
            world.clock.sleep(until - world.clock.now, world.turn)
            world.asleep = False
            world.step()
        if len(world.changes) != before:
            self._changed |= {each.project for each in world.apps}
        found = frozenset(self._changed)
        self._changed.clear()
        return found

    def wake(self, project: str = "") -> None:
        self._changed.add(project)
        self._world.clock.wake(self._world.turn)

    def close(self) -> None:
        self.closed = True


class Engine:
    """dockerd."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.refused: set[tuple[str, str]] = set()

    def _ask(self) -> None:
        self._world.step()
        if self._world.loss():
            raise EngineError("dockerd does not answer", "look")
        if self._world.errors:
            raise self._world.errors.pop(0)

    def identity(self) -> str | None:
        return f"1:{self._world.watch.losses}"

    def watch(self) -> Watch:
        return self._world.watch

    def connect(self, _settings: object, seconds: float) -> "Engine":
        deadline = self._world.clock.now + seconds
        while True:
            self._world.step()
            loss = self._world.loss()
            if loss is None or loss.sick:
                return self
            if self._world.clock.now >= deadline:
                raise EngineError("dockerd did not answer", "look")
            self._world.clock.sleep(0.5)

    def containers(self, *folders: str) -> tuple[Container, ...]:
        self._ask()
        return tuple(
            replace(each, up_for=self._world.clock.now - self._world.started[each.id])
            if each.state == "running"
            else each
            for folder in folders
            for each in self._world.containers[folder].values()
        )

    def networks(self) -> dict[str, str]:
        self._ask()
        return {"id": "net"}

    def reconnect(self, container: Container, _network: str) -> str | None:
        self._ask()
        words = self._world.refusals.pop(0) if self._world.refusals else None
        held = self._world.containers[container.folder]
        if words is None and container.service in held:
            held[container.service] = replace(
                held[container.service], networks=(("net", "id"),), network_mode="net"
            )
        elif words is not None and container.state != "running":
            self.refused.add((Path(container.folder).name, container.service))
        return words

    def last_words(self, _container: str) -> str | None:
        try:
            self._ask()
        except EngineError:
            return None
        return "its last words"


class Compose:
    """compose, and nothing that it could do beside."""

    def __init__(self, world: World, engine: Engine) -> None:
        self._world = world
        self._engine = engine
        self._cancelled = False
        self.active: list[str] = []

    def up(self, folder: Path, deadline: float) -> Failure | None:
        return self._call("up", folder, deadline)

    def make_networks(self, folder: Path, deadline: float) -> Failure | None:
        return self._call("make_networks", folder, deadline)

    def recreate(self, folder: Path, service: str, deadline: float) -> Failure | None:
        assert (folder.name, service) in self._engine.refused, "nobody refused to connect it"
        self._engine.refused.discard((folder.name, service))
        return self._call("recreate", folder, deadline, service)

    def cancel(self) -> None:
        self._cancelled = True

    def _call(self, what: str, folder: Path, deadline: float, service: str = "") -> Failure | None:
        world = self._world
        if self._cancelled:
            return NOT_TRIED
        world.log.append((what, folder.name, world.clock.now))
        number = next(n for n, each in enumerate(world.apps) if each.folder == folder)
        calls = world.calls[number]
        call = calls.pop(0) if len(calls) > 1 else calls[0]
        until = math.inf if call.hangs else min(world.clock.now + call.seconds, deadline)
        assert folder.name not in self.active, "two calls of compose for one app"
        self.active.append(folder.name)
        try:
            while world.clock.now < until and (call.hangs or not self._cancelled):
                world.clock.sleep(min(1.0 if not call.hangs else 3600.0, until - world.clock.now))
        finally:
            self.active.remove(folder.name)
        if self._cancelled:
            return Failure(Cause.INTERRUPTED, "the run was ended while the app was coming up")
        if world.clock.now >= deadline:
            return Failure(Cause.TIMEOUT, "it did not end in time")
        if isinstance(call.ending, Exception):
            world.unexpected += 1
            raise call.ending
        if call.ending is None and what != "make_networks":
            self._make(world.apps[number], service)
        return call.ending

    def _make(self, app: App, only: str) -> None:
        held = self._world.containers[str(app.folder)]
        for service in app.services:
            found = held.get(service.name)
            if only and service.name != only:
                continue
            if only or found is None or found.state in ("exited", "created", "dead"):
                held[service.name] = self._world.container(app, service.name)
