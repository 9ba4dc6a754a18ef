"""The architecture of an image, judged by the programs in it."""

import stat
from collections.abc import Iterator

from ..errors import PreloadError
from . import platforms
from .ext4 import FileSystem
from .layout import Layout
from .platforms import Platform

_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin")
_LIKELY = ("busybox", "busybox.nosuid", "systemctl", "bash", "dockerd")
_TRIES = 8  # files of each folder


def check(system: FileSystem, layout: Layout, wanted: Platform) -> None:
    """Raise `PreloadError` if the programs in the image are for another architecture."""
    path, found = find(system, layout)
    if found not in (None, wanted.architecture):
        raise PreloadError(
            f"the image is for {found}, not for {wanted}, as {path} in it shows",
            f"use --arch {found}, or another image",
        )


def find(system: FileSystem, layout: Layout) -> tuple[str, str | None]:
    """Return the path of a program in the image and its architecture, None without a program."""
    for path in _files(system, layout):
        found = platforms.of_program(system.read(path) or b"")
        if found is not None:
            return path, found
    return "", None


def _files(system: FileSystem, layout: Layout) -> Iterator[str]:
    """Yield files that are probably programs, starting with the most likely ones."""
    for root in layout.roots(system):
        for folder in _FOLDERS:
            names = system.names(f"{root}/{folder}")
            plain = [name for name, mode in names.items() if stat.S_ISREG(mode)]
            likely = [name for name in _LIKELY if name in plain]
            for name in [*likely, *plain][:_TRIES]:
                yield f"{root}/{folder}/{name}"
