"""Publishing the finished image: compressed if asked for, with a block map, in one step."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from . import bmap, compression
from .disk import Partition
from .ext4 import FileSystem
from .progress import Step, step

Sink = Callable[[bytes], object]
_CHUNK = 1 << 20
_ZERO_CHUNK = bytes(_CHUNK)


def bmap_name(target: Path) -> Path:
    """Return the path of an image's block map: `x.wic.bmap` for `x.wic` and `x.wic.gz`."""
    name = target.stem if compression.of_name(target) else target.name
    return target.with_name(f"{name}.bmap")


def publish(image: Path, partition: Partition, target: Path, work: Path) -> None:
    """Move `image`, compressed if `target` says so, to `target`, with its block map beside it.

    `partition` is the root file system in it, whose free blocks need not be written to a device.
    Raises OSError or `PreloadError`; `target` is then what it was before.
    """
    compresses = compression.of_name(target) is not None
    size = image.stat().st_size
    ranges = bmap.ranges(_used(image, partition, work), size)
    packed = work / "packed"
    checksums = {}
    with (
        step("compressing" if compresses else "making the block map", size) as progress,
        contextlib.ExitStack() as stack,
        image.open("rb") as source,
    ):
        sink = stack.enter_context(compression.packed(packed, target)) if compresses else None
        position = 0
        for blocks in ranges:
            _write_zeros(blocks.first * bmap.BLOCK - position, sink, progress)
            position = min((blocks.last + 1) * bmap.BLOCK, size)
            checksums[blocks] = _copy(source, blocks.first * bmap.BLOCK, position, sink, progress)
        _write_zeros(size - position, sink, progress)
    block_map = work / "bmap"
    block_map.write_bytes(bmap.document(size, checksums))
    finished = packed if compresses else image
    for file in (block_map, finished):
        _sync(file)
    # The image comes last: once it exists, everything exists.
    block_map.replace(bmap_name(target))
    finished.replace(target)
    _sync(target.parent)


def _used(image: Path, partition: Partition, work: Path) -> Iterator[tuple[int, int]]:
    """Yield the ranges that have to be written, as (begin, end) in bytes.

    Holes in the file do not tell: zeros that are in use, in a boot partition or in a file, must be
    written, or the device keeps its old data there.
    """
    yield 0, partition.start
    yield partition.start + partition.size, image.stat().st_size
    system = FileSystem(image, partition.start)
    superblock = system.superblock
    block, position = superblock.block_size, 0
    for first, last in system.free_ranges(work):
        yield partition.start + position * block, partition.start + first * block
        position = last + 1
    yield partition.start + position * block, partition.start + superblock.blocks * block


def _copy(source: IO[bytes], begin: int, end: int, sink: Sink | None, progress: Step) -> str:
    """Copy a range to the sink, if there is one, and return its sha256 in hex."""
    digest = hashlib.sha256()
    source.seek(begin)
    while begin < end:
        chunk = source.read(min(_CHUNK, end - begin))
        digest.update(chunk)
        if sink:
            sink(chunk)
        begin += len(chunk)
        progress.advance(len(chunk))
    return digest.hexdigest()


def _write_zeros(size: int, sink: Sink | None, progress: Step) -> None:
    progress.advance(size)
    while sink and size > 0:
        sink(_ZERO_CHUNK[: min(_CHUNK, size)])
        size -= _CHUNK


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
