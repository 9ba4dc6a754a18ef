"""A docker engine to fill a store with: this machine's own, else one that apt fetches.

What apt fetches is unpacked beside, for this tool alone; nothing is installed and no service runs.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import PreloadError
from . import tool
from .progress import growing, megabytes, step

FOLDER = Path("/var/cache/compose-apps-preload")
"""Where a fetched engine is kept: root runs it, so nobody else may write it."""

_PROGRAMS = ("dockerd", "containerd")
# dockerd unpacks with pigz if it is there: a pull takes two thirds of the time.
_PACKAGES = ("docker.io", "pigz")
_LISTED = re.compile(r"^'[^']+' (\S+\.deb) (\d+)", re.MULTILINE)
_INSTALL = "install docker (Debian and Ubuntu: apt-get install docker.io)"
_PLUGIN_FOLDERS = (
    *("/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins"),
    *("/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins"),
)
"""Where the docker CLI looks for plugins, in its order, after the folder of who calls it."""
_WITHOUT = "leave docker's store out with --no-docker-store"


@dataclass(frozen=True)
class Engine:
    """The programs of an engine. `path` and `libraries` are lists of folders, as in PATH."""

    path: str
    libraries: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What its programs are started with; no proxy of this machine is among it."""
        found = {"PATH": self.path, "HOME": "/root", "LC_ALL": "C.UTF-8"}
        return found | ({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})


@dataclass(frozen=True)
class Download:
    """Packages that apt would fetch: their file names, and how many bytes they have together."""

    files: tuple[str, ...]
    size: int

    @property
    def folder(self) -> Path:
        """Where they are unpacked; other versions have another folder."""
        key = hashlib.sha256("\0".join(self.files).encode()).hexdigest()[:16]
        return FOLDER / f"engine-{key}"


def find() -> Engine | Download:
    """Return this machine's engine, or what has to be fetched for one; raises `PreloadError`."""
    if all(shutil.which(program, path=tool.PATH) for program in _PROGRAMS):
        return Engine(tool.PATH)
    if not shutil.which("apt-get"):
        raise PreloadError("docker's store needs dockerd, which is not installed", _INSTALL)
    with tempfile.TemporaryDirectory() as empty:
        listed = _apt("--print-uris", archives=Path(empty)).stdout.decode(errors="replace")
    found = _LISTED.findall(listed)
    if not any(name.startswith(f"{_PACKAGES[0]}_") for name, _ in found):
        raise PreloadError("docker's store needs dockerd, which is not installed", _INSTALL)
    return Download(tuple(sorted(name for name, _ in found)), sum(int(size) for _, size in found))


def compose() -> Path:
    """Return docker compose, as the docker CLI finds it; raises `PreloadError`."""
    own = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    for folder in (Path(own) / "cli-plugins", *map(Path, _PLUGIN_FOLDERS)):
        if os.access(folder / "docker-compose", os.X_OK):
            return (folder / "docker-compose").resolve()
    raise PreloadError(
        "--create needs docker compose 2, which is not installed",
        "install docker-compose-plugin (Docker's packages), docker-compose-v2 (Ubuntu) or "
        "docker-compose (Debian 13), or put the plugin into ~/.docker/cli-plugins",
    )


def fetched(download: Download) -> Engine:
    """Fetch and unpack an engine, unless that is done already; raises `PreloadError`."""
    folder = download.folder
    if not folder.is_dir():
        print(
            f"compose-apps-preload: this machine has no dockerd: fetching one by apt into {folder} "
            f"({megabytes(download.size)}, once; nothing is installed)",
            file=sys.stderr,
            flush=True,
        )
        FOLDER.mkdir(parents=True, exist_ok=True, mode=0o755)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            partial = Path(scratch)
            (partial / "archives/partial").mkdir(parents=True)
            with (
                step("fetching dockerd", download.size) as shown,
                growing(partial / "archives", shown),
            ):
                _apt("--download-only", archives=partial / "archives")
            for package in (partial / "archives").glob("*.deb"):
                tool.run(("dpkg-deb", "--extract", str(package), str(partial / "root")))
            (partial / "root").chmod(0o755)
            (partial / "root").rename(folder)
        for old in FOLDER.glob("engine-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    programs = [str(folder / each) for each in ("usr/bin", "usr/sbin", "sbin")]
    libraries = [str(each) for each in (folder / "usr/lib", folder / "lib") if each.is_dir()]
    libraries += [str(each) for each in folder.glob("*lib/*-linux-*")]
    libraries += [str(each) for each in folder.glob("usr/lib/*-linux-*")]
    return Engine(os.pathsep.join([*programs, tool.PATH]), os.pathsep.join(libraries))


def _apt(mode: str, *, archives: Path) -> subprocess.CompletedProcess[bytes]:
    try:
        return tool.run(
            (
                *("apt-get", "-qq", "--yes", "--no-install-recommends", mode),
                f"--option=Dir::Cache::archives={archives}",
                # As root: _apt may not look into that folder.
                "--option=APT::Sandbox::User=root",
                "--option=Debug::NoLocking=1",
                *("install", *_PACKAGES),
            )
        )
    except PreloadError as error:
        raise PreloadError(
            f"docker's store needs dockerd, which apt cannot fetch: {error}",
            f"run apt-get update, or {_INSTALL}, or {_WITHOUT}",
        ) from error
