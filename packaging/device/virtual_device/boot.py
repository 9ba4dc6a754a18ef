"""The boot of a whole machine, on the terminal."""

import sys
from pathlib import Path

from virtual_device.demo import PRELOADED
from virtual_device.firmware import firmware
from virtual_device.machine import Machine, MachineError

_QUIET = ("loglevel=3", "systemd.show_status=yes")
_UNITS = ("agent-lines.service", "console.service")


def boot(deb: Path, suite: str, default_apps: str, *, registered: bool) -> int:
    """Boots a freshly flashed machine on this terminal; returns 0 when it was switched off.

    ``default_apps``: the content of the shortlist. Raises MachineError without a terminal.
    """
    if not sys.stdin.isatty():
        raise MachineError("boot needs a terminal")
    flashed = firmware(deb, suite)
    provide = flashed.samples(*PRELOADED) | {"/var/lmp/default-apps": f"{default_apps}\n"}
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
        wants = [f"systemd.wants={unit}" for unit in _UNITS]
        machine.boot(provide, *_QUIET, *wants, terminal=True)
        machine.wait()
    return 0
