"""Putting an app's folder back: whole or not at all, and nothing outside of it."""

import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from compose_apps_early_start import bundle
from compose_apps_early_start.bundle import SpaceError
from compose_apps_early_start.store import Store, StoreError
from hypothesis import given
from hypothesis import strategies as st
from stores import Builder, composectls, files, member, sha256, tar, tgz

COMPOSE_FILE = b"services: {web: {image: x}}\n"
PAGE = b"<p>hello</p>\n"
CONTENT = {"docker-compose.yml": COMPOSE_FILE, "site/index.html": PAGE}
Members = list[tuple[tarfile.TarInfo, bytes]]


class Device:
    """A store with the app `shop`, the place of its folder, and the scratch folder."""

    def __init__(self, top: Path) -> None:
        self.builder = Builder(top / "reset-apps")
        self.store = Store(top / "reset-apps")
        self.folder = top / "compose-apps/shop"
        self.staging = top / ".staging"

    def hashes(self) -> dict[str, str]:
        (version,) = self.store.versions()["shop"]
        return dict(bundle.index(self.store, version, self.store.manifest(version)))

    def differences(self) -> tuple[str, ...]:
        return bundle.differences(self.folder, self.hashes())

    def restore(self) -> None:
        (version,) = self.store.versions()["shop"]
        bundle.restore(self.store, version, self.hashes(), self.folder, self.staging)

    def stored(self, content: dict[str, bytes], *, indexed: bool = True) -> None:
        self.builder.app_of_files("shop", content, indexed=indexed)

    def members(self, *members: tuple[tarfile.TarInfo, bytes]) -> None:
        """Store a bundle of these members; its index has the plain files."""
        hashes = {info.name: sha256(data) for info, data in members if info.type == tarfile.REGTYPE}
        self.builder.app("shop", tgz(members), hashes)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def shop(device: Device) -> Device:
    device.stored(CONTENT)
    return device


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What is to be put back


@pytest.mark.parametrize("indexed", [True, False], ids=["with an index", "without an index"])
def test_the_hashes_are_those_of_the_files(device: Device, indexed: bool) -> None:
    device.stored({"./docker-compose.yml": COMPOSE_FILE}, indexed=False)
    assert device.hashes() == {"docker-compose.yml": sha256(COMPOSE_FILE)}
    shutil.rmtree(device.store.folder / "apps")
    device.stored(CONTENT, indexed=indexed)
    assert device.hashes() == {name: sha256(data) for name, data in CONTENT.items()}


def damage_nothing(_: Path) -> None:
    pass


def put_a_file_in_the_place_of_a_folder(top: Path) -> None:
    shutil.rmtree(top / "site")
    (top / "site").touch()


def put_a_link_in_the_place_of_a_file(top: Path) -> None:
    (top / "docker-compose.yml").rename(top / "other")
    (top / "docker-compose.yml").symlink_to("other")


@pytest.mark.parametrize(
    ("change", "damaged"),
    [
        pytest.param(damage_nothing, [], id="intact"),
        pytest.param(lambda top: (top / "mine").write_text("x"), [], id="a file of the user's"),
        pytest.param(lambda top: (top / "docker-compose.yml").chmod(0), [], id="another mode"),
        pytest.param(
            lambda top: (top / "docker-compose.yml").unlink(), ["docker-compose.yml"], id="missing"
        ),
        pytest.param(
            lambda top: (top / "docker-compose.yml").write_bytes(b""),
            ["docker-compose.yml"],
            id="truncated",
        ),
        pytest.param(
            lambda top: (top / "site/index.html").write_bytes(b"other"),
            ["site/index.html"],
            id="changed",
        ),
        pytest.param(
            lambda top: shutil.rmtree(top / "site"), ["site/index.html"], id="a folder is missing"
        ),
        pytest.param(
            put_a_file_in_the_place_of_a_folder,
            ["site/index.html"],
            id="a file in the place of a folder",
        ),
        pytest.param(
            put_a_link_in_the_place_of_a_file,
            ["docker-compose.yml"],
            id="a link to the right file",
        ),
        pytest.param(lambda top: shutil.rmtree(top), list(CONTENT), id="all is missing"),
    ],
)  # fmt: skip
def test_what_differs_from_the_index_is_found_and_put_back(
    shop: Device, change: Callable[[Path], object], damaged: list[str]
) -> None:
    shop.restore()
    change(shop.folder)
    assert list(shop.differences()) == damaged
    shop.restore()
    assert shop.differences() == ()
    assert content(shop.folder).items() >= CONTENT.items()


def test_the_compose_file_is_read_out_of_the_bundle(shop: Device) -> None:
    (version,) = shop.store.versions()["shop"]
    manifest = shop.store.manifest(version)
    name = "docker-compose.yml"
    assert bundle.compose_file(shop.store, version, manifest, name) == COMPOSE_FILE
    with pytest.raises(StoreError, match=r"the bundle of app 'shop': there is no compose\.yaml"):
        bundle.compose_file(shop.store, version, manifest, "compose.yaml")


def test_a_link_is_no_compose_file(device: Device) -> None:
    device.members(member("docker-compose.yml", type=tarfile.SYMTYPE, linkname="nowhere"))
    (version,) = device.store.versions()["shop"]
    with pytest.raises(StoreError, match="there is no docker-compose"):
        bundle.compose_file(
            device.store, version, device.store.manifest(version), "docker-compose.yml"
        )


def test_the_bundles_of_the_real_composectl_are_put_back(tmp_path: Path) -> None:
    store = Store(composectls(tmp_path))
    for name, found in store.versions().items():
        (version,) = found
        hashes = bundle.index(store, version, store.manifest(version))
        folder = tmp_path / "compose-apps" / name
        bundle.restore(store, version, hashes, folder, tmp_path / ".staging")
        assert bundle.differences(folder, hashes) == ()
        copy = version.folder / "docker-compose.yml"
        assert (folder / "docker-compose.yml").read_bytes() == copy.read_bytes()
    assert sorted(each.name for each in (tmp_path / "compose-apps").iterdir()) == [
        *("shop", "telemetry")
    ]


# What a folder is like when it was put back


def test_modes_are_those_of_the_bundle_without_set_user_id_and_set_group_id(
    device: Device,
) -> None:
    device.members(
        member("docker-compose.yml", COMPOSE_FILE, mode=0o600),
        member("run", b"#!/bin/sh\n", mode=0o6755),
        member("tmp", type=tarfile.DIRTYPE, mode=0o7777),
        member("deep/er/file", b"x", mode=0o640),
    )
    before = os.umask(0o077)  # as the unit has it
    try:
        device.restore()
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(device.folder)): stat.S_IMODE(path.stat().st_mode)
        for path in (device.folder, *device.folder.rglob("*"))
    }
    assert modes == {
        ".": 0o755,
        "docker-compose.yml": 0o600,
        "run": 0o755,
        "tmp": 0o1777,
        "deep": 0o755,
        "deep/er": 0o755,
        "deep/er/file": 0o640,
    }


def test_owners_are_those_of_the_bundle_where_that_is_allowed(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_to: dict[str, tuple[int, int, bool]] = {}

    def chown(path: Path, owner: int, group: int, *, follow_symlinks: bool) -> None:
        given_to[path.name] = (owner, group, follow_symlinks)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    device.members(
        member("docker-compose.yml", COMPOSE_FILE, uid=1000, gid=2000),
        member("link", type=tarfile.SYMTYPE, linkname="docker-compose.yml", uid=7, gid=8),
    )
    device.restore()
    assert given_to == {"docker-compose.yml": (1000, 2000, False), "link": (7, 8, False)}
    assert device.differences() == ()


def test_links_that_stay_inside_are_kept(device: Device) -> None:
    links = {"a": "docker-compose.yml", "deep/b": "../a", "deep/c": ".", "d": "nowhere", "e": "e"}
    device.members(
        member("docker-compose.yml", COMPOSE_FILE),
        *(member(name, type=tarfile.SYMTYPE, linkname=to) for name, to in links.items()),
    )
    device.restore()
    assert {name: str((device.folder / name).readlink()) for name in links} == links
    assert (device.folder / "deep/b").read_bytes() == COMPOSE_FILE


def test_an_archive_of_dot_is_as_good(device: Device) -> None:
    hashes = {"docker-compose.yml": sha256(COMPOSE_FILE)}
    members = [member(".", type=tarfile.DIRTYPE, mode=0o750),
               member("./docker-compose.yml", COMPOSE_FILE)]  # fmt: skip
    device.builder.app("shop", tgz(members), hashes)
    device.restore()
    assert device.differences() == ()
    assert stat.S_IMODE(device.folder.stat().st_mode) == 0o750


def test_files_of_the_user_are_kept_as_the_very_same_files(shop: Device) -> None:
    shop.restore()
    (shop.folder / ".env").write_text("KEY=1\n")
    (shop.folder / "data/db").mkdir(parents=True)
    (shop.folder / "data").chmod(0o1770)
    (shop.folder / "data/db/rows").write_text("precious")
    (shop.folder / "site/mine.html").write_text("mine")
    (shop.folder / "link").symlink_to("/etc/hostname")
    (shop.folder / "links").symlink_to("data")
    os.mkfifo(shop.folder / "pipe")
    shop.folder.joinpath("site/index.html").write_text("damaged")
    names = (".env", "data/db/rows", "site/mine.html", "link", "links", "pipe")
    before = {name: (shop.folder / name).lstat().st_ino for name in names}
    shop.restore()
    assert {name: (shop.folder / name).lstat().st_ino for name in names} == before
    assert (shop.folder / "data/db/rows").read_text() == "precious"
    assert stat.S_IMODE((shop.folder / "data").stat().st_mode) == 0o1770
    assert (shop.folder / "site/index.html").read_bytes() == PAGE


# Bundles that are refused

OUT = "leads out of the app's folder"
PASSWD = member("x/../../passwd", b"root::0:0::/:/bin/sh\n")


def link(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=to)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([member("../evil", b"x")], OUT, id="a name that leads out"),
        pytest.param([PASSWD], OUT, id="a name that leads out in the middle"),
        pytest.param([member("/etc/evil", b"x")], OUT, id="an absolute name"),
        pytest.param([member("..", type=tarfile.DIRTYPE)], OUT, id="the parent folder"),
        pytest.param([link("a", "/etc/passwd")], OUT, id="an absolute link"),
        pytest.param([link("a", "..")], OUT, id="a link to the parent"),
        pytest.param([link("d/a", "../../x")], OUT, id="a link that leads out"),
        pytest.param([link("d/e", ".."), link("f", "d/e/..")], OUT, id="a link by way of a link"),
        pytest.param([link("f", "d/e/.."), link("d/e", "..")], OUT, id="the other way round"),
        pytest.param([link("a", "."), member("a/b", b"x")], "lies behind a link", id="a file"),
        pytest.param([link("a", "."), member("a/b", type=tarfile.DIRTYPE)], "lies behind a link",
                     id="a folder behind a link"),
        pytest.param([link("a", "b"), member("a", b"x")], "as a link, too", id="over a link"),
        pytest.param([link("f", "site"), member("site", type=tarfile.DIRTYPE),
                      member("f", type=tarfile.DIRTYPE, mode=0)], "as a link, too",
                     id="a folder over a link"),
        pytest.param([member("docker-compose.yml", COMPOSE_FILE),
                      member("b", type=tarfile.LNKTYPE, linkname="docker-compose.yml")],
                     "neither file, folder nor", id="a hard link"),
        pytest.param([member("a", type=tarfile.LNKTYPE, linkname="/etc/shadow")],
                     "neither file, folder nor", id="a hard link that leads out"),
        pytest.param([member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=1)],
                     "neither file, folder nor", id="a character device"),
        pytest.param([member("a", type=tarfile.BLKTYPE, devmajor=8)],
                     "neither file, folder nor", id="a block device"),
        pytest.param([member("a", type=tarfile.FIFOTYPE)], "neither file, folder nor", id="a pipe"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False], ids=["over a folder", "without a folder"])
def test_what_no_bundle_needs_is_refused(
    device: Device, members: Members, words: str, there: bool
) -> None:
    if there:
        device.folder.mkdir(parents=True)
        (device.folder / "docker-compose.yml").write_text("damaged")
    outside = everything(device.folder.parents[1])
    device.members(*members)
    with pytest.raises(StoreError, match="the bundle of app 'shop'") as raised:
        device.restore()
    assert words in str(raised.value)
    assert_untouched(device, outside)


def everything(top: Path) -> dict[str, tuple[int, int]]:
    """Every path outside the store, with inode and mode."""
    return {
        str(path.relative_to(top)): (path.lstat().st_ino, path.lstat().st_mode)
        for path in top.rglob("*")
        if "reset-apps" not in path.parts and path.name != "compose-apps"
    }


def assert_untouched(device: Device, before: dict[str, tuple[int, int]]) -> None:
    assert everything(device.folder.parents[1]) == before
    assert not device.staging.exists()


NAMES = st.lists(
    st.sampled_from(("a", "b", "..", ".", "", "/", "\0", "é", "x" * 300, "docker-compose.yml")),
    max_size=4,
).map("/".join)
KINDS = st.sampled_from(
    (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=6)


@given(members=MEMBERS)
def test_whatever_is_in_a_bundle_nothing_outside_the_folder_is_touched(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str]]
) -> None:
    device = Device(tmp_path_factory.mktemp("device"))
    device.folder.mkdir(parents=True)
    (device.folder.parent / "other").mkdir()
    before = everything(device.folder.parents[1])
    made = []
    for name, kind, to in members:
        try:
            tar([member(name, type=kind, linkname=to)])
        except (ValueError, UnicodeError):
            continue  # no archive can have it
        made.append(member(name, b"x" if kind == tarfile.REGTYPE else b"", type=kind, linkname=to))
    device.builder.app("shop", tgz(made), {})
    (version,) = device.store.versions()["shop"]
    try:
        bundle.restore(device.store, version, {}, device.folder, device.staging)
    except (StoreError, OSError):
        assert_untouched(device, before)
        return
    after = everything(device.folder.parents[1])
    inside = "compose-apps/shop"
    assert {name: each for name, each in after.items() if not name.startswith(inside)} == {
        name: each for name, each in before.items() if not name.startswith(inside)
    }
    top = device.folder.resolve()
    for path in device.folder.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(top)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not an archive", id="text"),
        pytest.param(files(CONTENT)[:100], id="cut off"),
        pytest.param(files(CONTENT)[:60] + b"garbage" + files(CONTENT)[67:], id="a broken stream"),
        pytest.param(b"\x1f\x8bgarbage and more garbage", id="a broken head"),
    ],
)
def test_a_bundle_that_is_no_archive_is_refused(device: Device, data: bytes) -> None:
    hashes = {name: sha256(each) for name, each in CONTENT.items()}
    device.builder.app("shop", data, hashes)
    with pytest.raises(StoreError, match="the bundle of app 'shop': "):
        device.restore()
    assert not device.folder.exists()
    assert not device.staging.exists()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({**CONTENT, "site/index.html": b"other"}, "site/index.html"),
        ({"docker-compose.yml": COMPOSE_FILE}, "site/index.html"),
        ({}, "docker-compose.yml"),
    ],
    ids=["a file is another", "a file is missing", "it is empty"],
)
def test_a_bundle_that_is_not_as_its_index_says_is_refused(
    device: Device, changed: dict[str, bytes], name: str
) -> None:
    hashes = {each: sha256(data) for each, data in CONTENT.items()}
    device.builder.app("shop", files(changed), hashes)
    with pytest.raises(StoreError, match=f"{name} is not in it as its index says"):
        device.restore()
    assert not device.folder.exists()


# Whole or not at all


def test_a_folder_is_put_back_by_exchange_and_the_old_one_is_whole_until_then(
    shop: Device,
) -> None:
    shop.restore()
    broken = shop.folder / "site/index.html"
    looked = threading.Event()
    over = threading.Event()
    seen: list[dict[str, bytes]] = []
    strange: list[str] = []

    def look() -> None:
        while not over.is_set():
            # The folder as it is at one moment, whatever name it has afterwards.
            descriptor = os.open(shop.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fixed = Path(f"/proc/self/fd/{descriptor}")
                names = sorted(os.listdir(descriptor))  # noqa: PTH208
                if names == ["docker-compose.yml", "site"]:
                    seen.append({"docker-compose.yml": (fixed / names[0]).read_bytes()})
            except FileNotFoundError:
                pass  # the old one is being removed, out of sight
            finally:
                os.close(descriptor)
            strange.extend(set(os.listdir(shop.folder.parent)) - {"shop"})  # noqa: PTH208
            looked.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            broken.write_bytes(b"damaged")
            looked.clear()
            shop.restore()
            looked.wait()
    finally:
        over.set()
        watcher.join()
    assert strange == []
    assert len(seen) > 10
    assert {each["docker-compose.yml"] for each in seen} == {COMPOSE_FILE}


def test_there_is_no_moment_without_the_folder_and_none_with_half_of_it(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call is the last one before a power cut."""
    shop.restore()
    for name in CONTENT:
        (shop.folder / name).write_bytes(b"old")
    (shop.folder / "mine").write_bytes(b"mine")
    states: list[dict[str, bytes]] = []

    with monkeypatch.context() as patched:
        look_at_each_call(lambda: states.append(content(shop.folder)), patched)
        shop.restore()
    old = dict.fromkeys(CONTENT, b"old") | {"mine": b"mine"}
    new = CONTENT | {"mine": b"mine"}
    assert len(states) > 20
    assert states[0] == old
    assert states[-1] == new
    assert states == sorted(states, key=lambda each: each == new)
    assert all(each in (old, new) for each in states)


def look_at_each_call(look: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `look` called before every call that changes a file."""
    looking = False

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal looking
            if not looking:
                looking = True
                look()
                looking = False
            return real(*arguments, **more)

        return call

    for name in ("mkdir", "chmod", "link", "open", "rename", "fsync", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))


def test_an_intact_folder_is_not_even_looked_into_for_writing(shop: Device) -> None:
    shop.restore()
    before = everything(shop.folder.parents[1])
    assert shop.differences() == ()
    assert everything(shop.folder.parents[1]) == before


def test_what_a_killed_run_left_is_removed(shop: Device) -> None:
    (shop.staging / "new/site").mkdir(parents=True)
    (shop.staging / "new/site/index.html").write_text("half")
    shop.restore()
    assert shop.differences() == ()
    assert not shop.staging.exists()


def test_everything_is_on_the_disk_before_it_is_exchanged(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(str(path.relative_to(shop.folder.parents[1])))

    monkeypatch.setattr(os, "fsync", fsync)
    shop.restore()
    new = ".staging/new"
    assert synced[-1] == "compose-apps"
    assert set(synced[:-1]) == {new, f"{new}/site", *(f"{new}/{name}" for name in CONTENT)}


@pytest.mark.parametrize("call", ["mkdir", "fsync", "link", "renameat2"])
def test_after_any_error_the_folder_is_as_it_was(
    shop: Device, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    shop.restore()
    (shop.folder / "site/index.html").write_bytes(b"damaged")
    (shop.folder / "mine").touch()
    before = everything(shop.folder.parents[1])
    calls = 0

    def fail(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device", "file")

    if call == "renameat2":
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace(renameat2=lambda *_: 1))
        monkeypatch.setattr("ctypes.get_errno", lambda: 18)
        with pytest.raises(OSError, match="Invalid cross-device link"):
            shop.restore()
    else:
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            shop.restore()
        assert calls
    assert_untouched(shop, before)


def test_space_is_checked_before_anything_is_written(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.stored({"docker-compose.yml": COMPOSE_FILE, "large": bytes(100_000)})
    written: list[object] = []
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_frsize=4096, f_bavail=26))
    monkeypatch.setattr("shutil.copyfileobj", lambda *_: written.append(_))
    with pytest.raises(SpaceError, match="needs 114688 bytes, 106496 are free"):
        device.restore()
    assert written == []
    assert not device.folder.exists()
    assert not device.staging.exists()


def test_a_file_in_the_place_of_the_folder_is_somebodys_and_stays(shop: Device) -> None:
    shop.folder.parent.mkdir()
    shop.folder.write_text("mine")
    with pytest.raises(NotADirectoryError, match="shop"):
        shop.restore()
    assert shop.folder.read_text() == "mine"


@pytest.mark.parametrize("name", ["docker-compose.yml", "site/index.html"])
def test_a_folder_in_the_place_of_a_file_is_somebodys_and_stays(shop: Device, name: str) -> None:
    shop.restore()
    (shop.folder / name).unlink()
    (shop.folder / name).mkdir()
    (shop.folder / name / "precious").write_text("mine")
    before = everything(shop.folder.parents[1])
    with pytest.raises(StoreError, match="move it away"):
        shop.restore()
    assert_untouched(shop, before)
