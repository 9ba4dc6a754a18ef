"""How long a device takes from the kernel's start until its apps run: the agent, and a script.

The script is what a device without the agent would have: `docker compose up -d` per app, one after
the other, in a unit that is ordered after docker.service. The agent also boots an image whose
containers are made ahead. All boot on an emulated machine without a network, in turns; the table
has medians. Emulation makes everything slower, as a
slow board would; what counts is the ratio.
"""

import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from virtual_device.firmware import COMPOSE_APPS, Firmware, firmware
from virtual_device.machine import Machine, MachineError

ROUNDS = 5
APPS = (1, 4)
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
_AHEAD = "made ahead"
# Contender to what it adds to the image, and to the kernel's command line.
CONTENDERS: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "agent": ({}, ()),
    _AHEAD: ({}, ()),
    "serial script": (
        {"/etc/systemd/system/serial.service": _SERIAL_UNIT, "/usr/local/bin/serial": _SERIAL},
        ("systemd.wants=serial.service", "systemd.mask=compose-apps-early-start.service"),
    ),
}


def compose_files(apps: int) -> Mapping[str, Mapping[str, object]]:
    """Return the apps, name to compose file."""
    service = {"image": _WORKER, "restart": "always"}
    return {f"app{number}": {"services": {"main": service}} for number in range(apps)}


def seconds_to_running(flashed: Firmware, apps: int, contender: str) -> float:
    """Boot a freshly flashed device; return the seconds from the kernel's start to the last app's.

    Raises MachineError, AssertionError if the apps do not run.
    """
    provided, arguments = CONTENDERS[contender]
    files = dict(provided)
    for name, compose in compose_files(apps).items():
        files |= flashed.app(name, compose)
    with Machine(flashed.kernel, flashed.disk) as machine:
        machine.boot(files, *arguments)
        machine.wait_until_booted()
        clocks = machine.run("date +%s.%N; cut -d ' ' -f 1 /proc/uptime")
        shown = machine.run("docker inspect $(docker ps --quiet)")
    now, uptime = map(float, clocks.split())
    times = [each["State"]["StartedAt"] for each in json.loads(shown)]
    started = [datetime.datetime.fromisoformat(time).timestamp() for time in times]
    assert len(started) == apps
    return max(started) - (now - uptime)


def measured(flashed: Firmware, apps: int, contender: str) -> float:
    """Return what `seconds_to_running` returns, after a boot that got so far."""
    while True:
        try:
            return seconds_to_running(flashed, apps, contender)
        except MachineError as error:
            # QEMU 7.2's emulation of two processors, now and then, early in a boot.
            if "Kernel panic" not in str(error):
                raise
            print("the kernel panicked: booting again", file=sys.stderr)


def main() -> int:
    built = subprocess.run(
        [_CHECKOUT / "packaging/debian/build", _CHECKOUT / "build"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    deb = Path(built.stdout.strip())
    plain = firmware(deb)
    print(f"Kernel start to all containers running, seconds, medians of {ROUNDS} boots:\n")
    print(f"| apps | {' | '.join(CONTENDERS)} | agent / script | made ahead / script |")
    print(f"|---|{'---|' * len(CONTENDERS)}---|---|")
    for apps in APPS:
        ahead = firmware(deb, ahead=compose_files(apps))
        taken: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for _ in range(ROUNDS):
            for contender, values in taken.items():
                flashed = ahead if contender == _AHEAD else plain
                values.append(measured(flashed, apps, contender))
                print(f"{apps} apps, {contender}: {values[-1]:.1f} s", file=sys.stderr)
        agent, made, serial = (statistics.median(values) for values in taken.values())
        print(
            f"| {apps} | {agent:.1f} | {made:.1f} | {serial:.1f} "
            f"| {agent / serial:.2f} | {made / serial:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
