"""Choosing the wanted apps among the preloaded ones."""

import errno
import os

import pytest
from compose_apps_early_start.cause import Cause
from compose_apps_early_start.compose import Compose
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.selection import select
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.shortlist import UnknownName
from compose_apps_early_start.store import Store
from pytest_mock import MockerFixture
from unit.builders import IMAGE, preloaded, shortlist


@pytest.mark.parametrize(
    ("text", "wanted", "unknown"),
    [
        pytest.param(None, ["a", "b", "c"], [], id="no shortlist means every app, by name"),
        pytest.param("c, a\n", ["c", "a"], [], id="a shortlist gives the order"),
        pytest.param("", [], [], id="an empty one means none"),
        pytest.param("bb c", ["c"], [UnknownName("bb", "b")], id="an unknown name is told"),
    ],
)
def test_which_apps_are_wanted(
    settings: Settings, text: str | None, wanted: list[str], unknown: list[UnknownName]
) -> None:
    for name in ("b", "c", "a"):
        preloaded(settings, name)
    if text is not None:
        shortlist(settings, text)
    found = select(settings, Compose(settings).config)
    assert [app.name for app in found.apps] == wanted
    assert list(found.unknown) == unknown
    assert found.shortlisted is (text is not None)
    assert found.images == (frozenset({IMAGE}) if wanted else frozenset())


def test_an_app_that_is_not_wanted_is_not_even_read(settings: Settings) -> None:
    preloaded(settings, "broken", "[")
    preloaded(settings, "shop")
    shortlist(settings, "shop")
    assert [each.failure for each in select(settings, Compose(settings).config).apps] == [None]


def test_a_broken_app_leaves_the_others_untouched(settings: Settings) -> None:
    preloaded(settings, "a-broken", "[")
    preloaded(settings, "shop")
    (settings.compose_apps / "README").touch()
    found = select(settings, Compose(settings).config)
    assert [each.failure and each.failure.cause for each in found.apps] == [
        Cause.COMPOSE_FILE_INVALID,
        None,
    ]
    assert found.not_apps == ("README",)


def test_a_device_without_any_app_wants_none(settings: Settings) -> None:
    found = select(settings, Compose(settings).config)
    assert (found.apps, found.unknown, found.not_apps) == ((), (), ())


def test_an_unreadable_store_leaves_what_needs_no_store(
    settings: Settings, mocker: MockerFixture
) -> None:
    preloaded(settings, "shop")
    error = OSError(errno.EIO, os.strerror(errno.EIO), str(settings.reset_apps / "apps"))
    mocker.patch.object(Store, "versions", side_effect=error)
    found = select(settings, Compose(settings).config)
    assert [(app.name, app.failure) for app in found.apps] == [("shop", None)]
    assert found.store_error == f"{settings.reset_apps}/apps: Input/output error"


def test_an_unreadable_shortlist_ends_the_run(settings: Settings) -> None:
    preloaded(settings, "shop")
    settings.default_apps.mkdir(parents=True)
    with pytest.raises(EarlyStartError, match="Is a directory"):
        select(settings, Compose(settings).config)
