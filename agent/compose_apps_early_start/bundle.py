"""Putting an app's folder back from its bundle: whole or not at all.

The new folder is made outside compose-apps, written to the disk, and exchanged with the old one in
one step: at no moment is there half a folder, or one that is no app, in compose-apps.
"""

import contextlib
import ctypes
import errno
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from .store import Manifest, Store, StoreError, Version

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Sources: fcntl.h, linux/fs.h; see renameat2(2)."""


class SpaceError(Exception):
    """The disk has too little space; nothing was written."""


def index(store: Store, version: Version, manifest: Manifest) -> Mapping[str, str]:
    """Return the sha256 in hex of every file of the app; raises `StoreError`.

    An app published long ago has no index: then the bundle itself tells.
    """
    if manifest.index:
        return store.index(version, manifest.index)
    what = _what(version)
    file = store.verified(manifest.bundle.sha256, version, what)
    hashes = {}
    with _opened(file, what) as archive:
        for member in archive:
            if member.isreg() and (stream := archive.extractfile(member)):
                digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]
                hashes[str(PurePosixPath(member.name))] = digest.hexdigest()
    return hashes


def compose_file(store: Store, version: Version, manifest: Manifest, name: str) -> bytes:
    """Return the file `name` out of the verified bundle; raises `StoreError`."""
    what = _what(version)
    with _opened(store.verified(manifest.bundle.sha256, version, what), what) as archive:
        for member in archive:
            if member.isreg() and str(PurePosixPath(member.name)) == name:
                stream = archive.extractfile(member)
                return stream.read() if stream else b""
    raise StoreError(f"{what}: there is no {name} in it")


def differences(folder: Path, hashes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files of `hashes` that are missing or other in `folder`; empty: it is intact."""
    return tuple(name for name, sha256 in hashes.items() if not _is(folder / name, sha256))


def restore(
    store: Store, version: Version, hashes: Mapping[str, str], folder: Path, staging: Path
) -> None:
    """Put `folder` back from the bundle; files of the user beside those of the bundle are kept.

    `staging` is a scratch folder on the same file system; what a killed run left there is removed.
    Raises `StoreError`, or `SpaceError`, or OSError; `folder` is untouched then.
    """
    if folder.exists() and not folder.is_dir():
        # It is somebody's, and would be lost.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    what = _what(version)
    manifest = store.manifest(version)
    file = store.verified(manifest.bundle.sha256, version, what)
    folder.parent.mkdir(parents=True, exist_ok=True)
    clean(staging)
    staging.mkdir(mode=0o700)
    try:
        with _opened(file, what) as archive:
            _check_space(archive.getmembers(), staging)
            new = staging / "new"
            _make_folder(new)
            for member in archive:
                _extract(archive, member, new, what)
        _check_links(new, what)
        other = differences(new, hashes)
        if other:
            raise StoreError(f"{what}: {other[0]} is not in it as its index says")
        if folder.exists():
            _keep(folder, new)
        _sync(new)
        _swap_in(new, folder)
    finally:
        clean(staging)


def clean(staging: Path) -> None:
    """Remove what a run has left in `staging`, or a killed one; raises OSError."""
    if staging.exists():
        shutil.rmtree(staging)


def _what(version: Version) -> str:
    return f"the bundle of app {version.app!r}"


@contextlib.contextmanager
def _opened(file: Path, what: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:*") as archive:
            yield archive
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise StoreError(f"{what}: {file.name} is no tar archive: {error}") from error


def _is(file: Path, sha256: str) -> bool:
    try:
        if file.is_symlink() or not file.is_file():
            return False
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _check_space(members: list[tarfile.TarInfo], folder: Path) -> None:
    block = os.statvfs(folder)
    needed = sum(-(-member.size // block.f_frsize) + 1 for member in members) * block.f_frsize
    free = block.f_bavail * block.f_frsize
    if needed > free:
        raise SpaceError(f"the app's folder needs {needed} bytes, {free} are free")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, new: Path, what: str) -> None:
    """Extract one member below `new`, and never anywhere else; raises `StoreError`."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name + member.linkname:
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
    elif member.isreg() and (source := archive.extractfile(member)):
        with target.open("xb") as stream:
            shutil.copyfileobj(source, stream)
    elif member.issym():
        target.symlink_to(member.linkname)
        _give(target, member.uid, member.gid)
        return
    else:
        raise StoreError(f"{what}: {member.name!r} is neither file, folder nor symbolic link")
    _give(target, member.uid, member.gid)
    # No program of an app's folder runs on the host: no set-user-id, no set-group-id.
    target.chmod(member.mode & 0o1777)


def _give(path: Path, owner: int, group: int) -> None:
    # The unit lacks CAP_CHOWN: what publishing packs belongs to root, as what we make does.
    with contextlib.suppress(PermissionError):
        os.chown(path, owner, group, follow_symlinks=False)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir()
        path.chmod(0o755)  # whatever the unit's UMask= is


def _check_links(new: Path, what: str) -> None:
    """Raise `StoreError` for a link that leads out of `new`, by way of others perhaps."""
    top = os.path.realpath(new)
    for folder, folders, files in os.walk(new):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and (
                path.readlink().is_absolute()
                or not Path(os.path.realpath(path)).is_relative_to(top)
            ):
                name = str(path.relative_to(new))
                raise StoreError(f"{what}: {name!r} is a link that leads out of the app's folder")


def _keep(old: Path, new: Path) -> None:
    """Put into `new` what is in `old` only: the user's files, by links to the very same files."""
    for folder, folders, files in os.walk(old):
        target = new / Path(folder).relative_to(old)
        for name in folders[:]:
            source = Path(folder, name)
            if source.is_symlink():
                folders.remove(name)
                files.append(name)
            elif not (target / name).is_symlink() and not (target / name).exists():
                (target / name).mkdir()
                found = source.stat()
                _give(target / name, found.st_uid, found.st_gid)
                (target / name).chmod(stat.S_IMODE(found.st_mode) & 0o1777)
            elif (target / name).is_symlink() or not (target / name).is_dir():
                raise StoreError(
                    f"the folder {source} is in the place of a file of the bundle; move it away"
                )
        for name in files:
            if not (target / name).is_symlink() and not (target / name).exists():
                os.link(Path(folder, name), target / name, follow_symlinks=False)


def _sync(top: Path) -> None:
    for folder, _folders, files in os.walk(top):
        for name in files:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                _sync_one(path)
        _sync_one(Path(folder))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap_in(new: Path, folder: Path) -> None:
    if folder.exists():
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(folder))
        if libc.renameat2(*arguments, _RENAME_EXCHANGE) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    else:
        new.rename(folder)
    _sync_one(folder.parent)
