"""The device's root file system: Debian with systemd, dockerd, compose and the agent's Python."""

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from virtual_device import mirror
from virtual_device.archive import unpacked
from virtual_device.cache import cached

SUITES = ("bookworm", "trixie", "forky")
PACKAGES = (
    "busybox-static",  # the content of the sample apps' images
    "dbus",
    "docker-cli",
    "docker-compose",
    "docker.io",
    "iproute2",
    "iptables",
    "kmod",
    "procps",
    "python3",
    "python3-docker",
    "python3-sdnotify",
    "python3-systemd",
    "python3-yaml",
    "systemd",
    "systemd-sysv",
    "tini",
    "udev",
)
# Suites without a package for compose 2, which have the CLI in dockerd's package.
_WITHOUT_COMPOSE_2 = ("bookworm",)
_COMPOSE_2_SUITE = "trixie"
_COMPOSE_2 = "usr/libexec/docker/cli-plugins/docker-compose"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_ENOUGH = 4000  # characters at the end of mmdebstrap's output, which say what failed


class TreeError(Exception):
    """The device's tree could not be made."""


@dataclass(frozen=True)
class Tree:
    """A root file system as layers, the topmost first, and its key in the cache.

    ``tools`` is a layer that is not part of the device: the registry for pulling the samples.
    """

    suite: str
    layers: tuple[Path, ...]
    tools: Path

    @property
    def key(self) -> str:
        return " ".join(layer.parent.name for layer in self.layers)


def device_tree(suite: str = "trixie") -> Tree:
    """Returns the device's tree made of ``suite``, one of :data:`SUITES`.

    Takes about half a minute unless it is cached.

    Raises TreeError with mmdebstrap's output, LookupError on a host that is not Debian.
    """

    def build(folder: Path) -> None:
        _debootstrap(suite, folder)

    folder = cached(f"tree-{suite}", [suite, Path(__file__).read_text()], build)
    return Tree(suite, layers=(folder / "root",), tools=folder / "tools")


def _debootstrap(suite: str, folder: Path) -> None:
    sources = folder / "debian.sources"
    sources.write_text(mirror.sources(suite))
    tools = folder / "tools"
    download = folder / "download"
    download.mkdir()
    # The hook runs on the host, with an apt that works on the new tree.
    registry = (
        f"cd {shlex.quote(str(download))} && "
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -qq download docker-registry'
    )
    packages = set(PACKAGES)
    if suite in _WITHOUT_COMPOSE_2:
        packages -= {"docker-cli", "docker-compose"}
    argv = [
        # mmdebstrap's mounts and processes end with this process, however it ends.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
        f"--include={','.join(sorted(packages))}",
        *(f"--aptopt={key} {value}" for key, value in mirror.APT_OPTIONS.items()),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        f"--customize-hook={registry}",
        *(suite, str(folder / "root"), str(sources)),
    ]
    made = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if made.returncode:
        raise TreeError(f"mmdebstrap cannot make {suite}:\n{made.stdout[-_ENOUGH:].strip()}")
    if suite in _WITHOUT_COMPOSE_2:
        plugin = folder / "root" / _COMPOSE_2
        plugin.parent.mkdir(parents=True)
        shutil.copy(unpacked(_COMPOSE_2_SUITE, "docker-compose") / _COMPOSE_2, plugin)
    for package in download.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "unpacked"], check=True)
    # Only the program: a /lib in this layer would hide the tree's own.
    (tools / "usr/bin").mkdir(parents=True)
    (folder / "unpacked/usr/bin/docker-registry").rename(tools / "usr/bin/docker-registry")
