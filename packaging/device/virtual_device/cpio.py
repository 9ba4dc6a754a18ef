"""Archives for the kernel's initial file system: cpio's "newc" form.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Several archives
may follow each other in one file; later ones add to earlier ones.
"""

import stat
from collections.abc import Mapping
from pathlib import PurePosixPath


def archive(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """Returns an archive of ``files`` (path to content) and symbolic ``links`` (path to target).

    Folders are created as needed. Files that begin with ``#!`` or like a program are executable.
    """
    entries: dict[str, tuple[int, bytes]] = {}
    for path in (*files, *(links or {})):
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        if path in files:
            program = files[path].startswith((b"#!", b"\x7fELF"))
            entries[path] = (stat.S_IFREG | (0o755 if program else 0o644), files[path])
    for path, target in (links or {}).items():
        entries[path] = (stat.S_IFLNK | 0o777, target.encode())
    parts = [
        _entry(number, path, mode, data)
        for number, (path, (mode, data)) in enumerate(entries.items(), start=1)
    ]
    return b"".join([*parts, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(inode: int, path: str, mode: int, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    # inode, mode, user, group, links, time, size, device (2), its own device (2), name, checksum
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
