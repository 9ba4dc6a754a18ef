"""The docker engine that fills a store: this machine's, or one that apt downloads.

A downloaded engine is unpacked into a cache for this tool. Nothing is installed, and no service is
started.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compose_apps_early_start.compose import PLUGIN_FOLDERS

from ..errors import PreloadError
from . import tool
from .progress import growing, megabytes, step

FOLDER = Path("/var/cache/compose-apps-preload")
"""The cache for a downloaded engine. Root runs it, so only root may write here."""

_PROGRAMS = ("dockerd", "containerd")
# dockerd uses pigz if it is installed; a pull then takes two thirds of the time.
_PACKAGES = ("docker.io", "pigz")
_LISTED = re.compile(r"^'[^']+' (\S+\.deb) (\d+)", re.MULTILINE)
# apt would choose the same packages as before, as long as nothing here is changed.
_APT_STATE = (Path("/var/lib/dpkg/status"), Path("/var/lib/apt/lists"))
_COMPOSE_PACKAGES = {"debian": "docker-compose", "ubuntu": "docker-compose-v2"}
_WITHOUT_COMPOSE = ("11", "12")  # Debian's docker-compose is version 1 there
_INSTALL = "install docker (Debian and Ubuntu: apt-get install docker.io)"
_WITHOUT_STORE = "leave out docker's store with --no-docker-store"


@dataclass(frozen=True)
class Engine:
    """An engine. `path` and `libraries` are lists of folders, in the form of PATH."""

    path: str
    libraries: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its programs. It contains no proxy settings of this machine."""
        found = {"PATH": self.path, "HOME": "/root", "LC_ALL": "C.UTF-8"}
        return found | ({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})

    @property
    def identity(self) -> str:
        """Text that tells its dockerd from others, without the time it takes to run it."""
        program = shutil.which("dockerd", path=self.path)
        assert program
        found = Path(program).stat()
        return f"{program} {found.st_size} {found.st_mtime_ns}"


@dataclass(frozen=True)
class Download:
    """Packages that apt would download: their file names, and their total size in bytes."""

    files: tuple[str, ...]
    size: int

    @property
    def folder(self) -> Path:
        """Where they are unpacked. Other versions have another folder."""
        key = hashlib.sha256("\0".join(self.files).encode()).hexdigest()[:16]
        return FOLDER / f"engine-{key}"


def find() -> Engine | Download:
    """Return this machine's engine, or the download that provides one; raises `PreloadError`."""
    if all(shutil.which(program, path=tool.PATH) for program in _PROGRAMS):
        return Engine(tool.PATH)
    if not shutil.which("apt-get"):
        raise PreloadError("docker's store needs dockerd, which is not installed", _INSTALL)
    for folder in FOLDER.glob("engine-*"):
        if all(folder.stat().st_mtime > file.stat().st_mtime for file in _APT_STATE):
            return _unpacked(folder)
    with tempfile.TemporaryDirectory() as empty:
        listed = _apt("--print-uris", archives=Path(empty)).stdout.decode(errors="replace")
    found = _LISTED.findall(listed)
    if not any(name.startswith(f"{_PACKAGES[0]}_") for name, _ in found):
        raise PreloadError("docker's store needs dockerd, which is not installed", _INSTALL)
    return Download(tuple(sorted(name for name, _ in found)), sum(int(size) for _, size in found))


def compose() -> Path:
    """Return docker compose, as the docker CLI finds it; raises `PreloadError`."""
    own = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    for folder in (Path(own) / "cli-plugins", *map(Path, PLUGIN_FOLDERS)):
        if os.access(folder / "docker-compose", os.X_OK):
            return (folder / "docker-compose").resolve()
    raise PreloadError("--create needs docker compose 2, which is not installed", _compose_hint())


def _compose_hint() -> str:
    """Return how to install docker compose 2 on this machine."""
    own = (
        "install Docker's own package docker-compose-plugin, or put the program docker-compose of "
        "Docker's releases into ~/.docker/cli-plugins"
    )
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return own
    name, version = system["ID"], system.get("VERSION_ID", "")
    if name == "debian" and version in _WITHOUT_COMPOSE:
        return f"Debian {version} has no package of it: {own}"
    if name in _COMPOSE_PACKAGES:
        return f"run apt-get install {_COMPOSE_PACKAGES[name]}, or {own}"
    return own


def fetch(download: Download) -> Engine:
    """Download and unpack an engine, unless the cache has it; raises `PreloadError`."""
    folder = download.folder
    if not folder.is_dir():
        print(
            f"compose-apps-preload: this machine has no dockerd; apt downloads one into {folder} "
            f"({megabytes(download.size)}, only once; nothing is installed)",
            file=sys.stderr,
            flush=True,
        )
        FOLDER.mkdir(parents=True, exist_ok=True, mode=0o755)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            partial = Path(scratch)
            (partial / "archives/partial").mkdir(parents=True)
            with (
                step("fetching dockerd", download.size) as progress,
                growing(partial / "archives", progress),
            ):
                _apt("--download-only", archives=partial / "archives")
            for package in (partial / "archives").glob("*.deb"):
                tool.run(("dpkg-deb", "--extract", str(package), str(partial / "root")))
            (partial / "root").chmod(0o755)
            (partial / "root").rename(folder)
        for old in FOLDER.glob("engine-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    os.utime(folder)
    return _unpacked(folder)


def _unpacked(folder: Path) -> Engine:
    """Return the engine that was unpacked into `folder`."""
    programs = [folder / name for name in ("usr/bin", "usr/sbin", "sbin")]
    libraries = [path for path in (folder / "usr/lib", folder / "lib") if path.is_dir()]
    libraries += [*folder.glob("*lib/*-linux-*"), *folder.glob("usr/lib/*-linux-*")]
    return Engine(
        os.pathsep.join([*map(str, programs), tool.PATH]), os.pathsep.join(map(str, libraries))
    )


def _apt(mode: str, *, archives: Path) -> subprocess.CompletedProcess[bytes]:
    try:
        return tool.run(
            (
                *("apt-get", "-qq", "--yes", "--no-install-recommends", mode),
                f"--option=Dir::Cache::archives={archives}",
                # As root, because the user _apt may not read that folder.
                "--option=APT::Sandbox::User=root",
                "--option=Debug::NoLocking=1",
                *("install", *_PACKAGES),
            )
        )
    except PreloadError as error:
        raise PreloadError(
            f"docker's store needs dockerd, which apt cannot download: {error}",
            f"run apt-get update, or {_INSTALL}, or {_WITHOUT_STORE}",
        ) from error
