"""The block map of an image in bmaptool's format 2.0: the blocks that have to be written."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = 4096

_XML = """\
<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> {size} </ImageSize>
    <BlockSize> {block} </BlockSize>
    <BlocksCount> {blocks} </BlocksCount>
    <MappedBlocksCount> {mapped} </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> {checksum} </BmapFileChecksum>
    <BlockMap>
{ranges}
    </BlockMap>
</bmap>
"""


@dataclass(frozen=True)
class Range:
    """Blocks to write; `last` is included."""

    first: int
    last: int


def ranges(extents: Iterable[tuple[int, int]], size: int) -> list[Range]:
    """Return the blocks that the extents (begin, end), in bytes, touch, sorted and merged."""
    found: list[Range] = []
    for begin, end in sorted(extents):
        first, last = begin // BLOCK, (min(end, size) - 1) // BLOCK
        if begin >= min(end, size):
            continue
        if found and first <= found[-1].last + 1:
            found[-1] = Range(found[-1].first, max(last, found[-1].last))
        else:
            found.append(Range(first, last))
    return found


def document(size: int, checksums: dict[Range, str]) -> bytes:
    """Return the map of an image of `size` bytes; `checksums` are sha256 in hex."""
    lines = []
    for blocks, checksum in checksums.items():
        span = f"{blocks.first}-{blocks.last}" if blocks.first != blocks.last else str(blocks.first)
        lines.append(f'        <Range chksum="{checksum}"> {span} </Range>')
    fields = {
        "size": size,
        "block": BLOCK,
        "blocks": -(-size // BLOCK),
        "mapped": sum(blocks.last - blocks.first + 1 for blocks in checksums),
        "ranges": "\n".join(lines),
    }
    # The checksum covers the file with zeros in place of the checksum.
    blank = _XML.format(checksum="0" * 64, **fields)
    checksum = hashlib.sha256(blank.encode()).hexdigest()
    return _XML.format(checksum=checksum, **fields).encode()
