"""Reading the restorable store: both layouts, and everything that can be wrong with them."""

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from compose_apps_early_start.cause import Cause
from compose_apps_early_start.store import (
    CHUNK_BYTES,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Image,
    Manifest,
    PlatformError,
    Store,
    StoreError,
    Version,
)
from hypothesis import given
from hypothesis import strategies as st
from stores import (
    DOCKER,
    OCI,
    Builder,
    MadeApp,
    MadeImage,
    composectls,
    flip,
    member,
    remove,
    sha256,
    tar,
    truncate,
)

COMPOSE_FILE = b"services: {}\n"
ROOT_FS = tar([member("bin/busybox", b"program", mode=0o755)])


def the_version(store: Store, app: str = "shop") -> Version:
    (version,) = store.versions()[app]
    return version


# Both layouts

SHOP = "7d5ec89945cda9401964bd5b8ba598855fe77086a4104a9701bf9c14cf209268"
TELEMETRY = "7845c51c7d27cdb4c64796d570ea7bf3669ffb7a45d4480b1b03e9e040ed3038"
BUNDLE = "861aadd41331ebf32220647ccdce2fe81754b0043245f935c6929dcc5d1378ba"
INDEX = "c6682d1ce1c414fdff21e2ab03b64569a9bc2f556e6b16d3512dc8f99aee9df6"
WEB = "hub.example.test/factory/web@sha256:" + (
    "baf7f3e1c0c31d1885ee70ac7dd379b354a2e4928efdaa806f46f8be725b5afd"
)


def as_composectl_left_it(_: Path) -> None:
    pass


def as_skopeo_leaves_it(top: Path) -> None:
    """Without the copies beside each uri, and with what skopeo forgets to remove."""
    for uri in top.glob("apps/*/*/uri"):
        for each in uri.parent.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            elif each.name != "uri":
                each.unlink()
        (uri.parent / "oci-put-blob123").write_bytes(b"left over")


def without_the_blobs_that_have_copies(top: Path) -> None:
    for sha in (SHOP, TELEMETRY, BUNDLE):
        (top / "blobs/sha256" / sha).unlink()


def with_damaged_blobs_that_have_copies(top: Path) -> None:
    for sha in (SHOP, TELEMETRY, BUNDLE):
        blob = top / "blobs/sha256" / sha
        blob.chmod(0o644)
        blob.unlink()  # the copies are hard links to it
        blob.write_bytes(b"{}")


@pytest.mark.parametrize(
    "lay_out",
    [
        as_composectl_left_it,
        as_skopeo_leaves_it,
        without_the_blobs_that_have_copies,
        with_damaged_blobs_that_have_copies,
    ],
)
def test_every_layout_reads_the_same(tmp_path: Path, lay_out: Callable[[Path], None]) -> None:
    top = composectls(tmp_path)
    lay_out(top)
    store = Store(top)
    assert sorted(store.versions()) == ["shop", "telemetry"]
    version = the_version(store)
    assert version == Version(
        "shop", f"hub.example.test/factory/shop@sha256:{SHOP}", top / "apps/shop" / SHOP
    )
    assert version.sha256 == SHOP
    manifest = store.manifest(version)
    assert manifest == Manifest(
        Descriptor(BUNDLE, 508, "application/octet-stream"),
        INDEX,
    )
    assert manifest.index
    assert sorted(store.index(version, manifest.index)) == ["docker-compose.yml", "site/index.html"]
    image = store.image(WEB, version, "amd64")
    assert image.root == image.manifest == Descriptor(WEB[-64:], 527, DOCKER.manifest)
    assert [each.media_type for each in image.layers] == [DOCKER.layer]
    assert image.blobs == (image.root, image.config, *image.layers)
    assert image.size == 527 + 913 + 1102233


@pytest.mark.parametrize("make", [lambda _: None, lambda top: (top / "apps").mkdir(parents=True)])
def test_a_store_that_is_missing_or_empty_has_no_app(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "reset-apps")
    assert Store(tmp_path / "reset-apps").versions() == {}


def test_only_a_uri_in_a_folder_named_by_a_digest_makes_an_app(tmp_path: Path) -> None:
    built = Builder(tmp_path).app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    (tmp_path / "apps/empty").mkdir()
    (tmp_path / "apps/begun" / ("a" * 64)).mkdir(parents=True)
    for folder in ("apps/odd/oci-put-blob1", "apps/deep/x/y", "ingest/1", "apps"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "uri").write_text("x")
    (tmp_path / "updates.db").touch()
    assert {name: [each.uri for each in found] for name, found in Store(tmp_path).versions().items()
            } == {"shop": [built.uri]}  # fmt: skip


def test_an_app_may_be_there_in_several_versions(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    uris = {builder.app_of_files("shop", {"docker-compose.yml": data}).uri for data in (b"1", b"2")}
    assert {each.uri for each in Store(tmp_path).versions()["shop"]} == uris


def test_an_old_app_has_no_index(tmp_path: Path) -> None:
    Builder(tmp_path).app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE}, indexed=False)
    store = Store(tmp_path)
    assert store.manifest(the_version(store)).index is None


# Images


@pytest.mark.parametrize("types", [OCI, DOCKER], ids=["OCI", "docker"])
@pytest.mark.parametrize("platforms", [(), ("arm64", "amd64", "arm")], ids=["manifest", "index"])
def test_an_image_is_a_manifest_or_an_index_with_one_platform_present(
    tmp_path: Path, types: object, platforms: tuple[str, ...]
) -> None:
    assert types in (OCI, DOCKER)
    builder = Builder(tmp_path)
    kinds = OCI if types is OCI else DOCKER
    made = builder.image("factory/web", [ROOT_FS, b"two"], types=kinds, platforms=platforms)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    store = Store(tmp_path)
    image = store.image(made.reference, the_version(store), "arm64" if platforms else "amd64")
    assert image.reference == made.reference
    assert [each.sha256 for each in image.documents] == [
        *([made.index] if made.index else []),
        made.manifest,
    ]
    assert image.root.media_type == (kinds.index if platforms else kinds.manifest)
    assert image.manifest.media_type == kinds.manifest
    assert image.config == Descriptor(
        made.config, (builder.blobs / made.config).stat().st_size, kinds.config
    )
    assert tuple(each.sha256 for each in image.layers) == made.layers


def test_of_several_platforms_that_are_there_the_devices_is_taken(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    by_platform = {
        platform: builder.image("factory/web", [f"for {platform}".encode()], architecture=platform)
        for platform in ("arm64", "amd64", "386", "attestation")
    }
    listed = [
        {
            "mediaType": OCI.manifest,
            "digest": f"sha256:{made.manifest}",
            "size": (builder.blobs / made.manifest).stat().st_size,
            "platform": {"architecture": platform, "os": "linux"}
            if platform != "attestation"
            else {"architecture": "unknown", "os": "unknown"},
        }
        for platform, made in by_platform.items()
    ]
    listed.reverse()  # the attestation first
    index = builder.document({"schemaVersion": 2, "manifests": listed}, OCI.index)
    store = Store(tmp_path)

    def taken(architecture: str | None) -> str:
        reference = f"hub.example.test/factory/web@{index['digest']}"
        return store.image(reference, the_version(store), architecture).manifest.sha256

    assert taken("amd64") == by_platform["amd64"].manifest
    assert taken("arm64") == by_platform["arm64"].manifest
    assert taken("386") == by_platform["386"].manifest
    assert taken(None) == by_platform["386"].manifest  # the first that is there
    with pytest.raises(PlatformError) as raised:
        taken("riscv64")
    assert str(raised.value).endswith(
        ": only linux/386 and linux/amd64 and linux/arm64 is in the store, "
        "this device is linux/riscv64"
    )
    assert raised.value.cause is Cause.PLATFORM_MISSING


@pytest.mark.parametrize("platforms", [(), ("arm64",)], ids=["manifest", "index"])
def test_an_image_for_another_architecture_is_refused_before_it_is_loaded(
    tmp_path: Path, platforms: tuple[str, ...]
) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    made = builder.image("factory/web", [ROOT_FS], platforms=platforms, architecture="arm64")
    store = Store(tmp_path)
    assert store.image(made.reference, the_version(store), "arm64").config.sha256 == made.config
    with pytest.raises(PlatformError) as raised:
        store.image(made.reference, the_version(store), "amd64")
    assert str(raised.value) == (
        f"image {made.reference}: only linux/arm64 is in the store, this device is linux/amd64"
    )


@pytest.mark.parametrize(
    ("architecture", "image"), [("arm64", "arm"), ("amd64", "386"), ("amd64", "")]
)
def test_what_the_processor_runs_as_well_is_good_enough(
    tmp_path: Path, architecture: str, image: str
) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    for platforms in ((), (image,)):
        made = builder.image("factory/web", [ROOT_FS], platforms=platforms, architecture=image)
        store = Store(tmp_path)
        found = store.image(made.reference, the_version(store), architecture)
        assert found.config.sha256 == made.config


def layout(built: "Built", content: object) -> Path:
    """Put an index.json where skopeo and composectl leave the layout of the app's image."""
    name, _, digest = built.image.reference.partition("@sha256:")
    file = built.app.folder / "images" / name / digest / "index.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content))
    return file


def test_the_layout_beside_the_uri_stands_for_an_index_that_is_missing(built: "Built") -> None:
    """Of a store that skopeo made: the blobs have the manifest of one platform only."""
    assert built.image.index
    before = built.use()
    document = json.loads((built.builder.blobs / built.image.index).read_bytes())
    (built.builder.blobs / built.image.index).unlink()
    of_one = [{key: document["manifests"][0][key] for key in ("mediaType", "digest", "size")}]
    file = layout(built, {"schemaVersion": 2, "manifests": of_one})
    found = built.store.image(built.image.reference, the_version(built.store), "amd64")
    assert found == replace(before, documents=before.documents[1:], has_root=False)
    assert found.sha256 == built.image.index
    file.write_text("{}")
    with pytest.raises(StoreError, match=f"blob {built.image.index} is missing"):
        built.use()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match="not a plain file"):
        built.use()


def test_documents_without_a_media_type_are_ocis(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    made = builder.image("factory/web", [ROOT_FS])
    bare = json.loads((builder.blobs / made.manifest).read_bytes())
    del bare["mediaType"]
    manifest = builder.document(bare, OCI.manifest)
    index = builder.document({"schemaVersion": 2, "manifests": [manifest]}, OCI.index)
    store = Store(tmp_path)
    for document, kind in ((manifest, OCI.manifest), (index, OCI.index)):
        image = store.image(f"hub.example.test/w@{document['digest']}", the_version(store), None)
        assert image.root.media_type == kind


def test_a_layer_that_is_there_twice_is_one_blob(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    made = builder.image("factory/web", [ROOT_FS, ROOT_FS])
    store = Store(tmp_path)
    image = store.image(made.reference, the_version(store), None)
    assert len(image.layers) == 2
    assert [each.sha256 for each in image.blobs] == [made.manifest, made.config, made.layers[0]]


# What is wrong with a store


class Built:
    """A store with one app and its one image, an index, to be spoiled."""

    def __init__(self, top: Path) -> None:
        self.builder = Builder(top)
        self.image: MadeImage = self.builder.image(
            "factory/web", [ROOT_FS, b"layer 2"], platforms=("amd64", "arm64")
        )
        self.app: MadeApp = self.builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
        self.store = Store(top)

    @property
    def roles(self) -> dict[str, str]:
        """The sha256 of every blob, by what it is for."""
        assert self.app.index
        assert self.image.index
        return {
            "app manifest": self.app.manifest,
            "bundle": self.app.bundle,
            "bundle index": self.app.index,
            "image index": self.image.index,
            "manifest": self.image.manifest,
            "config": self.image.config,
            "layer": self.image.layers[1],
        }

    def use(self) -> Image:
        """Read all there is, as a run does that puts everything back."""
        version = the_version(self.store)
        manifest = self.store.manifest(version)
        assert manifest.index
        self.store.index(version, manifest.index)
        packed = manifest.bundle
        self.store.verified(packed.sha256, version, "the bundle of app 'shop'", packed.size)
        image = self.store.image(self.image.reference, version, "amd64")
        for blob in (image.config, *image.layers):
            for _chunk in self.store.chunks(blob, f"image {image.reference}"):
                pass
        return image


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


ROLES = ("app manifest", "bundle", "bundle index", "image index", "manifest", "config", "layer")


def empty(blob: Path) -> None:
    blob.write_bytes(b"")


def replace_by_a_folder(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()


def replace_by_a_fifo(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


def replace_by_a_hole(blob: Path) -> None:
    blob.unlink()
    blob.touch()
    os.truncate(blob, 1 << 42)


def test_a_sound_store_can_be_used(built: Built) -> None:
    assert built.use().reference == built.image.reference


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "spoil",
    [
        *(remove, truncate, flip, empty),
        *(replace_by_a_folder, replace_by_a_fifo, replace_by_a_hole),
    ],
)
def test_a_spoiled_blob_is_named_with_what_it_is_for(
    built: Built, role: str, spoil: Callable[[Path], None]
) -> None:
    sha = built.roles[role]
    spoil(built.store.blobs / sha)
    with pytest.raises(StoreError) as raised:
        built.use()
    message = str(raised.value)
    of_app = role in ("app manifest", "bundle", "bundle index")
    assert ("app 'shop'" if of_app else built.image.reference) in message
    # Of a platform that is missing the index cannot tell which it should have been.
    assert sha in message or "none of the platforms of its index" in message


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        pytest.param([], "is no JSON object", id="a list"),
        pytest.param({}, "is not that of a compose app", id="nothing"),
        pytest.param({"layers": [{}]}, "is not that of a compose app", id="an image's"),
        pytest.param({"annotations": {"compose-app": "v2"}, "layers": [{}]},
                     "is not that of a compose app", id="of a later kind"),
        pytest.param({"annotations": {"compose-app": "v1"}, "layers": []},
                     "is not that of a compose app", id="without a bundle"),
        pytest.param({"annotations": {"compose-app": "v1"}, "layers": [{}]},
                     "a descriptor without a size", id="an empty descriptor"),
        pytest.param({"annotations": {"compose-app": "v1"}, "layers": ["x"]},
                     "", id="a descriptor that is none"),
        pytest.param({"annotations": None, "layers": [{}]}, "", id="annotations null"),
        pytest.param({"annotations": [], "layers": {}}, "", id="other kinds"),
        pytest.param({"annotations": {"compose-app": "v1"}, "layers": [{"size": 1, "digest": "x"}]},
                     "'x' is no sha256 digest", id="no digest"),
        pytest.param({"annotations": {"compose-app": "v1"},
                      "layers": [{"size": 1, "digest": "sha512:" + "a" * 64}]},
                     "is no sha256 digest", id="another algorithm"),
        pytest.param({"annotations": {"compose-app": "v1"},
                      "layers": [{"size": 1, "digest": "sha256:../../../etc/passwd"}]},
                     "is no sha256 digest", id="a path as a digest"),
        pytest.param({"annotations": {"compose-app": "v1"},
                      "layers": [{"size": 1, "digest": "sha256:" + "a" * 64, "annotations": {
                          "org.foundries.app.bundle.index.digest": "sha256:0",
                          "org.foundries.app.bundle.index.size": "many"}}]},
                     "", id="index annotations that make no sense"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, manifest: object, words: str) -> None:
    builder = Builder(tmp_path)
    descriptor = builder.document(manifest, OCI.manifest)
    folder = tmp_path / "apps/shop" / descriptor["digest"][7:]
    folder.mkdir(parents=True)
    (folder / "uri").write_text(f"hub.example.test/factory/shop@{descriptor['digest']}")
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="the manifest of app 'shop'") as raised:
        store.manifest(the_version(store))
    assert words in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("sha256:" + "a" * 64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("layers", "annotations", "manifests", "config", "digest", "size",
                             "compose-app", "platform", "os", "mediaType",
                             "org.foundries.app.bundle.index.digest",
                             "org.foundries.app.bundle.index.size")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(content=JSON)
def test_whatever_a_document_says_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    builder = Builder(tmp_path_factory.mktemp("store"))
    descriptor = builder.document(content, OCI.manifest)
    folder = builder.folder / "apps/shop" / descriptor["digest"][7:]
    folder.mkdir(parents=True)
    (folder / "uri").write_text("u")
    store = Store(builder.folder)
    version = the_version(store)
    messages = []
    for read in (
        lambda: store.manifest(version),
        lambda: store.index(version, version.sha256),
        lambda: store.image(f"hub.example.test/x@{descriptor['digest']}", version, "amd64"),
    ):
        try:
            read()
        except StoreError as error:
            messages.append(str(error))  # and nothing but a StoreError
    assert all(messages)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("busybox", "'busybox' is no sha256 digest"),
        ("hub.example.test/factory/web:latest", "is no sha256 digest"),
        ("hub.example.test/factory/web@sha256:12", "is no sha256 digest"),
        ("hub.example.test/factory/web@sha256:" + "A" * 64, "is no sha256 digest"),
        ("hub.example.test/factory/web@sha256:" + "0" * 64, f"blob {'0' * 64} is missing"),
    ],
)
def test_an_image_that_the_store_cannot_have_is_refused(
    built: Built, reference: str, words: str
) -> None:
    with pytest.raises(StoreError, match=r"^image ") as raised:
        built.store.image(reference, the_version(built.store), "amd64")
    assert words in str(raised.value)


def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    deep = builder.blob(b"[" * 1_000_000, OCI.manifest)
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="is no JSON"):
        store.image(f"hub.example.test/x@{deep['digest']}", the_version(store), None)


def test_a_document_is_not_read_into_memory_whatever_its_size(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    builder.app_of_files("shop", {"docker-compose.yml": COMPOSE_FILE})
    huge = builder.blob(b" " * (MAX_DOCUMENT_BYTES + 1), OCI.manifest)
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=f"is larger than {MAX_DOCUMENT_BYTES} bytes"):
        store.image(f"hub.example.test/x@{huge['digest']}", the_version(store), None)


def test_a_blob_is_read_in_pieces_and_found_out_at_its_end(tmp_path: Path) -> None:
    data = bytes(CHUNK_BYTES + 7)
    descriptor = Builder(tmp_path).blob(data, OCI.layer)
    blob = Descriptor(sha256(data), descriptor["size"], OCI.layer)
    store = Store(tmp_path)
    assert [len(each) for each in store.chunks(blob, "image x")] == [CHUNK_BYTES, 7]
    flip(store.blobs / blob.sha256)
    pieces = store.chunks(blob, "image x")
    assert len(next(pieces)) == CHUNK_BYTES
    assert len(next(pieces)) == 7
    with pytest.raises(StoreError, match=f"image x: blob {blob.sha256} is damaged"):
        next(pieces)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        pytest.param(tar([member("zeros", bytes(100_000))]), 102_400, id="compressible"),
        pytest.param(random.Random(1).randbytes(100_000), 100_000, id="incompressible"),
        pytest.param(b"", 0, id="nothing"),
    ],
)
def test_gzip_tells_how_large_a_layer_is_unpacked(tmp_path: Path, data: bytes, size: int) -> None:
    builder = Builder(tmp_path)
    made = builder.image("factory/web", [data])
    blob = Descriptor(made.layers[0], (builder.blobs / made.layers[0]).stat().st_size, OCI.layer)
    assert len(data) == size
    found = Store(tmp_path).unpacked_size(blob, "image x")
    assert found == size


def test_where_a_layer_does_not_tell_its_size_three_times_the_packed_one_is_taken(
    tmp_path: Path,
) -> None:
    builder = Builder(tmp_path)
    noise = random.Random(1).randbytes(100_000)
    # In several members, as some tools pack, the end tells of the last one only.
    for data in (ROOT_FS, b"", b"x", gzip.compress(noise) + gzip.compress(b"footer")):
        descriptor = builder.blob(data, OCI.layer)
        blob = Descriptor(sha256(data), descriptor["size"], OCI.layer)
        assert Store(tmp_path).unpacked_size(blob, "image x") == 3 * len(data)


def test_a_layer_that_is_gone_is_named_when_its_size_is_asked_for(built: Built) -> None:
    image = built.use()
    remove(built.store.blobs / image.layers[0].sha256)
    with pytest.raises(StoreError, match=f"image x: blob {image.layers[0].sha256} is missing"):
        built.store.unpacked_size(image.layers[0], "image x")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", None])
def test_a_uri_that_cannot_be_read_hides_no_app(built: Built, content: bytes | None) -> None:
    uri = built.app.folder / "uri"
    if content is None:
        uri.unlink()
        uri.symlink_to("uri")
        assert built.store.versions() == {}
    else:
        uri.write_bytes(content)
        assert the_version(built.store).sha256 == built.app.manifest
