"""The device's side: dockerd and the agent take what `image` made for their own, offline.

The virtual device shares its kernel with the host and boots no image, so what lies in the image's
/var is copied into it. What only a boot can show is left to the boot tests.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from preload_image import device_image
from preload_image.device_image import debugfs, dump
from preload_image.given import CHECKOUT, app, layers, preload_well
from preload_image.registry import HOST, Registry, archive
from virtual_device import Device, Tree, agent_layer, device_tree

SERVICE = """\
services:
  main:
    image: %s
    restart: always
    command: ["/bin/busybox", "sleep", "3600"]
"""


@pytest.fixture(scope="module")
def agent_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The device's root file system with the agent of this checkout."""
    argv = [CHECKOUT / "packaging/debian/build", tmp_path_factory.mktemp("package")]
    built = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return agent_layer(device_tree(), Path(built.stdout.strip()))


@pytest.fixture(scope="module")
def sleepers(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three apps of a busybox that really runs here."""
    busybox = (device_tree().layers[-1] / "usr/bin/busybox").read_bytes()
    layer = archive({"bin/busybox": busybox})
    registry.push_image("factory/sleep", {"arm64": layers("arm64"), "amd64": [layer]})
    top = tmp_path_factory.mktemp("sleepers")
    compose = SERVICE % f"{HOST}/factory/sleep"
    return {name: app(top / name, compose) for name in ("one", "two", "three")}


@contextmanager
def device_of(image: Path, tree: Tree, scratch: Path) -> Iterator[Device]:
    """Lend a device with what lies in the image's /var; its dockerd is not started."""
    docker = dump(image, 0, "/var/lib/docker", scratch / "docker")
    sota = dump(image, 0, "/var/sota", scratch / "sota")
    with Device(tree, preload=docker if docker.exists() else None) as device:
        subprocess.run(["cp", "-a", f"{sota}/.", device.path("/var/sota")], check=True)
        shortlist = debugfs(image, 0, "cat /var/lmp/default-apps")
        if shortlist:
            device.path("/var/lmp/default-apps").write_text(shortlist)
        yield device


def started(device: Device) -> tuple[dict[str, str], list[str]]:
    """Run the agent; return the apps and their states, and the containers that run."""
    device.run(["compose-apps-early-start", "start"])
    record = json.loads(device.run(["compose-apps-early-start", "status", "--json"]).stdout)
    running = device.run(["docker", "ps", "--format={{.Names}}"]).stdout.split()
    return {each["name"]: each["state"] for each in record["apps"]}, sorted(running)


@pytest.mark.parametrize("app_type", ["restorable", "compose"])
def test_the_agent_starts_exactly_the_apps_that_the_factorys_configuration_names(
    tmp_path: Path, agent_tree: Tree, sleepers: dict[str, Path], app_type: str
) -> None:
    config = tmp_path / "factory-config.yml"
    config.write_text(
        "containers:\n  preloaded_images:\n    enabled: true\n    shortlist: one,three\n"
        f"    app_type: {app_type}\n  tagging:\n    refs/heads/devel:\n      - tag: devel\n"
    )
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    words = [word for folder in sleepers.values() for word in ("--app", folder)]
    chosen = ("--factory-config", config, "--ref", "refs/heads/devel", "--build", "containers")
    made = tmp_path / "out.ext4"
    preload_well("image", source, *words, *chosen, "--arch", "amd64", "-o", made)
    with device_of(made, agent_tree, tmp_path) as device:
        device.start_dockerd()
        states, running = started(device)
    assert states == {"one": "running", "three": "running"}
    assert running == ["one-main-1", "three-main-1"]


def test_the_agent_restores_images_from_the_store_alone(
    tmp_path: Path, agent_tree: Tree, sleepers: dict[str, Path]
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    made = tmp_path / "out.ext4"
    words = ("--app", sleepers["one"], "--app", sleepers["two"], "--default-apps", "two")
    preload_well("image", source, *words, "--arch", "amd64", "--no-docker-store", "-o", made)
    with device_of(made, agent_tree, tmp_path) as device:
        # Only LmP's patched dockerd takes them into overlay2; this is what any other can do.
        folder = device.path("/etc/docker")
        folder.mkdir(exist_ok=True)
        (folder / "daemon.json").write_text('{"features": {"containerd-snapshotter": true}}')
        device.start_dockerd()
        assert started(device) == ({"two": "running"}, ["two-main-1"])
