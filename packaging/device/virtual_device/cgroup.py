"""A device's control groups: one folder in every hierarchy that the host has mounted.

Works on version 1 (with or without a version 2 hierarchy beside it) and on pure version 2.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_REMOVAL_TIMEOUT = 10.0  # seconds; groups empty out a little after their processes have ended


@dataclass(frozen=True)
class Group:
    """One folder in one hierarchy.

    ``folder`` becomes the root of the hierarchy as the device sees it, ``leaf`` is where the
    device's own processes live. ``inside`` is where the device mounts it, with ``kind`` (a file
    system type) and ``options``.
    """

    folder: Path
    leaf: Path
    inside: str
    kind: str
    options: str


def groups(name: str, proc: Path = Path("/proc/self")) -> list[Group]:
    """Returns the groups for a device called ``name`` without creating them."""
    lines = (proc / "cgroup").read_text().splitlines()
    # Controllers, "" for version 2, to the path of this process.
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    mounts = []
    for line in (proc / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            top, where = left.split(" ")[3:5]
            mounts.append((kind, Path(where), top, set(options.split(","))))
    pure = all(kind == "cgroup2" for kind, *_ in mounts)
    result: dict[str, Group] = {}
    for kind, mountpoint, top, mount_options in mounts:
        for controllers, path in own.items():
            if kind == "cgroup2":
                fits = not controllers
            else:
                fits = bool(controllers) and set(controllers.split(",")) <= mount_options
            if not fits or controllers in result:
                continue
            if pure:
                # Only the root group may both contain processes and enable controllers for its
                # children.
                folder = mountpoint / name
                result[controllers] = Group(folder, folder / "init", "/sys/fs/cgroup", kind, "rw")
            else:
                folder = mountpoint / os.path.relpath(path, top) / name
                inside = f"/sys/fs/cgroup/{mountpoint.name}"
                named = controllers.startswith("name=")
                options = f"none,{controllers}" if named else controllers or "rw"
                result[controllers] = Group(folder, folder, inside, kind, options)
    return list(result.values())


def make(group: Group) -> None:
    """Creates the group's folders on the host. Raises OSError."""
    group.folder.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):
        # In version 1, a group without processors and memory cannot have processes.
        if group.kind == "cgroup" and (group.folder / name).exists():
            (group.folder / name).write_text((group.folder.parent / name).read_text())
    group.leaf.mkdir(exist_ok=True)


def delegate(group: Group) -> None:
    """Enables all controllers for child groups. The processes must already be in the leaf."""
    if group.leaf != group.folder:
        for controller in (group.folder / "cgroup.controllers").read_text().split():
            (group.folder / "cgroup.subtree_control").write_text(f"+{controller}")


def thaw(group: Group) -> None:
    """Thaws the group and all groups below it, because SIGKILL does not end frozen processes."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        for file in group.folder.rglob(name):
            # The root group has no such file, and a group may vanish.
            with contextlib.suppress(OSError):
                file.write_text(word)


def remove(folder: Path) -> None:
    """Removes a group and all groups below it. Raises OSError if one is still in use."""
    deadline = time.monotonic() + _REMOVAL_TIMEOUT
    for name, _, _ in os.walk(folder, topdown=False):
        while True:
            try:
                Path(name).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
