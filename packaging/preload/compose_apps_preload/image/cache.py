"""The cache in `~/.cache`: blobs of registries, and docker's stores; and the command `cache`.

It has a maximum size.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .. import command
from . import privilege
from .progress import megabytes

MAX_BYTES = 20_000_000_000
"""The maximum size in bytes. Beyond it, the least recently used files are removed."""


@dataclass(frozen=True)
class Blob:
    """A config or a layer: its digest `sha256:<hex>` and its size in bytes."""

    digest: str
    size: int


class Cache:
    """A cache in `folder`, where each blob is a file `blobs/sha256/<hex>`.

    An archive of docker's store is a file `stores/<key>-<its own sha256>`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.stores = folder / "stores"

    @classmethod
    def of_user(cls) -> "Cache":
        """Return the cache of the user for whom this process runs."""
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(base) / "compose-apps-preload")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from removing files during the block, and prune the cache after it."""
        (self.blobs / "sha256").mkdir(parents=True, exist_ok=True)
        self.stores.mkdir(exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
            self._prune(descriptor, MAX_BYTES)
        finally:
            os.close(descriptor)

    def file(self, digest: str) -> Path:
        """Return where a blob is, or would be."""
        return self.blobs / "sha256" / digest.removeprefix("sha256:")

    def has(self, blob: Blob) -> bool:
        """Whether the cache has a blob; a blob with another size is removed."""
        file = self.file(blob.digest)
        try:
            if file.stat().st_size == blob.size:
                return True
        except FileNotFoundError:
            return False
        file.unlink(missing_ok=True)
        return False

    def read(self, digest: str) -> bytes | None:
        """Return a small blob; None if it is missing or damaged."""
        try:
            data = self.file(digest).read_bytes()
        except OSError:
            return None
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            return None
        os.utime(self.file(digest))
        return data

    def write(self, data: bytes) -> None:
        """Store a small blob."""
        file = self.file(f"sha256:{hashlib.sha256(data).hexdigest()}")
        with tempfile.NamedTemporaryFile(dir=self.blobs, delete=False) as stream:
            stream.write(data)
        Path(stream.name).chmod(0o644)
        Path(stream.name).replace(file)

    def adopt(self, file: Path) -> None:
        """Move a file that is named by its digest into the cache."""
        target = self.blobs / "sha256" / file.name
        if not target.exists():
            with tempfile.NamedTemporaryFile(dir=self.blobs, delete=False) as stream:
                partial = Path(stream.name)
            shutil.move(file, partial)
            partial.chmod(0o644)
            partial.replace(target)

    def link(self, digest: str, folder: Path) -> bool:
        """Link or copy a blob into `folder/sha256`; return False if it is damaged."""
        file, target = self.file(digest), folder / "sha256" / digest.removeprefix("sha256:")
        if target.exists():
            return True
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if f"sha256:{found}" != digest:
            file.unlink()
            return False
        os.utime(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Threads for several images may link the same layer at the same time.
        try:
            target.hardlink_to(file)
        except FileExistsError:
            pass
        except OSError:  # another file system
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as stream:
                partial = Path(stream.name)
            shutil.copyfile(file, partial)
            partial.chmod(0o644)
            partial.replace(target)
        return True

    @contextlib.contextmanager
    def keeping(self, key: str) -> Iterator[IO[bytes]]:
        """Yield a file, which is kept as the archive `key` if the block succeeds."""
        with tempfile.NamedTemporaryFile(dir=self.blobs, delete=False) as stream:
            partial = Path(stream.name)
            try:
                yield stream
                stream.seek(0)
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                partial.chmod(0o644)
                partial.replace(self.stores / f"{key}-{digest}")
            finally:
                partial.unlink(missing_ok=True)

    def archive(self, key: str) -> IO[bytes] | None:
        """Open the archive `key`; None if it is missing. A damaged one is removed."""
        for file in self.stores.glob(f"{key}-*"):
            stream = file.open("rb")
            if file.name == f"{key}-{hashlib.file_digest(stream, 'sha256').hexdigest()}":
                os.utime(file)
                stream.seek(0)
                return stream
            stream.close()
            file.unlink(missing_ok=True)
        return None

    @property
    def size(self) -> tuple[int, int, int]:
        """The number of blobs, the number of docker's stores, and their total size in bytes."""
        files = list(self._files())
        stores = sum(file.parent == self.stores for _, _, file in files)
        return len(files) - stores, stores, sum(size for _, size, _ in files)

    def clear(self) -> bool:
        """Remove all files; return False if another run uses the cache."""
        if not self.folder.is_dir():
            return True
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self._prune(descriptor, 0)
        finally:
            os.close(descriptor)

    def _prune(self, descriptor: int, limit: int) -> bool:
        """Remove the least recently used files until at most `limit` bytes are left."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Remove what killed runs left behind.
        for left in self.blobs.glob("*"):
            if left.name != "sha256":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        found = sorted(self._files())
        total = sum(size for _, size, _ in found)
        for _, size, file in found:
            if total <= limit:
                break
            file.unlink(missing_ok=True)
            total -= size
        return True

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for file in (*(self.blobs / "sha256").glob("*"), *self.stores.glob("*")):
            with contextlib.suppress(FileNotFoundError):
                found = file.stat()
                yield found.st_mtime, found.st_size, file


def add_command(commands: command.Subparsers) -> None:
    """Add `cache` to the command line."""
    parser = commands.add_parser(
        "cache",
        help="show or empty the cache",
        description="Show the size of the cache, or empty it. It holds downloads from registries, "
        "and docker's stores that were filled with them.",
    )
    parser.add_argument("--clear", action="store_true", help="empty the cache")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    privilege.drop()
    cache = Cache.of_user()
    if options.clear and not cache.clear():
        print(f"{cache.folder} is in use by another run; try again when it has ended")
        return 1
    blobs, stores, size = cache.size
    print(
        f"{cache.folder}: {blobs} blobs, {stores} docker stores, "
        f"{megabytes(size)} of at most {megabytes(MAX_BYTES)}"
    )
    return 0
