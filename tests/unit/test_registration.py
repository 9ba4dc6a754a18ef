"""Whether the device is registered, and which file says so."""

import errno
import os

import pytest
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.registration import registered_by
from compose_apps_early_start.settings import Settings
from pytest_mock import MockerFixture

FILES = ("sql.db", "client.pem", "sota.toml")


@pytest.mark.parametrize("name", FILES)
def test_each_of_the_files_alone_says_so(settings: Settings, name: str) -> None:
    file = settings.root / "var/sota" / name
    file.parent.mkdir(parents=True)
    file.touch()
    assert registered_by(settings) == file


def test_a_device_with_apps_but_none_of_the_files_is_not_registered(settings: Settings) -> None:
    settings.compose_apps.mkdir(parents=True)
    (settings.root / "var/sota/root.crt").touch()
    assert registered_by(settings) is None


def test_a_device_without_var_sota_is_not_registered(settings: Settings) -> None:
    assert registered_by(settings) is None
    (settings.root / "var").touch()
    assert registered_by(settings) is None


def test_a_link_to_a_partition_that_is_not_mounted_counts(settings: Settings) -> None:
    (settings.root / "var/sota").mkdir(parents=True)
    (settings.root / "var/sota/sql.db").symlink_to("/nowhere/sql.db")
    assert registered_by(settings) == settings.root / "var/sota/sql.db"


def test_not_to_know_is_an_error(settings: Settings, mocker: MockerFixture) -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    mocker.patch("os.lstat", side_effect=denied)
    with pytest.raises(EarlyStartError) as raised:
        registered_by(settings)
    assert str(raised.value) == (
        f"{settings.root}/var/sota/sql.db: cannot tell whether the device is registered: "
        "Permission denied"
    )
    assert raised.value.hint == "run it as root"
