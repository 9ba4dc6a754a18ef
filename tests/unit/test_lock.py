"""No two runs at a time, and no run beside aktualizr-lite."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from compose_apps_early_start.errors import BusyError, EarlyStartError
from compose_apps_early_start.lock import held
from compose_apps_early_start.settings import Settings
from pytest_mock import MockerFixture


def is_free(file: Path) -> bool:
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_both_locks_are_held_and_their_folders_made(settings: Settings) -> None:
    with held(settings):
        assert not is_free(settings.own_lock)
        assert not is_free(settings.aktualizr_lock)


def test_both_are_free_afterwards_however_it_ended(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), held(settings):
        raise ZeroDivisionError
    assert is_free(settings.own_lock)
    assert is_free(settings.aktualizr_lock)
    with held(settings):
        pass


def test_a_second_run_is_turned_away_and_the_first_keeps_its_locks(settings: Settings) -> None:
    with held(settings):
        with pytest.raises(BusyError) as raised, held(settings):
            pytest.fail("two runs at once")
        assert str(raised.value) == f"another run is at work ({settings.own_lock} is locked)"
        assert not is_free(settings.own_lock)


def test_aktualizr_lite_at_work_turns_it_away(settings: Settings) -> None:
    settings.aktualizr_lock.parent.mkdir(parents=True)
    with settings.aktualizr_lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(BusyError) as raised, held(settings):
            pytest.fail("beside aktualizr-lite")
        assert str(raised.value) == (
            f"aktualizr-lite is at work on the apps ({settings.aktualizr_lock} is locked)"
        )
    # Nor does it hold back a later run by its own lock.
    with held(settings):
        pass


def test_fioup_at_work_turns_it_away(settings: Settings) -> None:
    settings.fioup_lock.parent.mkdir(parents=True)
    with settings.fioup_lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(BusyError) as raised, held(settings):
            pytest.fail("beside fioup")
        assert (
            str(raised.value) == f"fioup is at work on the apps ({settings.fioup_lock} is locked)"
        )
    assert is_free(settings.own_lock)
    assert is_free(settings.aktualizr_lock)


def test_fioups_lock_is_held_where_there_is_one_and_not_made_where_there_is_none(
    settings: Settings,
) -> None:
    with held(settings) as lock:
        assert not settings.fioup_lock.exists()
        assert lock.still_held()
    settings.fioup_lock.touch(0o400)
    with held(settings):
        assert not is_free(settings.fioup_lock)
    assert is_free(settings.fioup_lock)


def test_a_fioup_that_comes_in_the_middle_ends_the_run(settings: Settings) -> None:
    with held(settings) as lock, settings.fioup_lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert not lock.still_held()
        fcntl.flock(stream, fcntl.LOCK_UN)
        assert lock.still_held()


def test_what_aktualizr_lite_wrote_into_its_lock_file_stays(settings: Settings) -> None:
    settings.aktualizr_lock.parent.mkdir(parents=True)
    settings.aktualizr_lock.write_text("4711\n")
    with held(settings):
        pass
    assert settings.aktualizr_lock.read_text() == "4711\n"


def test_the_locks_are_not_handed_to_compose(settings: Settings, mocker: MockerFixture) -> None:
    # A compose that outlives the run would keep the next one out.
    opened = mocker.spy(os, "open")
    with held(settings):
        assert not any(os.get_inheritable(each) for each in opened.spy_return_list)


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EACCES, "run it as root"),
        (
            errno.EROFS,
            "the lock must be a plain file, or nothing, in a folder where root may write",
        ),
    ],
)
def test_a_lock_that_cannot_be_opened_is_an_error(
    settings: Settings, mocker: MockerFixture, number: int, hint: str
) -> None:
    # The class that Python makes of the number.
    mocker.patch("os.open", side_effect=OSError(number, os.strerror(number)))
    with pytest.raises(EarlyStartError) as raised, held(settings):
        pytest.fail("without a lock")
    assert str(raised.value) == f"{settings.own_lock}: cannot open: {os.strerror(number)}"
    assert raised.value.hint == hint


# What may lie in the place of aktualizr-lite's lock


def make_a_file(path: Path) -> None:
    path.touch()


def make_a_link(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


def make_a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


THINGS = [make_a_file, os.mkfifo, Path.mkdir, make_a_link, make_a_link_to_nothing]


@pytest.mark.parametrize("make", THINGS)
def test_what_root_does_not_own_holds_nothing_back(
    settings: Settings, make: Callable[[Path], None]
) -> None:
    """/run/lock is a folder where anybody may put files."""
    file = settings.aktualizr_lock
    file.parent.mkdir(parents=True)
    (file.parent / "precious").touch()
    make(file)
    os.chown(file, 1000, 1000, follow_symlinks=False)
    with locked(file) if make is make_a_file else nullcontext(), held(settings) as locks:
        assert locks.notes == (
            f"{file} belongs to user 1000, not to root: it is not taken for aktualizr-lite's lock",
        )
        assert locks.still_held()
        assert not is_free(settings.own_lock)
    assert is_free(file.parent / "precious")
    assert not (file.parent / "nothing").exists()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@pytest.mark.parametrize("name", ["own_lock", "aktualizr_lock"])
@pytest.mark.parametrize("make", [make for make in THINGS if make is not make_a_file])
def test_what_root_owns_must_be_a_plain_file(
    settings: Settings, make: Callable[[Path], None], name: str
) -> None:
    file = getattr(settings, name)
    file.parent.mkdir(parents=True)
    make(file)
    with pytest.raises(EarlyStartError) as raised, held(settings):
        pytest.fail("without a lock")
    assert str(raised.value) == f"{file}: cannot open: not a plain file"
    assert not (file.parent / "nothing").exists()
    assert not (file.parent / "precious").exists()


# aktualizr-lite removes the file when it ends, whoever holds it


@pytest.mark.parametrize("name", ["own_lock", "aktualizr_lock"])
def test_a_file_that_is_removed_is_made_and_locked_again(settings: Settings, name: str) -> None:
    file = getattr(settings, name)
    with held(settings) as locks:
        assert locks.still_held()
        inode = file.stat().st_ino
        assert locks.still_held()
        assert file.stat().st_ino == inode
        file.unlink()
        assert locks.still_held()
        assert not is_free(file)
    assert is_free(file)


def test_a_new_file_may_be_locked_by_another_by_then(settings: Settings) -> None:
    file = settings.aktualizr_lock
    with held(settings) as locks:
        file.unlink()
        with locked(file):
            assert not locks.still_held()
        assert locks.still_held()  # it has ended meanwhile
        assert not is_free(file)


def test_a_file_that_is_removed_while_it_is_being_locked_is_not_taken_for_the_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settings.aktualizr_lock
    real, removed = fcntl.flock, 0

    def flock(descriptor: int, operation: int) -> None:
        nonlocal removed
        real(descriptor, operation)
        if Path(f"/proc/self/fd/{descriptor}").readlink() == file and removed < 3:
            removed += 1
            file.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(settings):
        assert removed == 3
        monkeypatch.undo()
        assert not is_free(file)


def test_who_removes_it_again_and_again_ends_the_run_and_not_the_patience(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: settings.own_lock.unlink())
    with pytest.raises(EarlyStartError, match="removed again and again"), held(settings):
        pytest.fail("without a lock")


def test_a_lock_of_a_file_that_is_gone_holds_nobody_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened before it was removed, and its lock belongs to the past."""
    file = settings.aktualizr_lock
    file.parent.mkdir(parents=True)
    real = os.open

    def open_late(path: object, *arguments: int, **more: int) -> int:
        descriptor = real(str(path), *arguments, **more)
        if path == file:
            monkeypatch.undo()
            file.unlink()
        return descriptor

    with locked(file):
        monkeypatch.setattr(os, "open", open_late)
        with held(settings):
            assert not is_free(file)
