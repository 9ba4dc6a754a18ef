"""If the restorable store is damaged, the affected app is reported and the others start.

One store in which each kind of blob is missing, truncated or changed for one app each, beside apps
that are in order; one run.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import stores
from engine.board import COMPOSE_APPS, Run, contents
from engine.restoring import StoreBoard, busybox, store_board
from engine.watch import watching
from stores import MadeApp, MadeImage, flip, member, remove, truncate
from virtual_device import Tree

ROLES = ("app-manifest", "bundle", "bundle-index", "image-index", "manifest", "config", "layer")


SPOILT: dict[str, Callable[[Path], None]] = {
    "missing": remove,
    "truncated": truncate,
    "changed": flip,
}


def sha_of(role: str, app: MadeApp, image: MadeImage) -> str:
    found = {
        "app-manifest": app.manifest,
        "bundle": app.bundle,
        "bundle-index": app.index,
        "image-index": image.index,
        "manifest": image.manifest,
        "config": image.config,
        "layer": image.layers[1],
    }[role]
    assert found
    return found


def put_spoilt(board: StoreBoard, layer: bytes, role: str, way: str) -> str:
    """Put an app into the store of which one blob is spoilt; return the blob's sha256."""
    name = f"{role}-{way}"
    own = stores.tar([member("own", name.encode() * 5000)])
    image = board.store.image(f"factory/{name}", [layer, own], platforms=("amd64", "arm64"))
    app = board.put(name, {"web": image.reference})
    sha = sha_of(role, app, image)
    SPOILT[way](board.store.blobs / sha)
    return sha


REFUSED_BUNDLES = {
    "leads-out": member("../../evil", b"x"),
    "absolute": member("/evil", b"x"),
    "link-out": member("evil", type=tarfile.SYMTYPE, linkname="/etc"),
    "hard-link": member("evil", type=tarfile.LNKTYPE, linkname="/etc/shadow"),
    "device": member("evil", type=tarfile.BLKTYPE, devmajor=8),
}


@dataclass
class Seen:
    """The board after the run, and what was seen of it."""

    board: StoreBoard
    run: Run
    spoilt: dict[str, str]
    sound: MadeApp
    versions: list[str]
    names_in_compose_apps: set[str]
    store_before: object


@pytest.fixture(scope="module")
def seen(agent_tree: Tree) -> Iterator[Seen]:
    layer = busybox(agent_tree)
    with store_board(agent_tree) as board:
        spoilt = {
            f"{role}-{way}": put_spoilt(board, layer, role, way) for role in ROLES for way in SPOILT
        }
        good = board.store.image("factory/good", [layer])
        sound = board.put("sound", {"web": good.reference}, {"page": b"x"})
        versions = [
            board.put("unclear", {"web": good.reference}, {"v": bytes([n])}).uri for n in range(2)
        ]
        for name, bad in REFUSED_BUNDLES.items():
            bundle = stores.tgz([member("docker-compose.yml", compose(good.reference)), bad])
            hashes = {"docker-compose.yml": stores.sha256(compose(good.reference))}
            board.store.app(name, bundle, hashes)
        # These have the right sha256, but dockerd cannot unpack them: it says so after HTTP 200.
        garbage = board.store.image("factory/garbage", [layer, b"no archive" * 1000])
        board.put("no-archive", {"web": garbage.reference})
        wrong = board.store.image("factory/wrong", [layer], diff_ids=["0" * 64])
        board.put("wrong-diff-id", {"web": wrong.reference})
        board.device.path(COMPOSE_APPS).mkdir()
        board.device.start_dockerd()
        before = contents(board.store.folder)
        with watching([board.folder("")]) as watch:
            run = board.start()
            names = set(watch.changed())
        yield Seen(board, run, spoilt, sound, versions, names, before)


def compose(reference: str) -> bytes:
    return f"services: {{web: {{image: '{reference}'}}}}\n".encode()


DAMAGED = [
    (role, way) for role in ROLES for way in SPOILT if (role, way) != ("bundle-index", "missing")
]


@pytest.mark.parametrize(("role", "way"), DAMAGED)
def test_what_is_damaged_is_named_and_its_app_does_not_run(seen: Seen, role: str, way: str) -> None:
    name = f"{role}-{way}"
    told = seen.run.app(name)
    assert told["state"] == "failed"
    assert told["cause"] == "store-damaged"
    if (role, way) == ("manifest", "missing"):
        # An index names several, any of which would do.
        assert "none of the platforms of its index is in the store" in told["message"]
        assert f"factory/{name}@sha256:" in told["message"]
    else:
        assert seen.spoilt[name] in told["message"]
    assert told["hint"]
    assert seen.board.containers(name) == []


@pytest.mark.parametrize("name", REFUSED_BUNDLES)
def test_a_bundle_that_would_reach_out_is_refused(seen: Seen, name: str) -> None:
    told = seen.run.app(name)
    assert told["cause"] == "store-damaged"
    assert "evil" in told["message"]
    assert not seen.board.folder(name).exists()
    for place in ("/evil", "/var/sota/evil", "/var/evil", f"{COMPOSE_APPS}/evil"):
        assert not seen.board.device.path(place).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("no-archive", "invalid tar header"), ("wrong-diff-id", "wrong diff id")],
)
def test_an_error_in_the_stream_after_http_200_is_a_failure(
    seen: Seen, name: str, words: str
) -> None:
    told = seen.run.app(name)
    assert told["cause"] == "image-not-loaded"
    assert words in told["message"]
    assert seen.board.containers(name) == []


def test_the_apps_that_are_in_order_run(seen: Seen) -> None:
    """A bundle index that is not there is the old way, and no damage."""
    assert seen.run.exit_status == 3
    running = [name for name, state in seen.run.states.items() if state == "running"]
    assert running == ["bundle-index-missing", "sound"]
    assert seen.board.obstacles(seen.sound.uri) == []


def test_of_two_versions_nobody_guesses(seen: Seen) -> None:
    told = seen.run.app("unclear")
    assert told["cause"] == "version-unclear"
    assert all(uri in told["message"] for uri in seen.versions)
    assert "installed_versions" in told["hint"]


def test_nothing_is_left_of_what_failed(seen: Seen) -> None:
    assert not seen.board.left_in_staging()
    # A folder is put back before its image is found to be damaged in mid-load: it is an app.
    assert seen.names_in_compose_apps <= set(seen.run.states)
    assert seen.board.compose_apps() == sorted(seen.names_in_compose_apps)
    assert contents(seen.board.store.folder) == seen.store_before


@pytest.mark.parametrize("name", ["layer-changed", "app-manifest-missing", "no-archive"])
def test_it_is_never_success_with_nothing_running(seen: Seen, name: str) -> None:
    seen.board.shortlist(name)
    run = seen.board.start()
    assert run.exit_status == 1
    assert run.record["state"] == "failed"
    assert run.states == {name: "failed"}
