"""The boots after the first one, before and after the device is registered."""

import json

import pytest
from boot.boots import assert_good, assert_nothing_lost
from boot.scenarios import SHORTLISTED, Life
from virtual_device.firmware import Firmware


def test_before_registration_every_shortlisted_app_runs_again(life: Life) -> None:
    assert life.second.running == SHORTLISTED
    assert life.second.stand_ins["aktualizr-lite"].containers == SHORTLISTED
    assert_good(life.second)


def test_before_registration_containers_come_back_they_are_not_made_anew(life: Life) -> None:
    assert set(life.second.lives) == set(life.first.lives)


def test_compose_is_called_only_for_what_dockerd_did_not_bring_back(life: Life) -> None:
    assert {call.split()[0] for call in life.first.compose_calls} == {"shop", "debug-tools"}
    assert {call.split()[0] for call in life.second.compose_calls} == {"debug-tools"}


def test_nothing_is_lost_at_later_boots(life: Life, flashed: Firmware) -> None:
    assert_nothing_lost(life.second, flashed, life.provided)
    assert_nothing_lost(life.third, flashed, life.provided)


def test_on_a_registered_device_the_agent_is_not_even_started(life: Life) -> None:
    assert life.third.unit["ConditionResult"] == "no"
    assert life.third.unit["ActiveState"] == "inactive"
    assert life.third.unit["ExecMainStartTimestampMonotonic"] == "0"
    assert life.third.compose_calls == ()
    assert life.third.complaints == []


def test_on_a_registered_device_dockerd_brings_back_what_has_a_restart_policy(life: Life) -> None:
    assert life.third.running == {"shop-web-1", "shop-worker-1"}


def test_on_a_registered_device_aktualizr_lite_waits_for_nothing_of_ours(life: Life) -> None:
    assert 0 < life.third.began("aktualizr-lite") < life.third.active("docker")


def test_the_remote_action_tells_of_the_run_before_the_registration(life: Life) -> None:
    console, *artifacts = life.action.split("\n== ")
    assert console.endswith("\nended with 0")
    assert "shop         running" in console
    files = dict(each.split("\n", 1) for each in artifacts)
    record = json.loads(files["record.json"])
    assert record["run"] == life.second.record["run"]
    assert "earlier boot" in files["timeline.txt"]
    assert files["timeline.svg"].startswith("<svg ")


@pytest.mark.parametrize("file", ["sql.db", "client.pem"])
def test_each_registration_file_alone_keeps_the_agent_from_starting(life: Life, file: str) -> None:
    said = life.by_hand[file]
    assert "ConditionResult=no" in said
    assert "ActiveState=inactive" in said
    assert f"this device is registered (/var/sota/{file})" in said
