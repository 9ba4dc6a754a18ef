"""App folders that are missing, damaged or cut off come back whole; intact ones are not touched."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine.board import COMPOSE_APPS, QUICK, contents
from engine.restoring import STAGING, StoreBoard, store_board
from engine.watch import watching
from virtual_device import Tree, samples

PAGE = b"<p>hello</p>\n"
FILES = {"site/index.html": PAGE, "site/deep/er.html": PAGE * 100}
DAMAGES = {
    "gone": "rm -r {}",
    "empty": "rm -r {}/*",
    "compose-file-cut-off": "truncate -s 40 {}/docker-compose.yml",
    "compose-file-empty": ": >{}/docker-compose.yml",
    "page-changed": "echo other >{}/site/index.html",
    "page-gone": "rm {}/site/index.html",
    "folder-gone": "rm -r {}/site/deep",
    "link-instead": "mv {0}/site/index.html {0}/x; ln -s ../x {0}/site/index.html",
}


@pytest.fixture
def board(agent_tree: Tree, images: samples.Preload) -> Iterator[StoreBoard]:
    """A device with the sample images in overlay2, and an empty store."""
    with store_board(agent_tree, containerd=False, preload=images) as board:
        yield board


def inodes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.lstat().st_ino for path in (folder, *folder.rglob("*"))
    }


def test_what_is_damaged_is_put_back_and_what_is_intact_is_not_touched(board: StoreBoard) -> None:
    worker = board.references["factory/worker"]
    names = ("intact", *DAMAGES)
    uris = {name: board.put(name, {"web": worker}, FILES).uri for name in names}
    board.device.path(COMPOSE_APPS).mkdir()
    board.device.start_dockerd()
    board.start_well(env=QUICK)
    lives, intact = board.lives("intact"), inodes(board.folder("intact"))
    for name, damage in DAMAGES.items():
        folder = f"{COMPOSE_APPS}/{name}"
        board.shell(
            f"docker rm -f {name}-web-1; mkdir {folder}/data; echo mine >{folder}/data/mine;"
            f"echo KEY=1 >{folder}/.env"
        )
        board.shell(damage.format(folder))
    kept = {name: inodes(board.folder(name)) for name in DAMAGES if name not in ("gone", "empty")}
    with watching([board.folder("")]) as watch:
        run = board.start_well(env=QUICK)
        assert set(watch.changed()) == set(DAMAGES)
    for name, uri in uris.items():
        assert board.obstacles(uri) == [], name
    restored = {line.partition(":")[0] for line in run.lines if "folder put back" in line}
    assert restored == set(DAMAGES)
    assert board.lives("intact") == lives
    assert inodes(board.folder("intact")) == intact
    for name, before in kept.items():
        after = inodes(board.folder(name))
        for mine in (".env", "data/mine"):
            assert after[mine] == before[mine], name
    assert board.compose_apps() == sorted(names)
    assert not board.left_in_staging()
    for name in names:
        before_up = board.lives(name)
        board.up_as_aktualizr_does(name)
        assert board.lives(name) == before_up


def test_a_running_app_sees_the_files_that_were_put_back(board: StoreBoard) -> None:
    worker = board.references["factory/worker"]
    uri = board.put("shop", {"web": worker}, FILES, volumes=["./site:/site:ro"]).uri
    board.device.start_dockerd()
    board.start_well(env=QUICK)
    board.shell(f"echo other >{COMPOSE_APPS}/shop/site/index.html")
    board.start_well(env=QUICK)
    assert board.obstacles(uri) == []
    shown = board.shell("docker exec shop-web-1 cat /site/index.html")
    assert shown.encode() == PAGE


def test_a_file_in_the_place_of_an_apps_folder_is_somebodys_and_stays(board: StoreBoard) -> None:
    worker = board.references["factory/worker"]
    board.put("shop", {"web": worker})
    board.put("other", {"web": worker})
    board.shell(f"mkdir {COMPOSE_APPS}; echo mine >{COMPOSE_APPS}/shop")
    board.device.start_dockerd()
    run = board.start(env=QUICK)
    assert run.causes == {"other": None, "shop": "folder-not-restored"}
    assert board.folder("shop").read_text() == "mine\n"


def test_too_little_space_for_a_folder_is_found_before_anything_is_written(
    board: StoreBoard,
) -> None:
    worker = board.references["factory/worker"]
    board.shell("mkdir -p /srv/sota && mount -t tmpfs -o size=2m,mode=0700 tmpfs /srv/sota")
    board.shell("mount --move /srv/sota /var/sota && mkdir -p /var/sota/compose-apps")
    board.put("large", {"web": worker}, {"zeros": bytes(4_000_000)})
    small = board.put("small", {"web": worker}, FILES)
    board.device.start_dockerd()
    with watching([board.device.path("/var/sota")]) as watch:
        run = board.start(env=QUICK)
        seen = set(watch.changed())
    assert run.causes == {"large": "no-space", "small": None}
    assert "bytes, " in run.app("large")["message"]
    assert board.compose_apps() == ["small"]
    assert seen <= {Path(STAGING).name, "compose-apps", "reset-apps"}
    assert not board.left_in_staging()
    assert board.obstacles(small.uri) == []


MANY = {f"site/{number % 40}/{number}": PAGE for number in range(1200)}


@pytest.mark.parametrize("there", [False, True], ids=["without a folder", "over a damaged folder"])
def test_a_run_that_is_killed_at_any_moment_is_completed_by_the_next(
    board: StoreBoard, there: bool
) -> None:
    worker = board.references["factory/worker"]
    uri = board.put("shop", {"web": worker}, MANY).uri
    board.device.path(COMPOSE_APPS).mkdir()
    board.device.start_dockerd()
    staging, folder = board.device.path(STAGING), board.folder("shop")
    if there:
        folder.mkdir()
        (folder / "docker-compose.yml").write_text("damaged")
        (folder / "mine").write_text("mine")
    before = contents(folder)
    with watching([board.folder("")]) as watch:
        # From the first file in the scratch folder to after the exchange.
        for wanted in ("docker-compose.yml", "site/1/1", "site/30/990", None):
            run = board.begin(env=QUICK)
            seen = wait_for(staging / "new" / wanted if wanted else folder / "site/39/1199")
            os.kill(run.process.inner_pid or run.process.pid, signal.SIGKILL)
            assert run.end().exit_status == -signal.SIGKILL
            assert seen
            found = contents(folder)
            if "site/39/1199" not in found:
                assert found == before  # whole or not at all
        board.start_well(env=QUICK)
        assert set(watch.changed()) == {"shop"}
    assert board.obstacles(uri) == []
    assert board.compose_apps() == ["shop"]
    assert not board.left_in_staging()
    assert (folder / "mine").exists() is there


def wait_for(path: Path) -> bool:
    """Wait for a file that another process makes; it may be gone again at once."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists():
            return True
    return False
