"""sdist.py FOLDER: puts the source archive of this tree into FOLDER, and prints its path.

Needs setuptools. The same tree gives the same bytes, so BitBake builds anew only what has changed.
"""

import contextlib
import gzip
import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from setuptools import build_meta

CHECKOUT = Path(__file__).resolve().parents[1]
NAME = "compose-apps-early-start"
EPOCH = 1767225600
"""2026-01-01: any fixed time will do that is not so old that archives refuse it."""


def sdist(folder: Path) -> Path:
    """Return the source archive, made in ``folder`` of what this tree holds."""
    with tempfile.TemporaryDirectory() as scratch:
        # In a copy: setuptools would take up what a former run left in the tree, and leave more.
        copy = Path(scratch, "tree")
        copy.mkdir()
        for name in ("agent", "docs", "systemd"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(CHECKOUT / name, copy / name, ignore=ignored)
        for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"):
            shutil.copy(CHECKOUT / name, copy)
        made = Path(scratch, _build(copy, scratch))
        version = made.name.removesuffix(".tar.gz").rpartition("-")[2]
        # BitBake's ${BP}, for file and top folder alike; setuptools' own name depends on its age.
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"{NAME}-{version}.tar.gz"
        _repack(made, archive)
    return archive


def _build(tree: Path, output: str) -> str:
    # The backend works in the current folder, and prints what it does; warnings still show.
    with contextlib.chdir(tree), contextlib.redirect_stdout(io.StringIO()):
        name: str = build_meta.build_sdist(output)
    return name


def _repack(made: Path, archive: Path) -> None:
    top = archive.name.removesuffix(".tar.gz")
    with (
        tarfile.open(made) as old,
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=EPOCH) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in sorted(old, key=lambda each: each.name):
            if not member.isreg():
                continue
            copy = tarfile.TarInfo("/".join([top, *member.name.split("/")[1:]]))
            copy.size, copy.mtime, copy.mode = member.size, EPOCH, 0o755 & (member.mode | 0o644)
            new.addfile(copy, old.extractfile(member))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    print(sdist(Path(sys.argv[1])))
