"""A disk image as a file: finding the device's root file system in it, and enlarging it."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import compression, tool
from .ext4 import FileSystem, Superblock
from .layout import DEPLOY, Layout
from .progress import Step

ROOT_LABEL = "otaroot"
"""The label of the Linux microPlatform's root file system."""

BLOCK = 4096
"""The size of a hole in a file, in bytes, is a multiple of this."""

_CHUNK = 1 << 20
_ALIGNMENT = 1 << 20
_UNSUPPORTED = (
    (0, b"QFI\xfb", "a qcow2 image (qemu-img convert -O raw converts it)"),
    (0, b"BZh", "compressed with bzip2 (decompress it first)"),
    (0, b"PK\x03\x04", "a zip archive (unpack it first)"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image (simg2img converts it)"),
    (4096, b"EFI PART", "for disks with 4096-byte sectors, which are not supported"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "xfs"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
)
"""Offset, magic number, and a description of the format; source: file(1)'s magic."""

_PROTECTIVE = "ee"  # the partition type in the protective MBR of a GPT
_EXTENDED = ("5", "f", "85")
_EFI = ("ef", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b")  # in an MBR and in a GPT
_ZEROS = bytes(_CHUNK)
_ZERO_BLOCK = bytes(BLOCK)


@dataclass(frozen=True)
class Partition:
    """A part of the image `file`, in bytes. `number` is None if it is the whole file.

    `max_size` is how large it can become. None means that the file can grow with it.
    """

    file: Path
    start: int
    size: int
    number: int | None = None
    extended: int | None = None
    max_size: int | None = None
    label: str = ""
    kind: str = ""
    """The type that the partition table gives it."""

    def in_copy(self, file: Path) -> "Partition":
        """Return the same partition in a copy of the image."""
        return replace(self, file=file)


def copy(source: Path, target: Path, progress: Step) -> None:
    """Copy an image that is not compressed. Raises `PreloadError`."""
    # cp keeps holes, and shares blocks where the file system can.
    tool.run(("cp", "--reflink=auto", "--sparse=auto", "--", str(source), str(target)))
    target.chmod(0o644)
    progress.advance(target.stat().st_size)


def unpack(source: Path, target: Path, progress: Step) -> None:
    """Decompress an image, with holes for zeros. Raises `PreloadError`."""
    with target.open("wb") as stream:
        for piece in compression.unpacked(source):
            write_sparse(stream.fileno(), piece)
            progress.advance(len(piece))
        stream.truncate(os.lseek(stream.fileno(), 0, os.SEEK_CUR))


def write_sparse(descriptor: int, data: bytes) -> None:
    """Write `data` at the file's position, but skip zeros: the file must be empty there."""
    if data == _ZEROS[: len(data)]:
        os.lseek(descriptor, len(data), os.SEEK_CUR)
        return
    view = memoryview(data)
    begin = 0
    while begin < len(data):
        hole = data[begin : begin + BLOCK] == _ZERO_BLOCK
        end = begin + BLOCK
        while end < len(data) and (data[end : end + BLOCK] == _ZERO_BLOCK) == hole:
            end += BLOCK
        end = min(end, len(data))
        if hole:
            os.lseek(descriptor, end - begin, os.SEEK_CUR)
        else:
            _write(descriptor, view[begin:end])
        begin = end


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def find_root(file: Path, number: int | None = None) -> Partition:
    """Find the root file system of the device.

    It is the partition `number` if that is given. Otherwise it is the one labelled `otaroot`, the
    one with an OSTree deployment, the one with `/var`, or the last one with ext4, in this order.
    Raises `PreloadError` if there is none, or if the image is truncated.
    """
    superblock = Superblock.read(file, 0)
    if superblock is not None:
        size = file.stat().st_size
        if superblock.blocks * superblock.block_size > size:
            raise _truncated(
                f"its file system has {superblock.blocks * superblock.block_size} bytes", size
            )
        if number is not None:
            raise PreloadError("the image has no partitions", "leave out --partition")
        return Partition(file, 0, size, label=superblock.label)
    partitions = _partitions(file)
    if number is not None:
        partitions = [partition for partition in partitions if partition.number == number]
        if not partitions:
            raise PreloadError(
                f"the image has no partition {number}", "list its partitions with sfdisk --list"
            )
    found = [
        replace(partition, label=superblock.label)
        for partition in partitions
        if (superblock := Superblock.read(file, partition.start)) is not None
    ]
    if not found:
        kinds = (
            kind for partition in partitions if (kind := _unsupported_format(file, partition.start))
        )
        formats = ", ".join(dict.fromkeys(kinds))
        raise PreloadError(
            f"the image has no ext4 file system{f', but {formats}' if formats else ''}",
            "use an ext4 image, or a disk image (.wic) with an ext4 partition",
        )
    labelled = [partition for partition in found if partition.label == ROOT_LABEL]
    if len(labelled) > 1:
        raise PreloadError(
            f"{len(labelled)} partitions are labelled {ROOT_LABEL!r}",
            "choose the root file system with --partition, or change a label with e2label",
        )
    return (labelled or sorted(found, key=_likelihood))[-1]


def has_uefi_boot(file: Path) -> bool:
    """Tell whether the image has an EFI system partition; raises `PreloadError`."""
    if Superblock.read(file, 0) is not None:
        return False
    return any(each.kind.lower() in _EFI for each in _partitions(file))


def _likelihood(partition: Partition) -> int:
    """Return how likely this is the root file system; of equals, the last one counts."""
    try:
        layout = Layout.find(FileSystem(partition.file, partition.start))
    except PreloadError:
        return 0
    return 2 if layout.var.startswith(DEPLOY) else 1


def _unsupported_format(file: Path, start: int) -> str | None:
    """Return a description of the unsupported format that begins at `start`, if it is known."""
    with file.open("rb") as stream:
        for offset, magic, name in _UNSUPPORTED:
            stream.seek(start + offset)
            if stream.read(len(magic)) == magic:
                return name
    return None


def _truncated(what: str, size: int) -> PreloadError:
    return PreloadError(
        f"the image is truncated: {what}, the file has {size}", "download or build it again"
    )


def _partitions(file: Path) -> list[Partition]:
    """Return all partitions in their order on the disk."""
    unsupported = _unsupported_format(file, 0)
    if unsupported is not None:
        raise PreloadError(
            f"the image is {unsupported}", "use a raw disk image (.wic) or an ext4 image"
        )
    done = tool.run(("sfdisk", "--json", str(file)), accepted=(0, 1))
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip().replace("\n", " ")
        raise PreloadError(
            f"the image has neither an ext4 file system nor a partition table: {output}",
            "use an ext4 image, or a disk image (.wic) with an ext4 partition",
        )
    table: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    entries = sorted(table.get("partitions", ()), key=lambda entry: int(entry["start"]))
    if table.get("label") == "dos" and any(entry["type"] == _PROTECTIVE for entry in entries):
        output = done.stderr.decode(errors="replace").strip()
        raise PreloadError(
            f"the image is truncated, or its partition table (GPT) is damaged: {output}",
            "download or build it again",
        )
    extended = next((entry for entry in entries if entry["type"] in _EXTENDED), None)
    found = []
    for entry in entries:
        if entry is extended:
            continue
        number = _number(entry)
        logical = extended is not None and number > 4
        later = [int(behind["start"]) for behind in entries if behind["start"] > entry["start"]]
        start, size = int(entry["start"]) * sector, int(entry["size"]) * sector
        if start + size > file.stat().st_size:
            raise _truncated(f"partition {number} ends at byte {start + size}", file.stat().st_size)
        found.append(
            Partition(
                file,
                start,
                size,
                number,
                _number(extended) if extended and logical else None,
                min(later) * sector - start if later else None,
                kind=str(entry["type"]),
            )
        )
    return found


def _number(entry: dict[str, Any]) -> int:
    match = re.search(r"\d+$", entry["node"])
    assert match
    return int(match[0])


def enlarge(partition: Partition, size: int) -> Partition:
    """Enlarge the partition to at least `size` bytes, and the file if needed.

    Raises `PreloadError` if another partition is in the way.
    """
    size = -(-size // _ALIGNMENT) * _ALIGNMENT
    if partition.number is None:
        os.truncate(partition.file, size)
        return replace(partition, size=size)
    if partition.max_size is not None and size > partition.max_size:
        raise PreloadError(
            f"partition {partition.number} needs {size} bytes, but the next partition leaves it "
            f"only {partition.max_size}",
            "build the image with the root file system last, or with more free space in it",
        )
    least = partition.start + size + _ALIGNMENT  # leaves space for the backup GPT at the end
    if least > partition.file.stat().st_size:
        os.truncate(partition.file, least)
    options = ("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never")
    if partition.extended is not None:
        tool.run((*options, "-N", str(partition.extended), str(partition.file)), stdin=b", +\n")
    argv = (*options, "-N", str(partition.number), str(partition.file))
    tool.run(argv, stdin=f", {size // 512}\n".encode())
    # The new part of the partition may contain the old backup GPT: turn it into zeros.
    span = (f"--offset={partition.start + partition.size}", f"--length={size - partition.size}")
    tool.run(("fallocate", "--punch-hole", *span, str(partition.file)))
    return replace(partition, size=size)


def copy_range(source: Path, target: Path, *, skip: int, seek: int, size: int) -> None:
    """Copy `size` bytes from offset `skip` of one file to offset `seek` of another, without holes.

    Where the source has a hole, the target keeps its content.
    """
    with source.open("rb") as reading, target.open("r+b" if target.exists() else "wb") as writing:
        if target.stat().st_size < seek + size:
            os.truncate(target, seek + size)
        for begin, end in extents(reading.fileno(), skip, skip + size):
            os.lseek(writing.fileno(), seek + begin - skip, os.SEEK_SET)
            os.lseek(reading.fileno(), begin, os.SEEK_SET)
            while begin < end:
                copied = os.copy_file_range(
                    reading.fileno(), writing.fileno(), min(end - begin, 1 << 30)
                )
                if not copied:
                    raise OSError(f"{source} became shorter")
                begin += copied


def extents(descriptor: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the data of a file between two offsets, without holes, as (begin, end)."""
    position = start
    while position < stop:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            return
        if begin >= stop:
            return
        position = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, min(position, stop)
