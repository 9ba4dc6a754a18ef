"""Verifying that a compressed layer decompresses to the digest in the image's config."""

import hashlib
import subprocess
import threading
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from compose_apps_early_start.store import StoreError

from . import tool

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20


def check(pieces: Iterable[bytes], diff: str) -> None:
    """Raise `StoreError` if a layer does not decompress to the digest `diff` (`sha256:<hex>`)."""
    digest = hashlib.sha256()
    pieces = iter(pieces)
    try:
        for piece in _unpacked(pieces):
            digest.update(piece)
    except (zlib.error, EOFError) as error:
        # Read to the end, because a wrong digest of the compressed layer is the better error.
        for _ in pieces:
            pass
        raise StoreError(f"layer {diff} cannot be decompressed: {error}") from error
    if f"sha256:{digest.hexdigest()}" != diff:
        raise StoreError(f"a layer does not decompress to {diff}, the digest in the config")


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    first = next(pieces, b"")
    if first.startswith(_ZSTD):
        yield from _by_zstd(first, pieces)
        return
    if not first.startswith(_GZIP):
        yield first
        yield from pieces
        return
    packed = zlib.decompressobj(wbits=31)
    for piece in chain((first,), pieces):
        data = piece
        while data:
            # Zeros, for instance, become a thousand times larger.
            yield packed.decompress(data, _CHUNK)
            data = packed.unconsumed_tail
            if packed.eof and packed.unused_data:  # one more member
                data = packed.unused_data
                packed = zlib.decompressobj(wbits=31)
    yield packed.flush()
    if not packed.eof:
        raise EOFError("it is truncated")


def _by_zstd(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    # Python's standard library has zstd only from 3.14 on.
    tool.check("zstd")
    argv = ("zstd", "-d", "-q", "-c")
    with tool.start(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        failed: list[BaseException] = []

        def feed() -> None:
            try:
                for piece in chain((first,), pieces):
                    stdin.write(piece)
            except (StoreError, OSError) as error:
                failed.append(error)
            finally:
                stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        while piece := stdout.read(_CHUNK):
            yield piece
        feeder.join()
        if failed and isinstance(failed[0], StoreError):
            raise failed[0]
        if process.wait():
            raise EOFError("zstd reports damage")
