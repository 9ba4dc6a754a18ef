"""The log of all writes to a machine's disk, and what a power cut would have left of them.

A disk with a volatile write cache keeps what was written before a flush that has ended. It may have
written anything after that, in any order: each sector is either the old or the new one.

Source of the format: QEMU's blklogwrites and the kernel's dm-log-writes (see
Documentation/admin-guide/device-mapper/log-writes.rst). A super block, then for each write an entry
of one sector and the data, all little-endian.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
"""The bytes of a sector, which a disk writes completely or not at all."""

_ENTRY = struct.Struct("<4Q")  # sector, number of sectors, flags, length of a mark
_FLUSH, _DISCARD = 1, 4


@dataclass(frozen=True)
class _Entry:
    """The write of ``size`` bytes at ``place`` of the disk; the data is at ``data`` of the log."""

    place: int
    size: int
    data: int
    is_flush: bool


@dataclass(frozen=True)
class WriteLog:
    """A log that :meth:`.machine.Machine.boot` has made."""

    file: Path

    def replay(self, end: int, disk: Path, survives: Callable[[], bool]) -> int:
        """Writes to the raw image ``disk`` what the first ``end`` bytes of the log have written.

        ``disk`` is what the disk was when the log began. ``survives`` is asked for each sector that
        was not flushed. Returns how many sectors are lost.
        """
        entries = list(self._entries(end))
        flushed = max((n for n, each in enumerate(entries) if each.is_flush), default=0)
        lost = 0
        with self.file.open("rb") as log, disk.open("r+b") as image:
            for number, entry in enumerate(entries):
                log.seek(entry.data)
                data = log.read(entry.size)
                if number < flushed:
                    image.seek(entry.place)
                    image.write(data)
                    continue
                for offset in range(0, entry.size, SECTOR):
                    if survives():
                        image.seek(entry.place + offset)
                        image.write(data[offset : offset + SECTOR])
                    else:
                        lost += 1
        return lost

    def _entries(self, end: int) -> Iterator[_Entry]:
        """Yields the complete entries in the first ``end`` bytes, without discards."""
        with self.file.open("rb") as log:
            position = SECTOR
            while position + SECTOR <= end:
                log.seek(position)
                sector, sectors, flags, _mark = _ENTRY.unpack(log.read(_ENTRY.size))
                position += SECTOR
                if flags & _DISCARD:
                    continue  # such a disk may keep the data
                entry = _Entry(sector * SECTOR, sectors * SECTOR, position, bool(flags & _FLUSH))
                position += entry.size
                if position <= end:
                    yield entry
