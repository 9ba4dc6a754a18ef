"""Apps of local folders are made as publishing makes them; published ones are taken as they are."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from compose_apps_preload.errors import PreloadError
from compose_apps_preload.image import app as apps
from compose_apps_preload.image import skopeo
from preload_image.given import app
from preload_image.registry import HOST, Registry


@pytest.fixture(autouse=True)
def _registry(images: Mapping[str, str]) -> None:
    """All of these ask a registry."""


def compose(made: apps.App) -> dict[str, dict[str, dict[str, object]]]:
    return dict(yaml.load(made.compose_file, Loader=yaml.BaseLoader))


def test_images_are_pinned_to_what_their_registry_has(
    shop: Path, images: Mapping[str, str]
) -> None:
    made = apps.from_folder(shop)
    assert dict(made.services) == {"web": images["web"], "worker": images["worker"]}


def test_each_service_has_a_hash_of_its_own(shop: Path) -> None:
    services = compose(apps.from_folder(shop))["services"]
    hashes = {
        dict(service["labels"])["io.compose-spec.config-hash"]  # type: ignore[call-overload]
        for service in services.values()
    }
    assert len(hashes) == 2
    assert all(len(each) == 64 for each in hashes)


def test_values_come_out_as_they_went_in(shop: Path) -> None:
    # PyYAML takes the first for 1342 minutes and the second for a truth value; compose does not.
    text = apps.from_folder(shop).compose_file.decode()
    assert "- 22:22\n" in text
    assert 'SHOP: "on"' in text


def test_labels_behind_a_shared_anchor_stay_apart(tmp_path: Path) -> None:
    folder = app(
        tmp_path / "anchored",
        f"services:\n  one: &one\n    image: {HOST}/factory/web\n    labels: &all [a=b]\n"
        f"  two: *one\n  three:\n    image: {HOST}/factory/worker\n    labels: *all\n",
    )
    services = compose(apps.from_folder(folder))["services"]
    for name in ("one", "two", "three"):
        labels = dict(services[name]["labels"])  # type: ignore[call-overload]
        assert labels.pop("io.compose-spec.config-hash")
        assert labels == {"a": "b"}


def test_the_same_files_make_the_same_app(tmp_path: Path, shop: Path) -> None:
    copy = app(tmp_path / "shop", (shop / "docker-compose.yml").read_text())
    (copy / "site").mkdir(mode=0o700)
    (copy / "site/index.html").write_text("shop")
    os.utime(copy / "site/index.html", (1, 1))
    assert apps.from_folder(copy).uri == apps.from_folder(shop).uri


def test_a_change_makes_another_version(tmp_path: Path, shop: Path) -> None:
    copy = app(tmp_path / "shop", (shop / "docker-compose.yml").read_text(), more="more")
    assert apps.from_folder(copy).uri != apps.from_folder(shop).uri


def test_what_composeappignores_names_is_left_out(tmp_path: Path, shop: Path) -> None:
    folder = app(
        tmp_path / "ignoring",
        (shop / "docker-compose.yml").read_text(),
        **{".composeappignores": "# sources\n*.c\n**/*.o\nsrc/\n!keep.c\n"},
        **{"keep.c": "", "main.c": "", "README": ""},
    )
    (folder / "src/deep").mkdir(parents=True)
    (folder / "src/deep/a").write_text("")
    (folder / "lib").mkdir()
    (folder / "lib/a.o").write_text("")
    apps.unpack(apps.from_folder(folder), tmp_path / "out")
    found = {str(each.relative_to(tmp_path / "out")) for each in (tmp_path / "out").rglob("*")}
    assert found == {"docker-compose.yml", "keep.c", "README", "lib"}


def test_a_link_in_a_folder_is_refused(tmp_path: Path, shop: Path) -> None:
    folder = app(tmp_path / "linking", (shop / "docker-compose.yml").read_text())
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(PreloadError, match="link is neither a file nor a folder"):
        apps.from_folder(folder)


def test_a_published_app_is_the_same_app(registry: Registry, shop: Path, tmp_path: Path) -> None:
    local = apps.from_folder(shop)
    uri = registry.push_app("shop", local.manifest, local.blobs)
    assert uri == local.uri
    for reference in (uri, f"{HOST}/factory/shop:latest"):
        published = apps.load(reference, tmp_path)
        assert published.uri == uri
        assert published.services == local.services
        assert set(published.blobs) == set(local.blobs)


def test_the_manifest_names_bundle_and_index(shop: Path) -> None:
    made = apps.from_folder(shop)
    assert hashlib.sha256(made.manifest).hexdigest() == made.sha256
    document = yaml.safe_load(made.manifest)
    (layer,) = document["layers"]
    held = {skopeo.digest_of(blob) for blob in made.blobs}
    assert document["annotations"] == {"compose-app": "v1"}
    assert {layer["digest"], layer["annotations"]["org.foundries.app.bundle.index.digest"]} <= held
