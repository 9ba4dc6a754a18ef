"""Running external programs: e2fsprogs, sfdisk, skopeo."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import PreloadError

_PACKAGES = {
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "e2image": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "fallocate": "util-linux",
    "mke2fs": "e2fsprogs",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "unshare": "util-linux",
    "xz": "xz-utils",
}
# Debian keeps /usr/sbin out of the PATH of ordinary users, but these programs need no root here.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def check(*programs: str) -> None:
    """Raise `PreloadError` with the names of the programs that are not installed."""
    missing = [program for program in programs if not shutil.which(program, path=PATH)]
    if missing:
        packages = sorted({package(program) for program in missing})
        raise PreloadError(
            f"not installed: {', '.join(missing)}",
            f"install them (Debian and Ubuntu: apt-get install {' '.join(packages)})",
        )


def package(program: str) -> str:
    """Return the Debian package that has a program."""
    return _PACKAGES.get(program, program)


def start(argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program that `check` has found; `options` are those of Popen."""
    return subprocess.Popen(argv, env=_environment(), **options)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8"}


def run(
    argv: Sequence[str | bytes],
    *,
    cwd: Path | None = None,
    stdin: bytes = b"",
    accepted: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[bytes]:
    """Run a program and return its output.

    Raises `PreloadError` if it is not installed, or if its exit status is not in `accepted`.
    """
    try:
        done = subprocess.run(
            argv, cwd=cwd, input=stdin, env=_environment(), capture_output=True, check=False
        )
    except FileNotFoundError as error:
        program = str(argv[0])
        raise PreloadError(
            f"{program} is not installed", f"install it: apt-get install {package(program)}"
        ) from error
    if done.returncode not in accepted:
        output = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise PreloadError(
            f"{argv[0]!s} failed (exit status {done.returncode}): {output[-2000:]}",
            f"the command was: {' '.join(map(os.fsdecode, argv))}",
        )
    return done
