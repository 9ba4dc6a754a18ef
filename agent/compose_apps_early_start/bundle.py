"""Restoring an app's folder from its bundle: damaged and missing files, and nothing else.

A missing folder is created outside of compose-apps and renamed into its place in one step. In an
existing folder, each damaged or missing file is replaced on its own. The folder, everything else
in it, and mounts in it stay as they are. A file keeps its owner and mode.
"""

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from . import plainfile
from .progress import Meter
from .store import BlobMissingError, Manifest, Store, StoreError, Version

MAX_BYTES = 256 << 20
"""The maximum size of a bundle's files. Apps have compose files and configuration, not data."""

MAX_MEMBERS = 20_000
"""The maximum number of members. Each one takes a kilobyte of memory while the bundle is open."""

MAX_HEADER_BYTES = 1 << 20
"""The maximum size of a member's headers, which tarfile holds in memory."""

MAX_COMPOSE_FILE_BYTES = 4 << 20

BESIDE = ".compose-apps-early-start"
"""The temporary name of a file that is written beside the file that it replaces."""


class SpaceError(Exception):
    """The disk has too little space, or too few inodes, for the files to restore."""


def index(store: Store, version: Version, manifest: Manifest) -> Mapping[str, str]:
    """Return the sha256 in hex of every file of the app; raises `StoreError`.

    An app that was published long ago has no index, and an old store may lack it. The index is
    then made from the bundle, which the manifest verifies.
    """
    hashes = _index(store, version, manifest)
    for name in hashes:
        if _leads_out(name):
            raise StoreError(f"{_what(version)}: {name!r} leads out of the app's folder")
    return hashes


def _index(store: Store, version: Version, manifest: Manifest) -> Mapping[str, str]:
    if manifest.index:
        with contextlib.suppress(BlobMissingError):
            return store.index(version, manifest.index)
    hashes = {}
    with _opened(store, version, manifest) as bundle:
        for member in bundle.members():
            if member.isreg():
                digest = hashlib.file_digest(bundle.content(member), "sha256")
                hashes[str(PurePosixPath(member.name))] = digest.hexdigest()
    return hashes


def compose_file(store: Store, version: Version, manifest: Manifest, name: str) -> bytes:
    """Return the file `name` from the verified bundle; raises `StoreError`."""
    with _opened(store, version, manifest) as bundle:
        for member in bundle.members():
            if member.isreg() and str(PurePosixPath(member.name)) == name:
                if member.size > MAX_COMPOSE_FILE_BYTES:
                    raise StoreError(f"{bundle.what}: {name} in it has {member.size} bytes")
                return bundle.content(member).read()
        raise StoreError(f"{bundle.what}: there is no {name} in it")


def differences(folder: Path, hashes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files of `hashes` that are missing or differ in `folder`."""
    return tuple(name for name, sha256 in hashes.items() if not _is(folder / name, sha256))


def restore(
    store: Store,
    version: Version,
    hashes: Mapping[str, str],
    folder: Path,
    staging: Path,
    on_progress: Callable[[str], None] = lambda text: None,
) -> tuple[str, ...]:
    """Restore damaged and missing files in `folder`; return which files of `hashes` these were.

    `staging` is a scratch folder on the same file system; leftovers of a killed run are removed.
    `on_progress` is called with the progress now and then. Raises `StoreError`, `SpaceError` or
    OSError. A missing folder is then still missing, unless its place is on another file system. In
    an existing folder, each file is then the old or the new one.
    """
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        # It may be somebody's data, which would be lost.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    manifest = store.manifest(version)
    damaged = differences(folder, hashes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clean(staging)
        staging.mkdir(mode=0o700)
        try:
            new = staging / "new"
            intact = hashes.keys() - set(damaged)
            _unpack(store, version, manifest, new, intact, on_progress)
            other = differences(new, {name: hashes[name] for name in damaged})
            if other:
                raise StoreError(f"{_what(version)}: {other[0]} is not in it as its index says")
            if folder.exists() or not _renamed(new, folder):
                _repair(new, folder, damaged, intact)
        finally:
            clean(staging)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(_no_space(Path(error.filename or staging), error)) from error
        raise
    return damaged


def clean(staging: Path) -> None:
    """Remove everything that a run has left in `staging`; raises OSError."""
    if staging.is_symlink() or (staging.exists() and not staging.is_dir()):
        raise NotADirectoryError(
            errno.ENOTDIR, "in the place of the agent's scratch folder; remove it", str(staging)
        )
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(staging)


def _what(version: Version) -> str:
    return f"the bundle of app {version.app!r}"


class _Stream:
    """The unpacked bytes of a bundle for tarfile, which holds in memory whatever it reads at once.

    It gets no more than `left` bytes; skipping costs none of them.
    """

    def __init__(self, stream: BufferedReader | gzip.GzipFile, what: str) -> None:
        self._stream = stream
        self._what = what
        self.left = MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise StoreError(
                f"{self._what}: a header in it is larger than {MAX_HEADER_BYTES} bytes"
            )
        data = self._stream.read(size)
        self.left -= len(data)
        return data

    def seek(self, position: int) -> int:
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


class _Bundle:
    """An open bundle. Its members are read in order, each one's content before the next."""

    def __init__(self, archive: tarfile.TarFile, stream: _Stream, what: str) -> None:
        self.what = what
        self._stream = stream
        self._archive = archive

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members; raises `StoreError` for suspicious ones without reading them."""
        total = count = 0
        while True:
            self._stream.left = MAX_HEADER_BYTES
            member = self._archive.next()
            if member is None:
                return
            if member.issparse():
                raise StoreError(f"{self.what}: {member.name!r} is a sparse file")
            if member.size < 0:
                raise StoreError(f"{self.what}: {member.name!r} has {member.size} bytes")
            total += member.size
            count += 1
            if total > MAX_BYTES:
                raise StoreError(f"{self.what}: unpacked it has more than {MAX_BYTES >> 20} MiB")
            if count > MAX_MEMBERS:
                raise StoreError(f"{self.what}: it has more than {MAX_MEMBERS} files")
            self._stream.left = member.size
            yield member

    def content(self, member: tarfile.TarInfo) -> BufferedReader:
        """Open a member that is a regular file."""
        return cast(BufferedReader, self._archive.extractfile(member))


@contextlib.contextmanager
def _opened(store: Store, version: Version, manifest: Manifest) -> Iterator[_Bundle]:
    what = _what(version)
    limit = min(manifest.bundle.size, MAX_BYTES)
    file = store.verified(manifest.bundle.sha256, version, what, limit)
    try:
        with plainfile.opened(file) as packed:
            is_packed = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            stream = _Stream(gzip.GzipFile(fileobj=packed) if is_packed else packed, what)
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as archive:
                yield _Bundle(archive, stream, what)
    except (
        *(tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
        # tarfile raises these for malicious headers.
        *(ValueError, OverflowError, RecursionError),
    ) as error:
        raise StoreError(f"{what}: {file.name} is no tar archive: {error}") from error


def _is(file: Path, sha256: str) -> bool:
    try:
        if file.is_symlink():
            return False
        with plainfile.opened(file) as stream:
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:  # no bundle's file
                return False
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except (OSError, ValueError):
        return False


def _unpack(
    store: Store,
    version: Version,
    manifest: Manifest,
    new: Path,
    intact: Collection[str],
    on_progress: Callable[[str], None],
) -> None:
    """Unpack the bundle into the folder `new`; files in `intact` become empty files."""
    with _opened(store, version, manifest) as bundle:
        needed = [
            0 if str(PurePosixPath(member.name)) in intact else member.size
            for member in bundle.members()
        ]
    _check_space(needed, new.parent)
    _make_folder(new)
    meter = Meter(sum(needed), on_progress)
    with _opened(store, version, manifest) as bundle:
        for member, size in zip(bundle.members(), needed, strict=True):
            _extract(bundle, member, new, intact)
            meter.add(size)
    _check_links(new, _what(version))


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name


def _check_space(sizes: list[int], folder: Path) -> None:
    found = os.statvfs(folder)
    needed = sum(-(-size // found.f_frsize) + 1 for size in sizes) * found.f_frsize
    free = found.f_bavail * found.f_frsize
    if needed > free:
        raise SpaceError(f"the app's folder needs {needed} bytes, {free} are free")
    if found.f_files and len(sizes) > found.f_favail:  # some file systems have no table of inodes
        raise SpaceError(f"the app's folder needs {len(sizes)} inodes, {found.f_favail} are free")


def _no_space(place: Path, error: OSError) -> str:
    """Return an error that names what the file system of `place` lacks."""
    with contextlib.suppress(OSError):
        found = os.statvfs(next(each for each in (place, *place.parents) if each.exists()))
        if found.f_files and not found.f_favail:
            return f"{place}: no inodes are left"
    return f"{place}: {error.strerror}"


def _extract(bundle: _Bundle, member: tarfile.TarInfo, new: Path, intact: Collection[str]) -> None:
    """Extract one member below `new`, and never anywhere else; raises `StoreError`.

    The files belong to the extracting user, which is root, as with composectl.
    """
    what = bundle.what
    name = PurePosixPath(member.name)
    if _leads_out(member.name) or "\0" in member.linkname:
        raise StoreError(f"{what}: {member.name!r} leads out of the app's folder")
    target = new / name
    for parent in reversed([*name.parents][:-1]):
        if (new / parent).is_symlink():
            raise StoreError(f"{what}: {member.name!r} lies behind a link")
        _make_folder(new / parent)
    if target.is_symlink():
        raise StoreError(f"{what}: {member.name!r} is in it as a link, too")
    if member.isdir():
        _make_folder(target)
    elif os.path.lexists(target):
        raise StoreError(f"{what}: {member.name!r} is in it twice")
    elif member.isreg():
        with target.open("xb") as stream:
            if str(name) not in intact:
                shutil.copyfileobj(bundle.content(member), stream)
    elif member.issym():
        target.symlink_to(member.linkname)
        return
    else:
        raise StoreError(f"{what}: {member.name!r} is neither file, folder nor symbolic link")
    target.chmod(_mode(member.mode))


def _mode(mode: int) -> int:
    # Programs in an app's folder do not run on the host, so they need no set-id bits.
    return mode & 0o1777


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir()
        path.chmod(0o755)  # whatever the unit's UMask= is


def _check_links(new: Path, what: str) -> None:
    """Raise `StoreError` for a link that leads out of `new`, even by way of other links."""
    top = os.path.realpath(new)
    for folder, folders, files in os.walk(new):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and (
                path.readlink().is_absolute()
                or not Path(os.path.realpath(path)).is_relative_to(top)
            ):
                name = str(path.relative_to(new))
                raise StoreError(f"{what}: {name!r} is a link that leads out of the app's folder")


def _renamed(new: Path, folder: Path) -> bool:
    """Rename the whole folder; False if its place is on another file system.

    There is an empty folder then, which has to be filled file by file.
    """
    _sync(new)
    try:
        new.rename(folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        folder.mkdir()
        folder.chmod(stat.S_IMODE(new.stat().st_mode))
        return False
    _sync_one(folder.parent)
    return True


def _sync(top: Path) -> None:
    for folder, _folders, files in os.walk(top):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file():
                _sync_one(path)
        _sync_one(Path(folder))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _repair(new: Path, folder: Path, damaged: Collection[str], intact: Collection[str]) -> None:
    """Move the files in `damaged`, and everything that is missing, from `new` into `folder`.

    Files in `intact` are empty in `new`, so they are not moved even if they have disappeared
    meanwhile. Containers may write to the folder at the same time, so no link in it is followed.
    """
    for parent, folders, files in os.walk(new):
        inside = Path(parent).relative_to(new)
        place = _open_inside(folder, inside)
        try:
            changed = False
            for name in (*folders, *files):
                path = str(inside / name)
                if path in intact:
                    continue
                try:
                    changed |= _put(Path(parent, name), place, replacing=path in damaged)
                except OSError as error:
                    error.filename = str(folder / path)
                    raise
            if changed:
                os.fsync(place)
        finally:
            os.close(place)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_inside(folder: Path, inside: Path) -> int:
    descriptor = os.open(folder, _FOLDER)
    for part in inside.parts:
        try:
            below = os.open(part, _FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _put(source: Path, place: int, *, replacing: bool) -> bool:
    """Put `source` under its name into the folder open as `place`; return whether it was needed.

    Anything that exists already stays, unless it is a file and `replacing` is true.
    """
    name = source.name
    try:
        there = os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    # Check for a link first, because its target may not be a possible path.
    if not source.is_symlink() and source.is_dir():
        if there is None:
            _make_like(source, place)
        elif not stat.S_ISDIR(there.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "in the place of a folder; move it away")
        return there is None
    if there is not None and not replacing:
        return False
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder in the place of a file; move it away")
    if there is not None and stat.S_ISREG(there.st_mode):
        source.chmod(_mode(there.st_mode))
        if (there.st_uid, there.st_gid) != (os.geteuid(), os.getegid()):
            _rewrite(source, place, there)
            return True
    if not source.is_symlink():
        _sync_one(source)
    try:
        os.rename(source, name, dst_dir_fd=place)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a mount inside the folder, or an overlay
            raise
        _copy(source, place)
    return True


def _rewrite(source: Path, place: int, there: os.stat_result) -> None:
    """Write `source` over the damaged file of the same name, which belongs to another user.

    The unit has no capability to change the owner of a new file. If the power fails meanwhile, the
    file is still damaged, and the next run comes here again.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(source.name, flags, dir_fd=place)
    with os.fdopen(descriptor, "wb") as target, source.open("rb") as stream:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != (there.st_dev, there.st_ino):
            raise OSError(errno.EBUSY, "somebody else replaces the file")
        shutil.copyfileobj(stream, target)
        target.truncate()
        target.flush()
        os.fsync(descriptor)


def _make_like(source: Path, place: int) -> None:
    os.mkdir(source.name, 0o700, dir_fd=place)
    descriptor = os.open(source.name, _FOLDER, dir_fd=place)
    try:
        os.fchmod(descriptor, stat.S_IMODE(source.stat().st_mode))
    finally:
        os.close(descriptor)


def _copy(source: Path, place: int) -> None:
    """Put `source` into its place by writing it beside it and renaming it.

    A run that is killed meanwhile leaves the damaged file, so the next one comes here again.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(BESIDE, dir_fd=place)
    try:
        if source.is_symlink():
            os.symlink(source.readlink(), BESIDE, dir_fd=place)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(BESIDE, flags, 0o600, dir_fd=place)
            with os.fdopen(descriptor, "wb") as target, source.open("rb") as stream:
                shutil.copyfileobj(stream, target)
                target.flush()
                os.fchmod(descriptor, stat.S_IMODE(source.stat().st_mode))
                os.fsync(descriptor)
        os.rename(BESIDE, source.name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(BESIDE, dir_fd=place)
        raise
