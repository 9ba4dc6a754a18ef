"""A disk with the device's root file system on it, for a machine: ext4, without a partition table.

It is made without loop devices, because mke2fs reads the files from a folder.
"""

import os
import shutil
import subprocess
from pathlib import Path

from virtual_device.cache import cached
from virtual_device.kernel import Kernel
from virtual_device.samples import Preload
from virtual_device.tree import Tree

STAND_INS = Path(__file__).parents[1] / "stand-ins"
_BYTES = 4 << 30  # sparse

# Units that a device does not have, and units that only slow down an emulated machine.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "hwclock.service",
    "systemd-binfmt.service",
    "systemd-pcrlock-make-policy.service",
    "systemd-timesyncd.service",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
)
_MERGE = """
mount -t overlay -o "lowerdir=$1" disk "$2"
mount --bind "$3" "$2/usr/lib/modules"
[ -z "$5" ] || mount --bind "$5" "$2/var/lib/docker"
exec mke2fs -q -t ext4 -d "$2" -E root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1 "$4"
"""


def disk(tree: Tree, kernel: Kernel, preload: Preload | None) -> Path:
    """Returns a raw disk image of a freshly flashed device that has no apps yet.

    It has everything in ``tree``, with the stand-ins for what runs on a device besides the agent,
    the kernel's modules, and the images of ``preload`` in docker's store, which is empty without
    one. Do not write to it.

    Raises subprocess.CalledProcessError if mke2fs fails, as it does on a full disk.
    """
    docker = str(preload.docker) if preload else ""

    def build(folder: Path) -> None:
        layer = folder / "layer"
        _fill(layer, kernel)
        root = folder / "root"
        root.mkdir()
        layers = ":".join(str(each) for each in (layer, *tree.layers))
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(_BYTES)
        # The mounts end with the process.
        argv = ["unshare", "--mount", "sh", "-ec", _MERGE, "merge"]
        words = (layers, root, kernel.modules, image, docker)
        subprocess.run([*argv, *map(str, words)], check=True, stdin=subprocess.DEVNULL)
        shutil.rmtree(layer)

    texts = [path.read_text() for path in sorted(STAND_INS.rglob("*")) if path.is_file()]
    inputs = [tree.key, str(kernel.modules), docker, Path(__file__).read_text()]
    kind = f"disk-{tree.name}" if preload else f"empty-disk-{tree.name}"
    if preload and (preload.docker / "containers").is_dir():
        kind = f"created-ahead-{kind}"
    return cached(kind, [*inputs, *texts], build) / "disk.img"


def _fill(layer: Path, kernel: Kernel) -> None:
    """Makes the layer that turns a tree into a device's disk."""
    units = layer / "etc/systemd/system"
    shutil.copytree(STAND_INS / "units", units)
    for unit in units.glob("*.service"):
        for line in unit.read_text().splitlines():
            if line.startswith("WantedBy="):
                wants = units / f"{line.removeprefix('WantedBy=')}.wants"
                wants.mkdir(exist_ok=True)
                (wants / unit.name).symlink_to(Path("/etc/systemd/system") / unit.name)
    for unit_name in (*_MASKED, f"serial-getty@{kernel.board.console}.service"):
        (units / unit_name).symlink_to("/dev/null")
    programs = layer / "usr/libexec/stand-ins"
    programs.mkdir(parents=True)
    for name in ("line", "record", "welcome"):
        shutil.copy(STAND_INS / name, programs)
    for name, text in {
        "etc/fstab": "",
        "etc/hostname": "device\n",
        "etc/hosts": "127.0.0.1 localhost device\n",
        "etc/machine-id": "",  # systemd creates it at the first boot
        "etc/resolv.conf": "",
        # As on LmP.
        "etc/systemd/journald.conf.d/device.conf": "[Journal]\nStorage=volatile\n",
        # Newer than /usr, so that caches need not be updated at boot.
        "etc/.updated": "",
        "var/.updated": "",
        "boot/loader/entries/device.conf": (
            "title The virtual device\nlinux /boot/vmlinuz\ninitrd /boot/initrd\n"
            f"options {kernel.arguments}\n"
        ),
    }.items():
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        (layer / name).write_text(text)
    for name, mode in {"var/lib/docker": 0o710, "var/lmp": 0o755, "var/sota": 0o700}.items():
        (layer / name).mkdir(parents=True)
        (layer / name).chmod(mode)
    (layer / "var/sota/compose-apps").mkdir()
    boot = layer / "boot"
    shutil.copy(kernel.image, boot / "vmlinuz")
    shutil.copy(kernel.initrd, boot / "initrd")
    (layer / "usr/lib/modules").mkdir(parents=True)
    os.chown(layer, 0, 0)
