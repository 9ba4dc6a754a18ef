"""A power cut at a random moment of the agent's first run, and the boot after it."""

from collections import Counter

from boot.boots import AGENT, LAST_RUN, assert_good
from boot.power_cuts import PowerCut
from boot.scenarios import FEW_RUN


def test_the_apps_run_at_the_boot_after_a_power_cut(power_cut: PowerCut) -> None:
    assert power_cut.after.running == FEW_RUN, power_cut.what
    assert_good(power_cut.after)


def test_nothing_is_lost_in_a_power_cut(power_cut: PowerCut) -> None:
    assert power_cut.after.files == power_cut.setup.files
    assert power_cut.after.images >= power_cut.setup.images
    assert "telemetry_data" in power_cut.after.volumes


def test_the_containers_have_all_files_of_their_images_after_a_power_cut(
    power_cut: PowerCut,
) -> None:
    wanted = {item: len(FEW_RUN) for item in power_cut.setup.contents.items()}
    assert Counter(power_cut.contents) == Counter(wanted), power_cut.what


def test_a_power_cut_leaves_no_temporary_file_behind(power_cut: PowerCut) -> None:
    # The run before the cut may have come to its end.
    earlier = {f"/var/lib/{AGENT}/runs/1.json"}
    kept = {LAST_RUN, f"/run/{AGENT}/lock", f"/run/{AGENT}/finished.json"}
    assert power_cut.after.leftovers - earlier == kept
