"""Folders in a tar archive, with owners, devices and extended attributes. This needs root."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ..errors import PreloadError
from . import privilege, tool

_TAR = ("tar", "--format=posix", "--acls", "--xattrs", "--xattrs-include=*")


def pack(folder: Path, names: Sequence[str], archive: IO[bytes]) -> None:
    """Write the entries `names` of a folder to an archive; raises `PreloadError`."""
    _run((*_TAR, "--create", f"--directory={folder}", *names), stdout=archive)


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Extract an archive into a folder; raises `PreloadError`."""
    options = ("--extract", "--preserve-permissions", "--same-owner", "--numeric-owner")
    # Files of an image may be newer than this machine's clock.
    _run((*_TAR, *options, "--warning=no-timestamp", f"--directory={folder}"), stdin=archive)


def _run(argv: Sequence[str], **streams: IO[bytes]) -> None:
    # tar gets open files, because root may be unable to open a user's files in a network share.
    with (
        privilege.root(),
        tool.start((*argv, "--file=-"), stderr=subprocess.PIPE, **streams) as process,
    ):
        assert process.stderr
        complaints = process.stderr.read().decode(errors="replace").strip()
    # The exit status is 0 even if an extended attribute was lost.
    if process.returncode or complaints:
        raise PreloadError(f"tar failed: {complaints[-500:]}", f"the command was: {' '.join(argv)}")
