"""With offline-docker, docker waits for the network only on a registered device."""

from boot.boots import Boot, assert_good
from boot.scenarios import OfflineDocker

INSTALLED = "/usr/lib/systemd/system/docker.service"
MADE = "/run/systemd/generator/docker.service"
NETWORK = "network-online.target"


def docker(boot: Boot) -> dict[str, str]:
    return dict(boot.units["docker.service"])


def test_an_unregistered_device_has_its_apps_while_others_wait_for_the_network(
    offline_docker: OfflineDocker,
) -> None:
    boot = offline_docker.unregistered
    assert boot.active(NETWORK) == 0
    assert boot.active("docker") > 0
    assert boot.running == {"telemetry-collector-1"}
    assert_good(boot)


def test_only_the_network_is_taken_out_of_dockers_unit(offline_docker: OfflineDocker) -> None:
    unit = docker(offline_docker.unregistered)
    assert unit["FragmentPath"] == MADE
    assert unit["SourcePath"] == INSTALLED
    assert "/etc/systemd/system/docker.service.d/lmp.conf" in unit["DropInPaths"].split()
    before = docker(offline_docker.registered)
    for key in ("After", "Wants"):
        assert set(before[key].split()) - set(unit[key].split()) == {NETWORK}


def test_a_reload_after_the_registration_touches_nothing_that_runs(
    offline_docker: OfflineDocker,
) -> None:
    before, after = offline_docker.unregistered, offline_docker.reloaded
    assert docker(after)["FragmentPath"] == INSTALLED
    assert docker(after)["MainPID"] == docker(before)["MainPID"] != "0"
    assert after.lives == before.lives
    assert after.running == before.running


def test_a_registered_device_is_left_as_it_is(offline_docker: OfflineDocker) -> None:
    boot = offline_docker.registered
    assert docker(boot)["FragmentPath"] == INSTALLED
    assert "SourcePath" not in docker(boot)
    assert boot.began("docker") >= boot.active(NETWORK) > 0
    assert boot.unit["ConditionResult"] == "no"
