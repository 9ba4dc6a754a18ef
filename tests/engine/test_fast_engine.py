"""With fast-engine, crun runs the containers; without it again, runc runs the same ones."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine.board import Board
from engine.conftest import SUITE
from engine.test_adoption import adopted
from virtual_device import Device, Tree, samples
from virtual_device.archive import unpacked
from virtual_device.device import ENVIRONMENT

FOLDER = "/usr/libexec/compose-apps-early-start/fast-engine"
SAMPLES = ("debug-tools", "shop", "telemetry")


@pytest.fixture
def board(
    agent_tree: Tree, images: samples.Preload, packages: Path, tmp_path: Path
) -> Iterator[Board]:
    """A device with crun and the option package."""
    (package,) = packages.glob("*-fast-engine_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    crun = unpacked(SUITE, "crun", "libblake3-0|libjson-c5|libyajl2")
    with Device(
        replace(agent_tree, layers=(tmp_path, crun, *agent_tree.layers)), preload=images.docker
    ) as device:
        yield Board(device, images)


def runtimes(board: Board) -> set[str]:
    """Which programs hold the state of the containers that run: each has files of its own."""
    files = board.shell("cd /run/docker/runtime-runc/moby; ls */status */state.json 2>&- || true")
    names = {"status": "crun", "state.json": "runc"}
    assert len(files.split()) == list(board.states().values()).count("running")
    return {names[file.partition("/")[2]] for file in files.split()}


def stop_engine(board: Board) -> None:
    board.device.stop_dockerd()
    board.shell("pkill -x containerd; while pgrep -x containerd; do sleep 0.1; done")


def test_crun_runs_what_runc_can_go_on_with(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.preload_sample(*SAMPLES)
    with monkeypatch.context() as patched:
        # What the generator's drop-ins do.
        patched.setitem(ENVIRONMENT, "PATH", f"{FOLDER}:{ENVIRONMENT['PATH']}")
        board.device.start_dockerd()
        board.start_well()
        assert runtimes(board) == {"crun"}
        assert {each["HostConfig"]["Runtime"] for each in board.containers()} == {"runc"}
        first = adopted(board, SAMPLES)
        assert board.shell("docker exec telemetry-collector-1 echo inside") == "inside\n"
        board.shell("docker restart --time 1 telemetry-collector-1")
        stop_engine(board)
    board.device.start_dockerd()
    board.start_well()
    assert runtimes(board) == {"runc"}
    assert set(board.lives()) == set(first)
