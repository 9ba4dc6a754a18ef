"""Changing an image that is preloaded already, and preloading all apps of a Target."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from preload_image import device_image
from preload_image.device_image import ROOT_START, dump
from preload_image.examples import Preloaded, app, preload, preload_well
from preload_image.published import published
from preload_image.registry import HOST, Registry, configure_skopeo
from preload_image.test_image import OSTREE_VAR, bill

ALONE = ("--arch", "arm64", "--no-docker-store")
BOTH = ("--arch", "arm64")


def blobs(image: Path, start: int, scratch: Path) -> set[str]:
    folder = dump(image, start, f"{OSTREE_VAR}/sota/reset-apps/blobs", scratch)
    return {each.name for each in folder.glob("sha256/*")}


def test_an_app_is_taken_out_with_all_that_is_its_own(
    tmp_path: Path, preloaded: Preloaded, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No registry is asked: what stays is in the image.
    configure_skopeo(tmp_path / "home", port=1)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ("--remove", "telemetry", *BOTH, "-o", tmp_path / "out.wic")
    preload_well("image", preloaded.flashed, *words)
    made = bill(tmp_path / "out.wic")
    assert [each["name"] for each in made["apps"]] == ["shop"]
    assert made["stores"] == ["restorable", "docker"]
    before = preload_well("verify", "--json", preloaded.flashed).json
    needed = {layer for image in made["apps"][0]["images"] for layer in image["layers"]}
    others = {layer for image in before["apps"][1]["images"] for layer in image["layers"]} - needed
    left = blobs(tmp_path / "out.wic", ROOT_START, tmp_path / "blobs")
    assert {each.removeprefix("sha256:") for each in needed} <= left
    assert not {each.removeprefix("sha256:") for each in others} & left
    device_image.assert_sound(tmp_path / "out.wic", ROOT_START)


def test_an_app_is_replaced_and_another_added(
    tmp_path: Path, shop: Path, images: Mapping[str, str], telemetry: Path
) -> None:
    source = device_image.ext4(tmp_path / "in.ext4", mib=96)
    words = ("--default-apps", "shop", *ALONE)
    preload_well(
        "image", source, "--app", shop, "--app", telemetry, *words, "-o", tmp_path / "one.ext4"
    )
    newer = app(tmp_path / "new/shop", f"services: {{web: {{image: '{images['web']}'}}}}\n")
    added = app(tmp_path / "new/added", f"services: {{web: {{image: '{images['web']}'}}}}\n")
    given = ("--app", newer, "--app", added)
    for target, more in (("two", ("--replace",)), ("fresh", ("--app", telemetry))):
        start = tmp_path / "one.ext4" if target == "two" else source
        preload_well("image", start, *given, *more, *words, "-o", tmp_path / f"{target}.ext4")
    assert bill(tmp_path / "two.ext4")["apps"] == bill(tmp_path / "fresh.ext4")["apps"]
    two, fresh = (blobs(tmp_path / f"{each}.ext4", 0, tmp_path / each) for each in ("two", "fresh"))
    assert two == fresh
    device_image.assert_sound(tmp_path / "two.ext4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the image is preloaded already, with shop, telemetry"),
        (("--remove", "shpo"), "unknown app 'shpo'; the image is preloaded with shop, telemetry"),
        (("--remove", "shop", "--remove", "telemetry"), "there is no app to preload"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, preloaded: Preloaded, words: tuple[str, ...], message: str
) -> None:
    ended = preload("image", preloaded.flashed, *words, *ALONE, "-o", tmp_path / "out.wic")
    assert ended.status == 1
    assert message in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_whole_target_is_preloaded(
    tmp_path: Path, registry: Registry, images: Mapping[str, str]
) -> None:
    uris = {name: published(registry, name, images["web"]) for name in ("one", "two")}
    custom = {"docker_compose_apps": {name: {"uri": uri} for name, uri in uris.items()}}
    document = {"signed": {"targets": {"lmp-7": {"custom": custom}, "lmp-8": {}}}}
    (tmp_path / "targets.json").write_text(json.dumps(document))
    source = device_image.ext4(tmp_path / "in.ext4")
    target = ("--targets", tmp_path / "targets.json", "--target")
    preload_well("image", source, *target, "lmp-7", *ALONE, "-o", tmp_path / "out.ext4")
    assert {each["uri"] for each in bill(tmp_path / "out.ext4")["apps"]} == set(uris.values())
    for name, message in (("lmp-9", "it has lmp-7, lmp-8"), ("lmp-8", "does not say which apps")):
        ended = preload("image", source, *target, name, *ALONE, "-o", tmp_path / "no.ext4")
        assert ended.status == 1
        assert message in ended.stderr
    # The image's own list names the same apps.
    (tmp_path / "versions").write_text(
        json.dumps({"lmp-7": {"is_current": True, "custom": custom}})
    )
    path = f"{OSTREE_VAR}/sota/import/installed_versions"
    device_image.put(source, 0, tmp_path / "versions", path)
    preload_well("image", source, *ALONE, "-o", tmp_path / "own.ext4")
    assert {each["uri"] for each in bill(tmp_path / "own.ext4")["apps"]} == set(uris.values())


def test_a_dry_run_tells_and_writes_nothing(
    tmp_path: Path, preloaded: Preloaded, shop: Path
) -> None:
    assert preloaded.made.is_file()  # it filled the cache
    source = device_image.wic(tmp_path / "in.wic", device_image.ext4(tmp_path / "root"))
    before = {each.name for each in tmp_path.iterdir()}
    words = ("--app", shop, *BOTH, "--dry-run", "-o", tmp_path / "out.wic")
    told = preload_well("image", source, *words).stdout
    assert "root file system: partition 2, labelled 'otaroot'" in told
    assert f"shop  {HOST}/factory/shop@sha256:" in told
    assert f"{HOST}/factory/web@sha256:" in told
    assert "to fetch: 0.0 MB of 0.3 MB; the rest is in the cache" in told
    assert "the image grows by about " in told
    assert {each.name for each in tmp_path.iterdir()} == before


def test_the_bill_of_materials_is_valid_spdx(tmp_path: Path, preloaded: Preloaded) -> None:
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    (tmp_path / "image.spdx.json").write_text(
        preload_well("verify", "--format", "spdx", preloaded.flashed).stdout
    )
    document = parse_file(str(tmp_path / "image.spdx.json"))
    assert validate_full_spdx_document(document) == []
    report = preload_well("verify", "--json", preloaded.flashed).json
    names = {package.name for package in document.packages}
    assert {each["name"] for each in report["apps"]} <= names
    layers = {x for each in report["apps"] for image in each["images"] for x in image["layers"]}
    assert layers
    assert {f"layer {each}" for each in layers} <= names
