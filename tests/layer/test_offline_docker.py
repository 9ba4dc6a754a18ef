"""The generator that lets docker start without a network, run as systemd runs it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from layer.generator import Machine

TRIXIE = """\
[Unit]
Description=Docker Application Container Engine
Documentation=https://docs.docker.com
After=network-online.target docker.socket firewalld.service containerd.service time-set.target
Wants=network-online.target containerd.service
Requires=docker.socket

[Service]
Type=notify
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
ExecReload=/bin/kill -s HUP $MAINPID
TimeoutStartSec=0
RestartSec=2
Restart=always

# Note that StartLimit* options were moved from "Service" to "Unit" in systemd 229.
StartLimitBurst=3
StartLimitInterval=60s
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
Delegate=yes
KillMode=process
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""

BOOKWORM = """\
[Unit]
Description=Docker Application Container Engine
Documentation=https://docs.docker.com
After=network-online.target docker.socket firewalld.service containerd.service
Wants=network-online.target containerd.service
Requires=docker.socket

[Service]
Type=notify
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
ExecReload=/bin/kill -s HUP $MAINPID
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Delegate=yes
KillMode=process
Restart=on-failure
StartLimitBurst=3
StartLimitInterval=60s

[Install]
WantedBy=multi-user.target
"""

LMP = """\
[Unit]
Description=Docker Application Container Engine
Documentation=https://docs.docker.com
After=network-online.target docker.socket containerd.service fio-docker-fsck.service
Before=boot-complete.target
Wants=network-online.target
Requires=docker.socket
StartLimitBurst=3
StartLimitIntervalSec=60
FailureAction=reboot

[Service]
Type=notify
ExecStart=/usr/bin/dockerd -H fd://
ExecReload=/bin/kill -s HUP $MAINPID
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Delegate=yes
KillMode=process
Restart=always

[Install]
WantedBy=multi-user.target boot-complete.target
"""
"""What LmP's unit orders and wants. Of all three the settings are as installed."""

UNITS = {"trixie": TRIXIE, "bookworm": BOOKWORM, "lmp": LMP}

SOCKET = """\
[Unit]
Description=Docker Socket for the API

[Socket]
ListenStream=/run/docker.sock

[Install]
WantedBy=sockets.target
"""

ADDED = """\
[Unit]
# Made by compose-apps-early-start-offline-docker: without network-online.target.
SourcePath=/usr/lib/systemd/system/docker.service
"""


@pytest.fixture
def machine(tools: str, tmp_path: Path) -> Machine:
    """An unregistered device, with the tools of Debian or those of LmP."""
    made = Machine(tmp_path / "root", "offline-docker", tools)
    made.put("var/sota/compose-apps/shop/docker-compose.yml", "")
    made.put("usr/lib/systemd/system/docker.service", TRIXIE)
    return made


@pytest.mark.parametrize("unit", UNITS)
def test_only_the_network_goes(machine: Machine, unit: str) -> None:
    machine.put("usr/lib/systemd/system/docker.service", UNITS[unit])
    expected = UNITS[unit].replace("Wants=network-online.target\n", "")
    expected = expected.replace("=network-online.target ", "=").replace("[Unit]\n", ADDED, 1)
    assert machine.generate() == {"generator/docker.service": expected}


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_result(machine: Machine, unit: str) -> None:
    machine.put("usr/lib/systemd/system/docker.service", UNITS[unit])
    machine.generate()
    # Away from the original, which systemd-analyze would find in the same root.
    system = machine.root / "checked/usr/lib/systemd/system"
    machine.put("checked/usr/lib/systemd/system/docker.socket", SOCKET)
    shutil.copy(machine.root / "run/systemd/generator/docker.service", system)
    for program in ("usr/bin/dockerd", "usr/sbin/dockerd", "bin/kill"):
        machine.put(f"checked/{program}", "")
        (machine.root / "checked" / program).chmod(0o755)
    for basic in ("sysinit", "basic", "shutdown", "sockets", "multi-user"):
        machine.put(f"checked/usr/lib/systemd/system/{basic}.target", "[Unit]\nDescription=x\n")
    argv = ["systemd-analyze", f"--root={machine.root / 'checked'}", "--man=no", "verify"]
    ended = subprocess.run([*argv, "docker.service"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("written", "left"),
    [
        pytest.param("After=network-online.target", "", id="alone"),
        pytest.param("After=a.service network-online.target", "After=a.service\n", id="last"),
        pytest.param(
            " Wants = network-online.target  b.service", " Wants=b.service\n", id="blanks"
        ),
        pytest.param("After=network-online.target network-online.target", "", id="twice"),
        pytest.param(
            "After=a.service \\\n  # why\n\tnetwork-online.target \\\n  b.service",
            "After=a.service b.service\n",
            id="over several lines",
        ),
        pytest.param(
            "After=network-online.target my-network-online.target",
            "After=my-network-online.target\n",
            id="a longer name",
        ),
        pytest.param(
            "# After=network-online.target",
            "# After=network-online.target\n",
            id="a comment",
        ),
        pytest.param(
            "Before=network-online.target",
            "Before=network-online.target\n",
            id="another setting",
        ),
    ],
)
def test_settings_are_read_as_systemd_reads_them(machine: Machine, written: str, left: str) -> None:
    unit = "[Unit]\n{}[Service]\nExecStart=/bin/true a=network-online.target \\\n  b\n"
    machine.put("usr/lib/systemd/system/docker.service", unit.format(written + "\n"))
    (generated,) = machine.generate().values()
    assert generated == unit.format(left).replace("[Unit]\n", ADDED)


@pytest.mark.parametrize(
    "file",
    [
        "var/sota/sql.db",
        "var/sota/client.pem",
        "var/sota/sota.toml",
        "sysroot/ostree/deploy/lmp/var/sota/sql.db",
        "etc/compose-apps-early-start.disabled",
    ],
)
def test_nothing_is_written_if_there_is(machine: Machine, file: str) -> None:
    machine.put(file, "")
    assert machine.generate() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        "compose-apps-early-start=disabled\n",
        "quiet compose-apps-early-start=disabled ro\n",
        "quiet compose-apps-early-start=disabled",
    ],
)
def test_the_kernel_argument_turns_it_off(machine: Machine, arguments: str) -> None:
    machine.put("proc/cmdline", arguments)
    assert machine.generate() == {}


def test_another_kernel_argument_does_not(machine: Machine) -> None:
    machine.put(
        "proc/cmdline", "compose-apps-early-start=disabled-not xcompose-apps-early-start=\n"
    )
    assert machine.generate() != {}


def test_nothing_is_written_while_var_is_not_mounted(machine: Machine) -> None:
    shutil.rmtree(machine.root / "var")
    assert machine.generate() == {}


def test_ostree_shows_what_var_will_be(machine: Machine) -> None:
    shutil.rmtree(machine.root / "var")
    machine.put("sysroot/ostree/deploy/lmp/var/sota/compose-apps/x", "")
    assert list(machine.generate()) == ["generator/docker.service"]


def test_nothing_is_written_without_docker(machine: Machine) -> None:
    (machine.root / "usr/lib/systemd/system/docker.service").unlink()
    assert machine.generate() == {}


def test_nothing_is_written_if_docker_does_not_wait_for_the_network(machine: Machine) -> None:
    machine.put("usr/lib/systemd/system/docker.service", "[Service]\nExecStart=/bin/true\n")
    assert machine.generate() == {}


def test_a_local_unit_wins_over_the_distributions(machine: Machine) -> None:
    machine.put("usr/local/lib/systemd/system/docker.service", BOOKWORM)
    (generated,) = machine.generate().values()
    assert "SourcePath=/usr/local/lib/systemd/system/docker.service\n" in generated


def test_etc_is_left_to_the_administrator(machine: Machine) -> None:
    """What lies there, whole units and drop-ins, wins over a generator's normal folder."""
    machine.put("etc/systemd/system/docker.service", BOOKWORM)
    machine.put("etc/systemd/system/docker.service.d/proxy.conf", "[Service]\nEnvironment=A=1\n")
    assert list(machine.generate()) == ["generator/docker.service"]
