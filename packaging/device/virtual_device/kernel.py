"""The kernel that a machine boots, its modules, and the initial file system that finds the disk."""

import lzma
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compose_apps_preload.trial.emulator import Board

from virtual_device import cpio
from virtual_device.architecture import OWN
from virtual_device.archive import unpacked
from virtual_device.cache import cached

_PACKAGE = "linux-image-cloud-"
_PARTS = r"linux-(base|binary|image|modules)-\d.*-cloud-"  # newer suites have it in parts
# The modules for the disk and for the connection to the owner, if they are modules at all.
_NEEDED = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
_ARGUMENTS = (
    *("root=/dev/vda", "panic=-1", "mitigations=off"),
    # On a busy host, an emulated timer is so late that the kernel takes it for broken, and panics.
    "no_timer_check",
    # LmP has none; and where the parser is not installed, docker 20.10 starts no container.
    "apparmor=0",
    # Of no use to a device, and slow to load.
    "modprobe.blacklist=aesni_intel,ata_piix,kvm,kvm_amd,kvm_intel",
)
_APPLETS = ("sh", "mount", "insmod", "cp", "rm", "sleep", "switch_root", "sync")


@dataclass(frozen=True)
class Kernel:
    """``image`` and ``initrd`` are files for a boot loader, ``modules`` is for /usr/lib/modules."""

    image: Path
    initrd: Path
    modules: Path
    architecture: str = OWN

    @property
    def board(self) -> Board:
        """The board that it runs on."""
        return Board.of(self.architecture)

    @property
    def arguments(self) -> str:
        """Its command line."""
        return " ".join([*_ARGUMENTS, f"console={self.board.console}"])

    def initrd_with(self, files: Mapping[str, bytes]) -> bytes:
        """Returns the content of ``initrd`` with more ``files``, path to content.

        Those in ``device/`` are put onto the disk before the first process on it starts.
        """
        initrd = self.initrd.read_bytes()
        # The kernel wants archives to begin at multiples of four.
        return initrd + bytes(-len(initrd) % 4) + cpio.archive(files)


def kernel(suite: str, architecture: str = OWN) -> Kernel:
    """Returns the kernel of ``suite`` for virtual machines of ``architecture``.

    Raises subprocess.CalledProcessError if it cannot be fetched.
    """
    package = unpacked(suite, f"{_PACKAGE}{architecture}", f"{_PARTS}{architecture}", architecture)
    busybox = unpacked(suite, "busybox-static", architecture=architecture)

    def build(folder: Path) -> None:
        (source,) = package.glob("**/lib/modules/*")
        version = source.name
        # In newer suites it is beside its modules.
        (image,) = [*package.glob("boot/vmlinuz-*"), *source.glob("vmlinuz")]
        shutil.copy(image, folder / "vmlinuz")
        modules = folder / "root/usr/lib/modules" / version
        modules.parent.mkdir(parents=True)
        subprocess.run(["cp", "-a", source, modules], check=True)
        (folder / "root/lib").symlink_to("usr/lib")  # where depmod and modprobe look
        # In an emulated machine, unpacking them takes several seconds of a boot.
        for file in modules.rglob("*.ko.xz"):
            file.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
            file.unlink()
        subprocess.run(["depmod", "--basedir", folder / "root", version], check=True)
        (program,) = busybox.glob("**/bin/busybox")
        (folder / "initrd").write_bytes(_initrd(program.read_bytes(), folder / "root", version))

    script = Path(__file__).with_name("init.sh").read_text()
    inputs = [package.parent.name, busybox.parent.name, Path(__file__).read_text(), script]
    folder = cached(f"kernel-{suite}-{architecture}", inputs, build)
    modules = folder / "root/usr/lib/modules"
    return Kernel(folder / "vmlinuz", folder / "initrd", modules, architecture)


def _initrd(busybox: bytes, root: Path, version: str) -> bytes:
    files = {
        "init": Path(__file__).with_name("init.sh").read_bytes(),
        "bin/busybox": busybox,
    }
    names: list[str] = []
    for module in _NEEDED:
        shown = subprocess.run(
            ["modprobe", "--dirname", root, "--set-version", version, "--show-depends", module],
            check=True,
            capture_output=True,
            text=True,
        )
        for line in shown.stdout.splitlines():
            kind, path, *_ = line.split()  # insmod PATH, or builtin NAME
            if kind == "insmod" and path not in names:
                names.append(path)
    for number, path in enumerate(names):
        files[f"modules/{number:02} {Path(path).name}"] = Path(path).read_bytes()
    folders = {f"{name}/.keep": b"" for name in ("dev", "proc", "root", "device", "modules")}
    return cpio.archive(files | folders, {f"bin/{name}": "busybox" for name in _APPLETS})
