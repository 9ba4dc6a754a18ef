"""Missing app folders are restored as a whole, damaged ones file by file."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
from engine.board import COMPOSE_APPS, contents
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

REPLACED = {
    "compose-file-cut-off": {"docker-compose.yml"},
    "compose-file-empty": {"docker-compose.yml"},
    "page-changed": {"site/index.html"},
    "link-instead": {"site/index.html"},
}
"""What of a damaged folder is another file afterwards; the rest of the damages left a gap."""


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
    board.start_well()
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
        run = board.start_well()
        assert set(watch.changed()) == {"gone"}
    for name, uri in uris.items():
        assert board.obstacles(uri) == [], name
    restored = {line.partition(":")[0] for line in run.lines if "folder put back" in line}
    assert restored == set(DAMAGES)
    assert board.lives("intact") == lives
    assert inodes(board.folder("intact")) == intact
    for name, before in kept.items():
        after = inodes(board.folder(name))
        replaced = {path for path in before if after[path] != before[path]}
        assert replaced == REPLACED.get(name, set()), name
    assert board.compose_apps() == sorted(names)
    assert not board.left_in_staging()
    for name in names:
        before_up = board.lives(name)
        board.up_as_aktualizr_does(name)
        assert board.lives(name) == before_up


def test_a_running_app_is_repaired_under_its_feet(board: StoreBoard) -> None:
    """Its container, its data and a mount in its folder stay, and it sees what was put back."""
    worker = board.references["factory/worker"]
    volumes = ["./site:/site:ro", "./data:/data", "./docker-compose.yml:/single:ro"]
    files = {**FILES, "data/seed": b"seed", "mount/a": b"a", "mount/deep/b": b"b"}
    uri = board.put("shop", {"web": worker}, files, volumes=volumes).uri
    board.device.start_dockerd()
    board.start_well()
    folder = f"{COMPOSE_APPS}/shop"
    board.shell(
        f"cd {folder}; echo precious >data/mine; chown -R 999:998 data; chmod 2770 data;"
        f"chmod 600 data/seed; echo damaged, and longer than it was >data/seed;"
        f"mount -t tmpfs tmpfs {folder}/mount; mkdir mount/deep; echo damaged >mount/deep/b;"
        "echo other >site/index.html; rm -r site/deep; cp docker-compose.yml /run/right;"
        # As a power cut leaves it, and dockerd mounts it: the same file, empty.
        ": >docker-compose.yml"
    )
    lives, before = board.lives(), inodes(board.folder("shop"))
    board.shell("docker exec -d shop-web-1 sh -c 'while true; do echo x >>/data/log; done'")
    board.start_well()
    assert board.obstacles(uri) == []
    assert board.lives() == lives
    after = inodes(board.folder("shop"))
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {"docker-compose.yml", "site/index.html", "mount/deep/b"}
    assert board.shell(f"stat -c '%u:%g %a' {folder}/data {folder}/data/seed").split("\n") == [
        *("999:998 2770", "999:998 600", "")
    ]
    assert (board.folder("shop") / "data/mine").read_text() == "precious\n"
    log = f"{folder}/data/log"
    earlier, later = map(int, board.shell(f"wc -l <{log}; sleep 0.1; wc -l <{log}").split())
    assert 0 < earlier < later
    assert board.shell("docker exec shop-web-1 cat /site/index.html").encode() == PAGE
    assert (
        board.shell(f"ls -A {folder} {folder}/mount {folder}/mount/deep").count("early-start") == 0
    )
    # A single file that a container has mounted is the old one until its next start.
    assert board.shell("docker exec shop-web-1 cat /single") == ""
    board.shell("docker restart -t 0 shop-web-1; docker exec shop-web-1 cmp /single /single")
    right = board.shell("cat /run/right")
    assert board.shell("docker exec shop-web-1 cat /single") == right
    board.shell(f"umount {folder}/mount")


def test_a_file_in_the_place_of_an_apps_folder_is_somebodys_and_stays(board: StoreBoard) -> None:
    worker = board.references["factory/worker"]
    board.put("shop", {"web": worker})
    board.put("other", {"web": worker})
    board.shell(f"mkdir {COMPOSE_APPS}; echo mine >{COMPOSE_APPS}/shop")
    board.device.start_dockerd()
    run = board.start()
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
        run = board.start()
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
    inode = folder.stat().st_ino if there else None
    whole = {name: stores.sha256(data) for name, data in MANY.items()}
    with watching([board.folder("")]) as watch:
        # From the first file in the scratch folder to after the last one is in its place.
        for wanted in ("docker-compose.yml", "site/1/1", "site/30/990", None):
            run = board.begin()
            seen = wait_for(staging / "new" / wanted if wanted else folder / "site/39/1199")
            os.kill(run.process.inner_pid or run.process.pid, signal.SIGKILL)
            assert run.end().exit_status == -signal.SIGKILL
            assert seen
            found = {name: each[2] for name, each in contents(folder).items()}
            if not there and "site/39/1199" not in found:
                assert found == {}  # whole or not at all
            for name in whole.keys() & found.keys():
                assert found[name] == whole[name], name
        board.start_well()
        assert set(watch.changed()) <= {"shop"}
    assert board.obstacles(uri) == []
    assert board.compose_apps() == ["shop"]
    assert not board.left_in_staging()
    assert (folder / "mine").exists() is there
    assert folder.stat().st_ino == inode or not there


def wait_for(path: Path) -> bool:
    """Wait for a file that another process makes; it may be gone again at once."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists():
            return True
    return False
