"""Fuzzed restorable stores and bundles: a real one with damage, made ones with valid digests."""

import contextlib
import gzip
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stores
from compose_apps_early_start import bundle, restorable
from compose_apps_early_start.bundle import SpaceError
from compose_apps_early_start.images import in_place, oci_layout, space_needed
from compose_apps_early_start.restorable import Restorable
from compose_apps_early_start.store import Image, Store, StoreError, Version
from fuzz.fuzzing import Fuzz, Within
from fuzz.mutations import RAW_JSON, altered, damaged
from hypothesis import strategies as st
from stores import member

OWN_ERRORS = (StoreError, SpaceError, OSError)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.composectls(tmp_path_factory.mktemp("composectl"))


def references(folder: Path) -> list[str]:
    """The images that the apps of the real store want."""
    text = "".join(file.read_text() for file in folder.glob("apps/*/*/docker-compose.yml"))
    return [line.split()[1] for line in text.splitlines() if "@sha256:" in line]


def use(folder: Path, place: Path, wanted: list[str]) -> None:
    """Do with the store in `folder` all that a run does; the apps are put back into `place`."""
    store = Store(folder)
    try:
        versions = store.versions()
    except OSError:
        return
    for app, found in versions.items():
        for installed in (None, found[0].uri):
            kept = restorable.find(store, found, installed, place / app)
            if isinstance(kept, Restorable):
                put_back(store, kept, place)
        for image in restorable.images(store, [(found[0], wanted)], "amd64").values():
            if isinstance(image, Image):
                send(store, image, found[0])


def put_back(store: Store, kept: Restorable, place: Path) -> None:
    folder, staging = place / kept.version.app, place / ".staging"
    before = sorted(folder.rglob("*"))
    manifest = store.manifest(kept.version)
    with contextlib.suppress(StoreError):
        bundle.compose_file(store, kept.version, manifest, "docker-compose.yml")
    try:
        bundle.restore(store, kept.version, kept.hashes, folder, staging)
    except OWN_ERRORS:
        assert sorted(folder.rglob("*")) == before
    else:
        assert bundle.differences(folder, kept.hashes) == ()
    assert not staging.exists()
    for each in folder.rglob("*"):
        assert Path(os.path.realpath(each)).is_relative_to(folder), each


def send(store: Store, image: Image, version: Version) -> None:
    with contextlib.suppress(StoreError):
        space_needed(store, image, keeps_blobs=True)
    for archive in (oci_layout, in_place):
        with contextlib.suppress(StoreError):
            for chunk in archive(store, image, version):
                assert isinstance(chunk, bytes)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


DAMAGES = st.lists(
    st.tuples(
        st.integers(0, 1000),
        st.sampled_from(["damage", "damage", "damage", "remove", "empty", "other", "fold", "link"]),
        st.integers(0),
    ),
    min_size=1,
    max_size=4,
)


def test_the_real_store_with_damage(fuzz: Fuzz, tmp_path: Path, real: Path) -> None:
    wanted = references(real)
    assert len(set(wanted)) == 2
    files = sorted(each.relative_to(real) for each in real.rglob("*") if each.is_file())

    def check(data: st.DataObject, damages: list[tuple[int, str, int]], half_there: bool) -> None:
        copy = emptied(tmp_path / "copy") / "reset-apps"
        shutil.copytree(real, copy, copy_function=os.link)
        for number, kind, other in damages:
            file = copy / files[number % len(files)]
            if not file.is_file():
                continue
            before = file.read_bytes()
            file.unlink()
            match kind:
                case "damage":
                    # Of much the beginning.
                    file.write_bytes(data.draw(damaged(before[:2000])) + before[2000:])
                case "empty":
                    file.touch()
                case "other":
                    file.write_bytes((real / files[other % len(files)]).read_bytes())
                case "fold":
                    file.mkdir()
                case "link":
                    file.symlink_to(file.name)
        place = emptied(tmp_path / "apps")
        if half_there:
            (place / "shop").mkdir()
            (place / "shop/docker-compose.yml").write_text("services: {}\n")
            (place / "shop/data").mkdir()
        with Within(tmp_path):
            use(copy, place, wanted)

    fuzz(check, st.data(), DAMAGES, st.booleans())


NAMES = st.sampled_from(
    [
        *("docker-compose.yml", "site/index.html", "site", "a/b/c", "./x", "a//b", ".", ""),
        *("../out", "/etc/out", "a/../../out", "site/../x", "x" * 300, "\ud800", "a\nb", "a\0b"),
    ]
)
TYPES = st.sampled_from(
    [tarfile.REGTYPE] * 4
    + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    + [tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"]
)
MEMBERS = st.lists(
    st.builds(
        lambda name, kind, data, target, mode: member(
            name, data, type=kind, linkname=target, mode=mode
        ),
        NAMES,
        TYPES,
        st.binary(max_size=100)
        | st.sampled_from([b"services: {web: {image: x}}\n", b"30 path=x\n", b"9 size=-9\n"]),
        st.sampled_from(["docker-compose.yml", "..", "../../..", "/etc", "site", ".", ""]),
        st.integers(0, 0o7777),
    ),
    max_size=6,
)


def tar(members: list[Any]) -> bytes:
    with contextlib.suppress(Exception):  # a name that no tar archive can have
        return stores.tar(members)
    return b""


PLAIN = stores.tar(
    [
        member("docker-compose.yml", b"services: {web: {image: x}}\n"),
        member("site", type=tarfile.DIRTYPE, mode=0o755),
        member("site/index.html", b"hello\n"),
        member("x" * 150, b"a long name\n"),
    ]
)
PACKED = gzip.compress(PLAIN, mtime=0)
BUNDLES = st.one_of(
    MEMBERS.map(tar).map(lambda each: gzip.compress(each, 1, mtime=0)),
    MEMBERS.map(tar),
    damaged(PLAIN).map(lambda each: gzip.compress(each, 1, mtime=0)),
    damaged(PACKED),
    st.just(PACKED),
    st.just(gzip.compress(bytes(40 << 20), mtime=0)),
)
HASHES = dict.fromkeys(("docker-compose.yml", "site/index.html", "../out", "/x"), "0" * 64)


def test_bundles_that_verify(fuzz: Fuzz, tmp_path: Path) -> None:
    def check(packed: bytes, hashes: dict[str, str] | None, truth: bool, there: bool) -> None:
        place, folder = emptied(tmp_path / "apps"), emptied(tmp_path / "store")
        builder = stores.Builder(folder)
        if truth:
            hashes = None
        with contextlib.suppress(TypeError, AttributeError):
            builder.app("shop", packed, hashes)
        if there:
            (place / "shop/site").mkdir(parents=True)
        with Within(tmp_path, most_seconds=5.0):
            use(folder, place, [])

    fuzz(check, BUNDLES, altered(HASHES), st.booleans(), st.booleans())


def test_documents_that_verify(fuzz: Fuzz, tmp_path: Path) -> None:
    """Every JSON document is altered before its digest is taken."""

    class Liar(stores.Builder):
        change: Callable[[object], object] = staticmethod(lambda content: content)

        def document(self, content: object, media_type: str) -> dict[str, Any]:
            changed = self.change(content)
            text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
            return self.blob(text, media_type)

    def check(data: st.DataObject, which: int, platforms: bool) -> None:
        place, folder = emptied(tmp_path / "apps"), emptied(tmp_path / "store")
        builder = Liar(folder)
        count = 0

        def change(content: object) -> object:
            nonlocal count
            count += 1
            if count != which:
                return content
            return data.draw(altered(content) | st.sampled_from(RAW_JSON))

        builder.change = change
        layer = stores.tar([member("bin/true", b"x")])
        image = builder.image("web", [layer], platforms=["amd64", "arm64"] if platforms else [])
        builder.app("shop", PACKED, HASHES)
        with Within(tmp_path):
            use(folder, place, [image.reference])

    fuzz(check, st.data(), st.integers(1, 5), st.booleans())
