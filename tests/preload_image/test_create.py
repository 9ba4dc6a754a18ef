"""Containers that are made when the image is: what gets into it, and what a device makes of it."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine.board import AKTUALIZR, COMPOSE_APPS, Board
from engine.test_adoption import as_aktualizr_does, obstacles
from preload.examples import CHECKOUT
from preload_image import device_image
from preload_image.device_image import debugfs, dump
from preload_image.examples import app, layers, preload, preload_well
from preload_image.registry import HOST, Registry, archive
from virtual_device import Device, Tree, agent_layer, device_tree, samples

IMAGE = f"{HOST}/factory/made"
SHOP = f"""\
services:
  web:
    image: {IMAGE}
    restart: always
    command: ["/bin/busybox", "sleep", "3600"]
    environment: {{HOME_OF_ROOT: "${{HOME}}", LIMIT: "${{COMPOSE_HTTP_TIMEOUT}}"}}
    ports: ["8080:80"]
    volumes: ["./site:/www:ro", "/srv/nowhere:/srv", "data:/data"]
  worker:
    image: {IMAGE}
    restart: always
    command: ["/bin/busybox", "sleep", "3600"]
    mem_limit: 64m
    network_mode: bridge
    depends_on: [web]
volumes: {{data: }}
"""
TELEMETRY = f"""\
services:
  collector:
    image: {IMAGE}
    restart: always
    command: ["/bin/busybox", "sleep", "3600"]
"""
MADE = {"shop-web-1", "shop-worker-1", "telemetry-collector-1"}
SNAPSHOTTER = '{"features": {"containerd-snapshotter": true}}'


@pytest.fixture(scope="module")
def busybox(registry: Registry) -> str:
    """An image whose amd64 runs here; in it is a folder with an owner of its own."""
    program = (device_tree().layers[-1] / "usr/bin/busybox").read_bytes()
    folder = tarfile.TarInfo("data")
    folder.type, folder.uid, folder.mode = tarfile.DIRTYPE, 1000, 0o2750
    runs = archive({"bin/busybox": program, "data": folder, "data/seed": b"seed"})
    amd64 = [*layers("amd64"), runs]
    return registry.push_image("factory/made", {"arm64": layers("arm64"), "amd64": amd64})


@pytest.fixture(scope="module")
def apps(
    compose: None, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[object, ...]:
    top = tmp_path_factory.mktemp("made")
    shop = app(top / "shop", SHOP)
    (shop / "site").mkdir()
    (shop / "site/index.html").write_text("shop")
    return ("--app", shop, "--app", app(top / "telemetry", TELEMETRY))


@dataclass(frozen=True)
class Made:
    """An image with containers, its bill of materials, and its /var as a device mounts it."""

    image: Path
    bill: Mapping[str, Any]
    var: Path


@pytest.fixture(scope="module")
def made(apps: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("image")
    source = device_image.ext4(folder / "in.ext4", ostree=False)
    image = folder / "out.ext4"
    words = ("--arch", "amd64", "--create", "--default-apps", "shop")
    preload_well("image", source, *apps, *words, "-o", image)
    device_image.assert_sound(image)
    mounted = 'mount -o loop,ro,noload "$1" /mnt && cp -a /mnt/var "$2"'
    argv = ["unshare", "--mount", "sh", "-ec", mounted, "sh", str(image), str(folder)]
    subprocess.run(argv, check=True)
    return Made(image, preload_well("verify", "--json", image).json, folder / "var")


@pytest.fixture(scope="module")
def agent_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    argv = [CHECKOUT / "packaging/debian/build", tmp_path_factory.mktemp("package")]
    built = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return agent_layer(device_tree(), Path(built.stdout.strip()))


@pytest.fixture
def board(agent_tree: Tree, made: Made) -> Iterator[Board]:
    """A device that was flashed with the image."""
    with Device(agent_tree, preload=made.var / "lib/docker") as device:
        for part in ("sota", "lmp"):
            target = device.path(f"/var/{part}")
            subprocess.run(["cp", "-a", f"{made.var / part}/.", target], check=True)
        yield Board(device, samples.Preload(Path(), {}))


def test_the_image_has_containers_networks_and_volumes_and_nothing_of_this_machine(
    made: Made,
) -> None:
    assert {name for each in made.bill["apps"] for name in each["containers"]} == MADE
    docker = made.var / "lib/docker"
    parts = {"image", "overlay2", "containers", "network", "volumes"}
    assert {each.name for each in docker.iterdir()} == parts
    volumes = {each.name for each in (docker / "volumes").iterdir()}
    assert volumes == {"metadata.db", "shop_data"}
    assert not (made.var.parent / "srv").exists()
    assert not Path("/srv/nowhere").exists()


def test_a_new_volume_is_filled_from_the_image(made: Made) -> None:
    data = made.var / "lib/docker/volumes/shop_data/_data"
    assert (data / "seed").read_bytes() == b"seed"
    assert (data.stat().st_uid, data.stat().st_mode & 0o7777) == (1000, 0o2750)


def test_verify_names_them(made: Made) -> None:
    told = preload_well("verify", made.image).stdout
    assert "containers created ahead: shop-web-1, shop-worker-1" in told


def test_the_device_starts_the_very_containers_and_makes_none(board: Board) -> None:
    board.device.start_dockerd()
    assert board.states() == dict.fromkeys(MADE, "created")
    before = set(board.lives())
    board.start_well()
    running = {"shop-web-1": "running", "shop-worker-1": "running"}
    assert board.states() == {**running, "telemetry-collector-1": "created"}
    assert set(board.lives()) == before
    assert obstacles(board, "shop") == []
    assert obstacles(board, "telemetry") == ["/telemetry-collector-1 was never started"]
    lives = board.lives("shop")
    as_aktualizr_does(board, "shop")
    assert board.lives("shop") == lives
    as_aktualizr_does(board, "telemetry")
    assert set(board.lives()) == before
    assert set(board.states().values()) == {"running"}


def test_dockerd_restores_only_the_networks_of_the_apps(board: Board) -> None:
    # It would also restore its default network, which it then deletes and creates anew.
    board.device.start_dockerd("--debug")
    assert board.device.dockerd_log.read_text().count(" restored") == 2
    (default,) = board.api.networks(names=["^bridge$"])
    assert default["IPAM"]["Config"][0]["Subnet"] == "172.17.0.0/16"


def test_they_are_what_the_device_itself_would_have_made(board: Board) -> None:
    # That of a device, whatever the kernel here has.
    configure(board, '{"default-cgroupns-mode": "private"}')
    board.device.start_dockerd()
    ahead = {each["Name"]: settings(each) for each in board.containers()}
    networks = [board.networks(name) for name in ("shop", "telemetry")]
    for name in ("shop", "telemetry"):
        folder = f"{COMPOSE_APPS}/{name}"
        board.device.run(["docker", "compose", "down", "--volumes"], cwd=folder)
        board.device.run(["docker", "compose", "create"], cwd=folder, env=AKTUALIZR)
    assert {each["Name"]: settings(each) for each in board.containers()} == ahead
    assert [board.networks(name) for name in ("shop", "telemetry")] == networks


def settings(container: dict[str, Any]) -> dict[str, Any]:
    """What a container was made with, but for what is of docker's version, or in no order."""
    config, host = container["Config"], container["HostConfig"]
    found = {key: value for key, value in host.items() if value and key != "MaskedPaths"}
    return {
        "labels": config["Labels"],
        "environment": sorted(config["Env"] or ()),
        "command": (config["Entrypoint"], config["Cmd"], config["Image"]),
        "host": {**found, "Binds": sorted(host["Binds"] or ())},
        "mounts": sorted(container["Mounts"], key=lambda each: str(each["Destination"])),
    }


def configure(board: Board, text: str) -> None:
    board.device.path("/etc/docker").mkdir(exist_ok=True)
    board.device.path("/etc/docker/daemon.json").write_text(text)


def test_an_app_comes_back_from_the_store_when_docker_has_lost_all(board: Board) -> None:
    configure(board, SNAPSHOTTER)
    board.shell("rm -rf /var/lib/docker/*")
    board.device.start_dockerd()
    board.start_well()
    assert board.states() == {"shop-web-1": "running", "shop-worker-1": "running"}


def test_another_architecture_and_the_devices_own_settings(
    apps: tuple[object, ...], tmp_path: Path
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4")
    deployed = "/ostree/deploy/lmp/deploy/0123.0"
    given = {
        "usr/lib/docker/daemon.json": json.dumps(
            {
                "log-driver": "journald",
                "default-runtime": "crun",
                "runtimes": {"crun": {"path": "/usr/bin/crun"}},
                "default-address-pools": [{"base": "10.77.0.0/16", "size": 24}],
                "max-concurrent-downloads": 1,
            }
        ),
        "usr/lib/passwd": "root:x:0:0:root:/var/rootdirs/root:/bin/ash\n",
    }
    _make_folders(source, deployed, *(f"{deployed}/{each}" for each in ("usr", "usr/lib")))
    for path, text in given.items():
        (tmp_path / "file").write_text(text)
        device_image.put(source, 0, tmp_path / "file", f"{deployed}/{path}")
    made = tmp_path / "out.ext4"
    preload_well("image", source, *apps, "--arch", "arm64", "--create", "-o", made)
    docker = dump(made, 0, "/ostree/deploy/lmp/var/lib/docker", tmp_path / "found")
    networks = (docker / "network/files/local-kv.db").read_bytes()
    assert b"10.77.1.0/24" in networks  # the first is docker0's
    assert b"10.77.2.0/24" in networks
    found = {}
    for file in docker.glob("containers/*/config.v2.json"):
        config = json.loads(file.read_bytes())
        host = json.loads(file.with_name("hostconfig.json").read_bytes())
        found[config["Name"]] = config, host
    assert set(found) == {f"/{name}" for name in MADE}
    config, host = found["/shop-web-1"]
    assert (host["LogConfig"]["Type"], host["Runtime"]) == ("journald", "crun")
    assert host["CgroupnsMode"] == "private"
    assert {"HOME_OF_ROOT=/var/rootdirs/root", "LIMIT=60"} <= set(config["Config"]["Env"])
    assert found["/shop-worker-1"][1]["Memory"] == 64 << 20


def _make_folders(image: Path, *folders: str) -> None:
    for folder in ("/ostree/deploy/lmp/deploy", *folders):
        debugfs(image, 0, f"mkdir {folder}", write=True)


ONE = f"services: {{one: {{image: {IMAGE}%s}}}}\n"
NET = "networks: {default: {ipam: {config: [{subnet: 10.9.0.0/24}]}}}\n"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            ONE % "" + NET,
            ONE % "" + NET,
            "taken: 10.9.0.0/24 by a_default, 172.17.0.0/16 by bridge",
        ),
        (ONE % ", container_name: db", ONE % ", container_name: db", "a has a container of this"),
        ("", ONE % "" + "networks: {default: {external: true, name: lan}}\n", "network lan "),
        (
            "",
            ONE % ", volumes: [{type: bind, source: /srv/nowhere, target: /x,"
            " bind: {create_host_path: false}}]",
            "bind source path does not exist: /srv/nowhere",
        ),
    ],
    ids=["subnet", "name", "network", "bind"],
)
def test_an_app_that_cannot_be_created_is_named(
    compose: None, busybox: str, tmp_path: Path, first: str, second: str, message: str
) -> None:
    words = ["--app", app(tmp_path / "apps/b", second)]
    words += ["--app", app(tmp_path / "apps/a", first)] if first else []
    (tmp_path / "images").mkdir()
    source = device_image.ext4(tmp_path / "in.ext4")
    out = tmp_path / "images/out.ext4"
    ended = preload("image", source, *words, "--arch", "amd64", "--create", "-o", out)
    assert ended.status == 1
    assert "app b cannot be created: " in ended.stderr
    assert message in ended.stderr
    assert "leave out --create" in ended.stderr
    assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"data-root": "/data/docker"}', "has data-root /data/docker"),
        (SNAPSHOTTER, "has the containerd image store"),
        ("{", "/etc/docker/daemon.json in the image cannot be read"),
    ],
)
def test_a_docker_that_would_not_find_them_is_refused(
    apps: tuple[object, ...], tmp_path: Path, settings: str, message: str
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    (tmp_path / "daemon.json").write_text(settings)
    device_image.put(source, 0, tmp_path / "daemon.json", "/etc/docker/daemon.json")
    words = ("--arch", "amd64", "--create", "-o", tmp_path / "out.ext4")
    ended = preload("image", source, *apps, *words)
    assert ended.status == 1
    assert message in ended.stderr


def test_without_compose_it_is_refused(
    apps: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    source = device_image.ext4(tmp_path / "in.ext4")
    words = ("--arch", "amd64", "--create", "-o", tmp_path / "out.ext4")
    ended = preload("image", source, *apps, *words)
    assert ended.status == 1
    assert "--create needs docker compose 2, which is not installed" in ended.stderr


def test_an_image_that_has_them_is_changed(
    made: Made, apps: tuple[object, ...], tmp_path: Path
) -> None:
    image = shutil.copy(made.image, tmp_path / "in.ext4")
    words = ("--remove", "telemetry", "--arch", "amd64")
    preload_well("image", image, *words, "-o", tmp_path / "plain.ext4")
    docker = dump(tmp_path / "plain.ext4", 0, "/var/lib/docker", tmp_path / "plain")
    assert {each.name for each in docker.iterdir()} == {"image", "overlay2"}
    preload_well("image", image, *words, "--create", "-o", tmp_path / "made.ext4")
    bill = preload_well("verify", "--json", tmp_path / "made.ext4").json
    assert [each["containers"] for each in bill["apps"]] == [["shop-web-1", "shop-worker-1"]]
    device_image.assert_sound(tmp_path / "made.ext4")


def test_a_limit_that_this_machine_cannot_keep_is_not_lost_in_silence(
    apps: tuple[object, ...], tmp_path: Path
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    words = ("--arch", "amd64", "--create", "-o", tmp_path / "out.ext4")
    blind = 'mount -t tmpfs tmpfs /sys/fs/cgroup && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-ec", blind, "sh")
    ended = preload("image", source, *apps, *words, prefix=prefix)
    assert ended.status == 1
    assert "app shop: on this machine docker creates it without a limit: " in ended.stderr
