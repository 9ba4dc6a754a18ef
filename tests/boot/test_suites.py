"""A first boot on other Debian suites, with their systemd, Python, docker and compose."""

from boot.boots import assert_good
from boot.scenarios import ALL, Flashed


def test_the_preloaded_apps_run_when_the_ota_client_starts(suite: Flashed) -> None:
    assert suite.first.running == ALL
    assert suite.first.stand_ins["aktualizr-lite"].containers == ALL


def test_the_unit_stays_active_and_has_nothing_to_complain_about(suite: Flashed) -> None:
    assert_good(suite.first)
