"""The files of a running device on the host: one folder, and the control groups listed in it.

A folder is locked as long as its device's owner or supervisor lives. So a folder that can be locked
is unused, and :func:`make` removes it first.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from virtual_device import cgroup
from virtual_device.cache import home, locked, try_lock

_GROUPS = "groups"  # the file with the folders of the device's control groups, one per line


def make() -> tuple[Path, int]:
    """Returns a new folder and the descriptor of its lock."""
    devices = home() / "devices"
    devices.mkdir(exist_ok=True)
    with locked(home() / "devices.lock"):
        for old in devices.iterdir():
            descriptor = try_lock(old)
            if descriptor is not None:
                remove(old)
                os.close(descriptor)
        folder = Path(tempfile.mkdtemp(dir=devices, prefix=""))
        folder.chmod(0o755)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    for name in ("root", "upper", "work", "containerd", "docker"):
        (folder / name).mkdir()
    return folder, descriptor


def make_groups(folder: Path) -> list[cgroup.Group]:
    """Creates the control groups of the device that uses ``folder``."""
    made = cgroup.groups(f"compose-apps-early-start.{folder.name}")
    # Listed before they are created, so that they can be removed together with an unused folder.
    (folder / _GROUPS).write_text("".join(f"{group.folder}\n" for group in made))
    for group in made:
        cgroup.make(group)
    return made


def remove(folder: Path) -> None:
    """Removes the folder and its control groups, whose processes must have ended."""
    names = folder / _GROUPS
    for line in names.read_text().splitlines() if names.exists() else []:
        cgroup.remove(Path(line))
    shutil.rmtree(folder)
