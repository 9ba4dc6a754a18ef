"""The emulated machine that the boot tests rely on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from virtual_device.firmware import Firmware
from virtual_device.machine import Machine, MachineError

OWNER = """
import sys, time
from pathlib import Path
from virtual_device.kernel import Kernel
from virtual_device.machine import Machine
image, initrd, disk = map(Path, sys.argv[1:])
with Machine(Kernel(image, initrd, Path()), disk) as machine:
    machine.boot()
    print(machine.folder, flush=True)
    time.sleep(600)
"""


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_machine_leaves_nothing_behind_when_its_owner_is_killed(
    flashed: Firmware, number: signal.Signals
) -> None:
    files = [flashed.kernel.image, flashed.kernel.initrd, flashed.disk]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert owner.stdout
    folder = Path(owner.stdout.readline().strip())
    assert processes_in(folder)
    owner.send_signal(number)
    owner.communicate()
    deadline = time.monotonic() + 20
    while (folder.exists() or processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_in(folder) == []
    assert not folder.exists()


def test_a_machine_that_panics_is_an_error(flashed: Firmware) -> None:
    with Machine(flashed.kernel, flashed.disk) as machine:
        machine.boot(None, "rdinit=/bin/false")
        with pytest.raises(MachineError, match="Kernel panic"):
            machine.run("true")
