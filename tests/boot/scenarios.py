"""The scenarios: what a machine is flashed with, what happens to it, and the boots that gives.

Each is run once; many tests look at what it came to. Several run at once.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stores
from boot.boots import AGENT, COMPOSE_CALLS, Boot, look, taken
from virtual_device.firmware import Firmware
from virtual_device.machine import BOOT_TIMEOUT, Machine

SAMPLES = ("debug-tools", "shop", "telemetry")
SHORTLISTED = {"shop-web-1", "shop-worker-1", "debug-tools-shell-1"}  # of `life`
ALL = {*SHORTLISTED, "telemetry-collector-1"}
# An emulated machine takes its time for each container: for where two say as much as four.
FEW = ("debug-tools", "telemetry")
FEW_RUN = {"debug-tools-shell-1", "telemetry-collector-1"}
SUITES = tuple(os.environ.get("SUITES", "bookworm").split())
WAIT_ONLINE_SECONDS = 60  # as in wait-online.service

# aktualizr-lite's condition is not met before registration. Where the tests want to know when it
# would have come and what it would have seen, they take the condition away, and nothing else.
ALWAYS_AKTUALIZR = {
    "/etc/systemd/system/aktualizr-lite.service.d/always.conf": "[Unit]\nConditionPathExists=\n"
}
_DROP_IN = f"/etc/systemd/system/{AGENT}.service.d/limits.conf"
_SHORTLIST = "/var/lmp/default-apps"
# Before the real plugin in the docker CLI's search order.
RECORDING_COMPOSE = {
    "/usr/local/lib/docker/cli-plugins/docker-compose": f"""#!/bin/sh
echo "${{PWD##*/}} $*" >>{COMPOSE_CALLS}
exec /usr/libexec/docker/cli-plugins/docker-compose "$@"
"""
}


def limits(**seconds: float) -> dict[str, str]:
    """The drop-in that sets limits: `limits(app=5)` is EARLY_START_APP_SECONDS=5."""
    words = (f"EARLY_START_{name.upper()}_SECONDS={value:g}" for name, value in seconds.items())
    text = f"[Service]\nEnvironment={' '.join(words)}\nTimeoutStartSec=30min\n"
    return {_DROP_IN: text}


# An emulated machine on a busy host is a very slow board: what docs/device.md says for those.
SLOW_BOARD = limits(engine=600, app=600, run=1200)


# As fioconfig's service and its handler of one-shot actions run one.
REMOTE_ACTION = """
cd /run; folder=$(mktemp -d fioconfig-oneshot.XXXXXX)
systemd-run --quiet --wait --pipe --property=WorkingDirectory=/run \\
    --setenv=CONFIG_FILE=/var/run/secrets/fio-remote-action --setenv=STORAGE_DIR=/var/sota \\
    --setenv=SOTA_DIR=/usr/lib/sota/conf.d,/var/sota/sota.toml,/etc/sota/conf.d \\
    --setenv=FIOCONFIG_BIN=/usr/bin/fioconfig --setenv=ARTIFACTS=$folder \\
    /usr/share/fioconfig/actions/early-start
echo "ended with $?"
for file in $folder/*; do echo "== ${file##*/}"; cat $file; done
"""


@dataclass(frozen=True)
class Life:
    """A device's first boot, a second one before registration, and a third after it."""

    provided: Mapping[str, str]
    first: Boot
    second: Boot
    third: Boot
    timeline: Mapping[str, Any]
    """What `timeline --json` prints in the first boot."""
    action: str
    """What fioconfig would send back, of the remote action in the third boot."""
    by_hand: Mapping[str, str]
    """Registration file to what `systemctl show` and the agent say with that file alone."""


NO_CLOCK = "2026-01-01T00:00:00"
"""A board without a real-time clock begins every boot at the same time."""


def machine_with(firmware: Firmware, clock: str = "utc") -> Machine:
    """A machine with one processor: two at a time keep a host with two busy.

    And with more than one, QEMU 7.2's emulation makes a guest panic now and then while the kernel
    patches its own code.
    """
    return Machine(firmware.kernel, firmware.disk, processors=1, clock=clock)


def life(firmware: Firmware) -> Life:
    provided = firmware.samples(*SAMPLES) | ALWAYS_AKTUALIZR | RECORDING_COMPOSE | SLOW_BOARD
    provided[_SHORTLIST] = "# for the test bench\r\nshop, debug-tools\r\n"
    by_hand = {}
    with machine_with(firmware, NO_CLOCK) as machine:
        machine.boot(provided)
        first = look(machine)
        timeline = json.loads(machine.run(f"{AGENT} timeline --json"))
        machine.power_off()
        machine.boot()
        second = look(machine)
        machine.run("touch /var/sota/sota.toml")
        machine.power_off()
        machine.boot()
        third = look(machine)
        action = machine.run(REMOTE_ACTION)
        machine.run("rm /var/sota/sota.toml")
        for file in ("sql.db", "client.pem"):
            by_hand[file] = machine.run(
                f"touch /var/sota/{file}; systemctl start {AGENT};"
                f"systemctl show --property=ConditionResult,ActiveState {AGENT};"
                f"{AGENT} start 2>&1; rm /var/sota/{file}"
            )
    return Life(provided, first, second, third, timeline, action, by_hand)


@dataclass(frozen=True)
class ByHand:
    """A first boot without a shortlist, and what `systemctl` does afterwards."""

    provided: Mapping[str, str]
    first: Boot
    again: Boot
    stopped: Boot
    killed: Boot
    healed: Boot
    conformance: str
    """What the steps of the public acceptance test said at the start that healed."""
    ptest: str
    """What the tests for a device said after it."""
    repaired: Boot
    """After files of an app were damaged of which the restorable store has the bundle."""
    put_back: Mapping[str, str]
    """Path below the app's folder to owner, group and mode, after that."""


# The steps and names of the acceptance test of LmP's early start in Linaro's test-definitions,
# automated/linux/aklite-apps/apps-early-start.sh.
CONFORMANCE = f"""
result() {{ if [ $? -eq 0 ]; then echo "$1 pass"; else echo "$1 fail"; fi; }}
systemctl enable --now compose-apps-early-start
result compose-apps-early-start
for app in {" ".join(FEW)}; do
    docker ps | grep $app
    result $app-running
done
"""
_PTEST = "/srv/run-ptest"
_STORES = "/srv/stores.py"
_DAMAGE = """
cd /var/sota/compose-apps/debug-tools
mkdir data; echo mine >data/mine; chown -R 999:998 data; chmod 2770 data
PYTHONPATH=/srv python3 - <<'END'
from pathlib import Path
from stores import Builder
compose_file = Path("docker-compose.yml").read_bytes()
content = {"docker-compose.yml": compose_file, "etc/deep/own": b"own", "etc/theirs": b"theirs"}
Builder(Path("/var/sota/reset-apps")).app_of_files("debug-tools", content)
END
mkdir etc; echo damaged >etc/theirs; chown 999:998 etc/theirs; chmod 640 etc/theirs
truncate --size=20 docker-compose.yml; chmod 600 docker-compose.yml
"""
_PUT_BACK = "cd /var/sota/compose-apps/debug-tools && find . -exec stat -c '%n %u:%g:%a' {} +"


def by_hand(firmware: Firmware) -> ByHand:
    provided = firmware.samples(*FEW) | SLOW_BOARD
    provided[_STORES] = Path(stores.__file__).read_text()
    provided[_PTEST] = Path(__file__).parents[1].joinpath("ptest/run-ptest").read_text()
    # Back to before the first start, then up to where compose is at work.
    interrupted = (
        f"systemctl stop {AGENT}; docker rm --force $(docker ps --all --quiet) >/dev/null;"
        f"systemctl reset-failed; rm -f /var/lib/{AGENT}/last-run.json;"
        f"systemctl start --no-block {AGENT};"
        "until pgrep -f cli-plugins/docker-compose; do sleep 0.1; done; "
    )
    with machine_with(firmware) as machine:
        machine.boot(provided)
        first = look(machine)
        machine.run(
            f"systemctl start {AGENT}; systemctl restart --no-block {AGENT};"
            "date --set='400 days'; sleep 3; date --set='800 days ago';"
            f"systemctl start {AGENT}; date --set='400 days'"
        )
        again = taken(machine)
        machine.run(f"{interrupted} systemctl stop {AGENT}")
        stopped = taken(machine)
        kill = f"systemctl kill --signal=KILL --kill-whom=main {AGENT}"
        gone = f"while systemctl show --property=ActiveState {AGENT} | grep activating; do :; done"
        machine.run(f"{interrupted} {kill}; {gone}")
        killed = taken(machine)
        conformance = machine.run(CONFORMANCE)
        healed = taken(machine)
        ptest = machine.run(f"sh {_PTEST} ; echo ended with $?")
        machine.run(f"{_DAMAGE} systemctl restart {AGENT}")
        repaired = taken(machine)
        put_back = dict(line.rsplit(" ", 1) for line in machine.run(_PUT_BACK).splitlines())
    return ByHand(
        provided, first, again, stopped, killed, healed, conformance, ptest, repaired, put_back
    )


@dataclass(frozen=True)
class Flashed:
    """One boot of a freshly flashed device.

    ``held``: what was seen while it was going on. ``later``: what the agent still tells after a
    power cut and a registration, in the next boot. ``timeline``: what `timeline --json` prints, if
    that was asked for.
    """

    provided: Mapping[str, str]
    first: Boot
    held: str = ""
    later: str = ""
    timeline: Mapping[str, Any] = field(default_factory=dict)


def _first_boot(firmware: Firmware, provided: Mapping[str, str], *arguments: str) -> Flashed:
    with machine_with(firmware) as machine:
        machine.boot(provided, *arguments)
        return Flashed(provided, look(machine))


def empty_shortlist(firmware: Firmware) -> Flashed:
    return _first_boot(firmware, firmware.samples(*SAMPLES) | {_SHORTLIST: ""})


def _never_running(firmware: Firmware) -> dict[str, str]:
    """The files of two apps: one that crash-loops, one without its image."""
    worker = "hub.example.test/factory/worker"
    absent = f"hub.example.test/factory/absent@sha256:{'0' * 64}"
    crash = ["sh", "-c", "echo no cloud, giving up; exit 3"]
    looping = {"image": worker, "command": crash, "restart": "always"}
    return {
        **firmware.app("crashes", {"services": {"main": looping}}),
        **firmware.app("lacks-image", {"services": {"main": {"image": absent}}}),
    }


def trouble(firmware: Firmware) -> Flashed:
    """One app that hangs, one that crash-loops, one without its image, one good one."""
    worker = "hub.example.test/factory/worker"
    never_healthy = {"test": ["CMD", "false"], "interval": "1s", "start_period": "1h"}
    condition = {"database": {"condition": "service_healthy"}}
    provided = {
        **firmware.app("good", {"services": {"main": {"image": worker, "restart": "always"}}}),
        **firmware.app(
            "hangs",
            {
                "services": {
                    "database": {"image": worker, "healthcheck": never_healthy},
                    "main": {"image": worker, "depends_on": condition},
                }
            },
        ),
        **_never_running(firmware),
        **ALWAYS_AKTUALIZR,
        **limits(engine=600, run=400),
    }
    with machine_with(firmware) as machine:
        machine.boot(provided)
        first = look(machine)
        machine.cut_power()
        machine.boot({"/var/sota/sota.toml": ""})
        later = machine.run(f"{AGENT} status --log crashes; {AGENT} status --list")
    return Flashed(provided, first, later=later)


def no_dockerd(firmware: Firmware) -> Flashed:
    """dockerd refuses its configuration, every time that systemd starts it."""
    provided = {
        **firmware.samples(*SAMPLES),
        "/etc/docker/daemon.json": "{",
        **ALWAYS_AKTUALIZR,
        **limits(engine=30),
    }
    return _first_boot(firmware, provided)


def wait_online(firmware: Firmware) -> Flashed:
    """A wait-online service is enabled, and there is no network to wait for."""
    provided = firmware.samples("debug-tools") | ALWAYS_AKTUALIZR | SLOW_BOARD
    show = f"systemctl show --property=StatusText {AGENT}"
    waiting = f"until {show} | grep 'dockerd, .* s: '; do sleep 0.5; done;"
    shown = f"{AGENT} status; systemctl list-jobs --no-pager"
    with machine_with(firmware) as machine:
        machine.boot(provided, "systemd.wants=wait-online.service")
        held = machine.run(f"{waiting} {shown}")
        first = look(machine)
        timeline = json.loads(machine.run(f"{AGENT} timeline --json"))
        return Flashed(provided, first, held, timeline=timeline)


@dataclass(frozen=True)
class OfflineDocker:
    """Boots of a device with both option packages; one has docker not wait for the network.

    There is none, and who waits for one does so until the boot has been looked at.
    ``unregistered``: a first boot while the wait goes on. ``reloaded``: systemd has reloaded after
    a registration. ``registered``: the boot after it. ``paths``: unit to the PATH of its process,
    in the first boot. ``calls``: the command lines of the runtime that fast-engine puts first.
    """

    unregistered: Boot
    reloaded: Boot
    registered: Boot
    paths: Mapping[str, str]
    calls: tuple[str, ...]


_CALLS = "/run/runtime-calls"
# In crun's place, which is in no device's tree.
_RUNTIME = {
    "/usr/libexec/compose-apps-early-start/fast-engine/runc": f"""#!/bin/sh
echo "$*" >>{_CALLS}
exec /usr/sbin/runc "$@"
"""
}
_PATHS = """
for unit in dbus containerd docker; do
    pid=$(systemctl show --property=MainPID --value $unit)
    echo "$unit=$(tr '\\0' '\\n' </proc/$pid/environ | sed -n s/^PATH=//p)"
done
"""


def offline_docker(firmware: Firmware, packages: Mapping[str, str]) -> OfflineDocker:
    """``packages``: the files of the option packages."""
    waiting = "systemd.wants=wait-online.service"
    wait = "sh -c 'until [ -e /run/looked ]; do sleep 0.1; done'"
    provided = {
        **packages,
        **_RUNTIME,
        **firmware.samples("telemetry"),
        **SLOW_BOARD,
        "/etc/systemd/system/wait-online.service.d/endless.conf": (
            f"[Service]\nExecStart=\nExecStart={wait}\n"
        ),
    }
    # All that docker waits for, but for the network.
    others = "until [ -e /run/stand-ins/fio-docker-fsck ]; do sleep 0.1; done; sleep 5;"
    with machine_with(firmware) as machine:
        machine.boot(provided, waiting)
        machine.run(f"systemctl start {AGENT}", timeout=BOOT_TIMEOUT)
        unregistered = taken(machine)
        paths = dict(line.split("=") for line in machine.run(_PATHS).splitlines())
        calls = machine.run(f"cat {_CALLS}").splitlines()
        machine.run("touch /var/sota/sql.db; systemctl daemon-reload")
        reloaded = taken(machine)
        machine.run("rm /var/sota/sql.db; touch /var/sota/client.pem")
        machine.power_off()
        machine.boot(None, waiting)
        machine.run(f"{others} touch /run/looked")
        registered = look(machine)
    return OfflineDocker(unregistered, reloaded, registered, paths, tuple(calls))


@dataclass(frozen=True)
class Suite:
    """A first boot, and a second one with two more apps, which cannot run."""

    first: Boot
    second: Boot


def suite(firmware: Firmware) -> Suite:
    """For a firmware of any suite."""
    more = _never_running(firmware) | limits(engine=600, app=60, run=400)
    more[_SHORTLIST] = "shop, crashes, lacks-image\n"
    with machine_with(firmware) as machine:
        machine.boot(firmware.samples(*SAMPLES) | ALWAYS_AKTUALIZR | SLOW_BOARD)
        first = look(machine)
        machine.power_off()
        machine.boot(more)
        return Suite(first, look(machine))


SCENARIOS: Mapping[str, Callable[[Firmware], object]] = {
    each.__name__: each
    for each in (trouble, life, by_hand, empty_shortlist, wait_online, no_dockerd)
}
