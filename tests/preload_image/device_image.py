"""Images of devices without apps, as an image build leaves them, and what lies in them."""

import hashlib
import re
import subprocess
from pathlib import Path

MIB = 1 << 20
_BLOCK = 4096  # of a block map
_TABLES = {
    "gpt": "label: gpt\n2048,16384,U,-\n18432,{sectors},L,-\n",
    "mbr": "label: dos\n2048,16384,c,*\n18432,{sectors},83\n",
    # The root file system is a logical partition, as wic makes it from the fourth on.
    "logical": (
        "label: dos\n2048,4096,c,*\n6144,4096,83\n10240,4096,83\n14336,+,5\n18432,{sectors},83\n"
    ),
}
ROOT_START = 18432 * 512


def ext4(
    file: Path, *, label: str = "otaroot", ostree: bool = True, mib: int = 48, features: str = ""
) -> Path:
    """Make an ext4 image of a device's root file system, OSTree's or a plain one."""
    root = file.with_name(f"{file.name}.tree")
    var = root / ("ostree/deploy/lmp/var" if ostree else "var")
    (var / "sota").mkdir(parents=True, mode=0o700)
    (var / "lib").mkdir()
    (var / "sota/keep").write_text("what the image build left\n")
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text("ID=lmp\n")
    argv = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", label, "-d", str(root)]
    argv += ["-O", features] if features else []
    argv += [str(file), f"{mib}M"]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return file


def wic(file: Path, root: Path, table: str = "gpt") -> Path:
    """Make a disk image with a boot partition, and the ext4 image `root` as the last partition."""
    size = root.stat().st_size
    with file.open("wb") as disk:
        disk.truncate(ROOT_START + size + MIB)
    script = _TABLES[table].format(sectors=size // 512)
    subprocess.run(["sfdisk", "--quiet", file], input=script, text=True, check=True)
    argv = ["dd", f"if={root}", f"of={file}", "bs=1M", f"seek={ROOT_START // MIB}"]
    subprocess.run([*argv, "conv=notrunc,sparse", "status=none"], check=True)
    with file.open("r+b") as disk:
        disk.seek(2048 * 512)
        disk.write(b"the boot partition" * 100)
    return file


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flash(image: Path, target: Path) -> Path:
    """Write an image by its block map to a disk that is full of something else."""
    packed = image.suffix in (".gz", ".xz", ".zst")
    bmap = image.with_name(f"{image.stem if packed else image.name}.bmap")
    # bmaptool checks every range, but empties a target that is a file and no device.
    checked = target.with_name(f"{target.name}.checked")
    subprocess.run(["bmaptool", "--quiet", "copy", "--bmap", bmap, image, checked], check=True)
    target.write_bytes(b"\xff" * checked.stat().st_size)
    with checked.open("rb") as source, target.open("r+b") as disk:
        for first, last in re.findall(r"> (\d+)(?:-(\d+))? </Range>", bmap.read_text()):
            source.seek(int(first) * _BLOCK)
            disk.seek(int(first) * _BLOCK)
            disk.write(source.read((int(last or first) - int(first) + 1) * _BLOCK))
    checked.unlink()
    return target


def debugfs(image: Path, start: int, request: str, *, write: bool = False) -> str:
    """Return what debugfs says of the ext4 at `start` bytes."""
    argv = ["debugfs", *(["-w"] if write else []), "-R", request, f"{image}?offset={start}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def dump(image: Path, start: int, folder: str, target: Path) -> Path:
    """Copy a folder out of the ext4 at `start` bytes; return where it is."""
    target.mkdir()
    debugfs(image, start, f"rdump {folder} {target}")
    return target / folder.rpartition("/")[2]


def assert_sound(image: Path, start: int = 0) -> None:
    """Assert that e2fsck finds nothing to do in the file system at `start` bytes."""
    argv = ["e2fsck", "-f", "-n", f"{image}?offset={start}"]
    checked = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def put(image: Path, start: int, source: Path, path: str) -> None:
    """Put a file into the ext4 at `start` bytes, its folder too; an old one is replaced."""
    folder, _, name = path.rpartition("/")
    commands = f"mkdir {folder}\ncd {folder}\nrm {name}\nwrite {source} {name}\n"
    argv = ["debugfs", "-w", "-f", "/dev/stdin", f"{image}?offset={start}"]
    subprocess.run(argv, input=commands, text=True, check=True, capture_output=True)


def two_roots(
    file: Path, labels: tuple[str, str], mib: int = 96, *, second_ostree: bool = True
) -> Path:
    """Make a disk image with two partitions that could be the root file system."""
    first = ext4(file.with_name("first"), label=labels[0], mib=mib)
    second = ext4(file.with_name("second"), label=labels[1], mib=mib, ostree=second_ostree)
    start = ROOT_START + mib * MIB
    with file.open("wb") as disk:
        disk.truncate(start + (mib + 1) * MIB)
        sectors = mib * MIB // 512
        script = f"label: gpt\n{ROOT_START // 512},{sectors},L\n{start // 512},{sectors},L\n"
        subprocess.run(["sfdisk", "--quiet", file], input=script, text=True, check=True)
    for root, where in ((first, ROOT_START), (second, start)):
        argv = ["dd", f"if={root}", f"of={file}", "bs=1M", f"seek={where // MIB}"]
        subprocess.run([*argv, "conv=notrunc,sparse", "status=none"], check=True)
    return file
