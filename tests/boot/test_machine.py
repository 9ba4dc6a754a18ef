"""The emulated machine that the boot tests rely on."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from virtual_device.firmware import Firmware
from virtual_device.machine import Machine, MachineError
from virtual_device.write_log import SECTOR, WriteLog

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


FLUSH, DISCARD = 1, 4


def entry(sector: int, data: bytes = b"", flags: int = 0, sectors: int | None = None) -> bytes:
    """An entry of a log of writes. Source: the kernel's dm-log-writes."""
    length = len(data) // SECTOR if sectors is None else sectors
    return struct.pack("<4Q", sector, length, flags, 0).ljust(SECTOR, b"\0") + data


@pytest.mark.parametrize(
    ("entries", "survives", "left", "lost"),
    [
        pytest.param(5, True, "ACDE", 0, id="the disk has kept all"),
        pytest.param(5, False, "ABB-", 3, id="and only what was flushed"),
        pytest.param(2, False, "----", 3, id="before the flush"),
        pytest.param(6, False, "ACDE", 0, id="after the second flush"),
    ],
)
def test_a_power_cut_leaves_what_was_flushed_and_what_survives_of_the_rest(
    tmp_path: Path, entries: int, *, survives: bool, left: str, lost: int
) -> None:
    parts = [
        entry(0, b"A" * SECTOR + b"B" * SECTOR),
        entry(2, b"B" * SECTOR),
        entry(0, flags=FLUSH),
        entry(3, sectors=1, flags=DISCARD),
        entry(1, b"C" * SECTOR + b"D" * SECTOR + b"E" * SECTOR),
        entry(0, flags=FLUSH),
    ]
    log, disk = tmp_path / "log", tmp_path / "disk"
    log.write_bytes(bytes(SECTOR) + b"".join(parts))
    disk.write_bytes(b"-" * 4 * SECTOR)
    end = SECTOR + sum(map(len, parts[:entries]))
    assert WriteLog(log).replay(end, disk, lambda: survives) == lost
    assert disk.read_bytes()[::SECTOR].decode() == left


def test_a_write_that_the_log_does_not_have_completely_is_not_on_the_disk(tmp_path: Path) -> None:
    log, disk = tmp_path / "log", tmp_path / "disk"
    log.write_bytes(bytes(SECTOR) + entry(0, b"A" * SECTOR) + entry(1, b"B" * SECTOR))
    disk.write_bytes(b"-" * 2 * SECTOR)
    assert WriteLog(log).replay(log.stat().st_size - 1, disk, lambda: True) == 0
    assert disk.read_bytes() == b"A" * SECTOR + b"-" * SECTOR
