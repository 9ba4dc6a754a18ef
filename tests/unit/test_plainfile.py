"""Only plain files are read, up to a limit."""

import errno
import os
from pathlib import Path

import pytest
from compose_apps_early_start import plainfile
from pytest_mock import MockerFixture


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert plainfile.read(file, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes") as raised:
        plainfile.read(file, 4)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(file))


def test_of_a_huge_file_only_the_bound_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 1 << 40)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        plainfile.read(file, 10)


def make_a_socket(path: Path) -> None:
    os.mknod(path, 0o140644)


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "behind a link"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(os.mkfifo, "not a plain file", id="FIFO"),
        pytest.param(make_a_socket, "not a plain file", id="socket"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "not a plain file", id="device"),
        pytest.param(Path.mkdir, "Is a directory", id="folder"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="link to itself"),
        pytest.param(lambda path: path.symlink_to("no"), "No such file", id="link to nothing"),
    ],
)
def test_what_is_no_plain_file_is_not_opened(
    tmp_path: Path, mocker: MockerFixture, make: object, words: str, linked: bool
) -> None:
    path = tmp_path / "path"
    assert callable(make)
    make(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    opened = mocker.spy(os, "open")
    with pytest.raises(OSError, match=words) as raised:
        plainfile.read(path, 10)
    assert raised.value.filename == str(path)
    (call,) = opened.call_args_list
    assert call.args[1] & os.O_PATH


def test_what_becomes_a_fifo_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        if file.is_file():
            file.rename(tmp_path / "moved")
            os.mkfifo(file)
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    assert plainfile.read(file, 10) == b"x"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, mocker: MockerFixture) -> None:
    file = tmp_path / "file"
    file.touch()
    real = os.open

    def denied(path: object, flags: int) -> int:
        if not flags & os.O_PATH:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(str(path), flags)

    mocker.patch("os.open", denied)
    with pytest.raises(PermissionError) as raised:
        plainfile.read(file, 10)
    assert raised.value.filename == str(file)


def test_a_link_to_a_plain_file_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert plainfile.read(tmp_path / "link", 1) == b"x"
