"""A power cut at a random moment of the agent's first run, and the boot after it."""

from boot.boots import AGENT, LAST_RUN, assert_good, assert_nothing_lost
from boot.scenarios import FEW_RUN, PowerCut
from virtual_device.firmware import Firmware


def test_the_apps_run_at_the_boot_after_a_power_cut(power_cut: PowerCut) -> None:
    assert power_cut.after.running == FEW_RUN, f"cut after {power_cut.seconds:.2f} s"
    assert_good(power_cut.after)


def test_nothing_is_lost_in_a_power_cut(power_cut: PowerCut, flashed: Firmware) -> None:
    assert_nothing_lost(power_cut.after, flashed, power_cut.provided)
    assert "telemetry_data" in power_cut.after.volumes


def test_a_power_cut_leaves_no_temporary_file_behind(power_cut: PowerCut) -> None:
    # The run before the cut may have come to its end.
    earlier = {f"/var/lib/{AGENT}/runs/1.json"}
    kept = {LAST_RUN, f"/run/{AGENT}/lock", f"/run/{AGENT}/finished.json"}
    assert power_cut.after.leftovers - earlier == kept
