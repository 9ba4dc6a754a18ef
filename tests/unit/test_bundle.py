"""Restoring the damaged files of an app's folder touches no other file."""

import errno
import gzip
import os
import shutil
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compose_apps_early_start import bundle
from compose_apps_early_start.bundle import SpaceError
from compose_apps_early_start.store import Store, StoreError
from hypothesis import example, given
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

    def restore(self) -> tuple[str, ...]:
        (version,) = self.store.versions()["shop"]
        return bundle.restore(self.store, version, self.hashes(), self.folder, self.staging)

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
    assert list(shop.restore()) == damaged
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


def test_everything_belongs_to_who_puts_it_back_as_when_composectl_does(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(*_: object, **__: object) -> None:
        pytest.fail("given away")

    monkeypatch.setattr(os, "chown", chown)
    device.members(
        member("docker-compose.yml", COMPOSE_FILE, uid=1000, gid=2000),
        member("link", type=tarfile.SYMTYPE, linkname="docker-compose.yml", uid=7, gid=8),
    )
    device.restore()
    for path in (device.folder, *device.folder.rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (os.geteuid(), os.getegid())
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


# What is damaged in a folder that is there


def inodes(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Every path in `folder` with inode, mode, owner and group."""
    return {
        str(path.relative_to(folder)): (found.st_ino, found.st_mode, found.st_uid, found.st_gid)
        for path in (folder, *folder.rglob("*"))
        for found in (path.lstat(),)
    }


def test_only_what_is_damaged_is_replaced(shop: Device) -> None:
    shop.restore()
    (shop.folder / ".env").write_text("KEY=1\n")
    (shop.folder / "data/db").mkdir(parents=True)
    (shop.folder / "data").chmod(0o2770)
    os.chown(shop.folder / "data", 999, 998)
    (shop.folder / "data/db/rows").write_text("precious")
    (shop.folder / "site/mine.html").write_text("mine")
    (shop.folder / "link").symlink_to("/etc/hostname")
    (shop.folder / "links").symlink_to("data")
    os.mkfifo(shop.folder / "pipe")
    shop.folder.joinpath("site/index.html").write_text("damaged")
    before = inodes(shop.folder)
    assert shop.restore() == ("site/index.html",)
    after = inodes(shop.folder)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} == {"site/index.html"}
    assert (shop.folder / "data/db/rows").read_text() == "precious"
    assert (shop.folder / "site/index.html").read_bytes() == PAGE


def test_what_a_container_writes_meanwhile_is_kept(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.restore()
    (shop.folder / "site/index.html").write_text("damaged")
    written = shop.folder / "site/written"
    with monkeypatch.context() as patched, written.open("w") as stream:
        look_at_each_call(lambda: print("x", file=stream, flush=True), patched)
        shop.restore()
    assert len(written.read_text().splitlines()) > 10


def test_a_file_that_goes_meanwhile_is_not_replaced_by_an_empty_one(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.restore()
    (shop.folder / "docker-compose.yml").write_text("damaged")
    real = os.rename

    def rename(source: object, target: object, **places: int) -> None:
        (shop.folder / "site/index.html").unlink()
        real(str(source), str(target), **places)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        shop.restore()
    assert content(shop.folder) == {"docker-compose.yml": COMPOSE_FILE}
    shop.restore()
    assert content(shop.folder) == CONTENT


def test_a_huge_file_in_the_place_of_one_is_not_read_to_its_end(shop: Device) -> None:
    shop.restore()
    os.truncate(shop.folder / "site/index.html", 1 << 42)
    assert shop.restore() == ("site/index.html",)
    assert (shop.folder / "site/index.html").read_bytes() == PAGE


@pytest.mark.parametrize("elsewhere", [False, True], ids=["renamed", "copied"])
@pytest.mark.parametrize(("owner", "group"), [(0, 0), (999, 998), (0, 998)])
def test_a_file_keeps_the_owner_and_mode_of_the_one_that_it_replaces(
    shop: Device, monkeypatch: pytest.MonkeyPatch, owner: int, group: int, elsewhere: bool
) -> None:
    shop.restore()
    page = shop.folder / "site/index.html"
    page.write_bytes(b"damaged, and longer than the page")
    os.chown(page, owner, group)
    page.chmod(0o640)
    # The unit's root may not.
    monkeypatch.setattr(os, "chown", fail_with(errno.EPERM))
    monkeypatch.setattr(os, "fchown", fail_with(errno.EPERM))
    if elsewhere:
        refuse_renames_out_of(shop.staging, monkeypatch)
    shop.restore()
    found = page.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, group, 0o640)
    assert page.read_bytes() == PAGE


def test_a_file_of_somebody_elses_that_is_being_replaced_is_left_to_them(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.restore()
    page = shop.folder / "site/index.html"
    page.write_text("damaged")
    os.chown(page, 999, 998)
    theirs = shop.folder / "site/theirs"
    theirs.write_text("theirs")
    real = os.open

    def replaced(path: object, *arguments: Any, **places: Any) -> int:
        if path == "index.html":
            theirs.replace(page)
        return real(str(path), *arguments, **places)

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(OSError, match="somebody else replaces the file"):
        shop.restore()
    monkeypatch.undo()
    assert page.read_text() == "theirs"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["renamed", "copied"])
def test_what_is_missing_comes_as_it_is_in_the_bundle(
    device: Device, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    device.members(
        member("docker-compose.yml", COMPOSE_FILE),
        member("run", b"#!/bin/sh\n", mode=0o4750, uid=7),
        member("etc", type=tarfile.DIRTYPE, mode=0o700),
        member("etc/deep/file", b"x", mode=0o600),
        member("etc/link", type=tarfile.SYMTYPE, linkname="deep"),
    )
    device.restore()
    before = {name: each[1:] for name, each in inodes(device.folder).items()}
    assert stat.S_IMODE(before["run"][0]) == 0o750
    shutil.rmtree(device.folder / "etc")
    (device.folder / "run").unlink()
    if elsewhere:
        refuse_renames_out_of(device.staging, monkeypatch)
    assert device.restore() == ("run", "etc/deep/file")
    assert {name: each[1:] for name, each in inodes(device.folder).items()} == before


def refuse_renames_out_of(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the app's folder, or one inside of it, is a mount."""
    real = os.rename

    def rename(source: object, target: object, **places: int) -> None:
        if str(source).startswith(str(staging)):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        real(str(source), str(target), **places)

    monkeypatch.setattr(os, "rename", rename)


def test_a_folder_that_cannot_be_renamed_into_its_place_is_filled(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_renames_out_of(shop.staging, monkeypatch)
    shop.restore()
    assert content(shop.folder) == CONTENT
    assert stat.S_IMODE(shop.folder.stat().st_mode) == 0o755


def test_a_file_written_beside_goes_if_that_fails_and_what_was_left_does_no_harm(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.restore()
    (shop.folder / "site/index.html").write_text("damaged")
    (shop.folder / "site" / bundle.BESIDE).symlink_to("/etc/hostname")  # of a run that was killed
    before = {**CONTENT, "site/index.html": b"damaged"}
    with monkeypatch.context() as patched:
        refuse_renames_out_of(shop.staging, patched)
        patched.setattr(os, "fchmod", fail_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output error") as raised:
            shop.restore()
    assert raised.value.filename == str(shop.folder / "site/index.html")
    assert content(shop.folder) == before
    assert not os.path.lexists(shop.folder / "site" / bundle.BESIDE)
    shop.restore()
    assert content(shop.folder) == CONTENT


def fail_with(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("lead", ["/etc", "elsewhere"])
def test_no_link_in_the_folder_is_followed(shop: Device, lead: str) -> None:
    shop.restore()
    shutil.rmtree(shop.folder / "site")
    (shop.folder.parents[1] / "elsewhere").mkdir()
    (shop.folder / "site").symlink_to(shop.folder.parents[1] / lead)
    before = everything(shop.folder.parents[1])
    with pytest.raises(OSError, match="in the place of a folder; move it away") as raised:
        shop.restore()
    assert raised.value.filename == str(shop.folder / "site")
    assert_untouched(shop, before)


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
        pytest.param([member("a", b"x"), member("./a", b"y")], "is in it twice", id="twice"),
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
@example(members=[("a/a", tarfile.SYMTYPE, "x" * 300)])  # leads to what no path can be
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


def header(kind: bytes, size: int, **fields: bytes) -> bytes:
    """A member's header as no library writes it: `fields` are raw, by the place where they go."""
    made = tarfile.TarInfo("x")
    made.type, made.size = kind, size
    raw = bytearray(made.tobuf(tarfile.GNU_FORMAT))
    for place, data in fields.items():
        raw[int(place[1:]) : int(place[1:]) + len(data)] = data
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax(**headers: str) -> bytes:
    made = tarfile.TarInfo("x")
    made.pax_headers = {key.replace("_", "."): value for key, value in headers.items()}
    return made.tobuf(tarfile.PAX_FORMAT)


EXTENDED = header(b"x", 11) + b"11 path=xy\n".ljust(512, b"\0")
HUGE = b"%011o\0" % (8**11 - 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(header(b"S", 0, _483=HUGE), "'x' is a sparse file", id="sparse"),
        pytest.param(
            pax(GNU_sparse_size=str(1 << 40), GNU_sparse_map="0,1"),
            "a sparse file",
            id="pax sparse",
        ),
        pytest.param(header(b"0", 8**11 - 1), "it has more than 256 MiB", id="a huge file"),
        pytest.param(header(b"0", 0, _124=b"\xff" * 12), "", id="a negative size"),
        pytest.param(
            header(b"0", 0) + header(b"0", 0, _124=b"\x80" + b"\xff" * 11),
            "",
            id="beyond all sizes",
        ),
        pytest.param(
            header(b"L", 1 << 30) + bytes(4 << 20), "a header in it is larger", id="a long name"
        ),
        pytest.param(
            header(b"x", 1 << 30) + bytes(4 << 20), "a header in it is larger", id="a long header"
        ),
        pytest.param(EXTENDED * 20_000, "", id="headers of headers"),
        pytest.param(pax(GNU_sparse_size="x", GNU_sparse_map="x"), "is no tar archive", id="words"),
        pytest.param(header(b"0", 0) * 20_001, "more than 20000 files", id="many files"),
    ],
)
def test_a_bundle_that_is_made_to_exhaust_its_reader_is_refused_at_once(
    device: Device, data: bytes, words: str
) -> None:
    device.builder.app("shop", gzip.compress(data, 1), None)
    began = time.process_time()
    with pytest.raises(StoreError, match="the bundle of app 'shop': ") as raised:
        device.hashes()
    assert words in str(raised.value)
    device.builder.app("other", gzip.compress(data, 1), {"docker-compose.yml": "0" * 64})
    (version,) = device.store.versions()["other"]
    with pytest.raises(StoreError, match="the bundle of app 'other': "):
        bundle.restore(device.store, version, {"x": "0" * 64}, device.folder, device.staging)
    assert not device.folder.exists()
    assert time.process_time() - began < 5.0  # one sparse member kept a core busy for 17 minutes


def test_a_huge_compose_file_is_not_read_into_memory(device: Device) -> None:
    device.stored({"docker-compose.yml": bytes(5 << 20)})
    (version,) = device.store.versions()["shop"]
    manifest = device.store.manifest(version)
    with pytest.raises(StoreError, match=r"docker-compose\.yml in it has 5242880 bytes"):
        bundle.compose_file(device.store, version, manifest, "docker-compose.yml")


def test_a_bundle_without_compression_is_as_good(device: Device) -> None:
    hashes = {name: sha256(data) for name, data in CONTENT.items()}
    device.builder.app("shop", tar(member(name, data) for name, data in CONTENT.items()), hashes)
    device.restore()
    assert content(device.folder) == CONTENT


def test_an_index_that_is_not_in_the_store_is_made_from_the_bundle(shop: Device) -> None:
    (version,) = shop.store.versions()["shop"]
    manifest = shop.store.manifest(version)
    assert manifest.index
    (shop.store.blobs / manifest.index).unlink()
    assert shop.hashes() == {name: sha256(data) for name, data in CONTENT.items()}
    (shop.store.blobs / manifest.index).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=f"the bundle index .* blob {manifest.index} is damaged"):
        shop.hashes()


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


def test_there_is_no_moment_with_half_a_folder_or_half_a_file(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call is the last one before a power cut."""
    states: list[dict[str, bytes]] = []
    with monkeypatch.context() as patched:
        look_at_each_call(lambda: states.append(content(shop.folder)), patched)
        shop.restore()
    assert len(states) > 20
    assert all(each in ({}, CONTENT) for each in states)
    assert {} in states
    assert CONTENT in states

    for name in CONTENT:
        (shop.folder / name).write_bytes(b"old")
    (shop.folder / "mine").write_bytes(b"mine")
    states.clear()
    with monkeypatch.context() as patched:
        look_at_each_call(lambda: states.append(content(shop.folder)), patched)
        shop.restore()
    assert len(states) > 20
    assert all(each["mine"] == b"mine" for each in states)
    for name, data in CONTENT.items():
        seen = [each[name] for each in states]
        assert set(seen) == {b"old", data}
        assert seen == [b"old"] * seen.count(b"old") + [data] * seen.count(data)


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


def test_everything_is_on_the_disk_before_it_comes_into_its_place(
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
    synced.clear()
    (shop.folder / "site/index.html").write_bytes(b"damaged")
    shop.restore()
    assert synced == [f"{new}/site/index.html", "compose-apps/shop/site"]


@pytest.mark.parametrize("call", ["mkdir", "chmod", "fsync", "rename"])
@pytest.mark.parametrize("there", [True, False], ids=["over a folder", "without a folder"])
def test_after_an_error_there_is_what_there_was(
    shop: Device, monkeypatch: pytest.MonkeyPatch, call: str, there: bool
) -> None:
    shop.folder.parent.mkdir()
    if there:
        shop.restore()
        (shop.folder / "site/index.html").write_bytes(b"damaged")
        (shop.folder / "mine").touch()
    before = everything(shop.folder.parents[1])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            shop.restore()
    assert_untouched(shop, before)


def full(**changes: int) -> Callable[[object], SimpleNamespace]:
    """A statvfs of a disk that is full as far as `changes` do not say otherwise."""
    found = {"f_frsize": 4096, "f_bavail": 1000, "f_files": 1000, "f_favail": 1000} | changes
    return lambda _: SimpleNamespace(**found)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "No space left on device|Disk quota exceeded"),
        ({"f_favail": 0}, "no inodes are left"),
        ({"f_favail": 0, "f_files": 0}, "No space left on device|Disk quota exceeded"),
    ],
    ids=["bytes", "inodes", "a file system without a table of inodes"],
)
def test_a_disk_that_is_full_in_the_middle_is_told_as_such(
    shop: Device, monkeypatch: pytest.MonkeyPatch, number: int, found: dict[str, int], words: str
) -> None:
    shop.restore()
    (shop.folder / "site/index.html").write_bytes(b"damaged")
    with monkeypatch.context() as patched:
        refuse_renames_out_of(shop.staging, patched)
        patched.setattr(shutil, "copyfileobj", fail_after(1, shutil.copyfileobj, number))
        answers = iter([full(), full(**found)])
        patched.setattr(os, "statvfs", lambda place: next(answers)(place))
        with pytest.raises(SpaceError, match=words) as raised:
            shop.restore()
    assert str(shop.folder / "site/index.html") in str(raised.value)


def fail_after(calls: int, real: Callable[..., object], number: int) -> Callable[..., object]:
    def call(*arguments: object) -> object:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    return call


def test_inodes_are_counted_before_anything_is_written(
    shop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", full(f_favail=1))
    with pytest.raises(SpaceError, match="needs 2 inodes, 1 are free"):
        shop.restore()
    assert not shop.folder.exists()


def test_space_is_checked_before_anything_is_written(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.stored({"docker-compose.yml": COMPOSE_FILE, "large": bytes(100_000)})
    written: list[object] = []
    monkeypatch.setattr(os, "statvfs", full(f_bavail=26))
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
    with pytest.raises(IsADirectoryError, match="in the place of a file; move it away") as raised:
        shop.restore()
    assert raised.value.filename == str(shop.folder / name)
    assert_untouched(shop, before)


def test_a_file_in_the_place_of_a_folder_is_somebodys_and_stays(shop: Device) -> None:
    shop.restore()
    shutil.rmtree(shop.folder / "site")
    (shop.folder / "site").write_text("mine")
    before = everything(shop.folder.parents[1])
    with pytest.raises(NotADirectoryError, match="in the place of a folder; move it away"):
        shop.restore()
    assert_untouched(shop, before)


@pytest.mark.parametrize("to", ["elsewhere", "nowhere"])
def test_a_link_in_the_place_of_the_scratch_folder_is_not_followed(shop: Device, to: str) -> None:
    (shop.staging.parent / "elsewhere").mkdir()
    (shop.staging.parent / "elsewhere/precious").touch()
    shop.staging.symlink_to(to)
    for call in (shop.restore, lambda: bundle.clean(shop.staging)):
        with pytest.raises(NotADirectoryError, match="the agent's scratch folder; remove it"):
            call()
    assert (shop.staging.parent / "elsewhere/precious").exists()
