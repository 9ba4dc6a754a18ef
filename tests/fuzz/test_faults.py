"""If the disk fails in one place, the run starts the apps elsewhere and reports the fault."""

import errno
import json
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from compose_apps_early_start import engine, runner, start
from compose_apps_early_start.cause import Failure
from compose_apps_early_start.container import State
from compose_apps_early_start.preloaded import App, Service
from compose_apps_early_start.settings import Settings
from fuzz.world import Call, Clock, Compose, Engine, Thread, World

IMAGE = "hub.example.test/factory/web@sha256:" + "a" * 64
FILE = f"services: {{web: {{image: '{IMAGE}', restart: always}}}}\n"
NAMES = ("other", "shop", "stored")


class BadDisk:
    """Every access to `place`, or to what lies in it, fails with an error of input and output."""

    def __init__(self) -> None:
        self.place: str | None = None

    def check(self, path: Any) -> None:
        if self.place is None or not isinstance(path, (str, bytes, os.PathLike)):
            return
        text = os.fsdecode(path)
        if text == self.place or text.startswith(f"{self.place}/"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), text)

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Be the audit hook: those events that name paths."""
        if self.place and (event in ("open", "os.rename") or event.startswith("os.")):
            for each in arguments:
                self.check(each)


_DISK = BadDisk()
sys.addaudithook(_DISK.watch)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadDisk]:
    # Of these no audit event tells.
    for name in ("stat", "lstat", "readlink"):
        real = getattr(os, name)

        def failing(path: Any, *more: Any, real: Any = real, **options: Any) -> Any:
            _DISK.check(path)
            return real(path, *more, **options)

        monkeypatch.setattr(os, name, failing)
    yield _DISK
    _DISK.place = None


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Device:
    """Three apps: two in folders, one of them also in the store, and one in the store only."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(root=root)
        builder = stores.Builder(self.settings.reset_apps)
        for name in ("shop", "stored"):
            builder.app_of_files(name, {"docker-compose.yml": FILE.encode()})
        for name in ("other", "shop"):
            folder = self.settings.compose_apps / name
            folder.mkdir(parents=True)
            (folder / "docker-compose.yml").write_text(FILE)
            (folder / ".env").touch()
        self.settings.default_apps.parent.mkdir()
        self.settings.default_apps.write_text("\n".join(NAMES))
        self.settings.installed_versions.parent.mkdir()
        self.settings.installed_versions.write_text("{}")
        for file in (self.settings.last_run, self.settings.finished):
            file.parent.mkdir(parents=True)
        apps = [
            App(name, self.settings.compose_apps / name, name, (Service("web", IMAGE, None),))
            for name in NAMES
        ]
        world = World(Clock(), apps, calls=[[Call(1.0, None)] for _ in apps])
        stand_in = Engine(world)
        compose = Compose(world, stand_in)
        Thread.clock, Thread.made = world.clock, []
        compose.config = lambda folder: Failure  # type: ignore[attr-defined]
        compose.read_ahead = lambda: None  # type: ignore[attr-defined]
        stand_in.state = lambda *_: State(frozenset([IMAGE]))  # type: ignore[attr-defined]
        monkeypatch.setattr(engine.Engine, "connect", stand_in.connect)
        monkeypatch.setattr(runner, "threading", types.SimpleNamespace(Thread=Thread))
        monkeypatch.setattr(runner, "time", world.clock)
        monkeypatch.setattr(start, "time", world.clock)
        monkeypatch.setattr(start, "Compose", lambda _: compose)
        self.world = world

    def run(self) -> int:
        try:
            return start.start(self.settings)
        finally:
            self.world.clock.end()
            for each in Thread.made:
                each.really_join()

    def record(self) -> dict[str, Any]:
        for file in (self.settings.run_status, self.settings.last_run):
            if file.exists():
                found: dict[str, Any] = json.loads(file.read_text())
                return found
        raise AssertionError("there is no record")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def causes(record: dict[str, Any]) -> dict[str, str | None]:
    return {each["name"]: each["cause"] for each in record["apps"]}


def test_on_a_sound_disk_all_apps_run(device: Device) -> None:
    assert device.run() == 0
    assert causes(device.record()) == dict.fromkeys(NAMES)


@pytest.mark.parametrize(
    ("place", "failed"),
    [
        pytest.param("var/sota/compose-apps/shop", {"shop"}, id="an app's folder"),
        pytest.param(
            "var/sota/compose-apps/other/docker-compose.yml", {"other"}, id="a compose file"
        ),
        pytest.param("var/sota/compose-apps/other/.env", {"other"}, id="an app's .env"),
        pytest.param("var/sota/reset-apps/blobs", {"stored"}, id="the blobs of the store"),
        pytest.param("var/sota/.compose-apps-early-start", {"stored"}, id="the scratch folder"),
        pytest.param("var/sota/import/installed_versions", set(), id="installed_versions"),
        pytest.param("var/lib/compose-apps-early-start/last-run.json", set(), id="the last record"),
        pytest.param("var/lib/compose-apps-early-start", set(), id="the place of the last record"),
        pytest.param("run/compose-apps-early-start/finished.json", set(), id="the one-shots"),
        pytest.param("run/compose-apps-early-start/status.json", set(), id="the record"),
    ],
)
def test_the_apps_that_lie_elsewhere_run(
    device: Device, disk: BadDisk, place: str, failed: set[str]
) -> None:
    disk.place = str(device.settings.root / place)
    exit_status = device.run()
    disk.place = None
    found = causes(device.record())
    assert {name for name, cause in found.items() if cause} == failed
    assert "internal-error" not in found.values()
    assert exit_status == (start.DEGRADED if failed else start.ALL_RUN)
    assert sorted(found) == sorted(NAMES)


def test_a_store_that_cannot_be_listed_leaves_the_folders(device: Device, disk: BadDisk) -> None:
    disk.place = str(device.settings.reset_apps)
    assert device.run() == start.DEGRADED
    disk.place = None
    record = device.record()
    assert causes(record) == {"other": None, "shop": None}
    assert [each["name"] for each in record["unknown"]] == ["stored"]


@pytest.mark.parametrize("place", ["var/lmp/default-apps", "var/sota/compose-apps"])
def test_what_says_which_apps_are_wanted_is_named_and_nothing_is_started(
    device: Device, disk: BadDisk, place: str
) -> None:
    disk.place = str(device.settings.root / place)
    assert device.run() == start.NOTHING_RUNS
    disk.place = None
    record = device.record()
    assert record["state"] == "failed"
    assert "Input/output error" in record["message"]
    assert str(device.settings.root / place) in record["message"]
    assert device.world.log == []
