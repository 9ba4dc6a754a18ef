"""Apps from local folders become what publishing makes of them; published ones stay unchanged."""

import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from compose_apps_preload.errors import PreloadError
from compose_apps_preload.image import app as apps
from compose_apps_preload.image import oci, platforms
from compose_apps_preload.image.cache import Cache
from compose_apps_preload.image.skopeo import Registries, digest_of
from preload_image.examples import app
from preload_image.published import published
from preload_image.registry import HOST, Registry

Make = Callable[..., apps.App]


@pytest.fixture(autouse=True)
def _registry(images: Mapping[str, str]) -> None:
    """All of these ask a registry."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes an app of a folder or a reference, with variables."""
    cache = Cache(tmp_path / "cache")

    def made(source: Path | str, **variables: str) -> apps.App:
        scratch = tmp_path / f"blobs-{len(list(tmp_path.glob('blobs-*')))}"
        return apps.load(str(source), scratch, Registries(cache), variables)

    with cache.locked():
        yield made


def compose_of(made: apps.App) -> dict[str, dict[str, dict[str, object]]]:
    return dict(yaml.load(made.compose_file, Loader=yaml.BaseLoader))


def test_images_are_pinned_to_what_their_registry_has(
    make: Make, shop: Path, images: Mapping[str, str]
) -> None:
    made = make(shop)
    assert dict(made.services) == {"web": images["web"], "worker": images["worker"]}


def test_each_service_has_a_hash_of_its_own(make: Make, shop: Path) -> None:
    services = compose_of(make(shop))["services"]
    hashes = {
        dict(service["labels"])["io.compose-spec.config-hash"]  # type: ignore[call-overload]
        for service in services.values()
    }
    assert len(hashes) == 2
    assert all(len(each) == 64 for each in hashes)


def test_values_come_out_as_they_went_in(make: Make, shop: Path) -> None:
    # PyYAML takes the first for 1342 minutes and the second for a truth value; compose does not.
    text = make(shop).compose_file.decode()
    assert "- 22:22\n" in text
    assert 'SHOP: "on"' in text


def test_labels_behind_a_shared_anchor_stay_apart(make: Make, tmp_path: Path) -> None:
    folder = app(
        tmp_path / "anchored",
        f"services:\n  one: &one\n    image: {HOST}/factory/web\n    labels: &all [a=b]\n"
        f"  two: *one\n  three:\n    image: {HOST}/factory/worker\n    labels: *all\n",
    )
    services = compose_of(make(folder))["services"]
    for name in ("one", "two", "three"):
        labels = dict(services[name]["labels"])  # type: ignore[call-overload]
        assert labels.pop("io.compose-spec.config-hash")
        assert labels == {"a": "b"}


def test_the_same_files_make_the_same_app(make: Make, tmp_path: Path, shop: Path) -> None:
    copy = app(tmp_path / "shop", (shop / "docker-compose.yml").read_text())
    (copy / "site").mkdir(mode=0o700)
    (copy / "site/index.html").write_text("shop")
    os.utime(copy / "site/index.html", (1, 1))
    assert make(copy).uri == make(shop).uri


def test_a_change_makes_another_version(make: Make, tmp_path: Path, shop: Path) -> None:
    copy = app(tmp_path / "shop", (shop / "docker-compose.yml").read_text(), more="more")
    assert make(copy).uri != make(shop).uri


def test_what_composeappignores_names_is_left_out(make: Make, tmp_path: Path, shop: Path) -> None:
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
    apps.unpack(make(folder), tmp_path / "out")
    found = {str(each.relative_to(tmp_path / "out")) for each in (tmp_path / "out").rglob("*")}
    assert found == {"docker-compose.yml", "keep.c", "README", "lib"}


def test_a_link_out_of_a_folder_is_refused(make: Make, tmp_path: Path, shop: Path) -> None:
    folder = app(tmp_path / "linking", (shop / "docker-compose.yml").read_text())
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(PreloadError, match="the link link points outside the app's folder"):
        make(folder)


def test_a_link_within_a_folder_is_kept(make: Make, tmp_path: Path, shop: Path) -> None:
    folder = app(tmp_path / "linking", (shop / "docker-compose.yml").read_text(), real="real")
    (folder / "link").symlink_to("real")
    apps.unpack(make(folder), tmp_path / "out")
    assert (tmp_path / "out/link").readlink() == Path("real")


def test_a_published_app_is_the_same_app(make: Make, registry: Registry, shop: Path) -> None:
    local = make(shop)
    blobs = [file.read_bytes() for file in local.blobs.values()]
    uri = registry.push_app("shop", local.manifest.read_bytes(), blobs)
    assert uri == local.uri
    for reference in (uri, f"{HOST}/factory/shop:latest"):
        fetched = make(reference)
        assert fetched.uri == uri
        assert fetched.services == local.services
        assert set(fetched.blobs) == set(local.blobs)


@pytest.mark.parametrize("index", ["as Go writes it", "as nobody writes it", "without one"])
def test_an_app_that_composectl_published_is_fetched(
    make: Make, registry: Registry, images: Mapping[str, str], index: str
) -> None:
    uri = published(registry, "asked", images["web"], index=index)
    for reference in (uri, f"{HOST}/factory/asked:latest"):
        fetched = make(reference)
        assert fetched.uri == uri
        assert dict(fetched.services) == {"web": images["web"]}
        # composectl has the index beside the rest; the device's reading asks for it.
        assert len(fetched.blobs) == (3 if index == "without one" else 4)


def test_the_manifest_names_bundle_and_index(make: Make, shop: Path) -> None:
    made = make(shop)
    assert hashlib.sha256(made.manifest.read_bytes()).hexdigest() == made.sha256
    document = yaml.safe_load(made.manifest.read_bytes())
    (layer,) = document["layers"]
    held = {digest_of(file.read_bytes()) for file in made.blobs.values()}
    assert held == set(made.blobs)
    assert document["annotations"] == {"compose-app": "v1"}
    assert {layer["digest"], layer["annotations"]["org.foundries.app.bundle.index.digest"]} <= held


def test_an_image_may_be_named_by_variables(
    make: Make, tmp_path: Path, images: Mapping[str, str]
) -> None:
    compose = f"""services:
  web:
    image: {HOST}/${{FACTORY}}/${{NAME:-web}}:${{TAG}}
    labels: {{from: "${{FACTORY}}"}}
"""
    dotenv = "FACTORY=other\nexport TAG='latest' # newest\n"
    folder = app(tmp_path / "varying", compose, **{".env": dotenv})
    made = make(folder, FACTORY="factory")
    assert dict(made.services) == {"web": images["web"]}
    # As publishing does it: labels are those of the project that it has read.
    assert "from: factory" in made.compose_file.decode()


def test_what_is_built_at_home_is_dropped(make: Make, tmp_path: Path) -> None:
    compose = f"""x-common: &common
  build: .
services:
  web:
    <<: *common
    image: {HOST}/factory/web
  worker:
    extends: web
    build: {{context: .}}
"""
    services = compose_of(make(app(tmp_path / "building", compose)))["services"]
    assert all("build" not in service for service in services.values())
    assert services["worker"]["image"] == services["web"]["image"]


def test_a_rule_that_leaves_out_the_compose_file_is_refused(
    make: Make, tmp_path: Path, shop: Path
) -> None:
    compose = (shop / "docker-compose.yml").read_text()
    folder = app(tmp_path / "empty", compose, **{".composeappignores": "*.yml\n"})
    with pytest.raises(PreloadError, match=r"a rule in .composeappignores leaves out"):
        make(folder)


def test_a_name_that_is_not_utf_8_is_refused(make: Make, tmp_path: Path, shop: Path) -> None:
    folder = app(tmp_path / "latin", (shop / "docker-compose.yml").read_text())
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9")).write_text("")
    with pytest.raises(PreloadError, match="is not UTF-8"):
        make(folder)


def test_a_submodule_that_is_not_checked_out_is_told(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "module"
    folder.mkdir()
    with pytest.raises(PreloadError) as raised:
        make(folder)
    assert "git submodule update --init" in raised.value.hint


def test_a_submodule_is_an_app(make: Make, tmp_path: Path, shop: Path) -> None:
    compose = (shop / "docker-compose.yml").read_text()
    folder = app(tmp_path / "module", compose, **{".git": "gitdir: ../.git/modules/module\n"})
    apps.unpack(make(folder), tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["docker-compose.yml"]


def test_a_large_file_takes_little_memory(make: Make, tmp_path: Path, shop: Path) -> None:
    folder = app(tmp_path / "large", (shop / "docker-compose.yml").read_text())
    with (folder / "model.bin").open("wb") as stream:
        stream.truncate(64 << 20)
    tracemalloc.start()
    try:
        apps.unpack(make(folder), tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"manifests": None}, "its index is damaged"),
        ({"manifests": ["x"]}, "its index is damaged"),
        ({"manifests": [{"platform": {"os": "linux", "architecture": "arm64"}}]}, "is damaged"),
        ({"config": {}}, "its manifest is damaged"),
        ({"config": None, "layers": 3}, "its manifest is damaged"),
        ([], "did not send a JSON object"),
    ],
)
def test_a_damaged_index_or_manifest_is_told(
    tmp_path: Path, document: object, message: str
) -> None:
    data = json.dumps(document).encode()
    cache = Cache(tmp_path / "cache")
    with cache.locked():
        cache.write(data)
        reference = f"{HOST}/factory/odd@{digest_of(data)}"
        with pytest.raises(PreloadError, match=message):
            oci.find(reference, platforms.parse("arm64"), Registries(cache))
