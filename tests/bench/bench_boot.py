"""How long a device takes from the kernel's start until its apps run: the agent, and a script.

The script is what a device without the agent would have: `docker compose up -d` per app, one after
the other, in a unit that is ordered after docker.service. The agent also boots an image whose
containers are created ahead. All boot on an emulated machine without a network, in turns; the
tables have medians. Emulation makes everything slower, as a slow board would; what counts is the
ratio.

The second table is of a device with a service that waits for the network until its time is up,
with and without the package that has docker not wait.
"""

import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from virtual_device.firmware import COMPOSE_APPS, Firmware, firmware
from virtual_device.machine import Machine, MachineError

ROUNDS = 5
APPS = (1, 4)
WAITING_ROUNDS = 3
_CHECKOUT = Path(__file__).parents[2]
_WORKER = "hub.example.test/factory/worker"
_SERIAL_UNIT = """
[Unit]
Wants=docker.service
After=docker.service

[Service]
Type=oneshot
ExecStart=/usr/local/bin/serial
"""
_SERIAL = f"""#!/bin/sh
for app in {COMPOSE_APPS}/*; do
    cd "$app" && docker compose up -d
done
"""
_GENERATOR = "compose-apps-early-start-offline-docker"
_WAITS = "systemd.wants=wait-online.service"
_AHEAD = "created ahead"


@dataclass(frozen=True)
class Contender:
    """What it adds to the image, absolute path to content, and to the kernel's command line."""

    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


_AGENT = Contender("agent")
_SCRIPT = Contender(
    "serial script",
    {"/etc/systemd/system/serial.service": _SERIAL_UNIT, "/usr/local/bin/serial": _SERIAL},
    ("systemd.wants=serial.service", "systemd.mask=compose-apps-early-start.service"),
)
CONTENDERS = (_AGENT, Contender(_AHEAD), _SCRIPT)
WAITING = (
    Contender(
        "agent, offline-docker",
        {
            f"/usr/lib/systemd/system-generators/{_GENERATOR}": (
                _CHECKOUT / "systemd" / _GENERATOR
            ).read_text()
        },
        (_WAITS,),
    ),
    replace(_AGENT, arguments=(_WAITS,)),
    replace(_SCRIPT, arguments=(*_SCRIPT.arguments, _WAITS)),
)


def compose_files(apps: int) -> Mapping[str, Mapping[str, object]]:
    """Return the apps, name to compose file."""
    service = {"image": _WORKER, "restart": "always"}
    return {f"app{number}": {"services": {"main": service}} for number in range(apps)}


def seconds_to_running(flashed: Firmware, apps: int, contender: Contender) -> float:
    """Boot a freshly flashed device; return the seconds from the kernel's start to the last app's.

    Raises MachineError, AssertionError if the apps do not run.
    """
    files = dict(contender.files)
    for name, compose in compose_files(apps).items():
        files |= flashed.app(name, compose)
    with Machine(flashed.kernel, flashed.disk) as machine:
        machine.boot(files, *contender.arguments)
        machine.wait_until_booted()
        clocks = machine.run("date +%s.%N; cut -d ' ' -f 1 /proc/uptime")
        shown = machine.run("docker inspect $(docker ps --quiet)")
    now, uptime = map(float, clocks.split())
    times = [each["State"]["StartedAt"] for each in json.loads(shown)]
    started = [datetime.datetime.fromisoformat(time).timestamp() for time in times]
    assert len(started) == apps
    return max(started) - (now - uptime)


def measured(flashed: Firmware, apps: int, contender: Contender) -> float:
    """Return what `seconds_to_running` returns, after a boot that got so far."""
    while True:
        try:
            seconds = seconds_to_running(flashed, apps, contender)
        except MachineError as error:
            # QEMU 7.2's emulation of two processors, now and then, early in a boot.
            if "Kernel panic" not in str(error):
                raise
            print("the kernel panicked: booting again", file=sys.stderr)
        else:
            print(f"apps: {apps}, {contender.name}: {seconds:.1f} s", file=sys.stderr)
            return seconds


def table(title: str, contenders: Sequence[Contender]) -> None:
    """Print the heading of a table, whose last contender is what the others are compared with."""
    *ours, last = (contender.name for contender in contenders)
    ratios = [f"{name} / {last}" for name in ours]
    print(f"\n{title}:\n")
    print(f"| apps | {' | '.join([*ours, last, *ratios])} |")
    print("|---|" + "---|" * (2 * len(contenders) - 1), flush=True)


def row(
    firmwares: Mapping[str, Firmware], contenders: Sequence[Contender], apps: int, rounds: int
) -> None:
    """Boot ``contenders`` in turns, each on its firmware, and print their medians."""
    taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            flashed = firmwares[contender.name]
            taken[contender.name].append(measured(flashed, apps, contender))
    medians = [statistics.median(values) for values in taken.values()]
    seconds = [f"{median:.1f}" for median in medians]
    ratios = [f"{median / medians[-1]:.2f}" for median in medians[:-1]]
    print(f"| {apps} | {' | '.join([*seconds, *ratios])} |", flush=True)


def main() -> int:
    built = subprocess.run(
        [_CHECKOUT / "packaging/debian/build", _CHECKOUT / "build"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    deb = Path(built.stdout.strip())
    plain = firmware(deb)
    firmwares = {contender.name: plain for contender in (*CONTENDERS, *WAITING)}
    table(f"Kernel start to all containers running, seconds, medians of {ROUNDS}", CONTENDERS)
    for apps in APPS:
        firmwares[_AHEAD] = firmware(deb, ahead=compose_files(apps))
        row(firmwares, CONTENDERS, apps, ROUNDS)
    table(f"The same with a wait for a network, medians of {WAITING_ROUNDS}", WAITING)
    row(firmwares, WAITING, 1, WAITING_ROUNDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
