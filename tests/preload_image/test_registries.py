"""Registries that are slow, fail or ask for a login, and the cache of what they sent."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pytest
from compose_apps_preload.errors import PreloadError
from compose_apps_preload.image import cache as caches
from compose_apps_preload.image import oci, platforms, skopeo
from compose_apps_preload.image.cache import Cache
from compose_apps_preload.image.skopeo import Registries
from preload_image import device_image
from preload_image.examples import preload_well
from preload_image.proxy import Behaviour, proxy
from preload_image.registry import Registry, configure_skopeo

ARM64 = platforms.parse("arm64")
TAG = "hub.example.test/factory/web:latest"


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
def registries(
    registry: Registry,
    images: Mapping[str, str],
    behaviour: Behaviour,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Registries]:
    """Registries behind the proxy, with a cache of their own."""
    assert images
    cache = Cache(tmp_path / "cache")
    with proxy(registry, behaviour) as port, cache.locked():
        configure_skopeo(tmp_path / "home", port)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setattr(skopeo, "RETRY_PAUSES", (0.0, 0.0))
        yield Registries(cache)


def test_a_manifest_is_asked_for_once(registries: Registries, behaviour: Behaviour) -> None:
    for _ in range(3):
        pinned = f"{skopeo.repository(TAG)}@{skopeo.digest_of(registries.manifest(TAG))}"
        oci.find(pinned, ARM64, registries)
    # The tag, and the manifest of the platform.
    assert len(behaviour.asked) == 2


def test_what_was_fetched_is_not_fetched_again(
    registries: Registries, behaviour: Behaviour, tmp_path: Path, images: Mapping[str, str]
) -> None:
    oci.fetch(oci.find(images["web"], ARM64, registries), tmp_path / "first", registries)
    asked = len(behaviour.asked)
    again = Registries(registries.cache)
    oci.fetch(oci.find(images["web"], ARM64, again), tmp_path / "second", again)
    assert len(behaviour.asked) == asked
    first, second = (sorted((tmp_path / each / "sha256").iterdir()) for each in ("first", "second"))
    assert [each.name for each in first] == [each.name for each in second]


def test_what_is_damaged_in_the_cache_is_fetched_again(
    registries: Registries, tmp_path: Path, images: Mapping[str, str]
) -> None:
    image = oci.find(images["web"], ARM64, registries)
    oci.fetch(image, tmp_path / "first", registries)
    damaged, cut = (registries.cache.file(blob.digest) for blob in image.blobs[1:3])
    data = damaged.read_bytes()
    for file in (damaged, cut):
        file.unlink()
    damaged.write_bytes(bytes(len(data)))
    cut.write_bytes(b"")
    oci.fetch(image, tmp_path / "second", registries)
    assert (tmp_path / "second/sha256" / damaged.name).read_bytes() == data


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_fails_for_a_moment_is_tried_again(
    registries: Registries,
    behaviour: Behaviour,
    capsys: pytest.CaptureFixture[str],
    status: int,
) -> None:
    # skopeo itself asks again for a 429, five times.
    behaviour.failures = [status] * (2 if status != 429 else 1)
    assert registries.manifest(TAG)
    if status != 429:
        assert "hub.example.test: " in (said := capsys.readouterr().err)
        assert said.count("trying again") == 2


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "log in with skopeo login hub.example.test"),
        (403, "log in with skopeo login hub.example.test"),
        (404, "correct the name"),
        (503, "try again later"),
    ],
)
def test_what_fails_says_what_to_do(
    registries: Registries, behaviour: Behaviour, status: int, hint: str
) -> None:
    behaviour.failures = [status] * 9
    with pytest.raises(PreloadError) as raised:
        registries.manifest(TAG)
    assert hint in raised.value.hint
    assert TAG in str(raised.value)


def test_a_registry_that_is_silent_is_given_up(
    registries: Registries, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skopeo, "IDLE_TIMEOUT_SECONDS", 0.5)
    behaviour.silent = True
    with pytest.raises(PreloadError, match=r"hub\.example\.test sent nothing"):
        registries.manifest(TAG)


def test_every_byte_moves_the_bar(
    registries: Registries, tmp_path: Path, images: Mapping[str, str]
) -> None:
    moved: list[int] = []
    registries.advance = moved.append
    image = oci.find(images["web"], ARM64, registries)
    oci.fetch(image, tmp_path / "blobs", registries)
    assert sum(moved) > 0


def test_the_cache_is_bound_and_can_be_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Path
) -> None:
    monkeypatch.setattr(caches, "MAX_BYTES", 100)
    cache = Cache(tmp_path / "cache")
    with cache.locked():
        for number in range(5):
            cache.write(bytes([number]) * 40)
    assert cache.size == (2, 0, 80)
    with cache.locked():
        assert not cache.clear()
    assert cache.clear()
    assert cache.size == (0, 0, 0)


def test_a_damaged_or_unfinished_store_of_docker_is_not_taken_from_the_cache(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "cache")
    with cache.locked():
        with pytest.raises(RuntimeError):
            interrupted(cache)
        assert cache.archive("key") is None
        with cache.keeping("key") as archive:
            archive.write(b"whole")
        with open_archive(cache, "key") as archive:
            assert archive.read() == b"whole"
        (kept,) = cache.stores.iterdir()
        kept.write_bytes(b"whale")
        assert cache.archive("key") is None
    assert [each for each in cache.folder.rglob("*") if each.is_file()] == []


def interrupted(cache: Cache) -> None:
    with cache.keeping("key") as archive:
        archive.write(b"half")
        raise RuntimeError


def open_archive(cache: Cache, key: str) -> IO[bytes]:
    found = cache.archive(key)
    assert found
    return found


def test_the_command_shows_and_empties_the_cache(tmp_path: Path, shop: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4")
    words = ("--app", shop, "--arch", "arm64", "--no-docker-store", "-o", tmp_path / "out.ext4")
    preload_well("image", source, *words)
    shown = preload_well("cache").stdout
    assert "compose-apps-preload: " in shown
    assert " 0 blobs" not in shown
    assert ": 0 blobs, 0 docker stores, 0.0 MB" in preload_well("cache", "--clear").stdout
