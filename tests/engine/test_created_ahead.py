"""Containers that `docker compose create` has made before, on this engine or on another.

Elsewhere compose may have made other hashes, or the engine other files. However that is, all apps
run in the end.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator

import pytest
from engine.board import Board
from engine.conftest import SUITE
from engine.test_adoption import adopted, obstacles
from virtual_device import Device, Tree, ahead, device_tree, samples

MAKER = os.environ.get("MAKER_SUITE", SUITE)
"""The Debian suite whose docker and compose have made the containers."""
SAMPLES = ("debug-tools", "shop", "telemetry")


@pytest.fixture(scope="module")
def made() -> samples.Preload:
    """docker's store with the samples' images and created containers."""
    tree = device_tree(MAKER)
    images = samples.preload(tree)
    apps = {name: samples.sample(name, images.references) for name in SAMPLES}
    return ahead.made(tree, images, apps)


@pytest.fixture
def board(agent_tree: Tree, made: samples.Preload) -> Iterator[Board]:
    """A device with that store, and the apps in their place."""
    with Device(agent_tree, preload=made.docker) as device:
        board = Board(device, made)
        board.preload_sample(*SAMPLES)
        yield board


def test_all_apps_run_and_are_adopted(board: Board) -> None:
    board.device.start_dockerd()
    created = board.states()
    before = board.lives()
    assert set(created.values()) == {"created"}
    board.start_well()
    assert set(board.states()) == set(created)
    first = adopted(board, SAMPLES)
    if compose_version(MAKER) == compose_version(SUITE):
        assert set(first) == set(before)


def compose_version(suite: str) -> str:
    """Other versions of compose may make other hashes, and then other containers."""
    program = device_tree(suite).layers[-1] / "usr/libexec/docker/cli-plugins/docker-compose"
    return hashlib.sha256(program.read_bytes()).hexdigest()


def test_what_the_engine_cannot_read_is_made_anew(board: Board) -> None:
    for file in board.device.path("/var/lib/docker/containers").glob("*/config.v2.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "Config": "of another kind"}))
    board.device.start_dockerd()
    board.start_well()
    for name in SAMPLES:
        assert obstacles(board, name) == []


def test_an_app_outside_the_shortlist_stays_created(board: Board) -> None:
    board.shortlist("shop\n")
    board.device.start_dockerd()
    board.start_well()
    states = board.states()
    assert {states[name] for name in states if name.startswith("shop-")} == {"running"}
    assert {states[name] for name in states if not name.startswith("shop-")} == {"created"}
    board.device.stop_dockerd()
    board.device.start_dockerd()
    assert board.states() == states


def test_what_was_lost_of_what_was_made_is_made_anew(board: Board) -> None:
    # As a power cut, or a Factory's own clean-up, may leave it.
    shutil.rmtree(board.device.path("/var/lib/docker/network"))
    board.device.start_dockerd()
    board.start_well()
    for name in SAMPLES:
        assert obstacles(board, name) == []


def test_apps_run_though_the_device_has_joined_a_lan_with_their_addresses(board: Board) -> None:
    for number in (18, 19, 20):
        board.shell(f"ip link add lan{number} type bridge && ip link set lan{number} up")
        board.shell(f"ip address add 172.{number}.200.7/16 dev lan{number}")
    board.device.start_dockerd()
    board.start_well()
    for name in SAMPLES:
        assert obstacles(board, name) == []
    routes = board.shell("ip route").splitlines()
    # The one that came first hides the other, as docs/preloaded-image.md says.
    assert len([route for route in routes if route.startswith("172.18.0.0/16")]) == 2
