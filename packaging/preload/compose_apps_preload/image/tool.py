"""Running the programs that do the work: e2fsprogs, sfdisk, skopeo."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import PreloadError

_PACKAGES = {
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "sfdisk": "fdisk",
}
# Debian keeps what only root needs out of everybody else's PATH; these need no root here.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def run(
    argv: Sequence[str | bytes],
    *,
    cwd: Path | None = None,
    stdin: bytes = b"",
    good: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return its output.

    Raises `PreloadError` if it is not installed, or its exit status is none of `good`.
    """
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv, cwd=cwd, input=stdin, env=environment, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        program = str(argv[0])
        package = _PACKAGES.get(program, program)
        raise PreloadError(
            f"{program} is not installed", f"install it: apt-get install {package}"
        ) from error
    if done.returncode not in good:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise PreloadError(
            f"{argv[0]!s} failed (exit status {done.returncode}): {said[-2000:]}",
            f"this was called: {' '.join(map(os.fsdecode, argv))}",
        )
    return done
