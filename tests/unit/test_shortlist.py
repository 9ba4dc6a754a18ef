"""Parsing default-apps as people, installers and Windows write it, and matching its names."""

import codecs
import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.shortlist import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_REPORTED,
    UnknownName,
    parse,
    read,
    select,
)
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture


@pytest.mark.parametrize(
    ("data", "names"),
    [
        pytest.param(b"shop\ntelemetry\n", ("shop", "telemetry"), id="a name per line"),
        pytest.param(b"b a c", ("b", "a", "c"), id="blanks, and the order stays"),
        pytest.param(b"a,b, c ,d", ("a", "b", "c", "d"), id="commas, with and without blanks"),
        pytest.param(b"a\tb\t\tc", ("a", "b", "c"), id="tabs"),
        pytest.param(b"a\r\nb\r\n", ("a", "b"), id="line ends of Windows"),
        pytest.param(b"a\rb\r", ("a", "b"), id="line ends of an old Mac"),
        pytest.param(b"\n\n  \n,a,,\n\n", ("a",), id="empty lines and entries"),
        pytest.param(b"a", ("a",), id="no line end at all"),
        pytest.param(b"a\nb\na b\n", ("a", "b"), id="a name twice counts once"),
        pytest.param(b"# the apps\na # not b\n#c\n", ("a",), id="comments"),
        pytest.param(b"a#b\n", ("a",), id="a comment without a blank before it"),
        pytest.param(b"# x\r\na\r\n", ("a",), id="a comment ends at a line end of Windows"),
        pytest.param(codecs.BOM_UTF8 + b"a\r\nb", ("a", "b"), id="Notepad's byte-order mark"),
        pytest.param(
            codecs.BOM_UTF16_LE + "a\r\nb".encode("utf-16-le"), ("a", "b"), id="Notepad's Unicode"
        ),
        pytest.param(
            codecs.BOM_UTF16_BE + "a\nb".encode("utf-16-be"), ("a", "b"), id="UTF-16, big end first"
        ),
        pytest.param("käse\n".encode(), ("käse",), id="names beyond ASCII"),
        pytest.param(b"Shop shop", ("Shop", "shop"), id="case is kept"),
        pytest.param(b"../a /b a/c", ("../a", "/b", "a/c"), id="paths are names, and match no app"),
        pytest.param(b"", (), id="nothing"),
        pytest.param(b" \t\r\n,,\n", (), id="only separators"),
        pytest.param(codecs.BOM_UTF8, (), id="only a byte-order mark"),
        pytest.param(b"# a\n", (), id="only a comment"),
        # What is no text is told as an unknown name later, never an error.
        pytest.param(b"a\xffb c", ("a\\xffb", "c"), id="bytes that are no UTF-8"),
        pytest.param(b"a\x00b", ("a\x00b",), id="a NUL"),
        pytest.param(codecs.BOM_UTF16_LE + b"a\x00b", ("a\ufffd",), id="half a UTF-16 character"),
    ],
)
def test_parse(data: bytes, names: tuple[str, ...]) -> None:
    assert parse(data) == names


@given(st.binary())
def test_any_bytes_are_a_list_of_clean_distinct_names(data: bytes) -> None:
    names = parse(data)
    assert len(set(names)) == len(names)
    for name in names:
        assert name
        assert "#" not in name
        assert "," not in name
        assert name.split() == [name]


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True)
SEPARATORS = st.lists(
    st.sampled_from(
        [" ", "\t", ",", "\n", "\r\n", "\r", " , ", "# shop, web\n", " #\r\n", "#\ufeffnot#this\n"]
    ),
    min_size=1,
    max_size=4,
).map("".join)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


@given(st.lists(NAMES, unique=True), st.data(), ENCODINGS)
def test_names_come_back_in_order_whatever_separates_them(
    names: list[str], data: st.DataObject, encoding: str
) -> None:
    text = "".join(data.draw(SEPARATORS) + name for name in names) + data.draw(SEPARATORS)
    assert parse(text.encode(encoding)) == tuple(names)


def test_no_file_is_no_shortlist(tmp_path: Path) -> None:
    assert read(tmp_path / "default-apps") is None
    assert read(tmp_path / "no-folder" / "default-apps") is None


def test_an_empty_file_is_an_empty_shortlist(tmp_path: Path) -> None:
    (tmp_path / "default-apps").touch()
    assert read(tmp_path / "default-apps") == ()


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "default-apps").write_bytes(b"shop".ljust(MAX_BYTES))
    assert read(tmp_path / "default-apps") == ("shop",)


READABLE = "make it a readable text file with a name per line, or remove it to start every app"


def test_a_longer_file_is_no_shortlist(tmp_path: Path) -> None:
    file = tmp_path / "default-apps"
    file.write_bytes(b"shop".ljust(MAX_BYTES + 1))
    with pytest.raises(EarlyStartError) as raised:
        read(file)
    assert str(raised.value) == f"{file}: cannot read the shortlist: larger than 1048576 bytes"
    assert raised.value.hint == READABLE


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_fifo_or_a_device_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "default-apps")
    with pytest.raises(EarlyStartError, match="cannot read the shortlist: not a plain file"):
        read(tmp_path / "default-apps")


def test_a_folder_is_no_shortlist(tmp_path: Path) -> None:
    with pytest.raises(EarlyStartError) as raised:
        read(tmp_path)
    assert str(raised.value) == f"{tmp_path}: cannot read the shortlist: Is a directory"
    assert raised.value.hint == READABLE


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_shortlist_that_cannot_be_read_is_not_the_wish_to_start_everything(
    tmp_path: Path, mocker: MockerFixture, number: int
) -> None:
    file = tmp_path / "default-apps"
    file.touch()
    mocker.patch("os.open", side_effect=OSError(number, os.strerror(number)))
    with pytest.raises(EarlyStartError) as raised:
        read(file)
    assert str(raised.value) == f"{file}: cannot read the shortlist: {os.strerror(number)}"
    assert raised.value.hint == READABLE


def test_a_shortlist_that_is_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "default-apps").symlink_to("default-apps")
    with pytest.raises(EarlyStartError, match="Too many levels of symbolic links"):
        read(tmp_path / "default-apps")


@pytest.mark.parametrize(
    ("names", "known", "chosen", "unknown"),
    [
        pytest.param(["b", "a"], ["a", "b", "c"], ("b", "a"), [], id="the order of the shortlist"),
        pytest.param([], ["a"], (), [], id="nothing wanted"),
        pytest.param(
            ["web", "webserve"],
            ["webserver"],
            (),
            [("web", None), ("webserve", "webserver")],
            id="a part of a name is no name",
        ),
        pytest.param(["x.z"], ["xyz"], (), [("x.z", "xyz")], id="a name is no pattern"),
        pytest.param(["shpo"], ["shop", "web"], (), [("shpo", "shop")], id="a typo"),
        pytest.param(["Shop"], ["shop"], (), [("Shop", "shop")], id="case counts"),
        pytest.param(["SHPO"], ["Shop"], (), [("SHPO", "Shop")], id="a typo in other case"),
        pytest.param(["telemetry"], ["shop"], (), [("telemetry", None)], id="nothing comes near"),
        pytest.param(["shop"], [], (), [("shop", None)], id="nothing is preloaded"),
        pytest.param(
            ["c", "xx", "a", "yy"],
            ["a", "b", "c"],
            ("c", "a"),
            [("xx", None), ("yy", None)],
            id="unknown names do not hold back the others",
        ),
        pytest.param(
            ["../shop", "."],
            ["shop"],
            (),
            [("../shop", "shop"), (".", None)],
            id="a path leads nowhere",
        ),
    ],
)
def test_select(
    names: list[str],
    known: list[str],
    chosen: tuple[str, ...],
    unknown: list[tuple[str, str | None]],
) -> None:
    assert select(names, known) == (chosen, tuple(UnknownName(*each) for each in unknown))


def noise() -> tuple[str, ...]:
    return parse(random.Random(1).randbytes(64 << 10))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(tuple(f"app-{number}-wrong" for number in range(2000)), id="2,000 names"),
        pytest.param(noise(), id="64 KiB of noise"),
        pytest.param(("a" * 65536,), id="one long name"),
        pytest.param(tuple("a" * number for number in range(1, 360)), id="names of each length"),
    ],
)
def test_an_absurd_shortlist_costs_no_time(names: tuple[str, ...]) -> None:
    known = [f"app-{number}" for number in range(200)]
    began = time.process_time()
    chosen, unknown = select(names, known)
    assert time.process_time() - began < 1.0
    assert not chosen
    assert len(unknown) == min(len(names), MAX_REPORTED + 1)
    assert all(len(each.name) < 2 * MAX_CHARACTERS for each in unknown)


def test_of_many_unknown_names_the_rest_is_counted() -> None:
    _, unknown = select([f"sho{number}" for number in range(MAX_REPORTED + 5)], ["shop"])
    assert [each.nearest for each in unknown] == ["shop"] * MAX_REPORTED + [None]
    assert unknown[-1].name == "... and 5 more names"


@given(st.lists(NAMES), st.lists(NAMES, unique=True))
def test_each_name_is_either_chosen_or_unknown(names: list[str], known: list[str]) -> None:
    chosen, unknown = select(names, known)
    assert chosen == tuple(name for name in names if name in known)
    told = [name for name in names if name not in known][:MAX_REPORTED]
    assert [each.name for each in unknown[:MAX_REPORTED]] == told
    assert all(each.nearest is None or each.nearest in known for each in unknown)
