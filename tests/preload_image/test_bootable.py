"""How `try` finds out what boots an image, and what it refuses before it boots one."""

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from compose_apps_preload.errors import PreloadError
from compose_apps_preload.image import disk
from compose_apps_preload.image.ext4 import FileSystem, Tree
from compose_apps_preload.image.layout import Layout
from compose_apps_preload.trial import bootable
from compose_apps_preload.trial.emulator import Board, Kernel, Uefi
from preload_image import device_image
from preload_image.examples import preload

BZIMAGE = bytes(0x202) + b"HdrS" + bytes(100)
ARM64_IMAGE = bytes(0x38) + b"ARM\x64" + bytes(100)
DEPLOYED = "ostree/deploy/lmp/deploy/0123.0"


def program(machine: int) -> bytes:
    return struct.pack("<4sBBBB8sHHI", b"\x7fELF", 2, 1, 1, 0, bytes(8), 2, machine, 1) + bytes(40)


X86_64, ARM64, RISCV = program(0x3E), program(0xB7), program(0xF3)


def image(file: Path, files: Mapping[str, bytes | str]) -> Path:
    """Make an OSTree image that is one file system; a text is the target of a link."""
    device_image.ext4(file)
    tree = file.with_name("files")
    tree.mkdir()
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (tree / path).write_bytes(content)
        else:
            (tree / path).symlink_to(content)
    for top in tree.iterdir():
        FileSystem(file).write([Tree(top, f"/{top.name}")], file.parent)
    return file


def start(file: Path, work: Path) -> Kernel | Uefi:
    partition = disk.find_root(file)
    layout = Layout.find(FileSystem(file, partition.start))
    return bootable.start(partition, layout, Board.of("amd64"), work)


def test_the_newest_entry_of_ostree_is_booted_with_its_arguments(tmp_path: Path) -> None:
    entry = (
        b"title LMP\nlinux /boot/ostree/lmp-%d/vmlinuz\ninitrd /boot/ostree/lmp-%d/initramfs.img\n"
    )
    made = image(
        tmp_path / "in.ext4",
        {
            "boot/loader": "loader.1",
            "boot/loader.1/entries/ostree-1-lmp.conf": entry % (1, 1) + b"options old\n",
            "boot/loader.1/entries/ostree-2-lmp.conf": entry % (2, 2)
            + b"options root=LABEL=otaroot ostree=/ostree/boot.1/lmp/2/0\n",
            "boot/ostree/lmp-1/vmlinuz": BZIMAGE,
            "boot/ostree/lmp-2/vmlinuz": BZIMAGE + b"newer",
            "boot/ostree/lmp-2/initramfs.img": b"initramfs",
        },
    )
    found = start(made, tmp_path)
    assert isinstance(found, Kernel)
    assert found.image.read_bytes() == BZIMAGE + b"newer"
    assert found.initrd is not None
    assert found.initrd.read_bytes() == b"initramfs"
    assert found.arguments == "root=LABEL=otaroot ostree=/ostree/boot.1/lmp/2/0"


def test_entries_of_a_boot_partition_that_is_now_a_folder_are_understood(tmp_path: Path) -> None:
    entry = b"linux /ostree/lmp/vmlinuz\noptions quiet\n"
    files = {"boot/loader/entries/a.conf": entry, "boot/ostree/lmp/vmlinuz": ARM64_IMAGE}
    found = start(image(tmp_path / "in.ext4", files), tmp_path)
    assert found == Kernel(tmp_path / "kernel", None, "quiet")


@pytest.mark.parametrize("folder", ["boot", f"{DEPLOYED}/usr/lib/ostree-boot"])
def test_without_entries_the_kernel_is_taken_from_where_builds_put_it(
    tmp_path: Path, folder: str
) -> None:
    files = {f"{folder}/bzImage-6.6": BZIMAGE, f"{folder}/initramfs-6.6.img": b"initramfs"}
    found = start(image(tmp_path / "in.ext4", files), tmp_path)
    assert found == Kernel(tmp_path / "kernel", tmp_path / "initrd", "root=/dev/vda rw rootwait")


def test_a_disk_with_an_efi_partition_is_booted_by_firmware(tmp_path: Path) -> None:
    root = image(tmp_path / "root.ext4", {"boot/vmlinuz": BZIMAGE})
    made = device_image.wic(tmp_path / "in.wic", root)
    assert start(made, tmp_path) == Uefi(Board.of("amd64").firmware, made)
    other = device_image.wic(tmp_path / "other.wic", root, "mbr")
    found = start(other, tmp_path)
    assert isinstance(found, Kernel)
    assert found.arguments == "root=/dev/vda2 rw rootwait"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "neither an EFI system partition nor a kernel"),
        (
            {"boot/vmlinuz": b"\xd0\x0d\xfe\xed FIT"},
            "/boot/vmlinuz in the image is not a plain kernel",
        ),
    ],
)
def test_what_cannot_be_booted_is_refused(
    tmp_path: Path, files: Mapping[str, bytes], said: str
) -> None:
    made = image(tmp_path / "in.ext4", files)
    with pytest.raises(PreloadError, match=said) as raised:
        start(made, tmp_path)
    assert "try an image" in raised.value.hint


@pytest.mark.parametrize(("content", "package"), [(X86_64, "x86"), (ARM64, "arm")])
def test_what_is_not_installed_is_named_before_anything_is_done(
    tmp_path: Path, content: bytes, package: str
) -> None:
    made = image(tmp_path / "in.ext4", {f"{DEPLOYED}/usr/bin/busybox": content})
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cp", "setpriv"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    ended = preload("try", made, prefix=("env", f"PATH={programs}"))
    assert ended.status == 1
    assert f"not installed: qemu-system-{package}" in ended.stderr
    assert f"apt-get install --no-install-recommends qemu-system-{package}" in ended.stderr
    assert "copying" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [(RISCV, "the image is for riscv64, which cannot be tried"), (b"#!/bin/sh", "no program")],
)
def test_an_image_for_a_machine_that_qemu_is_not_asked_for_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    made = image(tmp_path / "in.ext4", {f"{DEPLOYED}/usr/bin/busybox": content})
    ended = preload("try", made)
    assert ended.status == 1
    assert said in ended.stderr
    assert "Next: " in ended.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["absent.wic"], 1, "absent.wic does not exist"),
        (["{image}", "--shell"], 2, "--shell needs a terminal"),
        (["{image}", "-o", "{folder}"], 2, "is not an empty folder"),
        (["{image}", "--memory", "0"], 2, "is not a number above 0"),
        (["{image}", "--partition", "3"], 1, "the image has no partitions"),
    ],
)
def test_a_wrong_command_line_is_refused(
    tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    made = device_image.ext4(tmp_path / "in.ext4")
    ended = preload("try", *(word.format(image=made, folder=tmp_path) for word in words))
    assert ended.status == status
    assert said in ended.stderr


def test_what_qemu_complains_of_is_told(tmp_path: Path) -> None:
    files = {f"{DEPLOYED}/usr/bin/busybox": X86_64, "boot/vmlinuz": BZIMAGE}
    ended = preload("try", image(tmp_path / "in.ext4", files), "--memory", 10**9)
    assert ended.status == 1
    assert "QEMU failed: " in ended.stderr
    assert "memory" in ended.stderr
