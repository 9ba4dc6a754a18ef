"""Apps and daemons that fail at a first boot hold up neither the other apps nor the OTA client."""

import re

from boot.boots import AGENT, APP_RUNS, assert_good, assert_nothing_lost
from boot.scenarios import WAIT_ONLINE_SECONDS, Flashed
from virtual_device.firmware import Firmware


def test_a_good_app_runs_at_once_among_bad_ones(trouble: Flashed) -> None:
    good = trouble.first.app("good")
    assert good["state"] == "running"
    assert good["attempts"] == 1
    told = [entry for entry in trouble.first.own if entry.get("APP") in ("good", "hangs")]
    outcomes = [
        entry["APP"] for entry in told if entry["MESSAGE_ID"] == APP_RUNS or "CAUSE" in entry
    ]
    assert outcomes[0] == "good"
    assert "hangs" in outcomes


def test_each_bad_app_has_its_own_cause_and_next_step(trouble: Flashed) -> None:
    causes = {app["name"]: app["cause"] for app in trouble.first.record["apps"]}
    assert causes == {
        "good": None,
        "hangs": "timeout",
        "crashes": "crash-loop",
        "lacks-image": "image-missing",
    }
    assert all(app["hint"] for app in trouble.first.record["apps"] if app["cause"])
    for name in ("hangs", "crashes", "lacks-image"):
        assert f"\n{name}: " in trouble.first.table
    assert trouble.first.table.count("  Next: ") >= 3


def test_bad_apps_make_the_unit_fail_visibly(trouble: Flashed) -> None:
    assert trouble.first.unit["ActiveState"] == "failed"
    assert trouble.first.unit["ExecMainStatus"] == "3"
    assert "1 of 4 apps run" in trouble.first.unit["StatusText"]


def test_the_ota_client_starts_in_spite_of_bad_apps(trouble: Flashed) -> None:
    seen = trouble.first.stand_ins
    assert "good-main-1" in seen["aktualizr-lite"].containers
    assert "good-main-1" in seen["lmp-device-auto-register"].containers


def test_bad_apps_cost_nothing_that_was_preloaded(trouble: Flashed, flashed: Firmware) -> None:
    assert_nothing_lost(trouble.first, flashed, trouble.provided)


def test_after_a_power_cut_and_a_registration_the_reason_is_still_there(trouble: Flashed) -> None:
    record = trouble.first.record
    assert "\ncrashes: crash-loop: " in trouble.later
    assert "\nno cloud, giving up\n" in trouble.later
    assert '"ExitCode": 3' in trouble.later
    assert f"\n{record['run']}    {record['started']}  degraded  4" in trouble.later


def test_the_record_has_the_boot_and_its_time_as_systemd_has_them(trouble: Flashed) -> None:
    boot = trouble.first
    assert {entry["_BOOT_ID"] for entry in boot.journal} == {boot.record["boot_id"]}
    steps = {each["state"]: each["uptime"] for each in boot.record["steps"]}
    assert abs(steps["started"] - boot.began(AGENT)) < 1.0
    assert boot.began(AGENT) < steps["loaded"] < steps["waiting"] < steps["ready"]
    ended = int(boot.unit["InactiveEnterTimestampMonotonic"]) / 1e6
    assert steps["ready"] < steps["ended"] < ended


def test_a_dockerd_that_does_not_start_is_reported(no_dockerd: Flashed) -> None:
    boot = no_dockerd.first
    assert boot.units["docker.service"]["ActiveState"] == "failed"
    assert boot.unit["ActiveState"] == "failed"
    assert boot.unit["Result"] == "exit-code"
    assert {app["cause"] for app in boot.record["apps"]} == {"engine-unavailable"}
    assert "Next: " in boot.table


def test_the_ota_client_starts_without_dockerd(no_dockerd: Flashed) -> None:
    assert "aktualizr-lite" in no_dockerd.first.stand_ins
    assert "lmp-device-auto-register" in no_dockerd.first.stand_ins


def test_without_dockerd_the_app_folders_stay(no_dockerd: Flashed) -> None:
    assert no_dockerd.first.stand_ins["aktualizr-lite"].apps == {
        "debug-tools",
        "shop",
        "telemetry",
    }


def test_a_wait_online_service_holds_dockerd_back_and_the_agent_says_what_it_waits_for(
    wait_online: Flashed,
) -> None:
    waited = wait_online.first.stand_ins["wait-online"].seconds
    assert wait_online.first.began("docker") >= waited + WAIT_ONLINE_SECONDS
    assert 0 < wait_online.first.began(AGENT) < waited + WAIT_ONLINE_SECONDS
    # The agent asks systemd from within its sandbox.
    said = re.search(r"StatusText=waiting for dockerd, (\d+) s: (.*)", wait_online.held)
    assert said
    assert "docker.service waits, systemd is busy with " in said[2]
    assert "wait-online.service" in said[2]
    assert "wait-online.service" in wait_online.held


def test_when_waiting_for_a_network_is_over_the_apps_start_without_one(
    wait_online: Flashed,
) -> None:
    assert_good(wait_online.first)
    assert wait_online.first.running == {"debug-tools-shell-1"}
    assert wait_online.first.record["engine_wait_seconds"] > 0
    assert wait_online.first.began("aktualizr-lite") >= wait_online.first.active(AGENT)
