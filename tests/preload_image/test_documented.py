"""The commands in the two pages on preloading work as they are printed."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from compose_apps_preload.image import tool
from compose_apps_preload.trial.emulator import Board
from preload.examples import ADVANCED, CHECKOUT
from preload_image import device_image
from preload_image.examples import app
from preload_image.published import published
from preload_image.registry import HOST, Registry, configure_skopeo
from virtual_device import Device, device_tree, mirror
from virtual_device.cache import cached

IMAGE = CHECKOUT / "docs/preloaded-image.md"
CONFIGURATION = CHECKOUT / "docs/preload-configuration.md"


def blocks(page: Path, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


MAKE_DEB, INSTALL_DEB, INSTALL_BY_PIP, MAKE, FLASH, INSTALL_QEMU, TRY = blocks(IMAGE)
AS_ENGINEER = (
    *("setpriv", "--reuid=engineer", "--regid=engineer", "--init-groups"),
    *("env", "HOME=/home/engineer", "USER=engineer"),
)
FAST = "--option=Dpkg::Options::=--force-unsafe-io"
(READ_CONFIGURATION,) = blocks(CONFIGURATION)
(READ_BY_PYTHON,) = blocks(CONFIGURATION, "python")


@pytest.fixture(scope="module")
def clone(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, images: Mapping[str, str]
) -> Path:
    """A fresh clone, an image in it, and containers.git beside it."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=CHECKOUT, check=True, capture_output=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name, follow_symlinks=False)
    published(registry, "shop", images["web"])
    containers = folder.parent / "containers"
    compose = f"services: {{collector: {{image: '{HOST}/factory/web'}}}}\n"
    for name in ("telemetry", "money-making-app", "debug-tools", "fiotest"):
        app(containers / name, compose)
    source = device_image.wic(folder.parent / "in.wic", device_image.ext4(folder.parent / "root"))
    with (folder / "lmp-factory-image.wic.gz").open("wb") as packed:
        subprocess.run(["gzip", "-c", source], stdout=packed, check=True)
    shutil.copy(ADVANCED, folder / "factory-config.yml")
    return folder


def test_in_a_fresh_virtual_environment(clone: Path) -> None:
    folder = clone.parent / "venv"
    venv.create(folder, with_pip=True)
    # As PyPI: what the Makefile has fetched.
    wheels = shutil.copytree(Path(sys.prefix) / "wheels", clone.parent / "wheels")
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    # sudo makes /root the home, and that is where skopeo then reads where registries are.
    home = 'mount --bind "$HOME" /root && cd "$1" && exec bash -euxo pipefail -c "$2"'
    for block in (INSTALL_BY_PIP, READ_CONFIGURATION, MAKE):
        argv = ["unshare", "--mount", "sh", "-c", home, "sh", str(clone), block]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "stores: restorable, docker" in done.stdout
    # All of `try` is installed; the image is one of a device that has no program, nor a kernel.
    argv = ["bash", "-euc", TRY]
    done = subprocess.run(
        argv, cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no program in the image's root file system shows its architecture" in done.stderr
    assert list(folder.rglob("trial/observe.sh"))
    argv = [str(folder / "bin/python"), "-c", READ_BY_PYTHON]
    printed = subprocess.run(argv, cwd=clone, check=True, capture_output=True, text=True).stdout
    assert printed == "('money-making-app', 'debug-tools')\n"


@pytest.fixture(scope="module")
def deb(clone: Path) -> Path:
    """The package, built as documented."""
    subprocess.run(["bash", "-euc", MAKE_DEB], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    (built,) = (clone / "build").glob("compose-apps-preload_*.deb")
    return built


@pytest.fixture(params=["bookworm", "trixie"])
def fresh(request: pytest.FixtureRequest, deb: Path) -> Iterator[Device]:
    """A fresh Debian with docker, and what apt would fetch for the package."""
    tree = device_tree(request.param)

    def fetch(folder: Path) -> None:
        apt = folder / "apt"
        options = [
            *mirror.apt_options(request.param, apt),
            f"--option=Dir::State::status={tree.layers[0]}/var/lib/dpkg/status",
            "--option=Debug::NoLocking=1",
        ]
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
        argv = ["apt-get", "-qq", *options, "--yes", "--no-install-recommends", "--download-only"]
        argv += ["install", "sudo", "bmap-tools", str(deb)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        (apt / "cache/archives").rename(folder / "archives")
        shutil.rmtree(apt)

    control = (CHECKOUT / "debian/control").read_text()
    inputs = [tree.key, control, Path(__file__).read_text()]
    packages = cached(f"host-packages-{request.param}", inputs, fetch) / "archives"
    with Device(tree, tools=True) as device:
        shutil.copytree(packages, device.path("/tmp/packages"))
        device.run(["sh", "-c", f"apt-get -qq --yes {FAST} install /tmp/packages/*.deb"])
        yield device


def test_the_packages_that_are_told_are_those_that_the_tool_names() -> None:
    board = Board.of("amd64")
    packages = {tool.package(board.program), board.firmware_package}
    assert packages == set(INSTALL_QEMU.split()[4:])


def test_in_a_fresh_debian(fresh: Device, clone: Path, registry: Registry) -> None:
    # overlay2 needs a file system that is no overlay: docker's, which is the host's, is one.
    world = fresh.path("/var/lib/docker")
    shutil.copytree(clone.parent / "containers", world / "containers")
    (world / "clone/build").mkdir(parents=True)
    for name in ("lmp-factory-image.wic.gz", "factory-config.yml"):
        shutil.copy(clone / name, world / "clone" / name)
    for package in (clone / "build").glob("compose-apps-preload_*.deb"):
        shutil.copy(package, world / "clone/build")
    shutil.copytree(registry.folder, world / "registry")
    configure_skopeo(fresh.path("/home/engineer"), registry.port)
    # An engineer who is not root, but may be.
    fresh.run(["useradd", "--shell", "/bin/bash", "engineer"])
    fresh.path("/etc/sudoers.d/engineer").write_text("engineer ALL=(ALL) NOPASSWD: ALL\n")
    everything = ["/home/engineer", "/var/lib/docker"]
    fresh.run(["chown", "--recursive", "engineer:", *everything])
    fresh.run(["chmod", "755", *everything])
    settings = (registry.folder / "registry.yml").read_text()
    settings = settings.replace(str(registry.folder), "/var/lib/docker/registry")
    (world / "registry.yml").write_text(settings)
    serving = fresh.popen(["docker-registry", "serve", "/var/lib/docker/registry.yml"])
    fresh.run(["sh", "-c", f"until ss -ltn | grep -q :{registry.port}; do sleep 0.05; done"])
    try:
        for block in (INSTALL_DEB, MAKE, FLASH):
            argv = [*AS_ENGINEER, "bash", "-euxo", "pipefail", "-c", block]
            done = fresh.run(argv, cwd="/var/lib/docker/clone", check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "stores: restorable, docker" in done.stdout or block != MAKE
    finally:
        serving.kill()
    made = ("preloaded.wic.gz", "preloaded.wic.bmap", "/home/engineer/.cache")
    owners = fresh.run(["stat", "--format=%U", *made], cwd="/var/lib/docker/clone").stdout
    assert owners.split() == ["engineer"] * 3
    flashed = fresh.path("/dev/sdX")
    assert flashed.stat().st_size > (clone.parent / "in.wic").stat().st_size
