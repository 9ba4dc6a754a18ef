"""An image without apps is preloaded, and its apps run at a first boot without a network card."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from boot.boots import Boot, assert_good, look
from boot.scenarios import SLOW_BOARD, machine_with
from preload_image.device_image import debugfs
from preload_image.examples import ARCH, app, layers, preload_well
from preload_image.registry import HOST, Registry, archive
from virtual_device import device_tree
from virtual_device.architecture import ARCHITECTURES
from virtual_device.firmware import Firmware

pytestmark = pytest.mark.timeout(1500)

SERVICE = f"""\
services:
  main:
    image: {HOST}/factory/sleep
    restart: always
    command: ["/bin/busybox", "sleep", "3600"]
"""
CONFIG = """\
containers:
  preloaded_images:
    enabled: true
    shortlist: one,three
    app_type: %s
  tagging:
    refs/heads/devel:
      - tag: devel
"""
# Only LmP's patched dockerd takes restorable apps into overlay2; this is what any other can do.
SNAPSHOTTER = {"/etc/docker/daemon.json": '{"features": {"containerd-snapshotter": true}}'}
# What file systems sweat over, as a container sees it: a hidden file, an owner with a set-group-id
# folder, a file capability.
SEEN = """
root=/proc/$(docker inspect --format={{.State.Pid}} one-main-1)/root
[ ! -e $root/etc/hidden ] && cat $root/etc/second && echo
stat --format='%u %g %a' $root/home/user
python3 -c "import os; print(os.getxattr('$root/bin/ping', 'security.capability').hex())"
"""
FILES = ["second", "1000 1000 2750", "0100000200200000000000000000000000000000"]
DRIVERS = {"restorable": "overlay2", "compose": "overlay2", "store-alone": "overlayfs"}
"""Way of preloading to where dockerd has its images."""


@dataclass(frozen=True)
class Preloaded:
    """What `resolve` said, the image's bill of materials, its boot, and what was SEEN there."""

    resolved: Mapping[str, Any]
    bill: Mapping[str, Any]
    first: Boot
    seen: list[str]
    driver: str
    made: set[str]
    """The ids of the containers that were created ahead."""
    containers: set[str]
    """The ids of those that the device has."""


@pytest.fixture(scope="module")
def sleepers(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three apps of a busybox that really runs here."""
    busybox = (device_tree(architecture=ARCH).layers[-1] / "usr/bin/busybox").read_bytes()
    images = {each: layers(each) for each in ARCHITECTURES}
    images[ARCH].append(archive({"bin/busybox": busybox}))
    registry.push_image("factory/sleep", images)
    top = tmp_path_factory.mktemp("sleepers")
    return {name: app(top / name, SERVICE) for name in ("one", "two", "three")}


@pytest.fixture(scope="module")
def booted(
    compose: None,
    plain: Firmware,
    sleepers: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Preloaded]:
    """Way of preloading to what its boot came to."""

    def boot(way: str) -> Preloaded:
        scratch = tmp_path_factory.mktemp(way)
        config = scratch / "factory-config.yml"
        config.write_text(CONFIG % ("compose" if way == "compose" else "restorable"))
        target = ("--ref", "refs/heads/devel", "--build", "containers")
        resolved = preload_well("resolve", config, *target, "--apps", "one,two,three", "--json")
        words = [word for folder in sleepers.values() for word in ("--app", folder)]
        words += {"store-alone": ["--no-docker-store"], "compose": ["--create"]}.get(way, [])
        made = scratch / "out.ext4"
        chosen = ("--factory-config", config, *target)
        preload_well("image", plain.disk, *words, *chosen, "--arch", ARCH, "-o", made)
        bill = preload_well("verify", made, "--json")
        ahead = debugfs(made, 0, "ls -p /var/lib/docker/containers")
        with machine_with(Firmware(plain.kernel, made, {})) as machine:
            machine.boot(SLOW_BOARD | (SNAPSHOTTER if way == "store-alone" else {}))
            first = look(machine)
            seen = machine.run(SEEN).splitlines()
            driver = machine.run("docker info --format={{.Driver}}").strip()
            containers = machine.run("docker ps --all --quiet --no-trunc").split()
        made.unlink()
        found = set(re.findall("[0-9a-f]{64}", ahead))
        return Preloaded(resolved.json, bill.json, first, seen, driver, found, set(containers))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(DRIVERS, pool.map(boot, DRIVERS), strict=True))


@pytest.mark.parametrize("way", DRIVERS)
def test_the_agent_starts_exactly_the_apps_that_the_factorys_configuration_names(
    booted: dict[str, Preloaded], way: str
) -> None:
    preloaded = booted[way]
    assert preloaded.resolved["apps"] == ["one", "three"]
    assert [each["name"] for each in preloaded.bill["apps"]] == ["one", "three"]
    assert {each["name"] for each in preloaded.first.record["apps"]} == {"one", "three"}
    assert preloaded.first.running == {"one-main-1", "three-main-1"}
    assert_good(preloaded.first)


@pytest.mark.parametrize("way", DRIVERS)
def test_containers_find_the_files_as_the_images_layers_have_them(
    booted: dict[str, Preloaded], way: str
) -> None:
    assert booted[way].seen == FILES
    assert booted[way].driver == DRIVERS[way]


def test_containers_that_were_created_ahead_are_the_ones_that_run(
    booted: dict[str, Preloaded],
) -> None:
    assert len(booted["compose"].made) == 2
    assert booted["compose"].containers == booted["compose"].made
    assert booted["restorable"].made == set()
