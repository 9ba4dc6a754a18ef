"""The first boot of a freshly flashed device, under a real systemd."""

import pytest
from boot.boots import AGENT, APP_RUNS, Boot, assert_good, assert_nothing_lost
from boot.scenarios import FEW_RUN, SAMPLES, SHORTLISTED, ByHand, Flashed, Life
from virtual_device.firmware import Firmware


@pytest.mark.parametrize("stand_in", ["aktualizr-lite", "lmp-device-auto-register"])
def test_the_ota_client_and_the_registration_find_exactly_the_shortlisted_apps_running(
    life: Life, stand_in: str
) -> None:
    assert life.first.stand_ins[stand_in].containers == SHORTLISTED


@pytest.mark.parametrize("stand_in", ["aktualizr-lite", "lmp-device-auto-register"])
def test_the_registration_finds_every_preloaded_app_in_its_folder_and_nothing_else(
    life: Life, stand_in: str
) -> None:
    assert life.first.stand_ins[stand_in].apps == set(SAMPLES)


@pytest.mark.parametrize("unit", ["aktualizr-lite", "lmp-device-auto-register"])
def test_the_ota_client_and_the_registration_start_when_the_agent_has_ended(
    life: Life, unit: str
) -> None:
    assert life.first.began(unit) >= life.first.active(AGENT)


def test_the_agent_loads_while_dockerd_starts(life: Life) -> None:
    assert life.first.began(AGENT) < life.first.active("docker")


def test_the_unit_stays_active_and_there_is_nothing_to_complain_about(life: Life) -> None:
    assert_good(life.first)


def test_the_journal_has_no_line_of_the_agents_process_but_its_messages(life: Life) -> None:
    # What a library or Python itself writes comes through standard error.
    ways = {
        entry["_TRANSPORT"]
        for entry in life.first.own
        if entry.get("_SYSTEMD_UNIT") == f"{AGENT}.service"
    }
    assert ways == {"journal"}


def test_systemctl_shows_how_the_run_ended(life: Life) -> None:
    assert life.first.unit["StatusText"].startswith("2 of 2 apps run")


def test_the_journal_has_a_field_for_the_app_and_the_duration(life: Life) -> None:
    entries = {
        entry["APP"]: entry for entry in life.first.own if entry.get("MESSAGE_ID") == APP_RUNS
    }
    assert set(entries) == {"shop", "debug-tools"}
    assert all(int(entry["DURATION_USEC"]) > 0 for entry in entries.values())


def test_the_journal_explains_each_message_and_says_what_to_do_next(life: Life) -> None:
    assert "Subject: The app shop" in life.first.explained
    assert "What to do next:" in life.first.explained


def test_nothing_is_lost_at_a_first_boot(life: Life, flashed: Firmware) -> None:
    assert_nothing_lost(life.first, flashed, life.provided)


def test_without_a_shortlist_every_preloaded_app_runs(by_hand: ByHand, flashed: Firmware) -> None:
    assert by_hand.first.running == FEW_RUN
    assert_good(by_hand.first)
    assert_nothing_lost(by_hand.first, flashed, by_hand.provided)


def test_an_empty_shortlist_starts_nothing_and_loses_nothing(
    empty_shortlist: Flashed, flashed: Firmware
) -> None:
    assert empty_shortlist.first.containers == {}
    assert_good(empty_shortlist.first)
    assert_nothing_lost(empty_shortlist.first, flashed, empty_shortlist.provided)


def test_aktualizr_lite_is_skipped_by_its_own_condition_before_registration(
    empty_shortlist: Flashed,
) -> None:
    boot = empty_shortlist.first
    assert boot.units["aktualizr-lite.service"]["ConditionResult"] == "no"
    assert boot.units["lmp-device-auto-register.service"]["ConditionResult"] == "yes"


# A start by hand, and the end of a run in its middle.


def test_a_start_by_hand_touches_nothing_that_runs(by_hand: ByHand) -> None:
    assert_good(by_hand.again)
    runs = {name: by_hand.first.containers[name]["State"]["StartedAt"] for name in FEW_RUN}
    assert {name: by_hand.again.containers[name]["State"]["StartedAt"] for name in FEW_RUN} == runs


@pytest.mark.parametrize("moment", ["stopped", "killed"])
def test_a_run_that_is_ended_in_its_middle_says_so(by_hand: ByHand, moment: str) -> None:
    boot: Boot = getattr(by_hand, moment)
    assert boot.unit["ActiveState"] in ("inactive", "failed")
    assert "interrupted" in boot.table


@pytest.mark.parametrize("moment", ["stopped", "killed"])
def test_a_run_that_is_ended_in_its_middle_loses_nothing(
    by_hand: ByHand, flashed: Firmware, moment: str
) -> None:
    assert_nothing_lost(getattr(by_hand, moment), flashed, by_hand.provided)


def test_the_next_start_makes_good_what_an_interrupted_one_left(by_hand: ByHand) -> None:
    assert by_hand.healed.running == FEW_RUN
    assert by_hand.healed.unit["SubState"] == "exited"
    assert by_hand.healed.record["state"] == "ok"


def test_the_steps_of_the_public_acceptance_test_pass(by_hand: ByHand) -> None:
    results = [line for line in by_hand.conformance.splitlines() if line.endswith(" pass")]
    assert results == [
        "compose-apps-early-start pass",
        "debug-tools-running pass",
        "telemetry-running pass",
    ]


def test_the_tests_for_a_device_pass_on_one(by_hand: ByHand) -> None:
    *results, ended = by_hand.ptest.splitlines()
    assert ended == "ended with 0"
    assert len(results) >= 10
    assert all(result.startswith("PASS: ") for result in results), by_hand.ptest


def test_the_unit_puts_damaged_files_of_an_app_back_in_place(by_hand: ByHand) -> None:
    """With no more rights than it has; the container and the app's data stay as they are."""
    assert by_hand.repaired.unit["Result"] == "success"
    assert by_hand.repaired.record["state"] == "ok"
    (told,) = (each for each in by_hand.repaired.own if "folder put back" in each["MESSAGE"])
    assert told["APP"] == "debug-tools"
    assert "docker-compose.yml, etc/deep/own, etc/theirs" in told["MESSAGE"]
    assert by_hand.put_back == {
        ".": "0:0:755",
        "./docker-compose.yml": "0:0:600",
        "./data": "999:998:2770",
        "./data/mine": "999:998:644",
        "./etc": "0:0:755",
        "./etc/theirs": "999:998:640",
        "./etc/deep": "0:0:755",
        "./etc/deep/own": "0:0:644",
    }
    before, after = (
        {name: each["Id"] for name, each in boot.containers.items()}
        for boot in (by_hand.healed, by_hand.repaired)
    )
    assert after == before
    path = "debug-tools/docker-compose.yml"
    assert by_hand.repaired.files[path] == by_hand.healed.files[path]
