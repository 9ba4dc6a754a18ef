"""With fast-engine, docker's containers are run by what it puts in the place of runc."""

from boot.scenarios import OfflineDocker

FOLDER = "/usr/libexec/compose-apps-early-start/fast-engine"
DROP_IN = "/run/systemd/generator/docker.service.d/compose-apps-early-start-fast-engine.conf"


def test_docker_and_containerd_have_their_path_and_a_folder_before_it(
    offline_docker: OfflineDocker,
) -> None:
    paths = offline_docker.paths
    assert paths["dbus"].startswith("/usr/local/sbin:")
    assert paths["docker"] == paths["containerd"] == f"{FOLDER}:{paths['dbus']}"


def test_the_runtime_in_this_folder_makes_and_starts_the_containers(
    offline_docker: OfflineDocker,
) -> None:
    words = [set(call.split()) for call in offline_docker.calls]
    for container in offline_docker.unregistered.containers.values():
        for verb in ("create", "start"):
            assert any({verb, container["Id"]} <= call for call in words)


def test_the_registration_changes_nothing(offline_docker: OfflineDocker) -> None:
    for boot in (offline_docker.unregistered, offline_docker.registered):
        assert DROP_IN in boot.units["docker.service"]["DropInPaths"].split()
