"""What `image` writes into an image: apps, both stores, the shortlist, and the finished file."""

import gzip
import json
import random
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start.store import Store
from preload_image import device_image
from preload_image.device_image import ROOT_START, debugfs, dump
from preload_image.examples import Preloaded, app, preload, preload_well
from preload_image.published import published
from preload_image.registry import HOST, Registry, archive

BLOCK = 4096
OSTREE_VAR = "/ostree/deploy/lmp/var"


def bill(image: Path) -> dict[str, Any]:
    """What `verify` finds in an image; all must be well."""
    return preload_well("verify", "--json", image).json


def test_a_plain_ext4_image_gets_the_apps_and_a_store_that_the_agent_reads(
    tmp_path: Path, shop: Path, telemetry: Path
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    made = tmp_path / "out.ext4"
    words = ("--app", shop, "--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", made)
    device_image.assert_sound(made)
    sota = dump(made, 0, "/var/sota", tmp_path / "found")
    assert (sota / "compose-apps/shop/site/index.html").read_text() == "shop"
    assert (sota / "keep").read_text() == "what the image build left\n"
    store = Store(sota / "reset-apps")
    assert set(store.versions()) == {"shop", "telemetry"}
    (version,) = store.versions()["shop"]
    manifest = store.manifest(version)
    assert manifest.index
    assert set(store.index(version, manifest.index)) == {"docker-compose.yml", "site/index.html"}


def test_a_disk_with_a_gpt_gets_both_stores_for_another_architecture(preloaded: Preloaded) -> None:
    device_image.assert_sound(preloaded.flashed, ROOT_START)
    found = bill(preloaded.made)
    assert found["stores"] == ["restorable", "docker"]
    assert found["var"] == OSTREE_VAR
    images = [image for each in found["apps"] for image in each["images"]]
    assert len(images) == 3
    for image in images:
        assert image["architecture"] == "arm64"
        assert image["stores"] == ["restorable", "docker"]


def test_the_input_is_not_modified(preloaded: Preloaded) -> None:
    assert device_image.sha256(preloaded.source) == preloaded.source_sha256


def test_what_bmaptool_writes_is_the_image_wherever_it_matters(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.wic"
    raw.write_bytes(gzip.decompress(preloaded.made.read_bytes()))
    ways = []
    for number, image in enumerate((raw, preloaded.flashed)):
        device_image.assert_sound(image, ROOT_START)
        sota = dump(image, ROOT_START, f"{OSTREE_VAR}/sota", tmp_path / f"sota-{number}")
        ways.append({str(each.relative_to(sota)) for each in sota.rglob("*")})
        assert preload_well("verify", image).status == 0
    assert ways[0] == ways[1]


def test_other_partitions_stay_as_they_were(preloaded: Preloaded) -> None:
    with preloaded.source.open("rb") as before, preloaded.flashed.open("rb") as after:
        before.seek(2048 * 512)
        after.seek(2048 * 512)
        assert before.read(1800) == after.read(1800)


def test_the_shortlist_is_written(preloaded: Preloaded) -> None:
    assert debugfs(preloaded.flashed, ROOT_START, f"cat {OSTREE_VAR}/lmp/default-apps") == "shop\n"


def test_dockers_files_keep_owners_links_attributes_and_whiteouts(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    def said(request: str, path: str) -> str:
        return debugfs(preloaded.flashed, ROOT_START, f'{request} "{path}"')

    docker = f"{OSTREE_VAR}/lib/docker/overlay2"
    folders = dump(preloaded.flashed, ROOT_START, docker, tmp_path / "docker")
    first, second = _layers(folders, docker)
    assert "Type: directory    Mode:  02750" in said("stat", f"{first}/home/user")
    assert "User:  1000   Group:  1000" in said("stat", f"{first}/home/user")
    assert "Links: 2" in said("stat", f"{first}/bin/ash")
    assert "security.capability" in said("stat", f"{first}/bin/ping")
    assert 'Fast link dest: "busybox"' in said("stat", f"{first}/bin/sh")
    assert "Type: character special" in said("stat", f"{second}/etc/hidden")


def test_a_second_run_takes_the_very_same_store_of_docker_from_the_cache(
    preloaded: Preloaded, tmp_path: Path, shop: Path, telemetry: Path
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    words = ("--app", telemetry, "--app", shop, "--arch", "arm64", "-o", tmp_path / "out.ext4")
    told = preload_well("image", source, *words).stderr
    assert "taking docker's store from the cache" in told
    assert "docker pull" not in told
    first = _store(preloaded.flashed, ROOT_START, OSTREE_VAR)
    assert _store(tmp_path / "out.ext4", 0, "/var") == first


def _store(image: Path, start: int, var: str) -> str:
    """The digest of docker's store with all metadata of its files, as a device mounts it."""
    script = (
        'mount -o "loop,ro,noload,offset=$2" "$1" /mnt && cd "/mnt$3/lib/docker" && '
        'stat --format "%a %u %g" . && '
        "tar --sort=name --acls --xattrs --xattrs-include=* --format=posix "
        "--pax-option=delete=atime,delete=ctime --create image overlay2 | sha256sum"
    )
    argv = ["unshare", "--mount", "sh", "-ec", script, "sh", str(image), str(start), var]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _layers(folders: Path, docker: str) -> tuple[str, str]:
    """The folders of the first and the second layer of the web image, as the device has them."""
    second = next(each.parents[2].name for each in folders.glob("*/diff/etc/second"))
    first = next(each.parents[2].name for each in folders.glob("*/diff/bin/busybox"))
    return f"{docker}/{first}/diff", f"{docker}/{second}/diff"


@pytest.mark.parametrize("table", ["mbr", "logical"])
def test_a_disk_with_an_mbr_is_preloaded_and_grown(
    tmp_path: Path, telemetry: Path, table: str
) -> None:
    source = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"), table)
    made = tmp_path / "out.wic"
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", made)
    assert made.stat().st_size > source.stat().st_size
    device_image.assert_sound(made, ROOT_START)
    assert bill(made)["stores"] == ["restorable"]


def test_a_compressed_image_is_preloaded(tmp_path: Path, telemetry: Path) -> None:
    raw = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"))
    source = tmp_path / "in.wic.gz"
    source.write_bytes(gzip.compress(raw.read_bytes(), 1))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    assert bill(tmp_path / "out.wic")["stores"] == ["restorable"]
    flashed = device_image.flash(tmp_path / "out.wic", tmp_path / "flashed")
    device_image.assert_sound(flashed, ROOT_START)


def test_blocks_of_zeros_that_a_file_uses_are_written_to_the_device(
    tmp_path: Path, telemetry: Path
) -> None:
    root = device_image.ext4(tmp_path / "root")
    (tmp_path / "content").write_bytes(b"x" * 40960)
    device_image.put(root, 0, tmp_path / "content", "/etc/zeros")
    with root.open("r+b") as stream:
        # As a program on a mounted file system leaves it: tools that copy files make holes.
        for block in debugfs(root, 0, "blocks /etc/zeros").split():
            stream.seek(int(block) * BLOCK)
            stream.write(bytes(BLOCK))
    source = tmp_path / "in.wic.gz"
    source.write_bytes(gzip.compress(device_image.wic(tmp_path / "in.wic", root).read_bytes(), 1))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic.gz")
    flashed = device_image.flash(tmp_path / "out.wic.gz", tmp_path / "flashed")
    assert debugfs(flashed, ROOT_START, "cat /etc/zeros") == "\0" * 40960


def test_apps_of_type_compose_have_their_images_in_dockers_store_only(
    tmp_path: Path, telemetry: Path
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", ostree=False)
    words = ("--app", telemetry, "--arch", "arm64", "--app-type", "compose")
    preload_well("image", source, *words, "-o", tmp_path / "out.ext4")
    assert bill(tmp_path / "out.ext4")["stores"] == ["docker"]
    sota = dump(tmp_path / "out.ext4", 0, "/var/sota", tmp_path / "found")
    assert not (sota / "reset-apps").exists()


def test_free_space_is_counted(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", mib=160)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.ext4")
    assert (tmp_path / "out.ext4").stat().st_size == source.stat().st_size


def test_an_image_on_disk_is_sparse(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", mib=160)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.ext4")
    found = (tmp_path / "out.ext4").stat()
    assert found.st_blocks * 512 < found.st_size / 10


def test_large_files_make_the_file_system_grow(
    tmp_path: Path, registry: Registry, telemetry: Path
) -> None:
    layer = archive({"data": random.Random(1).randbytes(80_000_000)})
    reference = registry.push_image("factory/large", {"arm64": [layer]}, index=False)
    large = app(tmp_path / "large", f"services:\n  one:\n    image: {reference}\n")
    source = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"))
    words = ("--app", telemetry, "--app", large, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    device_image.assert_sound(tmp_path / "out.wic", ROOT_START)
    assert bill(tmp_path / "out.wic")["problems"] == []


def test_the_partition_labelled_otaroot_is_taken_before_the_last(
    tmp_path: Path, telemetry: Path
) -> None:
    source = device_image.two_roots(tmp_path / "in.wic", labels=("otaroot", "data"))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    assert "compose-apps" in debugfs(tmp_path / "out.wic", ROOT_START, f"ls {OSTREE_VAR}/sota")


def test_without_a_label_the_last_ext4_is_taken(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.two_roots(tmp_path / "in.wic", labels=("data", "root"))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    assert "compose-apps" not in debugfs(tmp_path / "out.wic", ROOT_START, f"ls {OSTREE_VAR}/sota")
    assert bill(tmp_path / "out.wic")["problems"] == []


def test_the_version_of_the_apps_is_told_to_aktualizr_lite(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", mib=160)
    target = {"lmp-1": {"is_current": True, "custom": {"docker_compose_apps": {}}}}
    (tmp_path / "versions").write_text(json.dumps(target))
    device_image.put(
        source, 0, tmp_path / "versions", f"{OSTREE_VAR}/sota/import/installed_versions"
    )
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.ext4")
    text = debugfs(tmp_path / "out.ext4", 0, f"cat {OSTREE_VAR}/sota/import/installed_versions")
    (found,) = bill(tmp_path / "out.ext4")["apps"]
    apps = json.loads(text)["lmp-1"]["custom"]["docker_compose_apps"]
    assert apps == {"telemetry": {"uri": found["uri"]}}


def test_a_factorys_configuration_names_the_apps(
    tmp_path: Path, shop: Path, telemetry: Path
) -> None:
    config = tmp_path / "factory-config.yml"
    config.write_text(
        "containers:\n  preloaded_images:\n    enabled: true\n    shortlist: telemetry\n"
        "  tagging:\n    refs/heads/devel:\n      - tag: devel\n"
    )
    source = device_image.ext4(tmp_path / "in.ext4")
    words = ("--app", shop, "--app", telemetry, "--arch", "arm64", "--no-docker-store")
    chosen = ("--factory-config", config, "--ref", "refs/heads/devel", "--build", "containers")
    preload_well("image", source, *words, *chosen, "-o", tmp_path / "out.ext4")
    found = bill(tmp_path / "out.ext4")["apps"]
    assert [each["name"] for each in found] == ["telemetry"]


def test_a_finished_image_replaces_an_older_one(
    tmp_path: Path, telemetry: Path, images: Mapping[str, str]
) -> None:
    assert images
    source = device_image.ext4(tmp_path / "in.ext4")
    (tmp_path / "out.ext4").write_text("older")
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.ext4")
    assert bill(tmp_path / "out.ext4")["problems"] == []


def test_without_dockers_store_no_privilege_is_needed(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    # root, but with none of root's capabilities: no mounts, no devices, no foreign owners.
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    made = preload("image", source, *words, "-o", tmp_path / "out.wic", prefix=powerless)
    assert made.status == 0, made.stderr
    assert preload("verify", tmp_path / "out.wic", prefix=powerless).status == 0


@pytest.mark.parametrize("ending", ["xz", "zst"])
def test_other_compressions_are_written_and_read(
    tmp_path: Path, telemetry: Path, ending: str
) -> None:
    raw = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"))
    source = tmp_path / f"in.wic.{ending}"
    with source.open("wb") as stream:
        program = {"xz": "xz", "zst": "zstd"}[ending]
        subprocess.run([program, "-1", "-c", raw], stdout=stream, check=True)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    made = tmp_path / f"out.wic.{ending}"
    preload_well("image", source, *words, "-o", made)
    assert bill(made)["stores"] == ["restorable"]
    device_image.assert_sound(device_image.flash(made, tmp_path / "flashed"), ROOT_START)


def test_holes_outside_the_root_file_system_are_written_to_the_device(
    tmp_path: Path, telemetry: Path
) -> None:
    source = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    # The disk was full of ones; zeros of a boot partition are as good as its other bytes.
    flashed = device_image.flash(tmp_path / "out.wic", tmp_path / "flashed")
    with flashed.open("rb") as after, (tmp_path / "out.wic").open("rb") as made:
        assert after.read(ROOT_START) == made.read(ROOT_START)


def test_a_partition_may_be_named(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.two_roots(tmp_path / "in.wic", labels=("one", "two"))
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store", "--partition", "1")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    assert "compose-apps" in debugfs(tmp_path / "out.wic", ROOT_START, f"ls {OSTREE_VAR}/sota")


def test_the_partition_with_the_deployment_is_taken_before_the_last(
    tmp_path: Path, telemetry: Path
) -> None:
    source = device_image.two_roots(tmp_path / "in.wic", labels=("one", "two"), second_ostree=False)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    preload_well("image", source, *words, "-o", tmp_path / "out.wic")
    assert "compose-apps" in debugfs(tmp_path / "out.wic", ROOT_START, f"ls {OSTREE_VAR}/sota")


def test_the_space_that_is_asked_for_stays_free(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4")
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store", "--spare", "300M")
    preload_well("image", source, *words, "-o", tmp_path / "out.ext4")
    (free,) = re.findall(r"Free blocks: +(\d+)", debugfs(tmp_path / "out.ext4", 0, "stats -h"))
    assert 300 << 20 <= int(free) * 4096 < 340 << 20


def test_published_apps_are_preloaded_by_tag_and_by_digest(
    tmp_path: Path, registry: Registry, images: Mapping[str, str]
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4")
    uris = [published(registry, name, images["web"]) for name in ("by-tag", "by-digest")]
    apps = ("--app", f"{HOST}/factory/by-tag:latest", "--app", uris[1])
    preload_well("image", source, *apps, "--arch", "arm64", "-o", tmp_path / "out.ext4")
    made = bill(tmp_path / "out.ext4")
    assert made["problems"] == []
    assert {each["uri"] for each in made["apps"]} == set(uris)
    assert made["stores"] == ["restorable", "docker"]
    folder = dump(tmp_path / "out.ext4", 0, f"{OSTREE_VAR}/sota/compose-apps", tmp_path / "apps")
    assert (folder / "by-tag/Q&A.html").read_bytes() == b"<p>"
