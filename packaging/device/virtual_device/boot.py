"""The boot of a whole machine, on the terminal."""

import sys
from pathlib import Path

from virtual_device.demo import PRELOADED, SHORTLIST
from virtual_device.firmware import Firmware, firmware
from virtual_device.machine import Machine, MachineError

_QUIET = ("loglevel=3", "systemd.show_status=yes")
_UNITS = ("agent-lines", "console")


def boot(deb: Path, suite: str, architecture: str, default_apps: str, *, registered: bool) -> int:
    """Boots a freshly flashed machine on this terminal; returns 0 when it is switched off.

    ``default_apps``: the content of the shortlist. Raises MachineError without a terminal.
    """
    if not sys.stdin.isatty():
        raise MachineError("boot needs a terminal")
    flashed = firmware(deb, suite, architecture)
    provide = _provided(flashed, default_apps)
    if registered:
        provide["/var/sota/sota.toml"] = ""
    print(
        f"\nA device with {', '.join(PRELOADED)} preloaded and no network boots for the first time."
        f"\n/var/lmp/default-apps: {default_apps or '(empty)'}"
        "\nThe machine is emulated, that takes about a minute. Then there is a root shell."
        "\nLeave with poweroff there, or at any moment with Ctrl-A X.\n",
        flush=True,
    )
    with Machine(flashed.kernel, flashed.disk) as machine:
        console = flashed.kernel.board.console
        wants = [f"systemd.wants={unit}@{console}.service" for unit in _UNITS]
        machine.boot(provide, *_QUIET, *wants, terminal=True)
        machine.wait()
    return 0


def timeline(deb: Path, picture: Path) -> int:
    """Boots the same machine without a terminal, and draws its first boot into ``picture``.

    Returns 0. Raises MachineError if the machine does not boot, OSError if the file cannot be
    written.
    """
    flashed = firmware(deb)
    with Machine(flashed.kernel, flashed.disk) as machine:
        machine.boot(_provided(flashed, " ".join(SHORTLIST)))
        machine.wait_until_booted()
        print(machine.run("compose-apps-early-start timeline"))
        drawn = "/run/timeline.svg"
        told = machine.run(f"compose-apps-early-start timeline --svg {drawn} && cat {drawn}")
        picture.write_text(told, encoding="utf-8")
    return 0


def _provided(flashed: Firmware, default_apps: str) -> dict[str, str]:
    return flashed.samples(*PRELOADED) | {"/var/lmp/default-apps": f"{default_apps}\n"}
