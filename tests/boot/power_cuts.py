"""Power cuts in the agent's first run, on a disk with a volatile write cache.

The run is recorded once, with every write to its disk. Each cut is then a disk that has what the
writes up to some moment have left, and one boot from it. See `virtual_device.write_log`.
"""

import json
import os
import random
import subprocess
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import stores
from boot.boots import AGENT, LAST_RUN, Boot, flashed_files, look
from boot.scenarios import FEW, SLOW_BOARD, machine_with
from stores import Builder, member
from virtual_device import device_tree, samples
from virtual_device.firmware import COMPOSE_APPS, Firmware
from virtual_device.machine import Machine
from virtual_device.write_log import WriteLog

CREATED_AHEAD = "created-ahead"
_KINDS = os.environ.get("POWER_CUT_KINDS", "restored").split()
_NUMBER = int(os.environ.get("POWER_CUTS", "3"))
CUTS = tuple((_KINDS[number % len(_KINDS)], number) for number in range(_NUMBER))
"""The kind of run that is cut, see `SETUPS`, and the number of the cut."""

SEED = os.environ.get("POWER_CUT_SEED") or str(time.time_ns())

SURVIVAL = (0.0, 0.5, 1.0)
"""The chances of a sector that was not flushed: 1 is a machine that crashes, its disk does not."""

_RESET_APPS = "/var/sota/reset-apps"
_PAYLOAD = {f"payload/{number}": bytes([number]) * 5000 for number in range(40)}
_CLOCKS = "cat /proc/uptime; date +%s.%N"
_ASK_EVENTS = "docker events --since=1 --until=$(date +%s) --format='{{json .}}'"
_AFTERWARDS_SECONDS = 6  # the kernel writes metadata down after five
_CONTENTS = """
for container in $(docker ps --quiet); do
    cd /proc/$(docker inspect --format='{{.State.Pid}}' $container)/root
    sha256sum bin/busybox $(ls -d payload/* 2>/dev/null)
done
true
"""


@dataclass(frozen=True)
class Setup:
    """What a device is flashed with, and what it has to have after its first run.

    ``files``, ``images``: as in `Boot`. ``contents``: path to checksum of files in every container.
    """

    firmware: Firmware
    provided: Mapping[str, str | bytes]
    files: Mapping[str, str]
    images: frozenset[str]
    contents: Mapping[str, str]


def _preloaded(firmware: Firmware) -> Setup:
    """Folders and images are in their places, in an overlay2 store."""
    provided = firmware.samples(*FEW)
    images = frozenset(firmware.references.values())
    contents = {"bin/busybox": stores.sha256(_busybox())}
    return Setup(firmware, provided | SLOW_BOARD, flashed_files(provided), images, contents)


def _restored(firmware: Firmware) -> Setup:
    """All images, and one folder, are in the restorable store alone; another folder is damaged."""
    applets = [member(f"bin/{name}", linkname="busybox", type=b"2") for name in ("sh", "date")]
    busybox = member("bin/busybox", _busybox(), mode=0o755)
    layer = stores.tar([busybox, *applets, member("bin/sleep", linkname="busybox", type=b"2")])
    payload = stores.tar(member(*each) for each in _PAYLOAD.items())
    with tempfile.TemporaryDirectory() as folder:
        store = Builder(Path(folder))
        layers = {"factory/worker": [layer, payload], "factory/tool": [layer]}
        references = {name: store.image(name, each).reference for name, each in layers.items()}
        own = {"etc/first": "first" * 2000, "etc/second": "second"}
        bundles = {name: samples.sample(name, references) | own for name in FEW}
        for name, files in bundles.items():
            store.app_of_files(name, {file: text.encode() for file, text in files.items()})
        provided: dict[str, str | bytes] = {
            f"{_RESET_APPS}/{path.relative_to(folder)}": path.read_bytes()
            for path in sorted(store.folder.rglob("*"))
            if path.is_file()
        }
    intact = {
        f"{COMPOSE_APPS}/{name}/{file}": content
        for name, files in bundles.items()
        for file, content in files.items()
    }
    damaged = {path: content[:20] for path, content in intact.items() if f"/{FEW[0]}/" in path}
    provided |= damaged | SLOW_BOARD
    provided["/etc/docker/daemon.json"] = '{"features": {"containerd-snapshotter": true}}'
    contents = {"bin/busybox": _busybox()} | _PAYLOAD
    return Setup(
        firmware,
        provided,
        flashed_files(intact),
        frozenset(references.values()),
        {path: stores.sha256(data) for path, data in contents.items()},
    )


def _busybox() -> bytes:
    return (device_tree().layers[-1] / "usr/bin/busybox").read_bytes()


SETUPS: Mapping[str, Callable[[Firmware], Setup]] = {
    "restored": _restored,
    "preloaded": _preloaded,
    CREATED_AHEAD: _preloaded,
}


@dataclass(frozen=True)
class Sample:
    """A moment of a recorded boot: its uptime in seconds, and the size of the log in bytes."""

    uptime: float
    size: int


@dataclass(frozen=True)
class Recording:
    """A first boot without a power cut. ``samples``: of the agent's run and a little more."""

    setup: Setup
    log: WriteLog
    samples: tuple[Sample, ...]
    timeline: Mapping[str, Any]
    events: tuple[tuple[float, str], ...]
    """Type and action of dockerd's events, with their uptimes in seconds."""

    def moment(self, share: float) -> Sample:
        """The moment after this share of the run, counted half by time and half by writes."""
        first, last = self.samples[0], self.samples[-1]

        def part(sample: Sample) -> float:
            time_part = (sample.uptime - first.uptime) / (last.uptime - first.uptime)
            return (time_part + (sample.size - first.size) / (last.size - first.size)) / 2

        place = bisect_left(self.samples, share, key=part)
        before, after = self.samples[max(place - 1, 0)], self.samples[place]
        width = part(after) - part(before)
        within = (share - part(before)) / width if width else 1.0
        return Sample(
            before.uptime + within * (after.uptime - before.uptime),
            before.size + round(within * (after.size - before.size)),
        )

    def doing(self, uptime: float) -> tuple[str, ...]:
        """What was going on at this time."""
        end = self.timeline["end"]
        if uptime >= end:
            return ("the record is written" if uptime < end + 1 else "after the run",)
        states = {
            span["state"]
            for lane in self.timeline["lanes"]
            if lane["kind"] == "app"
            for span in lane["spans"]
            if span["begin"] <= uptime < span["end"]
        }
        found = {_STATES[state] for state in states if state in _STATES}
        if "starting" in states:
            coming = (what for at, what in self.events if at > uptime and what in _EVENTS)
            found.add(_EVENTS[next(coming, "container start")])
        return tuple(sorted(found)) or ("before the first app",)


_STATES = {
    "restoring": "an app's folder is put back",
    "loading": "an image is loaded",
    "settling": "an app settles",
    "running": "an app runs",
}
# What compose is doing, by the next event of dockerd.
_EVENTS = {
    "network create": "a network is created",
    "volume create": "a volume is created",
    "container create": "a container is created",
    "container start": "a container is started",
    "container die": "a one-shot runs",
}


def record(kind: str, firmware: Firmware, folder: Path) -> Recording:
    """Record the first boot of a device; the log is in ``folder``."""
    setup = SETUPS[kind](firmware)
    file = folder / f"{kind}.log"
    sizes: list[tuple[float, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            sizes.append((time.monotonic(), file.stat().st_size))

    with machine_with(firmware) as machine:
        machine.boot(setup.provided, log=file)
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            machine.wait_until_booted()
            before = time.monotonic()
            clocks = machine.run(_CLOCKS).split()
            began = (before + time.monotonic()) / 2 - float(clocks[0])
            date = float(clocks[2]) - float(clocks[0])
            time.sleep(_AFTERWARDS_SECONDS)
        finally:
            ended.set()
            watcher.join()
        timeline = json.loads(machine.run(f"{AGENT} timeline --json"))
        events = _events(machine, date)
        start = json.loads(machine.run(f"cat {LAST_RUN}"))["steps"][0]["uptime"]
    samples_ = tuple(Sample(at - began, size) for at, size in sizes if at - began >= start)
    return Recording(setup, WriteLog(file), samples_, timeline, events)


def _events(machine: Machine, date: float) -> tuple[tuple[float, str], ...]:
    events = map(json.loads, machine.run(_ASK_EVENTS).splitlines())
    return tuple(
        (each["timeNano"] / 1e9 - date, f"{each['Type']} {each['Action']}") for each in events
    )


@dataclass(frozen=True, eq=False)
class PowerCut:
    """A power cut, and the boot after it.

    ``what``: the cut in words. ``doing``: what was going on. ``lost``: the number of lost sectors.
    ``contents``: path and checksum of files in the containers after the boot.
    """

    setup: Setup
    what: str
    doing: tuple[str, ...]
    lost: int
    after: Boot
    contents: tuple[tuple[str, str], ...]


def cut(kind: str, recording_of: Callable[[], Recording], number: int) -> PowerCut:
    """Cut ``number`` of all; at random, yet they spread over the whole run."""
    recording = recording_of()
    chance = random.Random(f"{SEED} {number}")
    moment = recording.moment((number + chance.random()) / len(CUTS))
    survival = chance.choice(SURVIVAL)
    firmware = recording.setup.firmware
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.img"
        subprocess.run(["cp", "--sparse=always", firmware.disk, disk], check=True)
        lost = recording.log.replay(moment.size, disk, lambda: chance.random() < survival)
        with machine_with(replace(firmware, disk=disk)) as machine:
            machine.boot()
            after = look(machine)
            contents = [line.split() for line in machine.run(_CONTENTS).splitlines()]
    return PowerCut(
        recording.setup,
        f"{kind} {number} of {SEED}: {moment.uptime:.2f} s after the kernel's start, "
        f"{lost} sectors were lost, each survived with a chance of {survival}",
        recording.doing(moment.uptime),
        lost,
        after,
        tuple((path, digest) for digest, path in contents),
    )
