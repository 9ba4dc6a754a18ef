"""`verify` finds whatever is missing or damaged in an image."""

import shutil
import tarfile
from pathlib import Path

import pytest
from preload_image import device_image
from preload_image.device_image import ROOT_START, debugfs, dump
from preload_image.examples import Preloaded, app, preload, preload_well
from preload_image.registry import Registry, archive

VAR = "/ostree/deploy/lmp/var"


@pytest.fixture
def damaged(preloaded: Preloaded, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copy(preloaded.flashed, tmp_path / "damaged.wic"))


def problems(image: Path) -> list[str]:
    """What `verify` complains of; it must."""
    ended = preload("verify", "--json", image)
    assert ended.status == 1
    return list(ended.json["problems"])


def replace(image: Path, path: str, content: bytes, scratch: Path) -> None:
    (scratch / "content").write_bytes(content)
    device_image.put(image, ROOT_START, scratch / "content", path)


def test_a_sound_image_has_a_bill_of_materials(preloaded: Preloaded) -> None:
    ended = preload("verify", preloaded.made)
    assert ended.status == 0
    assert "stores: restorable, docker" in ended.stdout
    assert "default-apps: shop" in ended.stdout
    assert "hub.example.test/factory/telemetry@sha256:" in ended.stdout
    assert ended.stdout.count("in: restorable, docker") == 3


def test_a_damaged_layer_of_the_restorable_store_is_found(damaged: Path, tmp_path: Path) -> None:
    blobs = dump(damaged, ROOT_START, f"{VAR}/sota/reset-apps/blobs", tmp_path / "blobs")
    largest = max(blobs.glob("sha256/*"), key=lambda each: each.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[1000] ^= 1
    path = f"{VAR}/sota/reset-apps/blobs/sha256/{largest.name}"
    replace(damaged, path, bytes(data), tmp_path)
    found = problems(damaged)
    assert found
    assert all("restorable store" in each and "damaged" in each for each in found)


def test_a_missing_blob_of_the_restorable_store_is_found(damaged: Path, tmp_path: Path) -> None:
    blobs = dump(damaged, ROOT_START, f"{VAR}/sota/reset-apps/blobs", tmp_path / "blobs")
    largest = max(blobs.glob("sha256/*"), key=lambda each: each.stat().st_size)
    path = f"{VAR}/sota/reset-apps/blobs/sha256/{largest.name}"
    debugfs(damaged, ROOT_START, f"rm {path}", write=True)
    assert any(f"blob {largest.name} is missing" in each for each in problems(damaged))


def test_a_damaged_file_of_a_layer_in_dockers_store_is_found(damaged: Path, tmp_path: Path) -> None:
    docker = f"{VAR}/lib/docker/overlay2"
    layers = dump(damaged, ROOT_START, docker, tmp_path / "layers")
    second = next(layers.glob("*/diff/etc/second"))
    path = f"{docker}/{second.relative_to(layers)}"
    replace(damaged, path, b"Second", tmp_path)
    found = problems(damaged)
    assert len(found) == 2  # web's, and that of telemetry, which has the same layers
    assert all("docker store" in each and "is damaged" in each for each in found)


def test_a_missing_layer_in_dockers_store_is_found(damaged: Path, tmp_path: Path) -> None:
    records = f"{VAR}/lib/docker/image/overlay2/layerdb/sha256"
    found = dump(damaged, ROOT_START, records, tmp_path / "records")
    chain = next(each.name for each in found.iterdir())
    debugfs(damaged, ROOT_START, f"rm {records}/{chain}/cache-id", write=True)
    assert any("is incomplete" in each for each in problems(damaged))


def test_an_image_that_docker_does_not_know_is_found(damaged: Path, tmp_path: Path) -> None:
    path = f"{VAR}/lib/docker/image/overlay2/repositories.json"
    text = debugfs(damaged, ROOT_START, f"cat {path}")
    replace(damaged, path, text.replace("factory/worker@", "factory/other@").encode(), tmp_path)
    (found,) = problems(damaged)
    assert "docker has no image with this digest" in found


def test_a_changed_file_of_an_app_is_found(damaged: Path, tmp_path: Path) -> None:
    replace(damaged, f"{VAR}/sota/compose-apps/shop/site/index.html", b"other", tmp_path)
    (found,) = problems(damaged)
    assert found == "app shop: site/index.html in compose-apps differs from its bundle"


def test_an_app_that_only_the_restorable_store_has_is_well(damaged: Path) -> None:
    folder = f"{VAR}/sota/compose-apps/telemetry"
    for request in (f"rm {folder}/docker-compose.yml", f"rmdir {folder}"):
        debugfs(damaged, ROOT_START, request, write=True)
    ended = preload("verify", "--json", damaged)
    assert ended.status == 0
    assert [each["ready"] for each in ended.json["apps"]] == [True, False]


def test_an_unknown_name_in_the_shortlist_is_found(damaged: Path, tmp_path: Path) -> None:
    replace(damaged, f"{VAR}/lmp/default-apps", b"shop, shpo\n", tmp_path)
    assert problems(damaged) == ["default-apps names 'shpo', which is not preloaded"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("lib/docker/image/overlay2/repositories.json", "repositories.json is damaged"),
        ("sota/import/installed_versions", "installed_versions is damaged"),
        ("sota/compose-apps/shop/docker-compose.yml", "docker-compose.yml in compose-apps differs"),
    ],
)
@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff\xfe", b'{"Repositories": 1, "services": 2}']
)
def test_a_file_that_holds_something_else_is_found(
    damaged: Path, tmp_path: Path, path: str, message: str, content: bytes
) -> None:
    replace(damaged, f"{VAR}/{path}", content, tmp_path)
    assert any(message in each for each in problems(damaged))


def test_an_image_without_apps_is_not_well(tmp_path: Path) -> None:
    assert problems(device_image.ext4(tmp_path / "in.ext4")) == ["no app is preloaded"]


def test_an_image_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    ended = preload("verify", tmp_path / "nothing.wic")
    assert ended.status == 1
    assert "does not exist" in ended.stderr


@pytest.mark.parametrize("features", ["inline_data", "^extent,^64bit"])
def test_nothing_sound_is_called_damaged(tmp_path: Path, registry: Registry, features: str) -> None:
    secret, closed = tarfile.TarInfo("etc/secret"), tarfile.TarInfo("closed")
    secret.mode, secret.size = 0, 6
    closed.mode, closed.type = 0, tarfile.DIRTYPE
    layer = archive(
        {
            "etc/what?": b"question",
            "etc/st*r [a] {b} \\ #": b"star",
            "etc/tiny": b"t",
            "etc/small": b"s" * 100,
            "etc/empty": b"",
            "etc/secret": (secret, b"secret"),
            "closed": closed,
            "closed/inside": b"inside",
        }
    )
    reference = registry.push_image("factory/odd", {"arm64": [layer]}, index=False)
    folder = app(tmp_path / "odd", f"services:\n  one:\n    image: {reference}\n", **{"a?*b": "x"})
    source = device_image.ext4(tmp_path / "in.ext4", features=features)
    words = ("--app", folder, "--arch", "arm64", "-o", tmp_path / "wh?t*.ext4")
    preload_well("image", source, *words)
    # root, but with none of root's capabilities: as an ordinary user, it may not read mode 0000.
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    ended = preload("verify", tmp_path / "wh?t*.ext4", "--json", prefix=powerless)
    assert ended.status == 0, ended.stderr + ended.stdout
    assert ended.json["stores"] == ["restorable", "docker"]
    device_image.assert_sound((tmp_path / "wh?t*.ext4").rename(tmp_path / "sound.ext4"))
