"""The timeline of a boot on the kernel's clock: where the time until the apps ran was spent.

It combines the record of a run with systemd's times of the boot. All times are in seconds since the
kernel's start.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

from . import status, units, uptime
from .errors import EarlyStartError
from .report import printable
from .settings import Settings
from .units import Boot, Link, Unit

SCHEMA = 1
"""Of the JSON; raised when a key changes its meaning or goes away."""

DOCKER = "docker.service"
AGENT = "compose-apps-early-start.service"
BEFORE_DOCKER = (
    "resize-helper.service",
    "network-online.target",
    "containerd.service",
    "fio-docker-fsck.service",
    "docker.socket",
)
AFTER_AGENT = ("lmp-device-auto-register.service", "aktualizr-lite.service", "fioup.service")

HELD_SECONDS = 1.0
"""A unit that held docker back for less time, in seconds, gets no phase of its own."""

BY_SYSTEMD_SECONDS = 10.0
"""A run that began this much later than the unit, in seconds, was not started by the unit."""

AGENT_STATES = {"started": "loading", "loaded": "loading", "waiting": "waiting", "ready": "apps"}
VERDICTS = ("running", "failed")


@dataclass(frozen=True)
class Phase:
    """A part of the time. Each phase begins at the end of the phase before it."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Span:
    """A time in which a lane was in one state."""

    state: str
    begin: float
    end: float


@dataclass(frozen=True)
class Mark:
    """A moment: `restart`, `healthy`, `running` or `failed` of an app, or `reached` of a unit."""

    what: str
    uptime: float


@dataclass(frozen=True)
class Lane:
    """What one unit, the agent or one app did. `kind` is one of: unit, agent, app."""

    name: str
    kind: str
    spans: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Timeline:
    """A boot up to the end of a run.

    `end` is when every app had its verdict, or now while the run is in progress. `held_back` are
    the units for which the start of `gate`, dockerd's or the agent's unit, waited. `unknown` says
    what is missing.
    """

    run: int
    boot_id: str | None
    state: str
    end: float
    phases: tuple[Phase, ...]
    gate: str
    held_back: tuple[Link, ...]
    lanes: tuple[Lane, ...]
    unknown: str | None = None


def read(settings: Settings) -> Timeline:
    """Make the timeline of the run in progress, or else of the last run.

    Raises `EarlyStartError` if there is no record, or it has no times.
    """
    record = status.load(settings)
    boot = None
    unknown: str | None = "when units were started: the run was in an earlier boot"
    if record["boot_id"] == uptime.boot_id():
        try:
            boot, unknown = units.ask(), None
        except EarlyStartError as error:
            unknown = str(error)
    return make(record, boot, uptime.now(), unknown)


def make(
    record: Mapping[str, Any], boot: Boot | None, now: float, unknown: str | None = None
) -> Timeline:
    """Make the timeline of the run in `record`; `boot` is None if systemd has forgotten it.

    Raises `EarlyStartError` if the record has no times.
    """
    steps: Sequence[Mapping[str, Any]] = record["steps"]
    if not steps:
        raise EarlyStartError(
            "the record of the run has no times: an older version of the agent made it",
            "run 'systemctl restart compose-apps-early-start' to have a new one written",
        )
    end = _end(record, now)
    gate, links = _gate(boot, steps)
    return Timeline(
        run=record["run"],
        boot_id=record["boot_id"],
        state=record["state"],
        end=end,
        phases=_phases(boot, steps, gate, links, end),
        gate=gate,
        held_back=links,
        lanes=tuple(_lanes(record, boot, links, end)),
        unknown=unknown,
    )


def _first(steps: Iterable[Mapping[str, Any]], state: str) -> float | None:
    return next((float(step["uptime"]) for step in steps if step["state"] == state), None)


def _end(record: Mapping[str, Any], now: float) -> float:
    last = float(record["steps"][-1]["uptime"])
    if record["steps"][-1]["state"] == "ended":
        return last
    if record["state"] == "running":
        return now
    # It was killed, so its last step is the last known time.
    return max([last, *(float(step["uptime"]) for app in record["apps"] for step in app["steps"])])


def _docker(boot: Boot | None, steps: Iterable[Mapping[str, Any]]) -> Unit | None:
    """Return dockerd's unit, unless dockerd was restarted after the run."""
    docker = boot.units.get(DOCKER) if boot else None
    ready = _first(steps, "ready")
    return docker if docker and (ready is None or docker.began <= ready) else None


def _gate(boot: Boot | None, steps: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[Link, ...]]:
    """Return the unit for whose start the apps waited, dockerd's or the agent's, and its chain."""
    docker = _docker(boot, steps)
    started = steps[0]["uptime"]
    if boot is None or (docker and (docker.done is None or docker.done > started)):
        return DOCKER, units.held_back(boot, DOCKER) if boot else ()
    agent = boot.units.get(AGENT)
    if agent is None or not 0 <= started - agent.began <= BY_SYSTEMD_SECONDS:
        return AGENT, ()  # somebody started it by hand
    return AGENT, units.held_back(boot, AGENT)


def _phases(
    boot: Boot | None,
    steps: Sequence[Mapping[str, Any]],
    gate: str,
    links: tuple[Link, ...],
    end: float,
) -> tuple[Phase, ...]:
    started, ready = steps[0]["uptime"], _first(steps, "ready")
    docker = _docker(boot, steps)
    cuts: list[tuple[str, float]] = []
    if boot is None:
        cuts.append(("system", started))
    else:
        cuts += [("kernel", boot.initrd or boot.userspace), ("initrd", boot.userspace)]
        held = max(links, key=lambda link: link.seconds, default=None)
        if held and held.seconds >= HELD_SECONDS:
            cuts += [("system", held.done - held.seconds), (held.unit, held.done)]
        cuts.append(("system", docker.began if docker and gate == DOCKER else started))
    if gate == DOCKER:
        up = docker.done if docker and docker.done else ready
        cuts.append(("dockerd", end if up is None else up))
    asked = _first(steps, "waiting") is not None
    # If dockerd's unit has no times, use the time for which the agent waited for dockerd.
    cuts.append(
        ("dockerd" if asked and docker is None else "agent", end if ready is None else ready)
    )
    cuts.append(("apps", end))
    return tuple(_contiguous(cuts, end))


def _contiguous(cuts: Iterable[tuple[str, float]], end: float) -> Iterator[Phase]:
    """Return the phases that end at these times, without empty phases and phases after `end`."""
    since = 0.0
    for name, until in cuts:
        until = min(max(until, since), end)
        if until > since:
            yield Phase(name, since, until)
        since = until


def _lanes(
    record: Mapping[str, Any], boot: Boot | None, links: tuple[Link, ...], end: float
) -> Iterator[Lane]:
    if boot:
        held = max(links, key=lambda link: link.seconds, default=None)
        extra = (held.unit,) if held and held.seconds >= HELD_SECONDS else ()
        names = (name for name in dict.fromkeys((*BEFORE_DOCKER, *extra)) if name != DOCKER)
        found = (boot.units[name] for name in names if name in boot.units)
        for unit in sorted(found, key=lambda unit: unit.began):
            if unit.began <= end:
                yield _unit_lane(unit)
        docker = _docker(boot, record["steps"])
        if docker:
            waiting = Span("waiting", boot.userspace, docker.began)
            lane = _unit_lane(docker)
            yield Lane(lane.name, lane.kind, (waiting, *lane.spans))
    steps = [
        {"state": AGENT_STATES[each["state"]], "uptime": each["uptime"]}
        for each in record["steps"]
        if each["state"] in AGENT_STATES
    ]
    yield Lane("compose-apps-early-start", "agent", tuple(_spans(steps, end)))
    for app in record["apps"]:
        yield _app_lane(app, end)
    if boot:
        for name in AFTER_AGENT:
            if name in boot.units:
                yield Lane(name, "unit", marks=(Mark("reached", boot.units[name].began),))


def _unit_lane(unit: Unit) -> Lane:
    if unit.done is None or unit.done - unit.began < 0.05:
        return Lane(unit.name, "unit", marks=(Mark("reached", unit.done or unit.began),))
    return Lane(unit.name, "unit", (Span("starting", unit.began, unit.done),))


def _app_lane(app: Mapping[str, Any], end: float) -> Lane:
    spans = [each for each in _spans(app["steps"], end) if each.state != "failed"]
    marks = [Mark(step["state"], step["uptime"]) for step in app["steps"][-1:]]
    marks = [mark for mark in marks if mark.what in VERDICTS]
    for each in app["containers"]:
        marks += [Mark("restart", uptime) for uptime in each["restart_uptimes"]]
        if each["healthy_uptime"] is not None:
            marks.append(Mark("healthy", each["healthy_uptime"]))
    marks.sort(key=lambda mark: mark.uptime)
    return Lane(app["name"], "app", tuple(spans), tuple(marks), app["cause"])


def _spans(steps: Iterable[Mapping[str, Any]], end: float) -> Iterator[Span]:
    """Return the time span of each state; a repeated state counts once."""
    entered = [next(group) for _state, group in groupby(steps, key=itemgetter("state"))]
    for step, following in pairwise([*entered, {"uptime": end}]):
        if following["uptime"] > step["uptime"]:
            yield Span(step["state"], step["uptime"], following["uptime"])


def to_json(timeline: Timeline) -> dict[str, Any]:
    """Return the timeline as the object that `timeline --json` prints."""
    return {"schema": SCHEMA, **asdict(timeline)}


def summary(timeline: Timeline) -> str:
    """Return a summary in one sentence."""
    verdicts = [
        mark
        for lane in timeline.lanes
        if lane.kind == "app"
        for mark in lane.marks
        if mark.what in VERDICTS
    ]
    running = [mark.uptime for mark in verdicts if mark.what == "running"]
    wanted = sum(lane.kind == "app" for lane in timeline.lanes)
    if not running:
        return f"0 of {wanted} apps run, {timeline.end:.1f} s after the kernel's start"
    last = f"the last one after {max(running):.1f} s" if wanted > 1 else f"after {running[0]:.1f} s"
    return f"{len(running)} of {wanted} apps run, {last}"


def explanation(timeline: Timeline) -> str | None:
    """Return what held dockerd or the agent back; None if nothing did or it is unknown."""
    longest = sorted(timeline.held_back, key=lambda link: -link.seconds)[:3]
    named = [f"{each.unit} {each.seconds:.1f} s" for each in longest if each.seconds >= 0.1]
    return f"{timeline.gate} waited for: {', '.join(named)}" if named else None


WORDS = {"starting": "coming up", "running": "runs", "restart": "restarted", "apps": "at work"}
"""The words for people, where they differ from the names in the data."""


def text(timeline: Timeline) -> str:
    """Return the timeline as readable lines."""
    return "\n".join(map(printable, _lines(timeline)))


def _lines(timeline: Timeline) -> Iterator[str]:
    yield f"{summary(timeline)} (seconds since the kernel's start)"
    yield ""
    for phase in timeline.phases:
        yield f"{phase.begin:8.1f} s  {phase.end - phase.begin:7.1f} s  {phase.name}"
    held = explanation(timeline)
    if held:
        yield ""
        yield held
    yield ""
    width = max(len(printable(lane.name)) for lane in timeline.lanes)
    for lane in timeline.lanes:
        yield f"{printable(lane.name):{width}}  {'; '.join(_lane_words(lane))}"
    if timeline.unknown:
        yield ""
        yield f"Not known: {timeline.unknown}"


def _lane_words(lane: Lane) -> Iterator[str]:
    for span in lane.spans:
        if span.state != "running":
            yield f"{_word(lane, span.state)} {span.end - span.begin:.1f} s"
    for mark in lane.marks:
        yield f"{_word(lane, mark.what)} at {mark.uptime:.1f} s"
    if lane.note:
        yield lane.note


def _word(lane: Lane, state: str) -> str:
    if lane.kind == "unit":
        return {"reached": "started"}.get(state, state)
    return WORDS.get(state, state)
