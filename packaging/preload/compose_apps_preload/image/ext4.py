"""An ext4 file system inside a file, changed by e2fsprogs without mounts, loop devices or root."""

import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import PreloadError
from . import tool

_SUPERBLOCK = 1024  # offset and size in bytes
_MAGIC = 0xEF53
_64BIT = 0x80
_INLINE_DATA = 0x8000
_INLINE_BYTES = 60  # debugfs returns at least this many bytes of a file that is stored in its inode
_LIST = re.compile(rb"^/(\d+)/(\d+)/\d*/\d*/(.*)/(\d*)/$")
_BANNER = re.compile(rb"^debugfs \d.*\n")


@dataclass(frozen=True)
class Superblock:
    """The superblock of a file system. Sizes are in blocks, except `block_size`, in bytes."""

    label: str
    block_size: int
    blocks: int
    free_blocks: int
    free_inodes: int
    inodes_per_group: int
    blocks_per_group: int
    inode_size: int
    has_inline_data: bool

    @classmethod
    def read(cls, file: Path, offset: int) -> Self | None:
        """Return the superblock of the file system at `offset`, or None if there is none."""
        with file.open("rb") as stream:
            stream.seek(offset + _SUPERBLOCK)
            data = stream.read(_SUPERBLOCK)
        if len(data) < _SUPERBLOCK or struct.unpack_from("<H", data, 56)[0] != _MAGIC:
            return None
        blocks, _, free_blocks, free_inodes = struct.unpack_from("<4I", data, 4)
        if struct.unpack_from("<I", data, 96)[0] & _64BIT:
            blocks |= struct.unpack_from("<I", data, 0x150)[0] << 32
            free_blocks |= struct.unpack_from("<I", data, 0x158)[0] << 32
        return cls(
            label=data[120:136].rstrip(b"\0").decode(errors="replace"),
            block_size=1024 << struct.unpack_from("<I", data, 24)[0],
            blocks=blocks,
            free_blocks=free_blocks,
            free_inodes=free_inodes,
            inodes_per_group=struct.unpack_from("<I", data, 40)[0],
            blocks_per_group=struct.unpack_from("<I", data, 32)[0],
            inode_size=struct.unpack_from("<H", data, 88)[0],
            has_inline_data=bool(struct.unpack_from("<I", data, 96)[0] & _INLINE_DATA),
        )


@dataclass(frozen=True)
class Tree:
    """A folder of the host to write to the absolute path `at` in the file system.

    `names` restricts it to these entries. With `owned_by_root`, all files get root as their owner.
    """

    source: Path
    at: str
    names: tuple[str, ...] | None = None
    owned_by_root: bool = True


@dataclass(frozen=True)
class Usage:
    """The blocks and inodes that trees need in a file system."""

    blocks: int
    inodes: int


class FileSystem:
    """The file system at `offset` bytes in `file`."""

    def __init__(self, file: Path, offset: int = 0) -> None:
        # e2fsprogs read options after a question mark, in a name or a path. So such a file gets
        # another name, and the programs run in its folder.
        if "?" in file.name:
            self._alias = tempfile.TemporaryDirectory()
            alias = Path(self._alias.name, "image")
            alias.symlink_to(file.resolve())
            file = alias
        self._file = file
        self._offset = offset
        self._device = f"./{file.name}?offset={offset}" if offset else f"./{file.name}"

    @property
    def superblock(self) -> Superblock:
        """Read the superblock; raises `PreloadError` if there is none."""
        found = Superblock.read(self._file, self._offset)
        if found is None:
            raise PreloadError(
                f"{self._file} has no ext4 file system", "check whether the image is damaged"
            )
        return found

    def check(self) -> None:
        """Replay the journal, and raise `PreloadError` with e2fsck's message if it is damaged."""
        cwd = self._file.parent
        self.replay_journal()
        done = tool.run(("e2fsck", "-f", "-n", self._device), cwd=cwd, accepted=range(256))
        if done.returncode:
            output = [line for line in done.stdout.decode(errors="replace").splitlines() if line]
            found = [line for line in output if not line.startswith(("e2fsck", "Pass "))]
            raise PreloadError(
                f"the image's root file system is damaged; e2fsck says: {' / '.join(found[:4])}",
                "build or download the image again; the input was not changed",
            )

    def replay_journal(self) -> None:
        """Bring what the journal holds into its place, as mounting does."""
        argv = ("e2fsck", "-E", "journal_only", "-y", self._device)
        tool.run(argv, cwd=self._file.parent, accepted=(0, 1))

    def repair(self) -> None:
        """Correct counters and the like after writing; raises `PreloadError` for real damage."""
        # 1: errors were corrected.
        tool.run(("e2fsck", "-f", "-y", self._device), cwd=self._file.parent, accepted=(0, 1))

    def resize(self, size: int) -> None:
        """Resize it to `size` bytes. The file must contain nothing but this file system."""
        assert not self._offset  # resize2fs would cut the file
        blocks = size // self.superblock.block_size
        tool.run(("resize2fs", self._device, str(blocks)), cwd=self._file.parent)

    def free_ranges(self, scratch: Path) -> Iterator[tuple[int, int]]:
        """Yield the blocks that are not in use, as (first, last)."""
        # dumpe2fs 1.47.1 and later refuse a name with an offset, because it looks like LABEL=…. So
        # e2image makes a file that begins with the file system and has only its metadata.
        metadata_only = scratch / "described"
        argv = ("e2image", "-r", "-o", str(self._offset), self._file.name, str(metadata_only))
        tool.run(argv, cwd=self._file.parent)
        listing = tool.run(("dumpe2fs", metadata_only.name), cwd=scratch).stdout
        metadata_only.unlink()
        for line in re.findall(rb"^ +Free blocks: (.*)$", listing, re.MULTILINE):
            for word in line.replace(b",", b" ").split():
                first, _, last = word.partition(b"-")
                yield int(first), int(last or first)

    # Reading.

    def names(self, folder: str) -> dict[str, int]:
        """Return the entries of a folder and their modes; empty if there is no such folder."""
        return {name: mode for name, (mode, _) in self._entries(folder).items()}

    def _entries(self, folder: str) -> dict[str, tuple[int, int]]:
        """Return the entries of a folder with their modes and their sizes in bytes."""
        done = self._query(b"ls -p " + _quoted(os.fsencode(folder)), check=False)
        found = {}
        for line in done.splitlines():
            match = _LIST.match(line)
            if match and match[1] != b"0" and match[3] not in (b".", b".."):
                found[os.fsdecode(match[3])] = (int(match[2], 8), int(match[4] or 0))
        return found

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or None if there is no such file."""
        folder, _, name = path.rpartition("/")
        mode, size = self._entries(folder or "/").get(name, (0, 0))
        if not stat.S_ISREG(mode):
            return None
        return self._query(b"cat " + _quoted(os.fsencode(path)), check=True)[:size]

    def dump(self, folder: str, target: Path) -> None:
        """Copy a folder out of the file system into the folder `target`, created if needed."""
        target.mkdir(parents=True, exist_ok=True)
        # Not checked, because debugfs complains when a user who is not root cannot change owners.
        request = b"rdump %s %s" % (_quoted(os.fsencode(folder)), _quoted(bytes(target)))
        self._query(request, check=False)
        inline = self.superblock.has_inline_data
        for parent, folders, files in os.walk(target):
            if inline:
                inside = Path(folder).parent / Path(parent).relative_to(target)
                self._truncate_inline(Path(parent), files, str(inside))
            # Otherwise a user who is not root could neither read all of it nor remove it.
            for name in (*folders, *files):
                path = Path(parent, name)
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                    path.chmod(0o700)
                elif stat.S_ISREG(mode) and not mode & 0o400:
                    path.chmod(0o600)

    def _truncate_inline(self, parent: Path, files: Iterable[str], inside: str) -> None:
        """Restore the sizes of small files, which debugfs rounds up."""
        rounded = [name for name in files if (parent / name).lstat().st_size == _INLINE_BYTES]
        entries = self._entries(inside) if rounded else {}
        for name in rounded:
            mode, size = entries.get(name, (0, _INLINE_BYTES))
            if stat.S_ISREG(mode) and size < _INLINE_BYTES:
                (parent / name).chmod(0o600 | stat.S_IMODE(mode))
                os.truncate(parent / name, size)

    # Writing.

    def remove(self, paths: Iterable[str], scratch: Path) -> None:
        """Remove files, and folders with their contents; paths that do not exist are skipped.

        `scratch` is a folder for command files. Raises `PreloadError`.
        """
        modes = {path: self._mode(path) for path in paths}
        folders = [path for path, mode in modes.items() if stat.S_ISDIR(mode)]
        files = [path for path, mode in modes.items() if mode and path not in folders]
        commands = [b"rm " + _quoted(os.fsencode(path)) for path in files]
        level = folders
        while level:
            found = self._listed(level, scratch)
            level = []
            for folder, entries in found.items():
                for name, mode in entries.items():
                    path = f"{folder}/{name}"
                    if stat.S_ISDIR(mode):
                        level.append(path)
                    else:
                        commands.append(b"rm " + _quoted(os.fsencode(path)))
            folders += level
        # The list has parents before their contents.
        commands += [b"rmdir " + _quoted(os.fsencode(path)) for path in reversed(folders)]
        script = scratch / "debugfs-commands"
        script.write_bytes(b"".join(line + b"\n" for line in commands))
        self._run_debugfs(("-w", "-f", str(script)), check=True)

    def _mode(self, path: str) -> int:
        folder, _, name = path.rpartition("/")
        return self.names(folder or "/").get(name, 0)

    def _listed(self, folders: Sequence[str], scratch: Path) -> dict[str, dict[str, int]]:
        """Return the entries of many folders and their modes, with one run of debugfs."""
        script = scratch / "debugfs-commands"
        lines = [b"ls -p " + _quoted(os.fsencode(folder)) + b"\n" for folder in folders]
        script.write_bytes(b"".join(lines))
        output = self._run_debugfs(("-f", str(script)), check=True)
        found: dict[str, dict[str, int]] = {}
        left = iter(folders)
        for line in output.splitlines():
            match = _LIST.match(line)
            if match is None:
                if line.startswith(b"debugfs: ls -p "):  # it repeats each command
                    entries = found[next(left)] = {}
            elif match[1] != b"0" and match[3] not in (b".", b".."):
                entries[os.fsdecode(match[3])] = int(match[2], 8)
        return found

    def write(self, trees: Iterable[Tree], scratch: Path) -> None:
        """Add trees. Folders that exist already stay as they are; files are replaced.

        `scratch` is a folder for command files. Raises `PreloadError`.
        """
        for tree in trees:
            commands = scratch / "debugfs-commands"
            with commands.open("wb") as stream:
                for line in _Writer(self, tree, scratch).lines():
                    stream.write(line + b"\n")
            self._run_debugfs(("-w", "-f", str(commands)), check=True)

    def _query(self, request: bytes, *, check: bool) -> bytes:
        """Run one read-only command and return its output."""
        return self._run_debugfs((b"-R", request), check=check)

    def _run_debugfs(self, options: Sequence[str | bytes], *, check: bool) -> bytes:
        done = tool.run(("debugfs", *options, self._device), cwd=self._file.parent)
        # Its exit status is 0 whatever happens.
        complaints = _BANNER.sub(b"", done.stderr)
        if check and complaints:
            raise PreloadError(
                f"debugfs failed: {complaints.decode(errors='replace')[:2000].strip()}",
                "check the input's file system with e2fsck -fn; the input was not changed",
            )
        return done.stdout


def usage(trees: Iterable[Tree], block_size: int) -> Usage:
    """Return what trees need in a file system with this block size in bytes."""
    blocks = inodes = 0
    for tree in trees:
        seen = set()
        for _, entries in _walk(tree):
            inodes += 1
            # A folder entry takes its name and up to 11 more bytes.
            blocks += 1 + sum(len(os.fsencode(entry.name)) + 11 for entry in entries) // block_size
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) or found.st_ino in seen:
                    continue
                if found.st_nlink > 1:
                    seen.add(found.st_ino)
                inodes += 1
                blocks += -(-found.st_size // block_size)
    # Add 1 % for the extent blocks of large files and for attributes.
    return Usage(blocks + blocks // 100, inodes)


def _walk(tree: Tree) -> Iterator[tuple[Path, list["os.DirEntry[str]"]]]:
    """Yield each folder of a tree and its entries, parents first, sorted by name."""
    folders = [tree.source]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        if folder == tree.source and tree.names is not None:
            entries = [entry for entry in entries if entry.name in tree.names]
        yield folder, entries
        folders += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]


class _Writer:
    """Makes the debugfs commands that add one tree."""

    def __init__(self, system: FileSystem, tree: Tree, scratch: Path) -> None:
        self._system = system
        self._tree = tree
        self._scratch = scratch
        self._links: dict[int, list[bytes]] = {}  # inode on the host to paths in the image
        self._attributes = 0

    def lines(self) -> Iterator[bytes]:
        yield from self._make_parents()
        there = {self._tree.source}
        for folder, entries in _walk(self._tree):
            at = self._path_inside(folder)
            old = self._system.names(os.fsdecode(at)) if folder in there else {}
            yield b"cd %s" % _quoted(at)
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.name in old:
                    if entry.is_dir(follow_symlinks=False) and stat.S_ISDIR(old[entry.name]):
                        there.add(Path(entry))
                        continue
                    yield b"rm %s" % _filespec(name)
                yield from self._entry(entry, name, at)
        for paths in self._links.values():
            yield b"sif %s links_count %d" % (_quoted(paths[0]), len(paths))

    def _make_parents(self) -> Iterator[bytes]:
        """Create the folder of the tree and its parents."""
        path = ""
        missing = False
        for name in self._tree.at.strip("/").split("/"):
            missing = missing or name not in self._system.names(path or "/")
            path += f"/{name}"
            if missing:
                yield b"mkdir %s" % _quoted(os.fsencode(path))
        if missing:
            yield from self._metadata(_quoted(os.fsencode(path)), self._tree.source.stat())

    def _path_inside(self, folder: Path) -> bytes:
        relative = bytes(folder.relative_to(self._tree.source))
        top = os.fsencode(self._tree.at)
        return top if relative == b"." else top + b"/" + relative

    def _entry(self, entry: "os.DirEntry[str]", name: bytes, folder: bytes) -> Iterator[bytes]:
        found = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        path = _quoted(os.fsencode(entry.path))
        if kind != stat.S_IFDIR and found.st_nlink > 1:
            paths = self._links.setdefault(found.st_ino, [])
            paths.append(folder + b"/" + name)
            if len(paths) > 1:
                yield b"ln %s %s" % (_quoted(paths[0]), _quoted(name))
                return
        if kind == stat.S_IFREG:
            yield b"write %s %s" % (path, _quoted(name))
        elif kind == stat.S_IFDIR:
            yield b"mkdir %s" % _filespec(name)
        elif kind == stat.S_IFLNK:
            target = bytes(Path(entry).readlink())
            yield b"symlink %s %s" % (_quoted(name), _quoted(target))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            letter = b"c" if kind == stat.S_IFCHR else b"b"
            major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
            yield b"mknod %s %s %d %d" % (_quoted(name), letter, major, minor)
        elif kind == stat.S_IFIFO:
            yield b"mknod %s p" % _quoted(name)
        else:
            return  # the socket of a daemon that has ended
        yield from self._metadata(_filespec(name), found)
        yield from self._extended_attributes(_filespec(name), entry.path)

    def _metadata(self, filespec: bytes, found: os.stat_result) -> Iterator[bytes]:
        yield b"sif %s mode 0%o" % (filespec, found.st_mode)
        yield b"sif %s mtime @%d" % (filespec, int(found.st_mtime))
        if not self._tree.owned_by_root:
            for field, value in (("uid", found.st_uid), ("gid", found.st_gid)):
                if value:
                    yield b"sif %s %s %d" % (filespec, field.encode(), value)

    def _extended_attributes(self, filespec: bytes, path: str) -> Iterator[bytes]:
        if self._tree.owned_by_root:
            return
        for name in os.listxattr(path, follow_symlinks=False):
            self._attributes += 1
            value = self._scratch / f"attribute-{self._attributes}"
            value.write_bytes(os.getxattr(path, name, follow_symlinks=False))
            yield b"ea_set -f %s %s %s" % (_quoted(bytes(value)), filespec, os.fsencode(name))


def _quoted(word: bytes) -> bytes:
    """Quote a word for debugfs, which cannot express a line break in a word."""
    if b"\n" in word:
        raise PreloadError(
            f"the file name {os.fsdecode(word)!r} contains a line break", "rename the file"
        )
    return b'"' + word.replace(b'"', b'""') + b'"'


def _filespec(name: bytes) -> bytes:
    """Name a file in the current folder; `<12>` alone would be an inode number."""
    return _quoted(b"./" + name)
