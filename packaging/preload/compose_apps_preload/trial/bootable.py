"""How an image boots: with UEFI from its boot partition, or with a kernel in its /boot."""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import PreloadError
from ..image import disk
from ..image.disk import Partition
from ..image.ext4 import FileSystem
from ..image.layout import Layout
from .emulator import Board, Kernel, Uefi

ENTRIES = "/boot/loader/entries"
"""The folder of boot loader entries, which OSTree writes for every boot loader it supports.

Source: the UAPI group's Boot Loader Specification, type 1.
"""

_KERNELS = re.compile(r"(vmlinuz|bzImage|Image)(\b.*)?")
_INITRDS = re.compile(r"(initrd|initramfs)\b.*")


@dataclass(frozen=True)
class _Entry:
    """A boot loader entry: paths in the file system; `initrd` may be empty."""

    kernel: str
    initrd: str
    arguments: str


def kind(file: Path) -> type[Kernel | Uefi]:
    """Return how the disk image `file` boots; raises `PreloadError`."""
    return Uefi if disk.has_uefi_boot(file) else Kernel


def start(partition: Partition, layout: Layout, board: Board, work: Path) -> Kernel | Uefi:
    """Return how to start the image with this root file system.

    A kernel and its initramfs are copied into the folder `work`. Raises `PreloadError` if there is
    no kernel, or if it needs the boot loader of its board.
    """
    if kind(partition.file) is Uefi:
        return Uefi(board.firmware, partition.file)
    system = FileSystem(partition.file, partition.start)
    for entry in (*_entries(system), *_plain(system, layout, partition)):
        image = system.read(entry.kernel)
        if image is None:
            continue
        _check_kernel(entry.kernel, image)
        (work / "kernel").write_bytes(image)
        initrd = system.read(entry.initrd) if entry.initrd else None
        if initrd is not None:
            (work / "initrd").write_bytes(initrd)
        return Kernel(work / "kernel", work / "initrd" if initrd else None, entry.arguments)
    raise PreloadError(
        f"the image has neither an EFI system partition nor a kernel: nothing in {ENTRIES}, "
        "/boot or /usr/lib/ostree-boot",
        "try an image that boots by UEFI, or one with its kernel in /boot",
    )


def _entries(system: FileSystem) -> Iterator[_Entry]:
    """Yield the boot loader entries, the newest first, as boot loaders order them by name."""
    for name in sorted(system.names(ENTRIES), reverse=True):
        if not name.endswith(".conf"):
            continue
        text = (system.read(f"{ENTRIES}/{name}") or b"").decode(errors="replace")
        lines = (line.strip().partition(" ")[::2] for line in text.splitlines())
        keys = {key: value.strip() for key, value in lines if value}
        # Paths are relative to the top of the file system with the entries, which may once have
        # been one of its own at /boot.
        for top in ("", "/boot"):
            if system.names(f"{top}{keys.get('linux', '')}".rpartition("/")[0]):
                yield _Entry(
                    f"{top}{keys.get('linux', '')}",
                    f"{top}{keys['initrd']}" if "initrd" in keys else "",
                    keys.get("options", ""),
                )


def _plain(system: FileSystem, layout: Layout, partition: Partition) -> Iterator[_Entry]:
    """Yield kernels in the places where builds put them, with an argument for the root."""
    number = "" if partition.number is None else partition.number
    arguments = f"root=/dev/vda{number} rw rootwait"
    folders = [f"{root}/usr/lib/ostree-boot" for root in layout.roots(system)]
    for folder in ("/boot", *folders):
        names = [name for name, mode in system.names(folder).items() if stat.S_ISREG(mode)]
        initrds = sorted(name for name in names if _INITRDS.fullmatch(name))
        for name in sorted(names, reverse=True):
            if _KERNELS.fullmatch(name):
                initrd = f"{folder}/{initrds[-1]}" if initrds else ""
                yield _Entry(f"{folder}/{name}", initrd, arguments)


def _check_kernel(path: str, image: bytes) -> None:
    """Raise `PreloadError` if QEMU cannot start this. Sources: Linux's boot protocols."""
    is_x86 = image[0x202:0x206] == b"HdrS"
    is_arm64 = image[0x38:0x3C] == b"ARMd" or image[:2] == b"\x1f\x8b"
    if not is_x86 and not is_arm64:
        raise PreloadError(
            f"{path} in the image is not a plain kernel: it is built for its board's boot loader",
            "try an image of the same apps for a machine that boots by UEFI",
        )
