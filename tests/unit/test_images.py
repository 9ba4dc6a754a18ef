"""Sending images to dockerd, and how the loading of an image ends."""

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from compose_apps_early_start import images, progress
from compose_apps_early_start.cause import NOT_TRIED, Cause, Failure
from compose_apps_early_start.container import State, Storage
from compose_apps_early_start.engine import Engine
from compose_apps_early_start.errors import EngineError
from compose_apps_early_start.images import (
    Loader,
    TooSlow,
    Unfinished,
    discard_unfinished,
    in_place,
    oci_layout,
    space_needed,
)
from compose_apps_early_start.report import Event, Kind, Report
from compose_apps_early_start.restorable import Restorable
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Image, Store, StoreError
from stores import DOCKER, OCI, Builder, MadeImage, Types, composectls, member, sha256, tar
from unit.builders import app, selection, service

LARGE = tar([member("data", bytes(range(256)) * 10_000)])
SMALL = tar([member("bin/sh", b"program")])


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks of this machine are not the tests' business, and may be busy."""
    monkeypatch.setattr(os, "sync", lambda: None)


class Stored:
    """A store with one app, and an image of it."""

    def __init__(self, top: Path, *, types: Types = OCI, platforms: tuple[str, ...] = ()) -> None:
        builder = Builder(top / "reset-apps")
        self.made: MadeImage = builder.image(
            "factory/web", [SMALL, LARGE], types=types, platforms=platforms
        )
        builder.app_of_files("shop", {"docker-compose.yml": b"services: {}"})
        self.store = Store(builder.folder)
        (self.version,) = self.store.versions()["shop"]

    @property
    def image(self) -> Image:
        return self.store.image(self.made.reference, self.version, "amd64")

    def archive(self) -> bytes:
        return b"".join(oci_layout(self.store, self.image, self.version))

    def blob(self, sha: str) -> Path:
        return self.store.blobs / sha


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def members(archive: bytes) -> dict[str, bytes]:
    """The plain files of a tar archive, which has nothing else, read back."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
        for each in opened:
            assert each.isreg()
            stream = opened.extractfile(each)
            assert stream
            assert each.name not in found
            found[each.name] = stream.read()
    return found


# The archive for a containerd image store


@pytest.mark.parametrize("types", [OCI, DOCKER], ids=["OCI", "docker"])
@pytest.mark.parametrize("platforms", [(), ("amd64", "arm64")], ids=["manifest", "index"])
def test_the_layout_has_every_blob_and_the_root_under_its_own_digest(
    tmp_path: Path, types: Types, platforms: tuple[str, ...]
) -> None:
    stored = Stored(tmp_path, types=types, platforms=platforms)
    made = stored.made
    found = members(stored.archive())
    root = made.index or made.manifest
    assert json.loads(found.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads(found.pop("index.json")) == {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": types.index if platforms else types.manifest,
                "digest": f"sha256:{root}",
                "size": stored.blob(root).stat().st_size,
                "annotations": {
                    "io.containerd.image.name": f"hub.example.test/factory/web@sha256:{root}"
                },
            }
        ],
    }
    wanted = [each for each in (made.index, made.manifest, made.config, *made.layers) if each]
    assert list(found) == [f"blobs/sha256/{each}" for each in wanted]
    for each in wanted:
        assert found[f"blobs/sha256/{each}"] == stored.blob(each).read_bytes()
        assert sha256(found[f"blobs/sha256/{each}"]) == each


def test_the_layout_ends_as_a_tar_archive_does(stored: Stored) -> None:
    archive = stored.archive()
    assert len(archive) % tarfile.BLOCKSIZE == 0
    assert archive[-1024:] == bytes(1024)


def test_the_layout_is_sent_in_pieces_however_large_a_layer_is(stored: Stored) -> None:
    sizes = [len(each) for each in oci_layout(stored.store, stored.image, stored.version)]
    assert sum(sizes) == len(stored.archive())
    assert max(sizes) <= 1 << 20


def test_a_layer_that_is_there_twice_is_sent_once(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    made = Builder(stored.store.folder).image("factory/twice", [SMALL, SMALL])
    image = stored.store.image(made.reference, stored.version, "amd64")
    found = members(b"".join(oci_layout(stored.store, image, stored.version)))
    assert len(found) == 5


def test_a_document_may_come_from_a_copy_beside_the_uri(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    copy = stored.version.folder / "images/hub.example.test/factory/web/x/index.json"
    copy.parent.mkdir(parents=True)
    stored.blob(stored.made.manifest).rename(copy)
    found = members(stored.archive())
    assert found[f"blobs/sha256/{stored.made.manifest}"] == copy.read_bytes()


def flip(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)


@pytest.mark.parametrize("role", ["manifest", "config", "layer"])
def test_a_blob_that_breaks_after_the_plan_breaks_the_stream_and_is_named(
    stored: Stored, role: str
) -> None:
    image = stored.image
    sha = {
        "manifest": stored.made.manifest,
        "config": stored.made.config,
        "layer": stored.made.layers[1],
    }[role]
    flip(stored.blob(sha))
    stream = oci_layout(stored.store, image, stored.version)
    sent: list[bytes] = []
    with pytest.raises(StoreError, match=f"image {image.reference}: blob {sha} is damaged"):
        sent.extend(stream)
    assert sent
    with pytest.raises(tarfile.ReadError):  # what was sent is no whole archive
        members(b"".join(sent))


# The archive for LmP's dockerd


@pytest.mark.parametrize("platforms", [(), ("amd64", "arm64")], ids=["manifest", "index"])
def test_what_lmps_dockerd_reads_is_a_manifest_that_leads_to_the_blobs(
    tmp_path: Path, platforms: tuple[str, ...]
) -> None:
    """Source: facts/device.md, the docker-archive with `LayersRoot` and digests as tags."""
    stored = Stored(tmp_path, types=DOCKER, platforms=platforms)
    made = stored.made
    found = members(b"".join(in_place(stored.store, stored.image, stored.version)))
    assert list(found) == ["manifest.json"]
    repository = "hub.example.test/factory/web"
    tags = [
        tag
        for each in (made.index, made.manifest)
        if each
        for tag in (f"{repository}:{each[:7]}", f"{repository}@sha256:{each}")
    ]
    assert json.loads(found["manifest.json"]) == [
        {
            "Config": made.config,
            "RepoTags": tags,
            "Layers": list(made.layers),
            "LayersRoot": str(tmp_path / "reset-apps/blobs/sha256"),
        }
    ]
    assert stored.made.reference in tags


def test_without_the_index_an_image_has_its_name_in_overlay2_only(tmp_path: Path) -> None:
    """Of a store that skopeo made: the index lies beside the uri as another document."""
    stored = Stored(tmp_path, types=DOCKER, platforms=("amd64",))
    image = replace(stored.image, documents=stored.image.documents[1:], has_root=False)
    (manifest,) = json.loads(
        members(b"".join(in_place(stored.store, image, stored.version)))["manifest.json"]
    )
    assert image.reference in manifest["RepoTags"]
    assert Loading(stored, containerd=False).load(image=image) is None
    loading = Loading(stored)
    failure = loading.load(image=image)
    assert failure
    assert failure.cause is Cause.STORE_DAMAGED
    assert "not the index that its digest names" in failure.message
    assert loading.engine.loads == []


def test_what_is_read_in_place_has_the_paths_of_a_device(tmp_path: Path) -> None:
    top = composectls(tmp_path)
    store = Store(top)
    (version,) = store.versions()["telemetry"]
    reference = "hub.example.test/factory/worker@sha256:" + (
        "af04e63266a793ed7cc3c08b04acd98781e4100cd12c40320da0686d3fd07314"
    )
    image = store.image(reference, version, "amd64")
    (manifest,) = json.loads(members(b"".join(in_place(store, image, version)))["manifest.json"])
    assert manifest["RepoTags"] == ["hub.example.test/factory/worker:af04e63", reference]
    root = Path(manifest["LayersRoot"])
    for name in (manifest["Config"], *manifest["Layers"]):
        assert (root / name).is_file()


@pytest.mark.parametrize("role", ["config", "layer"])
def test_what_is_read_in_place_is_verified_before_anything_is_sent(
    stored: Stored, role: str
) -> None:
    image = stored.image
    sha = stored.made.config if role == "config" else stored.made.layers[0]
    flip(stored.blob(sha))
    with pytest.raises(StoreError, match=f"blob {sha} is damaged"):
        next(in_place(stored.store, image, stored.version))


# How much space it takes


def test_the_space_is_that_of_the_unpacked_layers_and_perhaps_of_the_blobs(
    stored: Stored,
) -> None:
    unpacked = len(SMALL) + len(LARGE)
    assert space_needed(stored.store, stored.image, keeps_blobs=False) == unpacked
    assert space_needed(stored.store, stored.image, keeps_blobs=True) == (
        unpacked + stored.image.size
    )


def test_a_layer_that_is_there_twice_takes_its_space_once(stored: Stored) -> None:
    made = Builder(stored.store.folder).image("factory/twice", [SMALL, SMALL])
    image = stored.store.image(made.reference, stored.version, None)
    assert space_needed(stored.store, image, keeps_blobs=False) == len(SMALL)


# Loading


class FakeEngine(Engine):
    """A dockerd that takes archives, and resolves what it took unless a test says otherwise."""

    def __init__(self, root: Path, *, containerd: bool = True) -> None:
        self.kind = Storage(containerd, root, "amd64")
        self.loads: list[dict[str, bytes]] = []
        self.present: set[str] = set()
        self.trouble: str | None = None
        self.resolves = True
        self.is_used = False
        self.before: Callable[[], None] = lambda: None
        self.seconds: list[float] = []

    def storage(self) -> Storage:
        return self.kind

    def load(self, archive: Iterator[bytes], seconds: float) -> str | None:
        self.seconds.append(seconds)
        first = next(archive)
        self.before()
        self.loads.append(members(first + b"".join(archive)))
        return self.trouble

    def has_image(self, image: str) -> bool:
        return bool(self.loads) and self.resolves

    def discard(self, image: str) -> bool:
        return not self.is_used


class Loading:
    """A loader on a `FakeEngine`, and what it told."""

    def __init__(self, stored: Stored, *, containerd: bool = True) -> None:
        self.stored = stored
        self.engine = FakeEngine(stored.store.folder, containerd=containerd)
        self.events: list[Event] = []
        self.seconds = 1000.0
        self.settings = Settings(root=stored.store.folder)
        self.again()

    def again(self) -> None:
        """The next run."""
        self.loader = Loader(
            self.settings, self.engine, self.stored.store, Report([self.events.append])
        )

    def load(self, app: str = "shop", image: Image | None = None) -> Failure | None:
        stored = self.stored
        deadline = time.monotonic() + self.seconds
        return self.loader.load(image or stored.image, app, stored.version, deadline)


@pytest.fixture
def loading(stored: Stored) -> Loading:
    return Loading(stored)


def test_an_image_is_loaded_and_told(loading: Loading) -> None:
    assert loading.load() is None
    assert len(loading.engine.loads) == 1
    assert "oci-layout" in loading.engine.loads[0]
    told = [(each.kind, each.app, each.message) for each in loading.events]
    reference = loading.stored.made.reference
    size = f"{loading.stored.image.size / 1e6:.1f} MB"
    assert told == [
        (Kind.LOADING, "shop", f"loading image {reference}: 0.0 MB of {size}"),
        (Kind.LOADED, "shop", f"image {reference} is loaded"),
    ]
    assert loading.events[-1].seconds is not None


def test_progress_is_told_now_and_then(loading: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_SECONDS", -1.0)
    assert loading.load() is None
    size = f"{loading.stored.image.size / 1e6:.1f} MB"
    said = [
        each.message.rpartition(": ")[2] for each in loading.events if each.kind is Kind.LOADING
    ]
    assert len(said) > 5
    assert said[-1].startswith(f"{size} of {size}")


def test_an_image_is_loaded_once_however_many_apps_want_it(loading: Loading) -> None:
    ended: list[Failure | None] = []
    apps = [f"app-{number}" for number in range(8)]
    threads = [
        threading.Thread(target=lambda app=app: ended.append(loading.load(app))) for app in apps
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [None] * len(apps)
    assert len(loading.engine.loads) == 1


def test_a_load_that_failed_is_not_repeated_for_the_next_app(loading: Loading) -> None:
    loading.engine.trouble, loading.engine.resolves = "no", False
    first = loading.load("a")
    assert first is not None
    assert loading.load("b") == first
    assert len(loading.engine.loads) == 1


def test_each_image_is_loaded_for_itself_and_never_two_at_once(loading: Loading) -> None:
    made = Builder(loading.stored.store.folder).image("factory/other", [SMALL])
    other = loading.stored.store.image(made.reference, loading.stored.version, None)
    active = threading.Semaphore(1)

    def alone() -> None:
        assert active.acquire(blocking=False)
        threading.Event().wait(0.02)
        active.release()

    loading.engine.before = alone
    threads = [
        threading.Thread(target=loading.load, args=("shop", image))
        for image in (loading.stored.image, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loading.engine.loads) == 2


@pytest.mark.parametrize(
    ("containerd", "trouble", "resolves", "words"),
    [
        pytest.param(True, None, True, None, id="all is well"),
        pytest.param(True, "Error unpacking image", True, "Error unpacking image",
                     id="it has a name, but could not be unpacked"),
        pytest.param(False, None, True, None, id="LmP's dockerd"),
        pytest.param(True, "unexpected EOF", False, "unexpected EOF", id="said after HTTP 200"),
        pytest.param(
            False,
            "open manifest.json: no such file",
            False,
            "this dockerd keeps images in overlay2 and lacks LmP's patch: open manifest.json: "
            "no such file",
            id="a stock overlay2 that refuses",
        ),
        pytest.param(
            False,
            None,
            False,
            "this dockerd keeps images in overlay2 and lacks LmP's patch: "
            "dockerd took the image, but not under its digest",
            id="a stock overlay2 that drops the digest",
        ),
        pytest.param(
            True, None, False, "dockerd took the image, but not under its digest",
            id="no word, and no image",
        ),
    ],
)  # fmt: skip
def test_success_is_that_the_digest_resolves_and_nothing_went_wrong(
    stored: Stored, containerd: bool, trouble: str | None, resolves: bool, words: str | None
) -> None:
    loading = Loading(stored, containerd=containerd)
    loading.engine.trouble, loading.engine.resolves = trouble, resolves
    message = f"image {stored.made.reference}: {words}"
    assert loading.load() == (Failure(Cause.IMAGE_NOT_LOADED, message) if words else None)
    (sent,) = loading.engine.loads
    assert ("index.json" in sent) is containerd
    assert ("manifest.json" in sent) is not containerd


def test_a_damaged_blob_is_the_stores_fault_and_named(loading: Loading) -> None:
    image = loading.stored.image
    flip(loading.stored.blob(loading.stored.made.layers[1]))
    failure = loading.load(image=image)
    assert failure
    assert failure.cause is Cause.STORE_DAMAGED
    assert loading.stored.made.layers[1] in failure.message
    assert loading.engine.loads == []


@pytest.mark.parametrize("containerd", [True, False])
def test_a_layer_that_is_gone_since_the_plan_is_the_stores_fault(
    stored: Stored, containerd: bool
) -> None:
    loading = Loading(stored, containerd=containerd)
    image = stored.image
    stored.blob(stored.made.layers[0]).unlink()
    failure = loading.load(image=image)
    assert failure
    assert failure.cause is Cause.STORE_DAMAGED
    assert f"blob {stored.made.layers[0]} is missing" in failure.message


@pytest.mark.parametrize("containerd", [True, False])
@pytest.mark.parametrize("lacks", [0, 1])
def test_space_is_checked_before_anything_is_sent(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, containerd: bool, lacks: int
) -> None:
    loading = Loading(stored, containerd=containerd)
    needed = space_needed(stored.store, stored.image, keeps_blobs=containerd)
    asked = []

    def statvfs(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(f_bavail=needed - lacks, f_frsize=1, f_files=0, f_favail=0)

    monkeypatch.setattr("os.statvfs", statvfs)
    failure = loading.load()
    assert set(asked) == {stored.store.folder}
    if lacks:
        assert failure == Failure(
            Cause.NO_SPACE,
            f"image {stored.made.reference} needs {needed / 1e6:.1f} MB in {stored.store.folder}, "
            f"{(needed - 1) / 1e6:.1f} MB are free",
        )
        assert loading.engine.loads == []
        assert loading.events == []
    else:
        assert failure is None


def test_a_cancelled_loader_begins_nothing(loading: Loading) -> None:
    loading.loader.cancel()
    assert loading.load() == NOT_TRIED
    assert loading.engine.seconds == []


def test_what_is_being_sent_is_broken_off_when_it_is_cancelled(loading: Loading) -> None:
    loading.engine.before = loading.loader.cancel
    assert loading.load() == NOT_TRIED
    assert loading.engine.loads == []


def test_a_dockerd_that_goes_away_is_told_and_the_image_may_be_tried_again(
    loading: Loading,
) -> None:
    def gone() -> None:
        raise EngineError("dockerd does not answer: EOF", "look at it")

    loading.engine.before = gone
    with pytest.raises(EngineError, match="EOF"):
        loading.load()
    loading.engine.before = lambda: None
    assert loading.load() is None
    assert len(loading.engine.loads) == 1


def test_dockerd_may_be_silent_until_the_end_of_the_run(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    loading.seconds = 60.0
    assert loading.load() is None
    assert loading.engine.seconds == [60.0 + images.GRACE_SECONDS]


def test_an_end_of_the_run_does_not_wait_until_dockerd_has_unpacked(loading: Loading) -> None:
    unpacked = threading.Event()

    def unpack(archive: Iterator[bytes], seconds: float) -> str | None:
        assert members(b"".join(archive))
        loading.loader.cancel()
        unpacked.wait()
        return None

    loading.engine.load = unpack  # type: ignore[method-assign]
    assert loading.load() == NOT_TRIED
    unpacked.set()


def hang(loading: Loading, *, until_sent: bool) -> None:
    """Have dockerd take nothing, or all and then unpack for ever."""

    def load(archive: Iterator[bytes], seconds: float) -> str | None:
        loading.engine.seconds.append(seconds)
        for _chunk in archive if until_sent else ():
            pass
        threading.Event().wait()
        return None

    loading.engine.load = load  # type: ignore[method-assign]


@pytest.mark.parametrize("until_sent", [True, False], ids=["unpacks", "takes nothing"])
def test_a_load_ends_with_the_run_and_is_told_as_that(loading: Loading, until_sent: bool) -> None:
    hang(loading, until_sent=until_sent)
    other = Builder(loading.stored.store.folder).image("factory/other", [SMALL])
    loading.seconds = 0.05
    failure = loading.load()
    assert failure
    assert failure.cause is Cause.RUN_TIMEOUT
    size = f"{loading.stored.image.size / 1e6:.1f} MB"
    assert failure.message == (
        f"image {loading.stored.made.reference}: 0 s were left of the run, too short to load it "
        f"({size if until_sent else '0.0 MB'} of {size} sent)"
    )
    # Nothing more is begun.
    image = loading.stored.store.image(other.reference, loading.stored.version, None)
    assert loading.load(image=image) == Failure(
        Cause.RUN_TIMEOUT, f"image {other.reference}: the time of the run was up before its turn"
    )
    assert len(loading.engine.seconds) == 1


def test_what_never_ends_in_a_runs_time_is_not_begun_at_the_next_boot(loading: Loading) -> None:
    sound = loading.engine.load
    hang(loading, until_sent=True)
    loading.seconds = 0.05
    assert loading.load()
    loading.engine.load = sound  # type: ignore[method-assign]
    loading.again()
    failure = loading.load()
    assert failure
    assert failure.cause is Cause.RUN_TIMEOUT
    assert failure.message == (
        f"image {loading.stored.made.reference}: 0 s were too short to load it in an earlier run, "
        "and this run has 0 s left, so it is not begun"
    )
    assert len(loading.engine.seconds) == 1
    # More time than then: others have been loaded meanwhile, or somebody has raised the limit.
    loading.again()
    loading.seconds = 10.0
    assert loading.load() is None
    assert json.loads(loading.settings.slow_loads.read_bytes()) == {}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"x": "y"}', b'{"x": null}', b"\xff", b"[" * 100_000, None]
)
def test_a_record_of_slow_loads_that_is_none_does_no_harm(
    loading: Loading, content: bytes | None
) -> None:
    file = loading.settings.slow_loads
    file.parent.mkdir(parents=True)
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    assert loading.load() is None
    too_slow = TooSlow(file)
    too_slow.remember("x", 1.0)
    assert too_slow.seconds("x") == 1.0


def test_a_record_of_slow_loads_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    TooSlow(tmp_path / "file/slow-loads.json").remember("x", 1.0)


# A power cut while an image is loaded


def test_an_image_counts_as_unfinished_from_its_load_until_it_is_on_the_disk(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = Unfinished(loading.settings.unfinished_loads)
    reference = loading.stored.made.reference
    seen = []

    def sync() -> None:
        assert len(loading.engine.loads) == 1
        seen.append(("sync", unfinished.references()))

    monkeypatch.setattr(os, "sync", sync)
    loading.engine.before = lambda: seen.append(("load", unfinished.references()))
    assert loading.load() is None
    marked = frozenset({reference})
    assert seen == [("load", marked), ("sync", marked)]
    assert not loading.settings.unfinished_loads.exists()


def test_an_image_that_could_not_be_loaded_counts_as_unfinished(loading: Loading) -> None:
    loading.engine.trouble, loading.engine.resolves = "unexpected EOF", False
    assert loading.load()
    unfinished = Unfinished(loading.settings.unfinished_loads)
    assert unfinished.references() == {loading.stored.made.reference}


@pytest.mark.parametrize("content", [b"", b"1", b"\xff", b"[" * 100_000])
def test_a_record_of_unfinished_loads_that_is_none_does_no_harm(
    loading: Loading, content: bytes
) -> None:
    loading.settings.unfinished_loads.parent.mkdir(parents=True)
    loading.settings.unfinished_loads.write_bytes(content)
    assert loading.load() is None


def test_a_record_of_unfinished_loads_that_cannot_be_written_does_no_harm(
    loading: Loading,
) -> None:
    loading.settings.unfinished_loads.parent.parent.mkdir(parents=True)
    loading.settings.unfinished_loads.parent.touch()
    assert loading.load() is None


@pytest.mark.parametrize(
    ("is_used", "is_stored", "goes"),
    [
        pytest.param(False, True, True, id="nobody uses it, and the store has it"),
        pytest.param(True, True, False, id="a container uses it"),
        pytest.param(False, False, False, id="the store lacks it"),
    ],
)
def test_an_unfinished_image_is_removed_only_if_it_can_be_loaded_again(
    loading: Loading, *, is_used: bool, is_stored: bool, goes: bool
) -> None:
    reference = loading.stored.made.reference
    if not is_stored:
        loading.stored.blob(loading.stored.made.config).unlink()
    Unfinished(loading.settings.unfinished_loads).add(reference)
    loading.engine.is_used = is_used
    restorable = Restorable(loading.stored.version, {}, ())
    shop = app("shop", service(image=reference), restorable=restorable)
    wanted = replace(selection(shop), store=loading.stored.store)
    before = State(frozenset({reference, "other"}))
    report = Report([loading.events.append])
    state = discard_unfinished(loading.settings, loading.engine, wanted, before, report)
    assert state.images == ({"other"} if goes else {reference, "other"})
    assert [each.kind for each in loading.events] == ([Kind.NOTE] if goes else [])
    assert not loading.settings.unfinished_loads.exists()


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("write /var/lib/containerd/x: no space left on device", Cause.NO_SPACE),
        ("write /x: disk quota exceeded", Cause.NO_SPACE),
        ("mkdir /var/lib/docker/tmp/docker-import-1: read-only file system", Cause.READ_ONLY),
    ],
)
@pytest.mark.parametrize("containerd", [True, False])
def test_what_the_disk_refuses_is_no_fault_of_the_image(
    stored: Stored, containerd: bool, trouble: str, cause: Cause
) -> None:
    loading = Loading(stored, containerd=containerd)
    loading.engine.trouble, loading.engine.resolves = trouble, False
    assert loading.load() == Failure(cause, f"image {stored.made.reference}: {trouble}")


@pytest.mark.parametrize("before", [True, False], ids=["before the load", "in the middle"])
def test_inodes_may_run_out_while_bytes_are_free(
    loading: Loading, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    favail = 0 if before else 1

    def statvfs(_: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=1 << 40, f_frsize=1, f_files=10, f_favail=favail)

    def run_out() -> None:
        nonlocal favail
        favail = 0

    monkeypatch.setattr("os.statvfs", statvfs)
    loading.engine.before = run_out
    loading.engine.trouble, loading.engine.resolves = "no space left on device", False
    failure = loading.load()
    assert failure
    assert failure.cause is Cause.NO_SPACE
    assert f"no inodes are left in {loading.stored.store.folder}" in failure.message
    assert len(loading.engine.loads) == (not before)


def test_space_is_looked_for_where_containerd_keeps_its_data(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = stored.store.folder
    monkeypatch.setattr(images, "CONTAINERD_ROOT", tmp_path / "containerd")
    place: dict[Path, int] = {root: 0, root / "containerd/daemon": 0, tmp_path / "containerd": 0}

    def statvfs(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=place[folder], f_frsize=1, f_files=0, f_favail=0)

    def failed_in(loading: Loading) -> str:
        failure = loading.load()
        assert failure
        assert failure.cause is Cause.NO_SPACE
        return failure.message.partition(" in ")[2].partition(", ")[0]

    monkeypatch.setattr("os.statvfs", statvfs)
    assert failed_in(Loading(stored)) == str(root)
    (tmp_path / "containerd").mkdir()
    assert failed_in(Loading(stored)) == str(tmp_path / "containerd")
    assert failed_in(Loading(stored, containerd=False)) == str(root)
    (root / "containerd/daemon").mkdir(parents=True)
    assert failed_in(Loading(stored)) == str(root / "containerd/daemon")
    place[root / "containerd/daemon"] = 1 << 40
    assert Loading(stored).load() is None
    # What cannot be asked is dockerd's to say.
    place.clear()
    monkeypatch.setattr("os.statvfs", lambda _: (_ for _ in ()).throw(OSError(2, "gone")))
    assert Loading(stored).load() is None


def test_a_defect_while_sending_is_not_swallowed(loading: Loading) -> None:
    def defect() -> None:
        raise ZeroDivisionError

    loading.engine.before = defect
    with pytest.raises(ZeroDivisionError):
        loading.load()
