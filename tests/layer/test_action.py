"""The remote action, run as fioconfig runs it: with its environment, one pipe and no terminal."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from layer.conftest import CHECKOUT
from layer.stub_device import StubDevice

ACTION = CHECKOUT / "fioconfig/early-start"
SERVICE = {
    "LANG": "C.UTF-8",
    "INVOCATION_ID": "0" * 32,
    "JOURNAL_STREAM": "8:1",
    "SYSTEMD_EXEC_PID": "1",
    "DAEMON_INTERVAL": "300",
}
"""What systemd and /etc/default/fioconfig give fioconfig.service, which has no User=."""

HANDLER = {
    "CONFIG_FILE": "/var/run/secrets/fio-remote-action",
    "STORAGE_DIR": "/var/sota",
    "SOTA_DIR": "/usr/lib/sota/conf.d,/var/sota/sota.toml,/etc/sota/conf.d",
    "FIOCONFIG_BIN": "/usr/bin/fioconfig",
}
"""What fioconfig adds for the handler of changed files, and that hands on."""


@dataclass(frozen=True)
class Sent:
    """What fioconfig sends to the factory."""

    passed: bool
    console: str
    artifacts: Mapping[str, str]


class Fioconfig:
    """Runs the action on ``device``, in a working directory as its service has one."""

    def __init__(self, device: StubDevice, folder: Path, tools: str) -> None:
        self.device = device
        self._cwd = folder / "cwd"
        self._cwd.mkdir()
        programs = folder / "programs"
        programs.mkdir()
        self._path = f"{programs}:{tools}"
        agent = (
            f"PYTHONPATH={CHECKOUT / 'agent'} exec {sys.executable} -m compose_apps_early_start"
            f' --root={device.root} "$@"'
        )
        for name, line in {
            "compose-apps-early-start": agent,
            "journalctl": 'echo "journal of $*"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)

    def runs(self, *, artifacts: str | None = "fioconfig-oneshot.Ab12Cd") -> Sent:
        environment = {**SERVICE, **HANDLER, "PATH": self._path}
        if artifacts:
            (self._cwd / artifacts).mkdir(mode=0o700)
            environment["ARTIFACTS"] = artifacts
        ended = subprocess.run(
            [ACTION],
            cwd=self._cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        found = sorted(self._cwd.rglob("*")) if artifacts else []
        return Sent(
            ended.returncode == 0,
            ended.stdout,
            {each.name: each.read_text() for each in found if each.is_file()},
        )


@pytest.fixture(params=["sh", "busybox"])
def fioconfig(request: pytest.FixtureRequest, tmp_path: Path) -> Fioconfig:
    """A device with the tools of Debian or those of LmP."""
    device = StubDevice(tmp_path / "device")
    if request.param == "sh":
        return Fioconfig(device, tmp_path, "/usr/bin:/bin")
    applets = tmp_path / "applets"
    applets.mkdir()
    for name in ("sh", "rm"):
        (applets / name).symlink_to(str(shutil.which("busybox")))
    return Fioconfig(device, tmp_path, str(applets))


def start(device: StubDevice) -> None:
    """Let the agent of this tree run on the device."""
    argv = [sys.executable, "-m", "compose_apps_early_start", f"--root={device.root}", "start"]
    environment = {"PYTHONPATH": str(CHECKOUT / "agent"), "PATH": os.environ["PATH"]}
    with device.engine():
        subprocess.run(argv, env=environment | {"EARLY_START_SETTLE_SECONDS": "0.1"})


def test_it_tells_of_apps_that_run(fioconfig: Fioconfig) -> None:
    fioconfig.device.preload("shop")
    start(fioconfig.device)
    sent = fioconfig.runs()
    assert sent.passed
    assert "shop  running" in sent.console
    assert "ok: run 1 of " in sent.console
    assert set(sent.artifacts) == {
        "record.json",
        "runs.txt",
        "timeline.txt",
        "timeline.svg",
        "journal.txt",
    }
    assert json.loads(sent.artifacts["record.json"])["apps"][0]["state"] == "running"
    assert sent.artifacts["timeline.txt"].startswith("1 of 1 apps run")
    assert sent.artifacts["timeline.svg"].startswith("<svg ")
    assert sent.artifacts["journal.txt"] == (
        "journal of --no-pager --output=short-iso --lines=2000"
        " --unit=compose-apps-early-start.service\n"
    )


def test_it_passes_where_apps_failed_and_says_why(fioconfig: Fioconfig) -> None:
    """A failed action would lose its output."""
    fioconfig.device.preload("shop")
    fioconfig.device.preload("broken")
    (fioconfig.device.root / "var/sota/compose-apps/broken/docker-compose.yml").write_text("[")
    start(fioconfig.device)
    sent = fioconfig.runs()
    assert sent.passed
    assert "broken: docker-compose.yml is not YAML" in sent.console
    assert "broken: compose-file-invalid: " in sent.artifacts["evidence.txt"]


def test_without_a_run_it_says_so(fioconfig: Fioconfig) -> None:
    sent = fioconfig.runs()
    assert sent.passed
    assert "there is no record of a run on this device. Next: " in sent.console
    assert set(sent.artifacts) == {"journal.txt"}


def test_without_a_folder_for_artifacts_it_still_tells(fioconfig: Fioconfig) -> None:
    fioconfig.device.preload("shop")
    start(fioconfig.device)
    sent = fioconfig.runs(artifacts=None)
    assert sent.passed
    assert "shop  running" in sent.console
    assert sent.console.count("\n") < 10


def test_its_name_is_one_that_fioconfig_takes() -> None:
    assert 4 <= len(ACTION.name) <= 16
    assert set(ACTION.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
