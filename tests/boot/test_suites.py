"""Boots on other Debian suites, with their systemd, Python, docker and compose."""

from boot.boots import assert_good
from boot.scenarios import ALL, Suite


def test_the_preloaded_apps_run_when_the_ota_client_starts(suite: Suite) -> None:
    assert suite.first.running == ALL
    assert suite.first.stand_ins["aktualizr-lite"].containers == ALL


def test_the_unit_stays_active_and_has_nothing_to_complain_about(suite: Suite) -> None:
    assert_good(suite.first)


def test_at_a_second_boot_containers_come_back_they_are_not_made_anew(suite: Suite) -> None:
    shop = {"shop-web-1", "shop-worker-1"}
    before, after = suite.first.containers, suite.second.containers
    assert {name: after[name]["Id"] for name in shop} == {name: before[name]["Id"] for name in shop}
    assert shop <= suite.second.running
    assert suite.second.app("shop")["state"] == "running"


def test_apps_that_cannot_run_are_told_with_their_causes(suite: Suite) -> None:
    causes = {app["name"]: app["cause"] for app in suite.second.record["apps"]}
    assert causes == {"shop": None, "crashes": "crash-loop", "lacks-image": "image-missing"}
