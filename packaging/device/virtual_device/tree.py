"""The device's root file system: Debian with systemd, dockerd, compose and the agent's Python."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from virtual_device import installation, mirror
from virtual_device.architecture import OWN
from virtual_device.archive import unpacked
from virtual_device.cache import cached
from virtual_device.kernel import kernel

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

    ``tools`` is a layer that is not part of the device: the registry for pulling the samples. It
    runs on this machine, whatever the architecture of the device.
    """

    suite: str
    architecture: str
    layers: tuple[Path, ...]
    tools: Path

    @property
    def name(self) -> str:
        """Suite and architecture, for the names of folders in the cache."""
        return f"{self.suite}-{self.architecture}"

    @property
    def key(self) -> str:
        return " ".join(layer.parent.name for layer in self.layers)


def device_tree(suite: str = "trixie", architecture: str = OWN) -> Tree:
    """Returns the device's tree made of ``suite``, one of :data:`SUITES`, for ``architecture``.

    Takes about half a minute unless it is cached; for another architecture than this machine's,
    some minutes.

    Raises TreeError with mmdebstrap's output, MachineError with dpkg's if that is emulated,
    LookupError on a host that is not Debian.
    """

    def build(folder: Path) -> None:
        root = folder / "root"
        sources = folder / "debian.sources"
        sources.write_text(mirror.sources(suite))
        packages = set(PACKAGES)
        if suite in _WITHOUT_COMPOSE_2:
            packages -= {"docker-cli", "docker-compose"}
        include = f"--include={','.join(sorted(packages))}"
        if architecture == OWN:
            _debootstrap("--variant=minbase", include, suite, str(root), str(sources))
        else:
            extracted = folder / "extracted"
            # What minbase has, unpacked alone, with the packages in apt's cache.
            _debootstrap(
                *("--variant=extract", "--include=?essential", "--include=?priority(required)"),
                *(include, f"--architectures={architecture}", "--skip=cleanup/apt/cache"),
                *(suite, str(extracted), str(sources)),
            )
            for pattern in _LEFT_OUT:
                shutil.rmtree(extracted / pattern.strip("/*"))
            installation.install(kernel(suite, architecture), extracted, root)
            shutil.rmtree(extracted)
        if suite in _WITHOUT_COMPOSE_2:
            compose = unpacked(_COMPOSE_2_SUITE, "docker-compose", architecture=architecture)
            (root / _COMPOSE_2).parent.mkdir(parents=True)
            shutil.copy(compose / _COMPOSE_2, root / _COMPOSE_2)
        # Only the program: a /lib in this layer would hide the tree's own.
        (folder / "tools/usr/bin").mkdir(parents=True)
        registry = unpacked(suite, "docker-registry") / "usr/bin/docker-registry"
        shutil.copy(registry, folder / "tools/usr/bin")

    inputs = [suite, Path(__file__).read_text()]
    if architecture != OWN:
        inputs.append(installation.KEY)
    folder = cached(f"tree-{suite}-{architecture}", inputs, build)
    return Tree(suite, architecture, layers=(folder / "root",), tools=folder / "tools")


def _debootstrap(*words: str) -> None:
    argv = [
        # mmdebstrap's mounts and processes end with this process, however it ends.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "--mode=root", "--format=directory"),
        *(f"--aptopt={key} {value}" for key, value in mirror.APT_OPTIONS.items()),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *words,
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
        said = made.stdout[-_ENOUGH:].strip()
        raise TreeError(f"mmdebstrap cannot make {' '.join(words)}:\n{said}")
