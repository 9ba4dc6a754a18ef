"""One run, from the registration check to the last verdict: messages, record and exit status."""

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from compose_apps_early_start import start
from compose_apps_early_start.cause import Cause
from compose_apps_early_start.container import Container, State
from compose_apps_early_start.engine import Engine, Watch
from compose_apps_early_start.errors import BusyError, EarlyStartError, EngineError, InterruptedRun
from compose_apps_early_start.lock import held
from compose_apps_early_start.plan import Plan
from compose_apps_early_start.report import Event, Kind
from compose_apps_early_start.runner import Runner
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Store
from pytest_mock import MockerFixture
from unit.builders import IMAGE, app, container, preloaded, shortlist


class QuietWatch(Watch):
    """No container changes."""

    def __init__(self) -> None:
        self.losses = 0

    def changes(self, seconds: float) -> frozenset[str]:
        return frozenset()

    def wake(self, project: str = "") -> None:
        return

    def close(self) -> None:
        return


class RunningEngine(Engine):
    """A dockerd on which the apps of these names run as wanted."""

    def __init__(self, settings: Settings, *names: str) -> None:
        apps = [app(name, folder=settings.compose_apps / name) for name in names]
        self.running = {str(each.folder): container(each) for each in apps}

    def state(self, images: Any, folders: Any) -> State:
        found = self.containers(*folders)
        return State(frozenset({IMAGE}) & images, found, found)

    def containers(self, *folders: str) -> tuple[Container, ...]:
        return tuple(each for each in self.running.values() if each.folder in folders)

    def identity(self) -> str | None:
        return "1:1"

    def with_timeout(self, seconds: float) -> Engine:
        return self

    def states(self, folders: Any) -> list[dict[str, Any]]:
        return []

    def watch(self) -> Watch:
        return QuietWatch()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A run takes SIGTERM and SIGINT for itself."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What was told."""
    told: list[Event] = []
    monkeypatch.setattr("compose_apps_early_start.report.connected_to_journal", lambda _: False)
    monkeypatch.setattr("compose_apps_early_start.report.terminal", lambda _: told.append)
    return told


Dockerd = Callable[..., None]


@pytest.fixture
def dockerd(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Dockerd:
    """Have a dockerd on which apps of these names run."""

    def be_there(*running: str) -> None:
        engine = RunningEngine(settings, *running)
        monkeypatch.setattr(Engine, "connect", lambda *_: engine)

    return be_there


def kinds(events: list[Event]) -> list[Kind]:
    return [each.kind for each in events]


def last_run(settings: Settings) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(settings.last_run.read_text())
    return record


# Exit 0


def test_all_wanted_apps_run(settings: Settings, events: list[Event], dockerd: Dockerd) -> None:
    for name in ("shop", "telemetry"):
        preloaded(settings, name)
    dockerd("shop", "telemetry")
    assert start.start(settings) == 0
    assert kinds(events) == [
        Kind.WAITING,
        Kind.READY,
        Kind.RUNNING,
        Kind.RUNNING,
        Kind.FINISHED,
    ]
    assert events[-1].message == "2 of 2 apps run"
    assert events[-1].hint is None
    assert 0 <= (events[1].seconds or 0) < 10
    assert last_run(settings)["state"] == "ok"


def test_compose_is_read_from_the_disk_beforehand_at_the_first_boot_only(
    settings: Settings, events: list[Event], dockerd: Dockerd, mocker: MockerFixture
) -> None:
    read_ahead = mocker.patch("compose_apps_early_start.compose.Compose.read_ahead")
    preloaded(settings, "shop")
    dockerd("shop")
    for _ in range(2):
        assert start.start(settings) == 0
        assert read_ahead.call_count == 1
        assert Kind.FINISHED in kinds(events)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_no_app_is_wanted(settings: Settings, events: list[Event], text: str) -> None:
    # And no engine is waited for, and nothing deleted.
    preloaded(settings, "shop")
    shortlist(settings, text)
    assert start.start(settings) == 0
    assert [(each.kind, each.message, each.hint) for each in events] == [
        (Kind.FINISHED, "no app is wanted", None)
    ]
    assert last_run(settings)["exit_status"] == 0
    assert (settings.compose_apps / "shop").exists()


def test_no_app_is_preloaded(settings: Settings, events: list[Event]) -> None:
    assert start.start(settings) == 0
    assert kinds(events) == [Kind.FINISHED]
    (told,) = events
    assert told.message == (
        f"no app is preloaded: there is none in {settings.compose_apps} or {settings.reset_apps}"
    )
    assert told.hint
    record = last_run(settings)
    assert (record["state"], record["exit_status"]) == ("ok", 0)
    assert (record["message"], record["hint"]) == (told.message, told.hint)


@pytest.mark.parametrize("name", ["sql.db", "client.pem", "sota.toml"])
def test_a_registered_device_is_left_alone(
    settings: Settings, events: list[Event], name: str
) -> None:
    preloaded(settings, "shop")
    file = settings.root / "var/sota" / name
    file.touch()
    before = sorted(settings.root.rglob("*"))
    assert start.start(settings) == 0
    assert [(each.kind, each.message) for each in events] == [
        (Kind.SKIPPED, f"this device is registered ({file}): nothing is started")
    ]
    assert sorted(settings.root.rglob("*")) == before


# Exit 3


def test_some_apps_run_and_some_do_not(
    settings: Settings, events: list[Event], dockerd: Dockerd
) -> None:
    preloaded(settings, "broken", "")
    preloaded(settings, "shop")
    dockerd("shop")
    assert start.start(settings) == 3
    assert events[-1].kind is Kind.DEGRADED
    assert events[-1].message == "1 of 2 apps run; failed: broken (compose-file-invalid)"
    assert events[-1].hint == "compose-apps-early-start status"
    found = last_run(settings)
    assert (found["state"], found["exit_status"]) == ("degraded", 3)
    assert [(each["name"], each["state"], each["cause"]) for each in found["apps"]] == [
        ("broken", "failed", "compose-file-invalid"),
        ("shop", "running", None),
    ]


def test_an_unknown_name_is_told_and_the_others_run(
    settings: Settings, events: list[Event], dockerd: Dockerd
) -> None:
    preloaded(settings, "shop")
    shortlist(settings, "shop shpo")
    dockerd("shop")
    assert start.start(settings) == 3
    (unknown,) = [each for each in events if each.kind is Kind.UNKNOWN]
    assert unknown.message == (
        f"'shpo' in {settings.default_apps}: no preloaded app has this name, did you mean 'shop'?"
    )
    assert unknown.hint == f"correct {settings.default_apps}"
    assert events[-1].message == "1 of 2 apps run; failed: shpo (not preloaded)"
    assert last_run(settings)["unknown"] == [{"name": "shpo", "nearest": "shop"}]


# Exit 1


@pytest.mark.usefixtures("no_engine")
def test_a_dockerd_that_never_comes_fails_each_app(settings: Settings, events: list[Event]) -> None:
    preloaded(settings, "broken", "")
    preloaded(settings, "shop")
    assert start.start(settings) == 1
    assert {each.app: each.cause for each in events if each.kind is Kind.FAILED} == {
        "broken": "compose-file-invalid",
        "shop": "engine-unavailable",
    }
    assert last_run(settings)["state"] == "failed"
    assert last_run(settings)["engine_wait_seconds"] is None


def test_where_every_file_is_broken_no_engine_is_waited_for(
    settings: Settings, events: list[Event]
) -> None:
    preloaded(settings, "a", "")
    preloaded(settings, "b", "[")
    assert start.start(settings) == 1
    assert kinds(events) == [Kind.FAILED, Kind.FAILED, Kind.DEGRADED]
    assert last_run(settings)["state"] == "failed"


def test_only_unknown_names_start_nothing_and_delete_nothing(
    settings: Settings, events: list[Event]
) -> None:
    preloaded(settings, "shop")
    shortlist(settings, "nothing-like-it")
    assert start.start(settings) == 1
    assert events[-1].message == "0 of 1 apps run; failed: nothing-like-it (not preloaded)"
    assert (settings.compose_apps / "shop/docker-compose.yml").exists()


def test_a_shortlist_that_cannot_be_read_ends_the_run_and_is_recorded(
    settings: Settings, events: list[Event]
) -> None:
    preloaded(settings, "shop")
    settings.default_apps.mkdir(parents=True)
    assert start.start(settings) == 1
    (aborted,) = events
    assert aborted.kind is Kind.ABORTED
    assert "cannot read the shortlist: Is a directory" in aborted.message
    assert aborted.hint
    found = last_run(settings)
    assert (found["state"], found["message"], found["hint"]) == (
        "failed",
        aborted.message,
        aborted.hint,
    )


def test_a_second_run_begins_nothing(settings: Settings, events: list[Event]) -> None:
    preloaded(settings, "shop")
    with held(settings), pytest.raises(BusyError):
        start.start(settings)
    assert events == []
    assert not settings.run_status.exists()
    assert not settings.last_run.exists()


def test_without_the_right_to_look_nothing_is_begun(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.lstat", denied)
    with pytest.raises(EarlyStartError, match="cannot tell whether the device is registered"):
        start.start(settings)


# What is told on the way


def test_what_is_worth_knowing_is_told_before_the_engine_is_waited_for(
    settings: Settings, events: list[Event]
) -> None:
    preloaded(settings, "Shop", "")
    (settings.compose_apps / "README").touch()
    start.start(settings)
    (note,) = [each for each in events if each.kind is Kind.NOTE]
    assert note.message == f"{settings.compose_apps}/README is no app's folder; it is left alone"
    assert note.hint == "move it away, or registration will list it as an app"


def test_an_unreadable_store_is_told_and_the_apps_run(
    settings: Settings, events: list[Event], dockerd: Dockerd, mocker: MockerFixture
) -> None:
    preloaded(settings, "shop")
    dockerd("shop")
    error = OSError(errno.EIO, os.strerror(errno.EIO), "apps")
    mocker.patch.object(Store, "versions", side_effect=error)
    assert start.start(settings) == 0
    (note,) = [each for each in events if each.kind is Kind.NOTE]
    assert note.message == "the restorable store cannot be read: apps: Input/output error"
    assert note.hint == "see journalctl -k: does the disk fail?"


def test_a_dockerd_that_goes_away_once_more_is_asked_again(
    settings: Settings,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preloaded(settings, "shop")
    good = RunningEngine(settings, "shop")

    class Restarting(RunningEngine):
        def state(self, images: Any, folders: Any) -> State:
            raise EngineError("dockerd does not answer: EOF", "look at it")

    engines: list[Engine] = [Restarting(settings), good]
    monkeypatch.setattr(start, "ENGINE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(Engine, "connect", lambda *_: engines.pop(0))
    assert start.start(settings) == 0
    assert kinds(events).count(Kind.READY) == 1


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_while_it_waits_is_recorded_as_interrupted(
    settings: Settings,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    preloaded(settings, "shop")
    monkeypatch.setattr(Engine, "connect", lambda *_: signal.raise_signal(number))
    assert start.start(settings) == 1
    assert events[-1].kind is Kind.DEGRADED
    assert events[-1].message.startswith("0 of 1 apps run, the run was interrupted")
    assert [event.cause for event in events if event.app == "shop"] == ["interrupted"]
    assert last_run(settings)["state"] == "interrupted"
    with held(settings):  # the next run can begin
        pass


def test_a_run_that_is_ended_is_interrupted_though_all_apps_run(
    settings: Settings, events: list[Event], dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_and_be_interrupted(self: Runner, plan: Plan) -> bool:
        assert run(self, plan)
        signal.raise_signal(signal.SIGTERM)
        return True

    run = Runner.run
    monkeypatch.setattr(Runner, "run", run_and_be_interrupted)
    preloaded(settings, "shop")
    dockerd("shop")
    assert start.start(settings) == 3
    assert events[-1].message == "1 of 1 apps run, the run was interrupted"
    assert (last_run(settings)["state"], last_run(settings)["exit_status"]) == ("interrupted", 3)


def test_a_second_signal_ends_the_process_as_it_is() -> None:
    with pytest.raises(InterruptedRun):
        start._interrupt(signal.SIGTERM, None)
    for number in (signal.SIGTERM, signal.SIGINT):
        assert signal.getsignal(number) is signal.SIG_DFL


# What nobody expects


def test_an_unexpected_error_ends_the_run_and_is_recorded(
    settings: Settings, events: list[Event], dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise KeyError("DriverStatus")

    monkeypatch.setattr(Runner, "run", defect)
    preloaded(settings, "shop")
    dockerd("shop")
    assert start.start(settings) == 1
    assert events[-1].kind is Kind.ABORTED
    assert events[-1].message.startswith("KeyError: 'DriverStatus' at test_start.py:")
    assert events[-1].hint == Cause.INTERNAL_ERROR.hint
    found = last_run(settings)
    assert (found["state"], found["exit_status"]) == ("failed", 1)
    assert found["message"] == events[-1].message
    with held(settings):  # the next run can begin
        pass


def test_scratch_that_cannot_be_removed_is_told_and_the_apps_run(
    settings: Settings, events: list[Event], dockerd: Dockerd, mocker: MockerFixture
) -> None:
    preloaded(settings, "shop")
    dockerd("shop")
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    mocker.patch("compose_apps_early_start.bundle.clean", side_effect=error)
    assert start.start(settings) == 0
    (note,) = [each for each in events if each.kind is Kind.NOTE]
    assert note.message == f"{settings.staging} cannot be removed: Read-only file system"
