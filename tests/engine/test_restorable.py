"""Apps and images come back from the restorable store, offline, and aktualizr-lite adopts them.

One device that has nothing but a store, one run; the tests look at it from all sides.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stores
from engine.board import COMPOSE_APPS, Board, Run, contents
from engine.restoring import StoreBoard, busybox, skopeo, store_board
from engine.watch import watching
from stores import DOCKER, HOST, OCI, Builder, MadeImage
from virtual_device import Tree, samples

TYPES = {"oci": OCI, "docker": DOCKER}


@dataclass
class Seen:
    """The board after the run, and what was seen of it."""

    board: StoreBoard
    uris: dict[str, str]
    plan: dict[str, Any]
    run: Run
    loads: list[str]
    names_in_compose_apps: set[str]
    store_before: object


def fill(board: StoreBoard, layer: bytes, source: Builder) -> dict[str, str]:
    """Fill the store in every way; return the uri of each app."""
    store = board.store
    stores.composectls(store.folder.parent)
    uris = {path.parent.parent.name: path.read_text() for path in store.folder.glob("apps/*/*/uri")}
    for kind, types in TYPES.items():
        for shape, platforms in {"manifest": (), "index": ("amd64", "arm64")}.items():
            image = store.image(
                f"factory/{kind}-{shape}",
                [layer, stores.tar([stores.member(kind, b"")])],
                types=types,
                platforms=platforms,
            )
            uris[f"{kind}-{shape}"] = board.put(f"{kind}-{shape}", {"web": image.reference}).uri
    shared = store.image("factory/shared", [layer, stores.tar([stores.member("a", b"shared")])])
    uris["twins"] = board.put("twins", {"a": shared.reference, "b": shared.reference}).uri
    uris["sibling"] = board.put("sibling", {"c": shared.reference}, {"site/a": b"x"}).uri
    unindexed = board.put("unindexed", {"web": shared.reference}, {"b": b"z"})
    assert unindexed.index
    (store.blobs / unindexed.index).unlink()
    uris["unindexed"] = unindexed.uri
    uris["old"] = board.put("old", {"web": shared.reference}, {"b": b"y"}, indexed=False).uri
    versions = [board.put("two", {"web": shared.reference}, {"v": bytes([n])}) for n in range(3)]
    uris["two"] = versions[1].uri
    board.installed({"two": versions[1].uri})
    return uris | fill_by_skopeo(board, layer, source)


def fill_by_skopeo(board: StoreBoard, layer: bytes, source: Builder) -> dict[str, str]:
    copied = source.folder / "reset-apps"
    references = {}
    for kind, options in {
        "skopeo-v2s2": ["--format=v2s2"],
        "skopeo-oci": ["--preserve-digests"],
    }.items():
        image = source.image(f"factory/{kind}", [layer, stores.tar([stores.member(kind, b"")])])
        folder = f"apps/{kind}/copied/images/{HOST}/factory/{kind}"
        digest = skopeo(source, image.reference, copied, folder, *options)
        references[kind] = f"{HOST}/factory/{kind}@{digest}"
    many = source.image("factory/many", [layer], platforms=("amd64", "arm64"))
    for option in ("--multi-arch=index-only", "--override-arch=amd64"):
        folder = f"apps/skopeo-index/copied/images/{option}"
        skopeo(source, many.reference, copied, folder, "--preserve-digests", option)
    references["skopeo-index"] = many.reference
    shutil.copytree(copied, board.store.folder, dirs_exist_ok=True)
    return {kind: board.put(kind, {"web": image}).uri for kind, image in references.items()}


@pytest.fixture(scope="module")
def seen(agent_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    source = Builder(tmp_path_factory.mktemp("source"))
    with store_board(agent_tree) as board:
        uris = fill(board, busybox(agent_tree), source)
        board.device.path(COMPOSE_APPS).mkdir()
        board.device.start_dockerd()
        plan = board.plan()
        before = contents(board.store.folder)
        with watching([board.folder("")]) as watch:
            run = board.start_well()
            names = set(watch.changed())
        yield Seen(board, uris, plan, run, board.loads(), names, before)


APPS = (
    *("oci-manifest", "oci-index", "docker-manifest", "docker-index"),
    *("skopeo-oci", "skopeo-v2s2", "skopeo-index"),
    *("shop", "telemetry"),  # composectl's
    *("twins", "sibling", "old", "unindexed", "two"),
)


@pytest.mark.parametrize("name", APPS)
def test_the_app_runs_and_aktualizr_lite_would_adopt_it(seen: Seen, name: str) -> None:
    assert seen.run.states[name] == "running"
    assert set(seen.board.states(name).values()) == {"running"}
    assert seen.board.obstacles(seen.uris[name]) == []


def test_every_app_of_the_store_was_looked_at(seen: Seen) -> None:
    assert sorted(seen.run.states) == sorted(APPS) == seen.board.compose_apps()


def test_no_image_is_loaded_twice_however_many_use_it(seen: Seen) -> None:
    wanted = {image["reference"] for app in seen.plan["apps"] for image in app["images"]}
    assert sorted(seen.loads) == sorted(each.rpartition("@")[2] for each in wanted)


def test_the_installed_version_of_several_is_put_back(seen: Seen) -> None:
    assert (seen.board.folder("two") / "v").read_bytes() == b"\1"


def test_the_plan_said_where_each_app_comes_from_and_how_large_its_images_are(
    seen: Seen,
) -> None:
    for app in seen.plan["apps"]:
        assert app["source"] == "store"
        assert app["version"] == seen.uris[app["name"]]
        actions = [step["action"] for step in app["steps"]]
        assert actions == ["restore", *["load"] * len(app["images"]), "up"]
        sizes = [step["bytes"] for step in app["steps"] if step["action"] == "load"]
        assert all(size > 500_000 for size in sizes)
        assert not any(image["present"] for image in app["images"])


def test_compose_apps_never_held_anything_but_apps(seen: Seen) -> None:
    assert seen.names_in_compose_apps == set(seen.uris)
    assert not seen.board.left_in_staging()


def test_the_store_is_only_read(seen: Seen) -> None:
    assert contents(seen.board.store.folder) == seen.store_before


def test_an_up_of_aktualizr_lite_creates_nothing_anew(seen: Seen) -> None:
    before = seen.board.lives()
    for name in seen.uris:
        seen.board.up_as_aktualizr_does(name)
    assert seen.board.lives() == before


PRUNE = {"dangling": {"false": True}, "label!": {"aktualizr-no-prune": True}}
"""What aktualizr-lite asks dockerd for after an update. Source: its dockerclient.cc."""


def test_aktualizr_lites_pruning_takes_no_image_from_under_an_app(seen: Seen) -> None:
    board = seen.board
    before = board.lives()
    pruned = board.api._post(
        board.api._url("/images/prune"), params={"filters": json.dumps(PRUNE)}
    ).json()
    assert not pruned["ImagesDeleted"]
    for name, uri in seen.uris.items():
        assert board.obstacles(uri) == [], name
    assert board.lives() == before


def test_a_second_run_loads_nothing_and_calls_no_compose(seen: Seen) -> None:
    board = seen.board
    before, inodes = board.lives(), inodes_of(board)
    board.record_compose_calls()
    run = board.start_well()
    assert board.compose_calls() == []
    assert board.lives() == before
    assert inodes_of(board) == inodes
    assert board.loads() == seen.loads
    assert {app["source"] for app in board.plan()["apps"]} == {"folder"}
    assert len(run.states) == len(seen.uris)


def inodes_of(board: Board) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in board.folder("").rglob("*")}


def test_images_that_are_lost_under_running_containers_come_back(seen: Seen) -> None:
    """They run on, but aktualizr-lite would take down an app without its images."""
    board = seen.board
    before = board.lives("twins")
    board.shell("ctr --namespace moby images ls -q | xargs ctr --namespace moby images rm")
    assert board.obstacles(seen.uris["twins"]) != []
    board.shortlist("twins")
    board.record_compose_calls()
    run = board.start_well()
    assert "is loaded" in run.stderr
    assert board.obstacles(seen.uris["twins"]) == []
    assert board.lives("twins") == before
    assert board.compose_calls() == []


def test_images_that_are_lost_come_back_while_the_folder_stays(seen: Seen) -> None:
    """As after docker's check at boot, which drops the whole image database."""
    board = seen.board
    inodes = inodes_of(board)
    for each in board.containers():
        board.api.remove_container(each["Id"], force=True)
    for image in board.api.images():
        board.api.remove_image(image["Id"], force=True)
    assert not board.resolves(seen.plan["apps"][0]["images"][0]["reference"])
    board.shortlist("twins, sibling")
    board.start_well()
    assert board.obstacles(seen.uris["twins"]) == []
    assert inodes_of(board) == inodes


# Images that only seem to be there


def docker_archive(board: StoreBoard, image: MadeImage, layer: bytes) -> bytes:
    """The image as composectl sends it to a dockerd without LmP's patch."""
    manifest = {"Config": "c", "RepoTags": [image.reference], "Layers": ["l"]}
    config = (board.store.blobs / image.config).read_bytes()
    parts = {"manifest.json": json.dumps([manifest]).encode(), "c": config, "l": layer}
    return stores.tar(stores.member(name, data) for name, data in parts.items())


def test_neither_a_name_nor_another_architecture_passes_for_an_image(agent_tree: Tree) -> None:
    layer = busybox(agent_tree)
    with store_board(agent_tree) as board:
        named = board.store.image("factory/named", [layer], types=DOCKER)
        uri = board.put("named", {"web": named.reference}).uri
        foreign = board.store.image("factory/foreign", [layer], platforms=("arm64", "amd64"))
        board.put("foreign", {"web": foreign.reference})
        board.device.start_dockerd()
        board.api.load_image(docker_archive(board, named, layer))
        (listed,) = board.api.images()
        assert listed["RepoTags"] == [named.reference]  # its digest changed, and no name with it
        assert not board.resolves(named.reference)
        run = board.start()
        assert run.causes == {"foreign": "platform-missing", "named": None}
        assert run.app("foreign")["message"] == (
            f"image {foreign.reference}: only linux/arm64 is in the store, "
            "this device is linux/amd64"
        )
        assert board.obstacles(uri) == []
        assert not board.resolves(foreign.reference)


# The check itself


def test_the_check_of_adoption_can_fail(agent_tree: Tree, images: samples.Preload) -> None:
    with store_board(agent_tree, containerd=False, preload=images) as board:
        reference = images.references["factory/worker"]
        uri = board.put("app", {"web": reference}, {"page": b"x"}).uri
        board.device.start_dockerd()
        assert board.obstacles(uri.replace("app@", "other@")) == ["in_store is false"]
        folder = board.folder("app")
        folder.mkdir(parents=True)
        bundled = samples.publish({"services": {"web": {"image": reference}}}, {})
        (folder / "docker-compose.yml").write_text(bundled)
        assert board.obstacles(uri) == ["bundle_errors: page", "service web is missing"]
        (folder / "page").write_bytes(b"x")
        board.shell(f"cd {COMPOSE_APPS}/app && docker compose create")
        assert board.obstacles(uri) == ["/app-web-1 is created in another way than wanted"]
        board.shell(f"cd {COMPOSE_APPS}/app && docker compose -p else up -d; docker rm app-web-1")
        assert board.obstacles(uri) == ["/else-web-1 is running in another way than wanted"]
        board.shell(f"docker rm -f else-web-1; docker rmi {reference}")
        assert board.obstacles(uri) == [
            f"missing_images: {reference}",
            "service web is missing",
        ]


# A stock dockerd with overlay2


def test_on_a_stock_overlay2_folders_come_back_and_images_are_diagnosed(
    agent_tree: Tree, images: samples.Preload, tmp_path: Path
) -> None:
    with store_board(agent_tree, containerd=False, preload=images) as board:
        fits = board.put("fits", {"web": images.references["factory/worker"]}, {"page": b"x"})
        lost = board.store.image("factory/lost", [busybox(agent_tree)], types=DOCKER)
        board.put("lost", {"web": lost.reference})
        board.device.start_dockerd()
        before, store = board.possessions(), contents(board.store.folder)
        run = board.start()
        assert run.exit_status == 3
        assert run.causes == {"fits": None, "lost": "image-not-loaded"}
        message = run.app("lost")["message"]
        assert message.startswith(
            f"image {lost.reference}: this dockerd keeps images in overlay2 and lacks LmP's patch: "
        )
        assert "containerd image store" in run.app("lost")["hint"]
        assert board.obstacles(fits.uri) == []
        assert contents(board.store.folder) == store
        after = board.possessions()
        assert {key: after.get(key) for key in before} == before
        assert {key for key in after.keys() - before.keys() if key.startswith("image")} == set()
        # And again: it is not made worse.
        lives = board.lives("fits")
        assert board.start().causes == run.causes
        assert board.lives("fits") == lives
