"""An app's bundle: its folder as a gzipped tar archive, and the index of the files in it."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from .. import ignores
from ..configuration.containers import COMPOSE_FILE
from ..errors import PreloadError
from ..ignores import IGNORES

_LEVEL = 6
# Characters that Go's encoding/json escapes although JSON does not require it.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def pack(folder: Path, compose: bytes, blobs: Path) -> tuple[str, Mapping[str, str]]:
    """Pack a folder, with `compose` as its compose file, into `blobs`; raises `PreloadError`.

    Returns the bundle's digest, and the digest of each file in it. The same files always give the
    same bundle.
    """
    (blobs / "sha256").mkdir(exist_ok=True)
    partial = blobs / "bundle"
    hashes = {}
    with (
        partial.open("wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in _files(folder):
            name = path.relative_to(folder).as_posix()
            member = tarfile.TarInfo(name)
            found = path.lstat()
            member.mode = 0o755 if path.is_dir() or found.st_mode & stat.S_IXUSR else 0o644
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                member.mode = 0o777
                archive.addfile(member)
            elif path.is_dir():
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif name == COMPOSE_FILE:
                member.size = len(compose)
                archive.addfile(member, io.BytesIO(compose))
                hashes[name] = f"sha256:{hashlib.sha256(compose).hexdigest()}"
            else:
                member.size = found.st_size
                with path.open("rb") as stream:
                    archive.addfile(member, stream)
                    stream.seek(0)
                    hashes[name] = _digest(stream)
    with partial.open("rb") as stream:
        digest = _digest(stream)
    partial.rename(blobs / "sha256" / digest.removeprefix("sha256:"))
    return digest, hashes


def _files(folder: Path) -> Iterator[Path]:
    """Yield the paths that publishing packs, sorted, with folders before their contents."""
    from docker.utils.build import PatternMatcher

    name = folder.resolve().name
    wanted = sorted(PatternMatcher(_rules(folder, name)).walk(str(folder)))
    if COMPOSE_FILE not in wanted:
        raise PreloadError(
            f"app {name}: a rule in {IGNORES} leaves out {COMPOSE_FILE}", "change the rule"
        )
    packed: set[Path] = set()
    for entry in wanted:
        path = folder / entry
        relative = Path(entry)
        if relative.parts[0] == ".git":
            continue
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise PreloadError(
                f"app {name}: the name of {entry!a} is not UTF-8", "rename the file"
            ) from error
        if path.is_symlink():
            _check_link(folder, path, name)
        elif not (path.is_dir() or path.is_file()):
            raise PreloadError(
                f"app {name}: {entry} is neither a file nor a folder nor a link",
                f"remove it, or add it to {IGNORES}",
            )
        # A rule may include a file in a folder that another rule leaves out.
        for parent in reversed(relative.parents[:-1]):
            if folder / parent not in packed:
                packed.add(folder / parent)
                yield folder / parent
        if path not in packed:
            packed.add(path)
            yield path


def _check_link(folder: Path, path: Path, name: str) -> None:
    target = path.readlink()
    inside = (path.parent.resolve() / target).resolve().is_relative_to(folder.resolve())
    if target.is_absolute() or not inside:
        raise PreloadError(
            f"app {name}: the link {path.relative_to(folder)} points outside the app's folder",
            f"replace the link with the file, or add it to {IGNORES}",
        )


def _rules(folder: Path, name: str) -> list[str]:
    try:
        return ignores.rules(folder)
    except UnicodeDecodeError as error:
        raise PreloadError(f"app {name}: {IGNORES} is not UTF-8", "save it as UTF-8") from error


def index(hashes: Mapping[str, str]) -> bytes:
    """Return the bundle index, as publishing writes it: the sorted digests in Go's JSON."""
    ordered = dict(sorted(hashes.items(), key=lambda item: item[0].encode(errors="replace")))
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_ESCAPED).encode(errors="replace")


def hashes(packed: Path, what: str) -> Mapping[str, str]:
    """Return the digest of each file in a bundle; raises `PreloadError`."""
    found = {}
    with _opened(packed, what) as archive:
        for member in archive:
            if member.isreg() and (stream := archive.extractfile(member)):
                found[str(PurePosixPath(member.name))] = _digest(stream)
    return found


def read(packed: Path, name: str, what: str) -> bytes:
    """Return one file of a bundle; raises `PreloadError` if the bundle lacks it."""
    with _opened(packed, what) as archive:
        for member in archive:
            if (
                member.isreg()
                and str(PurePosixPath(member.name)) == name
                and (stream := archive.extractfile(member))
            ):
                return stream.read()
    raise PreloadError(f"{what}: its bundle has no {name}", "publish the app again")


def unpack(packed: Path, folder: Path, what: str) -> None:
    """Put the files of a bundle into `folder`, which is created; raises `PreloadError`."""
    folder.mkdir(parents=True)
    with _opened(packed, what) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            target = folder / path
            if (
                path.is_absolute()
                or ".." in path.parts
                or not target.parent.resolve().is_relative_to(folder.resolve())
            ):
                raise _refused(what, member, "points outside the app's folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                target.mkdir(exist_ok=True)
            elif member.issym():
                end = os.path.normpath(target.parent.resolve() / member.linkname)
                if member.linkname.startswith("/") or not Path(end).is_relative_to(
                    folder.resolve()
                ):
                    raise _refused(what, member, "is a link that points outside the app's folder")
                target.symlink_to(member.linkname)
                continue
            elif member.isreg() and (stream := archive.extractfile(member)):
                with target.open("wb") as file:
                    shutil.copyfileobj(stream, file, 1 << 20)
            else:
                raise _refused(what, member, "is neither a file nor a folder nor a link")
            target.chmod(member.mode & 0o1777)


def _refused(what: str, member: tarfile.TarInfo, why: str) -> PreloadError:
    return PreloadError(f"{what}: {member.name!r} {why}", "publish the app without it")


@contextlib.contextmanager
def _opened(packed: Path, what: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(packed, mode="r:*") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PreloadError(
            f"{what}: its bundle is damaged: {error}", "publish the app again"
        ) from error


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
