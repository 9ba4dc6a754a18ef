"""Packages of a Debian suite, unpacked but not installed, which are not part of a device's tree."""

import re
import shutil
import subprocess
from pathlib import Path

from virtual_device import mirror
from virtual_device.architecture import OWN
from virtual_device.cache import cached


def unpacked(suite: str, package: str, dependencies: str = "$^", architecture: str = OWN) -> Path:
    """Returns a folder with the files of ``package`` from ``suite``, for ``architecture``.

    It also has the files of those dependencies whose names match the regular expression
    ``dependencies``; by default none.

    Raises subprocess.CalledProcessError if apt has no such package, LookupError on a host that is
    not Debian.
    """

    def build(folder: Path) -> None:
        apt = folder / "apt"
        options = mirror.apt_options(suite, apt, architecture)
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
        listed = subprocess.run(
            ["apt-cache", *options, "depends", "--recurse", "--important", package],
            check=True,
            capture_output=True,
            text=True,
        )
        # Lines with package names are not indented, lines with dependencies are.
        names = {line for line in listed.stdout.splitlines() if re.fullmatch(dependencies, line)}
        argv = ["apt-get", "-qq", *options, "download", *sorted({package, *names})]
        subprocess.run(argv, cwd=apt, check=True)
        for archive in apt.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", archive, folder / "unpacked"], check=True)
        shutil.rmtree(apt)

    inputs = [dependencies, Path(__file__).read_text()]
    return cached(f"package-{suite}-{architecture}-{package}", inputs, build) / "unpacked"
