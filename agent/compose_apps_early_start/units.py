"""systemd's units of this boot: when they started, when they were done, what they waited for."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .errors import EarlyStartError

SECONDS = 30.0
"""The time-out in seconds. systemd answers in milliseconds, on an emulated board in seconds."""

_MANAGER = ("InitRDTimestampMonotonic", "UserspaceTimestampMonotonic")
_UNIT = (
    "Id",
    "After",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "InactiveEnterTimestampMonotonic",
)


@dataclass(frozen=True)
class Unit:
    """A unit that was started in this boot. Times are seconds since the kernel's start.

    `began` is when its start began. `done` is when units that are ordered after it could start,
    because it was active or, for a oneshot, finished; None if this has not happened. `after` are
    the units it is ordered after.
    """

    name: str
    began: float
    done: float | None
    after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Boot:
    """When systemd itself started, in the initrd (None without one) and in the system."""

    initrd: float | None
    userspace: float
    units: Mapping[str, Unit] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A unit for which another one waited, and for how many seconds it alone was the reason."""

    unit: str
    done: float
    seconds: float


def ask() -> Boot:
    """Return systemd's data about this boot.

    Raises `EarlyStartError` if it does not answer.
    """
    manager = _show(_MANAGER)
    return parse(manager, _show(_UNIT, "*"))


def _show(properties: Iterable[str], *units: str) -> str:
    argv = ["systemctl", "show", f"--property={','.join(properties)}", "--", *units]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        shown = subprocess.run(
            argv, capture_output=True, text=True, timeout=SECONDS, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise EarlyStartError(
            f"systemd does not tell when its units were started: {said}",
            "run it as root on a device that systemd has booted",
        ) from error
    return shown.stdout


def parse(manager: str, units: str) -> Boot:
    """Parse the output of `systemctl show`: `KEY=VALUE` lines, and blank lines between units.

    Source of the properties: org.freedesktop.systemd1(5).
    """
    own = _properties(manager)
    found = (_unit(_properties(text)) for text in units.split("\n\n"))
    return Boot(
        initrd=_seconds(own.get("InitRDTimestampMonotonic")),
        userspace=_seconds(own.get("UserspaceTimestampMonotonic")) or 0.0,
        units={each.name: each for each in found if each},
    )


def _properties(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.splitlines())


def _unit(properties: Mapping[str, str]) -> Unit | None:
    began = _seconds(properties.get("InactiveExitTimestampMonotonic"))
    active = _seconds(properties.get("ActiveEnterTimestampMonotonic"))
    over = _seconds(properties.get("InactiveEnterTimestampMonotonic"))
    if began is None:  # the only time of a target that was active from the start
        began = active
    if began is None:
        return None
    done = min((each for each in (active, over) if each and each >= began), default=None)
    return Unit(properties["Id"], began, done, frozenset(properties.get("After", "").split()))


def _seconds(microseconds: str | None) -> float | None:
    """Parse a time in µs; systemd writes 0 for "never"."""
    number = int(microseconds or 0)
    return number / 1e6 if number else None


def held_back(boot: Boot, name: str) -> tuple[Link, ...]:
    """Return the units for which unit `name` waited before its start began, first to last.

    A unit can start when the last unit that it is ordered after is done. That unit in turn waited
    for another one, and so on. The first is "systemd", which loads its units. The seconds add up to
    the time from systemd's start to the end of the last unit.
    """
    chain: list[Unit] = []
    unit = boot.units.get(name)
    while unit and unit not in chain:
        chain.append(unit)
        began = unit.began
        before = (boot.units[each] for each in unit.after if each in boot.units)
        unit = max(
            (each for each in before if each.done is not None and each.done <= began),
            key=lambda each: (each.done or 0.0, each.name),
            default=None,
        )
    links: list[Link] = []
    since = boot.userspace
    if chain[1:] and chain[-1].began > since:
        links.append(Link("systemd", chain[-1].began, chain[-1].began - since))
        since = chain[-1].began
    for each in reversed(chain[1:]):
        done = max(each.done or 0.0, since)
        links.append(Link(each.name, done, done - since))
        since = done
    return tuple(links)
