"""Packages installed into a tree of another architecture: by its own dpkg, in an emulated machine.

So every maintainer script runs, on a real kernel of that architecture. Nothing of this machine runs
a foreign program, hence nothing is registered with its kernel.
"""

import shutil
import subprocess
from pathlib import Path

from compose_apps_preload.trial import emulator
from compose_apps_preload.trial.emulator import CONSOLE, Disk, Emulator

from virtual_device.kernel import Kernel
from virtual_device.machine import MachineError

ARCHIVES = "var/cache/apt/archives"
"""Where the packages to install lie in the tree."""

_BYTES = 4 << 30  # of each disk, sparse
_TIMEOUT = 3600.0  # seconds; a tenth of it is usual
_TAIL = 3000  # characters of the console that an error shows
_SCRIPT = Path(__file__).with_name("install.sh")

KEY = Path(__file__).read_text() + _SCRIPT.read_text()
"""What decides on the result besides the packages, for :func:`.cache.cached`."""


def install(kernel: Kernel, root: Path, target: Path, *packages: Path) -> None:
    """Makes the folder ``target``: the tree ``root`` with the packages in :data:`ARCHIVES`.

    ``packages``: package files to install besides them. Raises MachineError with dpkg's last words
    if it fails.
    """
    work = target.with_name("installation")
    work.mkdir()
    disks = [Disk(work / "tree.img"), Disk(work / "made.tar")]
    for disk in disks:
        with disk.file.open("wb") as file:
            file.truncate(_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disks[0].file], check=True)
    provided = {f"device/{ARCHIVES}/{each.name}": each.read_bytes() for each in packages}
    provided["device/install"] = _SCRIPT.read_bytes()
    (work / "initrd").write_bytes(kernel.initrd_with(provided))
    start = emulator.Kernel(kernel.image, work / "initrd", f"{kernel.arguments} init=/install")
    with Emulator(kernel.board, start, disks, work) as machine:
        is_off = machine.wait(_TIMEOUT)
        said = (work / CONSOLE).read_text(errors="replace")[-_TAIL:] + machine.complaints
    # QEMU ends in the same way when the kernel panics.
    if not is_off or "reboot: Power down" not in said:
        raise MachineError(f"the packages were not installed:\n{said}")
    target.mkdir()
    unpack = ["tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run([*unpack, "--file", disks[1].file, "--directory", target], check=True)
    shutil.rmtree(work)
