"""Devices for the engine tests: the agent is installed once, each device is a fresh one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine.board import Board
from virtual_device import Device, Tree, agent_layer, device_tree, samples

SUITE = os.environ.get("ENGINE_SUITE", "trixie")
"""The Debian suite whose docker and compose the tests run on."""


@pytest.fixture(scope="session")
def agent_tree(package: Path) -> Tree:
    """The device's root file system with the agent installed."""
    return agent_layer(device_tree(SUITE), package)


@pytest.fixture(scope="session")
def images(agent_tree: Tree) -> samples.Preload:
    """The sample images, as the device's docker stores them."""
    return samples.preload(agent_tree)


@pytest.fixture
def board(agent_tree: Tree, images: samples.Preload) -> Iterator[Board]:
    """A fresh device: images preloaded, no apps, dockerd not started."""
    with Device(agent_tree, preload=images.docker) as device:
        yield Board(device, images)


@pytest.fixture(scope="module")
def shared_board(agent_tree: Tree, images: samples.Preload) -> Iterator[Board]:
    """The same, for the tests of a module that look at one run from several sides."""
    with Device(agent_tree, preload=images.docker) as device:
        yield Board(device, images)
