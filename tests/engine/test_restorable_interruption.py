"""Loading large images: interrupted, without space, and beside apps that need no image."""

import fcntl
import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import stores
from compose_apps_early_start import evidence
from engine.board import COMPOSE_APPS, QUICK, Start, assert_success, limits
from engine.restoring import StoreBoard, busybox, store_board
from engine.watch import watching
from stores import Builder, MadeImage, member
from virtual_device import Tree, samples

MEGABYTES = 100
"""Of the large image: so much that something can happen while it is loaded."""


@dataclass(frozen=True)
class Made:
    """A store on the host with the large image, to be copied to devices."""

    folder: Path
    image: MadeImage


@pytest.fixture(scope="module")
def made(agent_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The layer is stored, not deflated: what is packed is no smaller."""
    builder = Builder(tmp_path_factory.mktemp("large"))
    data = stores.tar([member("data", bytes(range(256)) * (MEGABYTES * 4000))])
    image = builder.image("factory/large", [busybox(agent_tree), data], level=0)
    return Made(builder.folder, image)


class Large:
    """A device with the app `large` in its store, and the app `quick`, whose image is there."""

    def __init__(self, board: StoreBoard, tree: Tree, made: Made) -> None:
        self.board = board
        base = busybox(tree)
        quick = board.store.image("factory/quick", [base])
        self.quick = board.put("quick", {"web": quick.reference})
        board.device.path(COMPOSE_APPS).mkdir()
        self.dockerd = board.device.start_dockerd()
        board.start_well()
        board.api.remove_container("quick-web-1", force=True)
        shutil.copytree(made.folder, board.store.folder, dirs_exist_ok=True)
        self.image = made.image
        self.app = board.put("large", {"web": self.image.reference})

    def begin(self, env: Mapping[str, str] = QUICK) -> Start:
        """Begin a run, and return when it has begun to send the image."""
        run = self.board.begin(env=env)
        run.read_until("large: loading image")
        return run

    def converges(self) -> None:
        """Assert that the next run completes what was begun."""
        self.board.start_well()
        for app in (self.app, self.quick):
            assert self.board.obstacles(app.uri) == []
        assert self.board.compose_apps() == ["large", "quick"]
        assert not self.board.left_in_staging()


@pytest.fixture
def large(agent_tree: Tree, made: Made) -> Iterator[Large]:
    with store_board(agent_tree) as board:
        yield Large(board, agent_tree, made)


@contextmanager
def held_back(file: Path) -> Iterator[None]:
    """Let nobody open `file`: who tries waits for the end of this context, 45 s at most."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel tells that somebody waits
    with file.open("rb") as stream:
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            yield
        finally:
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)


def test_an_app_that_needs_no_image_starts_while_anothers_is_loaded(
    agent_tree: Tree, made: Made
) -> None:
    with store_board(agent_tree) as board:
        board.shell(
            "mkdir /var/sota/reset-apps; mount -t tmpfs tmpfs /var/sota/reset-apps"
        )  # overlayfs knows no leases
        large = Large(board, agent_tree, made)
        run = board.begin()
        with held_back(board.store.blobs / made.image.layers[1]):
            run.read_until("quick: runs")
            assert not board.resolves(made.image.reference)
            assert board.obstacles(large.quick.uri) == []
        assert_success(run.end())
        assert board.obstacles(large.app.uri) == []


def test_a_run_that_is_told_to_end_while_an_image_is_loaded_ends(large: Large) -> None:
    run = large.begin()
    run.process.terminate()
    ended = run.end()
    assert ended.record["state"] == "interrupted"
    assert ended.causes["large"] == "interrupted"
    assert ended.exit_status in (1, 3)  # quick may have settled by then
    assert large.board.containers("large") == []
    large.converges()


def test_it_ends_even_if_dockerd_takes_no_more(large: Large) -> None:
    run = large.begin()
    large.dockerd.send_signal(signal.SIGSTOP)
    run.process.terminate()
    ended = run.end()
    assert ended.record["state"] == "interrupted"
    large.dockerd.send_signal(signal.SIGCONT)
    large.converges()


def test_a_load_that_outlasts_the_run_is_told_and_not_begun_at_each_boot(large: Large) -> None:
    board = large.board
    board.shortlist("large")
    short = QUICK | limits(run=2)
    run = large.begin(short)
    large.dockerd.send_signal(signal.SIGSTOP)
    ended = run.end()
    large.dockerd.send_signal(signal.SIGCONT)
    assert ended.causes == {"large": "run-timeout"}
    assert "s were left of the run, too short to load it" in ended.app("large")["message"]
    assert ended.seconds < 2 + evidence.SECONDS + 8  # dockerd is asked for evidence in vain
    again = board.start(env=short)
    assert again.causes == {"large": "run-timeout"}
    assert "so it is not begun" in again.app("large")["message"]
    assert "large: loading" not in again.stderr
    board.shortlist("large quick")
    large.converges()  # with more time
    assert "large: loading" not in board.start_well(env=short).stderr


def test_a_store_of_dockerds_that_is_read_only_is_told_as_that(large: Large) -> None:
    ingest = "/var/lib/containerd/io.containerd.content.v1.content/ingest"
    large.board.shell(f"mount -t tmpfs -o ro tmpfs {ingest}")
    run = large.board.start()
    assert run.causes == {"large": "read-only", "quick": None}
    assert "read-only file system" in run.app("large")["message"]
    large.board.shell(f"umount {ingest}")
    large.converges()


def test_a_run_that_is_killed_while_an_image_is_loaded_is_completed_by_the_next(
    large: Large,
) -> None:
    with watching([large.board.folder("")]) as watch:
        for _ in range(2):
            run = large.begin()
            run.process.kill()
            assert run.end().exit_status == -signal.SIGKILL
        large.converges()
        assert set(watch.changed()) <= {"large", "quick"}


def test_a_power_cut_while_an_image_is_loaded_is_overcome(large: Large) -> None:
    run = large.begin()
    large.board.device.stop_dockerd(signal.SIGKILL)
    run.process.kill()
    run.end()
    large.board.device.start_dockerd()
    large.converges()


def test_an_image_that_a_power_cut_may_have_torn_is_loaded_again_unless_a_container_uses_it(
    large: Large,
) -> None:
    board, torn = large.board, large.image.reference
    large.converges()
    board.api.remove_container("large-web-1", force=True)
    used = board.containers("quick")[0]["Config"]["Image"]
    before = len(board.loads())
    snapshots = board.device.path("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs")
    (file,) = snapshots.glob("snapshots/*/fs/data")
    file.write_bytes(b"")  # as after the power cut
    unfinished = board.device.path("/var/lib/compose-apps-early-start/unfinished-loads.json")
    unfinished.write_text(json.dumps([torn, used]))
    run = board.start_well()
    assert f"image {torn} may be incomplete after a power cut, it is loaded again" in run.stderr
    assert len(board.loads()) == before + 1
    assert not unfinished.exists()
    (file,) = snapshots.glob("snapshots/*/fs/data")
    assert file.stat().st_size == 256 * MEGABYTES * 4000
    for app in (large.app, large.quick):
        assert board.obstacles(app.uri) == []


def test_a_dockerd_that_is_killed_while_it_loads_is_waited_for(large: Large) -> None:
    run = large.begin()
    large.board.device.stop_dockerd(signal.SIGKILL)
    large.board.device.start_dockerd()
    assert_success(run.end())
    assert large.board.obstacles(large.app.uri) == []


def test_too_little_space_for_an_image_is_found_before_anything_is_sent(
    agent_tree: Tree, made: Made
) -> None:
    with store_board(agent_tree) as board:
        # containerd.service's own folder, not docker's.
        board.shell("mount -t tmpfs -o size=64m tmpfs /var/lib/containerd")
        large = Large(board, agent_tree, made)
        before = {each["Id"] for each in board.api.images()}
        run = board.start()
        assert run.exit_status == 3
        assert run.causes == {"large": "no-space", "quick": None}
        message = run.app("large")["message"]
        assert f"image {large.image.reference} needs 2" in message  # packed and unpacked
        assert "MB in /var/lib/containerd, " in message
        assert {each["Id"] for each in board.api.images()} == before
        assert "large: loading" not in run.stderr
        # And if it becomes too little meanwhile, dockerd's words are heard.
        board.shell("mount -o remount,size=400m /var/lib/containerd")
        began = large.begin()
        board.shell("mount -o remount,size=150m /var/lib/containerd")
        run = began.end()
        assert run.causes == {"large": "no-space", "quick": None}
        assert "no space left on device" in run.app("large")["message"]


def test_on_overlay2_too_the_space_is_checked_before(
    agent_tree: Tree, images: samples.Preload, made: Made
) -> None:
    with store_board(agent_tree, containerd=False, preload=images) as board:
        shutil.copytree(made.folder, board.store.folder, dirs_exist_ok=True)
        board.put("large", {"web": made.image.reference})
        board.shell("mount -t tmpfs -o size=64m,mode=0710 tmpfs /var/lib/docker")
        board.device.start_dockerd()
        run = board.start()
        assert run.exit_status == 1
        assert run.causes == {"large": "no-space"}
        assert run.record["state"] == "failed"
        # What dockerd refuses before its HTTP 200.
        board.shell(
            "mount -o remount,size=1g /var/lib/docker;"
            "mount -t tmpfs -o ro tmpfs /var/lib/docker/tmp"
        )
        run = board.start()
        assert run.causes == {"large": "read-only"}
        board.shell("umount /var/lib/docker/tmp")
