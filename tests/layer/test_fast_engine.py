"""The generator that puts crun in the place of runc."""

from pathlib import Path

import pytest
from layer.generator import Machine

FOLDER = "/usr/libexec/compose-apps-early-start/fast-engine"
RUNTIME = f"{FOLDER[1:]}/runc"
UNIT = "[Service]\nType=notify\nExecStart=/usr/bin/dockerd -H fd://\n"
DOCKER, CONTAINERD = (
    f"generator/{name}.service.d/compose-apps-early-start-fast-engine.conf"
    for name in ("docker", "containerd")
)


@pytest.fixture
def machine(tools: str, tmp_path: Path) -> Machine:
    """A device with crun, and with the tools of Debian or those of LmP."""
    made = Machine(tmp_path / "root", "fast-engine", tools)
    crun(made, "exit 0")
    for name in ("docker", "containerd"):
        made.put(f"usr/lib/systemd/system/{name}.service", UNIT)
    return made


def crun(machine: Machine, script: str) -> None:
    machine.put(RUNTIME, f"#!/bin/sh\n{script}\n")
    (machine.root / RUNTIME).chmod(0o755)


def drop_in(machine: Machine) -> str:
    return f"[Service]\nEnvironment=PATH={FOLDER}:{machine.path}\n"


def test_dockerd_and_containerd_find_crun_first(machine: Machine) -> None:
    assert machine.generate() == {DOCKER: drop_in(machine), CONTAINERD: drop_in(machine)}


def test_a_registered_device_is_no_exception(machine: Machine) -> None:
    """What runs the containers does not change with the registration."""
    machine.put("var/sota/sql.db", "")
    assert machine.generate() == {DOCKER: drop_in(machine), CONTAINERD: drop_in(machine)}


@pytest.mark.parametrize("script", ["exit 127", "echo no library >&2; exit 1"])
def test_nothing_is_written_if_crun_does_not_work(machine: Machine, script: str) -> None:
    crun(machine, script)
    assert machine.generate() == {}


def test_nothing_is_written_without_crun(machine: Machine) -> None:
    (machine.root / RUNTIME).unlink()
    (machine.root / RUNTIME).symlink_to("../../../bin/crun")
    assert machine.generate() == {}


@pytest.mark.parametrize("folder", ["/with space", "/50%", '/a"b'])
def test_nothing_is_written_if_the_path_would_need_quotes(machine: Machine, folder: str) -> None:
    machine.path += f":{folder}"
    assert machine.generate() == {}


@pytest.mark.parametrize(
    "setting",
    ["Environment=PATH=/opt/docker:/bin", "PassEnvironment=PATH", "ExecSearchPath=/opt/docker"],
)
@pytest.mark.parametrize(
    "file",
    [
        "usr/lib/systemd/system/docker.service",
        "etc/systemd/system/docker.service",
        "etc/systemd/system/docker.service.d/mine.conf",
        "run/systemd/system/docker.service.d/mine.conf",
    ],
)
def test_a_unit_with_a_path_of_its_own_keeps_it(machine: Machine, file: str, setting: str) -> None:
    machine.put(file, f"[Service]\n{setting}\n")
    assert machine.generate() == {CONTAINERD: drop_in(machine)}


def test_the_kill_switch_turns_it_off(machine: Machine) -> None:
    machine.put("etc/compose-apps-early-start.disabled", "")
    assert machine.generate() == {}


def test_the_kernel_argument_turns_it_off(machine: Machine) -> None:
    machine.put("proc/cmdline", "quiet compose-apps-early-start=disabled\n")
    assert machine.generate() == {}
