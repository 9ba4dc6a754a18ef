"""What happens in folders, told by the kernel: nothing is missed, however short it lasts."""

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Of inotify(7): modify, attrib, moved from and to, create, delete.
_CHANGES = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200
_EVENT = struct.Struct("iIII")


class Watch:
    """A watch on folders; made by `watching`."""

    def __init__(self, descriptor: int, first: Path) -> None:
        self._descriptor = descriptor
        self._first = first

    def changed(self) -> list[str]:
        """Return the names that were made, changed or removed, up to now.

        A file that is made here and now ends the list: a watch that sees nothing at all would wait
        for it for ever.
        """
        witness = self._first / ".witness"
        witness.touch()
        try:
            return self._read_until(witness.name)
        finally:
            witness.unlink()

    def _read_until(self, last: str) -> list[str]:
        names: list[str] = []
        while last not in names:
            data = os.read(self._descriptor, 1 << 16)
            while data:
                length = _EVENT.unpack_from(data)[3]
                names.append(data[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode())
                data = data[_EVENT.size + length :]
        return names[: names.index(last)]


@contextmanager
def watching(folders: Iterable[Path]) -> Iterator[Watch]:
    """Watch `folders`, but not what is below them."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init()
    folders = list(folders)
    try:
        for folder in folders:
            if libc.inotify_add_watch(descriptor, os.fsencode(folder), _CHANGES) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
        yield Watch(descriptor, folders[0])
    finally:
        os.close(descriptor)
