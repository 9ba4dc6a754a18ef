"""An ext4 file system inside a file, worked on by e2fsprogs: no mount, no loop device, no root."""

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
_INLINE_BYTES = 60  # debugfs hands out at least so many of a file that lies within its inode
_LIST = re.compile(rb"^/(\d+)/(\d+)/\d*/\d*/(.*)/(\d*)/$")
_BANNER = re.compile(rb"^debugfs \d.*\n")


@dataclass(frozen=True)
class Superblock:
    """What a file system tells of itself. Sizes are in blocks but for `block_size`, in bytes."""

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
        """Return the superblock of a file system at `offset`, None if there is none."""
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
    """A folder of the host that is to lie at `at`, an absolute path, in the file system.

    `names`: only these of its entries. `owned_by_root`: whoever owns it here, root does there.
    """

    source: Path
    at: str
    names: tuple[str, ...] | None = None
    owned_by_root: bool = True


@dataclass(frozen=True)
class Need:
    """What trees take: blocks of the file system, and inodes."""

    blocks: int
    inodes: int


class FileSystem:
    """The file system at `offset` bytes in `file`."""

    def __init__(self, file: Path, offset: int = 0) -> None:
        # A question mark in the name would begin the options; one in the path too, hence the
        # programs are run in its folder.
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
        """Read the superblock; raises `PreloadError` if it is gone."""
        found = Superblock.read(self._file, self._offset)
        if found is None:
            raise PreloadError(f"{self._file}: no ext4 file system", "is the image damaged?")
        return found

    def check(self) -> None:
        """Raise `PreloadError`, with e2fsck's words, if it is damaged; its journal is replayed."""
        cwd = self._file.parent
        self.replay_journal()
        done = tool.run(("e2fsck", "-f", "-n", self._device), cwd=cwd, good=range(256))
        if done.returncode:
            said = [line for line in done.stdout.decode(errors="replace").splitlines() if line]
            found = [line for line in said if not line.startswith(("e2fsck", "Pass "))]
            raise PreloadError(
                f"the image's root file system is damaged; e2fsck says: {' / '.join(found[:4])}",
                "build or download the image again; nothing was repaired",
            )

    def replay_journal(self) -> None:
        """Bring what the journal holds into its place, as mounting does."""
        argv = ("e2fsck", "-E", "journal_only", "-y", self._device)
        tool.run(argv, cwd=self._file.parent, good=(0, 1))

    def repair(self) -> None:
        """Put right what writing has left, counters above all; raises `PreloadError` for more."""
        # 1: errors were corrected.
        tool.run(("e2fsck", "-f", "-y", self._device), cwd=self._file.parent, good=(0, 1))

    def resize(self, size: int) -> None:
        """Make it `size` bytes large; only for a file that is nothing but this file system."""
        assert not self._offset  # resize2fs would cut the file
        blocks = size // self.superblock.block_size
        tool.run(("resize2fs", self._device, str(blocks)), cwd=self._file.parent)

    def free_ranges(self, scratch: Path) -> Iterator[tuple[int, int]]:
        """Yield the blocks that are not in use, as (first, last)."""
        # dumpe2fs from 1.47.1 on takes a name with an offset for LABEL=…: give it a file system
        # that begins with its file, of which only what describes it need be there.
        described = scratch / "described"
        argv = ("e2image", "-r", "-o", str(self._offset), self._file.name, str(described))
        tool.run(argv, cwd=self._file.parent)
        listing = tool.run(("dumpe2fs", described.name), cwd=scratch).stdout
        described.unlink()
        for line in re.findall(rb"^ +Free blocks: (.*)$", listing, re.MULTILINE):
            for word in line.replace(b",", b" ").split():
                first, _, last = word.partition(b"-")
                yield int(first), int(last or first)

    # Reading.

    def names(self, folder: str) -> dict[str, int]:
        """Return the entries of a folder and their modes; {} if there is no such folder."""
        return {name: mode for name, (mode, _) in self._entries(folder).items()}

    def _entries(self, folder: str) -> dict[str, tuple[int, int]]:
        """Return the entries of a folder: modes, and sizes in bytes."""
        done = self._ask(b"ls -p " + _quoted(os.fsencode(folder)), check=False)
        found = {}
        for line in done.splitlines():
            match = _LIST.match(line)
            if match and match[1] != b"0" and match[3] not in (b".", b".."):
                found[os.fsdecode(match[3])] = (int(match[2], 8), int(match[4] or 0))
        return found

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is no such file."""
        folder, _, name = path.rpartition("/")
        mode, size = self._entries(folder or "/").get(name, (0, 0))
        if not stat.S_ISREG(mode):
            return None
        return self._ask(b"cat " + _quoted(os.fsencode(path)), check=True)[:size]

    def dump(self, folder: str, target: Path) -> None:
        """Copy a folder out of the file system, into the folder `target`, made if need be."""
        target.mkdir(parents=True, exist_ok=True)
        # Not checked: who is not root cannot give away what is his, and debugfs regrets that.
        request = b"rdump %s %s" % (_quoted(os.fsencode(folder)), _quoted(bytes(target)))
        self._ask(request, check=False)
        inline = self.superblock.has_inline_data
        for parent, folders, files in os.walk(target):
            if inline:
                inside = Path(folder).parent / Path(parent).relative_to(target)
                self._cut_inline(Path(parent), files, str(inside))
            # Whoever is not root could not read all of it, nor remove it.
            for name in (*folders, *files):
                path = Path(parent, name)
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                    path.chmod(0o700)
                elif stat.S_ISREG(mode) and not mode & 0o400:
                    path.chmod(0o600)

    def _cut_inline(self, parent: Path, files: Iterable[str], inside: str) -> None:
        """Give files back the size that debugfs rounds up."""
        rounded = [name for name in files if (parent / name).lstat().st_size == _INLINE_BYTES]
        entries = self._entries(inside) if rounded else {}
        for name in rounded:
            mode, size = entries.get(name, (0, _INLINE_BYTES))
            if stat.S_ISREG(mode) and size < _INLINE_BYTES:
                (parent / name).chmod(0o600 | stat.S_IMODE(mode))
                os.truncate(parent / name, size)

    # Writing.

    def remove(self, paths: Iterable[str], scratch: Path) -> None:
        """Remove files and folders with all that is in them; what is not there is not missed.

        `scratch` is a folder for lists of commands. Raises `PreloadError`.
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
        # Parents come before what is in them.
        commands += [b"rmdir " + _quoted(os.fsencode(path)) for path in reversed(folders)]
        script = scratch / "debugfs-commands"
        script.write_bytes(b"".join(line + b"\n" for line in commands))
        self._run_debugfs(("-w", "-f", str(script)), check=True)

    def _mode(self, path: str) -> int:
        folder, _, name = path.rpartition("/")
        return self.names(folder or "/").get(name, 0)

    def _listed(self, folders: Sequence[str], scratch: Path) -> dict[str, dict[str, int]]:
        """Return the entries of many folders, and their modes, by one run of debugfs."""
        script = scratch / "debugfs-commands"
        lines = [b"ls -p " + _quoted(os.fsencode(folder)) + b"\n" for folder in folders]
        script.write_bytes(b"".join(lines))
        said = self._run_debugfs(("-f", str(script)), check=True)
        found: dict[str, dict[str, int]] = {}
        left = iter(folders)
        for line in said.splitlines():
            match = _LIST.match(line)
            if match is None:
                if line.startswith(b"debugfs: ls -p "):  # it repeats each command
                    entries = found[next(left)] = {}
            elif match[1] != b"0" and match[3] not in (b".", b".."):
                entries[os.fsdecode(match[3])] = int(match[2], 8)
        return found

    def write(self, trees: Iterable[Tree], scratch: Path) -> None:
        """Add trees; folders that are there already stay as they are, files are replaced.

        `scratch` is a folder for lists of commands. Raises `PreloadError`.
        """
        for tree in trees:
            commands = scratch / "debugfs-commands"
            with commands.open("wb") as stream:
                for line in _Writer(self, tree, scratch).lines():
                    stream.write(line + b"\n")
            self._run_debugfs(("-w", "-f", str(commands)), check=True)

    def _ask(self, request: bytes, *, check: bool) -> bytes:
        """Run one command that only reads, and return what it says."""
        return self._run_debugfs((b"-R", request), check=check)

    def _run_debugfs(self, options: Sequence[str | bytes], *, check: bool) -> bytes:
        done = tool.run(("debugfs", *options, self._device), cwd=self._file.parent)
        # It ends well whatever happened.
        complaints = _BANNER.sub(b"", done.stderr)
        if check and complaints:
            raise PreloadError(
                f"debugfs failed: {complaints.decode(errors='replace')[:2000].strip()}",
                "the input image is untouched; is its file system sound (e2fsck -fn)?",
            )
        return done.stdout


def need(trees: Iterable[Tree], block_size: int) -> Need:
    """Return what trees take in a file system of this block size, in bytes."""
    blocks = inodes = 0
    for tree in trees:
        seen = set()
        for _, entries in _walk(tree):
            inodes += 1
            # An entry in a folder takes its name and up to 11 bytes more.
            blocks += 1 + sum(len(os.fsencode(each.name)) + 11 for each in entries) // block_size
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) or found.st_ino in seen:
                    continue
                if found.st_nlink > 1:
                    seen.add(found.st_ino)
                inodes += 1
                blocks += -(-found.st_size // block_size)
    # For the blocks that say where the blocks of large files are, and for attributes.
    return Need(blocks + blocks // 100, inodes)


def _walk(tree: Tree) -> Iterator[tuple[Path, list["os.DirEntry[str]"]]]:
    """Yield each folder of a tree and its entries, parents first, sorted by name."""
    folders = [tree.source]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda each: each.name)
        if folder == tree.source and tree.names is not None:
            entries = [each for each in entries if each.name in tree.names]
        yield folder, entries
        folders += [Path(each) for each in entries if each.is_dir(follow_symlinks=False)]


class _Writer:
    """Makes the commands of debugfs that add one tree."""

    def __init__(self, system: FileSystem, tree: Tree, scratch: Path) -> None:
        self._system = system
        self._tree = tree
        self._scratch = scratch
        self._links: dict[int, list[bytes]] = {}  # inode of the host to its paths in here
        self._attributes = 0

    def lines(self) -> Iterator[bytes]:
        yield from self._top()
        there = {self._tree.source}
        for folder, entries in _walk(self._tree):
            at = self._inside(folder)
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

    def _top(self) -> Iterator[bytes]:
        """Make the folder at which the tree is to lie, and its parents."""
        path = ""
        missing = False
        for name in self._tree.at.strip("/").split("/"):
            missing = missing or name not in self._system.names(path or "/")
            path += f"/{name}"
            if missing:
                yield b"mkdir %s" % _quoted(os.fsencode(path))
        if missing:
            yield from self._owned(_quoted(os.fsencode(path)), self._tree.source.stat())

    def _inside(self, folder: Path) -> bytes:
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
            return  # a socket, of a daemon that is gone
        yield from self._owned(_filespec(name), found)
        yield from self._extended(_filespec(name), entry.path)

    def _owned(self, filespec: bytes, found: os.stat_result) -> Iterator[bytes]:
        yield b"sif %s mode 0%o" % (filespec, found.st_mode)
        yield b"sif %s mtime @%d" % (filespec, int(found.st_mtime))
        if not self._tree.owned_by_root:
            for field, value in (("uid", found.st_uid), ("gid", found.st_gid)):
                if value:
                    yield b"sif %s %s %d" % (filespec, field.encode(), value)

    def _extended(self, filespec: bytes, path: str) -> Iterator[bytes]:
        if self._tree.owned_by_root:
            return
        for name in os.listxattr(path, follow_symlinks=False):
            self._attributes += 1
            value = self._scratch / f"attribute-{self._attributes}"
            value.write_bytes(os.getxattr(path, name, follow_symlinks=False))
            yield b"ea_set -f %s %s %s" % (_quoted(bytes(value)), filespec, os.fsencode(name))


def _quoted(word: bytes) -> bytes:
    """Quote a word for debugfs, which has no way to write a line end in one."""
    if b"\n" in word:
        raise PreloadError(
            f"{os.fsdecode(word)!r}: the name of a file holds a line end", "rename the file"
        )
    return b'"' + word.replace(b'"', b'""') + b'"'


def _filespec(name: bytes) -> bytes:
    """Name a file of the current folder; `<12>` alone would be an inode."""
    return _quoted(b"./" + name)
