"""One at a time: neither two runs of ours, nor one beside aktualizr-lite."""

import errno
import fcntl
import os
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


def test_a_lock_that_cannot_be_opened_is_an_error(
    settings: Settings, mocker: MockerFixture
) -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    mocker.patch("os.open", side_effect=denied)
    with pytest.raises(EarlyStartError) as raised, held(settings):
        pytest.fail("without a lock")
    assert str(raised.value) == f"{settings.own_lock}: cannot open: Permission denied"
    assert raised.value.hint == "run it as root"
