"""Compressed images (gzip, xz, zstd): read by their content, written by their name."""

import contextlib
import gzip
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ..errors import PreloadError
from . import tool
from .parallel_gzip import gzipped

_GZIP, _XZ, _ZSTD = "gzip", "xz", "zstd"
_MAGIC = {b"\x1f\x8b": _GZIP, b"\xfd7zXZ\0": _XZ, b"\x28\xb5\x2f\xfd": _ZSTD}
_ENDINGS = {".gz": _GZIP, ".xz": _XZ, ".zst": _ZSTD}
_OTHER_ENDINGS = (".7z", ".bz2", ".bmap", ".br", ".lz4", ".lzma", ".qcow2", ".tar", ".vdi", ".vmdk",
                  ".zip", ".zstd")  # fmt: skip
_CHOICES = ", ".join(_ENDINGS)
_WRITERS = {_XZ: ("xz", "--threads=0", "-1", "--stdout"), _ZSTD: ("zstd", "-T0", "-9", "-q", "-c")}
_READERS = {_XZ: ("xz", "--decompress", "--stdout"), _ZSTD: ("zstd", "-d", "-q", "-c")}
_ASSUMED_RATIO = 4  # times larger when unpacked
_CHUNK = 1 << 20


def _kind(file: Path) -> str | None:
    with file.open("rb") as stream:
        begin = stream.read(8)
    return next((kind for magic, kind in _MAGIC.items() if begin.startswith(magic)), None)


def is_packed(file: Path) -> bool:
    """Whether a file is compressed."""
    return _kind(file) is not None


def of_name(target: Path) -> str | None:
    """Return how a file of this name is compressed, or None if it is not."""
    return _ENDINGS.get(target.suffix)


def check_name(target: Path) -> None:
    """Raise `PreloadError` if the name promises a format that is not supported."""
    if target.suffix.lower() in _OTHER_ENDINGS:
        raise PreloadError(
            f"{target}: {target.suffix} files cannot be written",
            f"end the name with .wic or .ext4; for a compressed image, append {_CHOICES}",
        )


def programs(source: Path, target: Path) -> list[str]:
    """Return the programs that are needed to read `source` and to write `target`."""
    kinds = {_kind(source), of_name(target)} - {None, _GZIP}
    return sorted(str(kind) for kind in kinds)


def unpacked_size(source: Path) -> int:
    """Return the size in bytes of an image after decompression, often only an estimate."""
    size = source.stat().st_size
    kind = _kind(source)
    if kind is None:
        return size
    if kind == _GZIP:
        with source.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            recorded = int.from_bytes(stream.read(4), "little")  # modulo 4 GiB
        return recorded if recorded > size else _ASSUMED_RATIO * size
    if kind == _XZ:
        listed = tool.run(("xz", "--robot", "--list", "--", str(source)), accepted=(0, 1)).stdout
        totals = [line.split(b"\t") for line in listed.splitlines() if line.startswith(b"totals")]
        return int(totals[0][4]) if totals else _ASSUMED_RATIO * size
    return _ASSUMED_RATIO * size


def unpacked(source: Path) -> Iterator[bytes]:
    """Yield the content of a compressed image in pieces; raises `PreloadError` for damage."""
    kind = _kind(source)
    if kind == _GZIP:
        try:
            with gzip.open(source) as stream:
                while piece := stream.read(_CHUNK):
                    yield piece
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _damaged(source, str(error)) from error
        return
    assert kind is not None
    with (
        source.open("rb") as packed,
        tool.start(
            _READERS[kind], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        while piece := process.stdout.read(_CHUNK):
            yield piece
        complaint = process.stderr.read().decode(errors="replace").strip()
        if process.wait():
            raise _damaged(source, complaint)


def _damaged(source: Path, why: str) -> PreloadError:
    return PreloadError(f"{source} is damaged: {why}", "download or build it again")


@contextlib.contextmanager
def packed(target: Path, name: Path) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that compresses the next part of the content into the file `target`.

    The name `name` determines the format. Raises OSError, `PreloadError`.
    """
    kind = of_name(name)
    assert kind is not None
    if kind == _GZIP:
        with gzipped(target) as write:
            yield write
        return
    with (
        target.open("wb") as file,
        tool.start(
            _WRITERS[kind], stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE
        ) as process,
    ):
        stdin: IO[bytes] | None = process.stdin
        assert stdin is not None
        assert process.stderr is not None
        try:
            yield stdin.write
        except BrokenPipeError:
            pass  # its error output, read below, says why it ended
        except BaseException:
            process.kill()
            raise
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        complaint = process.stderr.read().decode(errors="replace").strip()
        if process.wait():
            raise PreloadError(
                f"{name} cannot be compressed: {complaint}", "free some space, or try again"
            )
