"""The record of a run, and how old or damaged records are read."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import documents
import pytest
from compose_apps_early_start import status, uptime
from compose_apps_early_start.errors import EarlyStartError, NoRunError
from compose_apps_early_start.record import (
    MAX_RESTARTS,
    MAX_STEPS,
    AppRecord,
    Recorder,
    RunRecord,
    write,
)
from compose_apps_early_start.report import Event, Kind
from compose_apps_early_start.settings import Settings
from hypothesis import given
from hypothesis import strategies as st
from unit.builders import app, container

# Steps


class Clock:
    """Stands for the kernel's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 20.0
        monkeypatch.setattr(uptime, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def steps(found: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(each["state"], each["uptime"]) for each in found]


def test_each_step_has_its_time_on_the_kernels_clock(settings: Settings, clock: Clock) -> None:
    recorder = Recorder(settings, pytest.fail)
    clock.now = 21.0
    recorder.begin([AppRecord("shop")], [])
    for event in (
        Event(Kind.WAITING, "waiting for dockerd"),
        Event(Kind.READY, "dockerd is ready", seconds=1.0),
        Event(Kind.RESTORING, "putting its folder back", app="shop"),
        Event(Kind.RESTORED, "folder put back", app="shop"),
        Event(Kind.LOADING, "loading: 0 of 9", app="shop"),
        Event(Kind.LOADING, "loading: 5 of 9", app="shop"),
        Event(Kind.LOADED, "loaded", app="shop"),
        Event(Kind.STARTING, "coming up", app="shop"),
        Event(Kind.RETRYING, "trying again", app="shop", cause="exited"),
        Event(Kind.UP, "up", app="shop", seconds=2.0),
        Event(Kind.PENDING, "web is starting", app="shop"),
        Event(Kind.RUNNING, "runs", app="shop", seconds=3.0),
    ):
        clock.now += 1.0
        recorder(event)
    clock.now += 1.0
    recorder.end("ok", 0)
    found = documents.run(settings.last_run.read_text())
    started, *rest = steps(found["steps"])
    assert started[0] == "started"
    assert rest == [("loaded", 20.0), ("waiting", 22.0), ("ready", 23.0), ("ended", 34.0)]
    assert steps(found["apps"][0]["steps"]) == [
        ("waiting", 21.0),
        ("restoring", 24.0),
        ("waiting", 25.0),
        ("loading", 26.0),
        ("waiting", 28.0),
        ("starting", 29.0),
        ("retrying", 30.0),
        ("settling", 31.0),
        ("running", 33.0),
    ]


def test_the_clock_is_the_kernels() -> None:
    before = float(Path("/proc/uptime").read_text().split()[0])
    assert before <= uptime.now() + 0.02
    started = uptime.process_started(os.getpid())
    assert started is not None
    assert 0 < started <= uptime.now()
    assert uptime.process_started(2**22 + 1) is None


def test_the_boot_is_named_as_the_journal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOT_ID", raising=False)
    kernels = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert uptime.boot_id() == kernels
    monkeypatch.setenv("BOOT_ID", "0" * 32)  # from the unit
    assert uptime.boot_id() == "0" * 32
    monkeypatch.delenv("BOOT_ID")
    monkeypatch.setattr(uptime, "BOOT_ID", Path("/nowhere"))
    assert uptime.boot_id() is None


def test_of_many_steps_the_first_and_the_last_are_kept(settings: Settings, clock: Clock) -> None:
    recorder = Recorder(settings, pytest.fail)
    recorder.begin([AppRecord("shop")], [])
    for _ in range(MAX_STEPS):
        clock.now += 1.0
        recorder(Event(Kind.RETRYING, "trying again", app="shop", cause="exited"))
        recorder(Event(Kind.UP, "up", app="shop", seconds=1.0))
    (shop,) = documents.run(settings.run_status.read_text())["apps"]
    found = steps(shop["steps"])
    assert len(found) == MAX_STEPS
    assert found[:2] == [("waiting", 20.0), ("retrying", 21.0)]
    assert found[-1] == ("settling", clock.now)


# Containers


def test_containers_are_told_as_they_were_seen_last(settings: Settings, clock: Clock) -> None:
    recorder = Recorder(settings, pytest.fail)
    recorder.begin([AppRecord("shop")], [])
    shop = app("shop")
    recorder.saw("shop", [container(shop, up_for=2.5, health="starting")])
    clock.now = 30.0
    recorder.saw("shop", [container(shop, up_for=12.5, health="healthy")])
    clock.now = 40.0
    recorder.saw("shop", [container(shop, up_for=1.0, health="healthy", restarts=1)])
    clock.now = 50.0
    gone = container(
        shop, state="exited", exit_code=137, out_of_memory=True, restarts=2, up_for=None
    )
    recorder.saw("shop", [gone, container(shop, "db", error="no such device")])
    recorder.end("degraded", 3)
    recorder.saw("shop", [])  # is no part of it any more
    (recorded,) = documents.run(settings.last_run.read_text())["apps"]
    web, db = recorded["containers"]
    assert web == {
        "id": "id-of-shop-web",
        "name": "shop-web-1",
        "service": "web",
        "state": "exited",
        "health": None,
        "exit_code": 137,
        "out_of_memory": True,
        "restarts": 2,
        "error": None,
        "started_uptime": None,
        "healthy_uptime": 30.0,
        "restart_uptimes": [40.0, 50.0],
    }
    assert (db["service"], db["error"]) == ("db", "no such device")


def test_when_it_restarted_is_kept_for_the_first_times(settings: Settings) -> None:
    recorder = Recorder(settings, pytest.fail)
    recorder.begin([AppRecord("shop")], [])
    for restarts in range(2 * MAX_RESTARTS):
        recorder.saw("shop", [container(app("shop"), restarts=restarts)])
    recorder.end("failed", 1)
    (recorded,) = documents.run(settings.last_run.read_text())["apps"]
    assert recorded["containers"][0]["restarts"] == 2 * MAX_RESTARTS - 1
    assert len(recorded["containers"][0]["restart_uptimes"]) == MAX_RESTARTS


# Old and damaged records

FIRST_SCHEMA = {
    "schema": 1,
    "state": "degraded",
    "exit_status": 3,
    "message": None,
    "hint": None,
    "started": "2026-11-23T08:00:00+00:00",
    "pid": 4711,
    "engine_wait_seconds": 3,
    "seconds": 10.0,
    "apps": [
        {
            "name": "shop",
            "state": "failed",
            "cause": "exited",
            "message": "it ended",
            "hint": "look",
            "attempts": 2,
            "up_seconds": 1.0,
            "settled_seconds": None,
        }
    ],
    "unknown": [{"name": "shpo", "nearest": "shop"}],
}


def put(settings: Settings, document: Any) -> None:
    settings.last_run.parent.mkdir(parents=True, exist_ok=True)
    settings.last_run.write_text(json.dumps(document))


def test_a_record_of_the_first_schema_is_shown(settings: Settings) -> None:
    put(settings, FIRST_SCHEMA)
    found = documents.run(json.dumps(status.load(settings)))
    for key in FIRST_SCHEMA.keys() - {"schema", "apps"}:
        assert found[key] == FIRST_SCHEMA[key]
    (shop,) = found["apps"]
    assert (shop["cause"], shop["attempts"], shop["containers"]) == ("exited", 2, [])
    assert status.exit_status(found) == 3
    assert "exited" in status.table(found)


ANYTHING: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        2.5,
        10**30,
        "text",
        "\x1b[2J",
        [],
        [None],
        [7],
        {},
        [{}],
        [{"state": "ok"}],
        [{"state": "ok", "uptime": 1}],
        [{"name": "x"}],
        [{"id": 7, "restarts": "many"}],
    ]
)
APP = st.fixed_dictionaries(
    {}, optional=dict.fromkeys((*AppRecord.__dataclass_fields__, "more"), ANYTHING)
)
RECORD = st.fixed_dictionaries(
    {"state": st.sampled_from(["ok", "running", ""]), "schema": st.sampled_from([1, 2])},
    optional={
        **dict.fromkeys(RunRecord.__dataclass_fields__.keys() - {"state", "schema"}, ANYTHING),
        "apps": st.lists(APP | ANYTHING, max_size=2),
    },
)


@given(RECORD)
def test_whatever_a_record_lacks_it_is_shown(document: dict[str, Any]) -> None:
    found = RunRecord.from_json(document).to_json()
    again = RunRecord.from_json(json.loads(json.dumps(found))).to_json()
    assert again == found
    assert status.table(found)
    assert status.list_table([found])
    assert status.exit_status(found) in (0, 1, 3, 4)


# Waiting for the verdict


@pytest.fixture(autouse=True)
def this_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOT_ID", "b" * 32)


def test_who_waits_hears_of_the_verdict_at_once(settings: Settings) -> None:
    ended: list[float] = []

    def run() -> None:
        time.sleep(0.2)  # it has not begun yet
        recorder = Recorder(settings, pytest.fail)
        recorder.begin([AppRecord("shop")], [])
        recorder(Event(Kind.STARTING, "coming up", app="shop"))
        time.sleep(0.2)
        recorder.end("failed", 1)
        ended.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    found = status.wait(settings, 60.0)
    heard = time.monotonic()
    thread.join()
    assert (found["state"], found["exit_status"]) == ("failed", 1)
    # At most one look later; the machine may be busy.
    assert status.POLL_SECONDS <= 0.05
    assert heard - ended[0] < 1.0


def test_a_run_of_an_earlier_boot_is_not_waited_for(settings: Settings) -> None:
    write(RunRecord(state="ok", exit_status=0, boot_id="a" * 32).to_json(), settings.last_run)
    with pytest.raises(NoRunError, match=r"no run has begun within 0\.1 s"):
        status.wait(settings, 0.1)


def test_a_run_that_ended_in_this_boot_is_told_at_once(settings: Settings) -> None:
    write(RunRecord(state="ok", exit_status=0, boot_id="b" * 32).to_json(), settings.last_run)
    (settings.root / "var/sota").mkdir(parents=True)
    (settings.root / "var/sota/sql.db").touch()  # registered meanwhile
    assert status.wait(settings, 60.0)["state"] == "ok"


def test_a_run_that_goes_on_when_time_is_up_is_told_as_such(settings: Settings) -> None:
    write(RunRecord(state="running", pid=os.getpid()).to_json(), settings.run_status)
    assert status.wait(settings, 0.1)["state"] == "running"


def test_a_run_that_is_killed_meanwhile_was_interrupted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = iter([True, True, False, False, False])
    monkeypatch.setattr(status, "_is_alive", lambda pid: next(alive))
    write(RunRecord(state="running", pid=os.getpid()).to_json(), settings.run_status)
    assert status.wait(settings, 60.0)["state"] == "interrupted"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("var/sota/sota.toml", "", "registered"),
        ("etc/compose-apps-early-start.disabled", "", "keeps runs from starting"),
        ("proc/cmdline", "ro compose-apps-early-start=disabled quiet\n", "command line"),
    ],
)
def test_where_no_run_will_come_none_is_waited_for(
    settings: Settings, file: str, text: str, words: str
) -> None:
    place = settings.root / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    with pytest.raises(NoRunError, match=words):
        status.wait(settings, 60.0)


def test_who_may_not_read_is_told_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(EarlyStartError, match="Permission denied"):
        status.wait(settings, 60.0)
