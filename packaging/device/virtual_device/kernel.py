"""The kernel that a machine boots, its modules, and the initial file system that finds the disk."""

import lzma
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from virtual_device import cpio
from virtual_device.archive import unpacked
from virtual_device.cache import cached
from virtual_device.tree import Tree

_PACKAGE = "linux-image-cloud-amd64"
_PARTS = r"linux-(base|binary|image|modules)-\d.*-cloud-amd64"  # newer suites have it in parts
# The modules for the disk and for the connection to the owner, if they are modules at all.
_NEEDED = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
_ARGUMENTS = (
    *("root=/dev/vda", "console=ttyS0", "panic=-1", "mitigations=off"),
    # LmP has none; and where the parser is not installed, docker 20.10 starts no container.
    "apparmor=0",
    # Of no use to a device, and slow to load.
    "modprobe.blacklist=aesni_intel,ata_piix,kvm,kvm_amd,kvm_intel",
)
_APPLETS = ("sh", "mount", "insmod", "cp", "rm", "sleep", "switch_root", "sync")


@dataclass(frozen=True)
class Kernel:
    """``image`` and ``initrd`` are files for a boot loader, ``modules`` is for /usr/lib/modules.

    ``arguments`` are its command line.
    """

    image: Path
    initrd: Path
    modules: Path
    arguments: str = " ".join(_ARGUMENTS)


def kernel(tree: Tree) -> Kernel:
    """Returns Debian's kernel for virtual machines of the suite that ``tree`` is made of.

    Raises subprocess.CalledProcessError if it cannot be fetched.
    """
    package = unpacked(tree.suite, _PACKAGE, _PARTS)

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
        busybox = (tree.layers[-1] / "usr/bin/busybox").read_bytes()
        (folder / "initrd").write_bytes(_initrd(busybox, folder / "root", version))

    script = Path(__file__).with_name("init.sh").read_text()
    inputs = [package.parent.name, tree.key, Path(__file__).read_text(), script]
    folder = cached(f"kernel-{tree.suite}", inputs, build)
    return Kernel(folder / "vmlinuz", folder / "initrd", folder / "root/usr/lib/modules")


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
