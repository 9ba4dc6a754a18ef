"""What a boot of a machine comes to: everything the tests look at, taken once at its end."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import documents
from virtual_device.firmware import COMPOSE_APPS, Firmware
from virtual_device.machine import Machine

AGENT = "compose-apps-early-start"
LAST_RUN = f"/var/lib/{AGENT}/last-run.json"
APP_RUNS = "431a6ce6e0444c1895c8c7e2376e458f"  # the message id
COMPOSE_CALLS = "/run/lock/compose-calls"  # where the hardened unit lets compose write
_SEPARATOR = "---8<---"
_LOOK = f"""
next() {{ echo '{_SEPARATOR}'; }}
systemctl show {AGENT} docker aktualizr-lite lmp-device-auto-register network-online.target; next
journalctl --boot --no-pager --output=json; next
journalctl --boot --no-pager --catalog --unit={AGENT}; next
cat {LAST_RUN} 2>/dev/null; next
{AGENT} status; next
(cd /run/stand-ins && grep '' *); next
if systemctl --quiet is-active docker; then
    docker ps --all --quiet | xargs --no-run-if-empty docker inspect; next
    docker image ls --no-trunc --digests --format '{{{{.Repository}}}}@{{{{.Digest}}}}'; next
    docker volume ls --quiet; next
else
    next; next; next
fi
cd {COMPOSE_APPS} && find . -type f -exec sha256sum {{}} +; next
cat {COMPOSE_CALLS} 2>/dev/null; next
find /var/lib/{AGENT} /run/{AGENT} -type f 2>/dev/null || true
"""


@dataclass(frozen=True)
class Seen:
    """What a stand-in wrote down when it was started: seconds since the kernel's start."""

    seconds: float
    apps: frozenset[str]
    containers: frozenset[str]


@dataclass(frozen=True)
class Boot:
    """One boot, after its last job.

    ``units``: unit to its properties. ``journal``: its entries. ``explained``: what ``journalctl
    -x`` shows of the agent. ``record``: the agent's record, {} without one; ``table`` is what its
    ``status`` shows. ``containers``: name to what docker tells of it. ``images``: by reference.
    ``files``: path below compose-apps to its checksum. ``compose_calls``: folder and arguments,
    where they were recorded. ``leftovers``: the files in the agent's own
    folders.
    """

    units: Mapping[str, Mapping[str, str]]
    journal: tuple[Mapping[str, Any], ...]
    explained: str
    record: Mapping[str, Any]
    table: str
    stand_ins: Mapping[str, Seen]
    containers: Mapping[str, Mapping[str, Any]]
    images: frozenset[str]
    volumes: frozenset[str]
    files: Mapping[str, str]
    compose_calls: tuple[str, ...]
    leftovers: frozenset[str]

    @property
    def unit(self) -> Mapping[str, str]:
        """The properties of the agent's unit."""
        return self.units[f"{AGENT}.service"]

    @property
    def running(self) -> set[str]:
        """The names of the containers that run."""
        return {name for name, each in self.containers.items() if each["State"]["Running"]}

    @property
    def lives(self) -> dict[str, str]:
        """Container id to the time of its last start: the same if nobody touched it."""
        return {each["Id"]: each["State"]["StartedAt"] for each in self.containers.values()}

    @property
    def own(self) -> list[Mapping[str, Any]]:
        """The entries of the journal that are about the agent: its own, and systemd's on it."""
        return [
            entry
            for entry in self.journal
            if AGENT in (entry.get("SYSLOG_IDENTIFIER"), entry.get("_COMM"))
            or f"{AGENT}.service" in (entry.get("UNIT"), entry.get("_SYSTEMD_UNIT"))
        ]

    @property
    def complaints(self) -> list[str]:
        """The warnings and errors among them."""
        return [entry["MESSAGE"] for entry in self.own if int(entry.get("PRIORITY", 6)) <= 4]

    def began(self, unit: str) -> float:
        """When the unit was started, in seconds since the kernel's start; 0 if it was not."""
        return int(self._named(unit)["InactiveExitTimestampMonotonic"]) / 1e6

    def active(self, unit: str) -> float:
        """When the unit became active: a oneshot has ended, a daemon is ready; 0 if it did not."""
        return int(self._named(unit)["ActiveEnterTimestampMonotonic"]) / 1e6

    def _named(self, unit: str) -> Mapping[str, str]:
        return self.units[unit if "." in unit else f"{unit}.service"]

    def app(self, name: str) -> Mapping[str, Any]:
        """The app's part of the record."""
        (found,) = (app for app in self.record["apps"] if app["name"] == name)
        return dict(found)

    def text(self) -> str:
        """The journal, for people."""
        return "\n".join(
            f"[{int(entry['__MONOTONIC_TIMESTAMP']) / 1e6:10.3f}] "
            f"{entry.get('SYSLOG_IDENTIFIER', '?')}: {entry.get('MESSAGE')}"
            for entry in self.journal
        )


def look(machine: Machine) -> Boot:
    """Wait until the machine's boot is through, and take everything down. Raises MachineError."""
    machine.wait_until_booted()
    return taken(machine)


def taken(machine: Machine) -> Boot:
    """Take everything down as it is now. Raises MachineError."""
    parts = machine.run(_LOOK).split(f"{_SEPARATOR}\n")
    shown, journal, explained, record, table, seen = parts[:6]
    inspected, images, volumes, sums, calls, leftovers = parts[6:]
    units = {}
    for text in shown.strip().split("\n\n"):
        properties = dict(line.partition("=")[::2] for line in text.splitlines())
        units[properties["Id"]] = properties
    containers = json.loads(inspected or "[]")
    return Boot(
        units=units,
        journal=tuple(map(json.loads, journal.splitlines())),
        explained=explained,
        record=documents.run(record) if record else {},
        table=table,
        stand_ins=_stand_ins(seen),
        containers={each["Name"][1:]: each for each in containers},
        images=frozenset(images.split()),
        volumes=frozenset(volumes.split()),
        files={name[2:]: digest for digest, name in map(str.split, sums.splitlines())},
        compose_calls=tuple(calls.splitlines()),
        leftovers=frozenset(leftovers.split()),
    )


def _stand_ins(text: str) -> dict[str, Seen]:
    values: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        name, _, fact = line.partition(":")
        key, value = fact.split()
        values.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: Seen(
            float(facts["boottime"][0]),
            frozenset(facts.get("app", ())),
            frozenset(facts.get("container", ())),
        )
        for name, facts in values.items()
    }


def flashed_files(provided: Mapping[str, str]) -> dict[str, str]:
    """Return what `Boot.files` is as long as nobody touched what was ``provided``."""
    return {
        path.removeprefix(f"{COMPOSE_APPS}/"): hashlib.sha256(text.encode()).hexdigest()
        for path, text in provided.items()
        if path.startswith(f"{COMPOSE_APPS}/")
    }


def assert_nothing_lost(boot: Boot, firmware: Firmware, provided: Mapping[str, str]) -> None:
    """Assert that the app folders and images are those that were flashed."""
    assert boot.files == flashed_files(provided)
    assert boot.images >= set(firmware.references.values())


def assert_good(boot: Boot) -> None:
    """Assert that the agent ended well, and had nothing to complain about."""
    assert boot.unit["ActiveState"] == "active"
    assert boot.unit["SubState"] == "exited"
    assert boot.unit["Result"] == "success"
    assert boot.record["state"] == "ok"
    assert boot.complaints == []
