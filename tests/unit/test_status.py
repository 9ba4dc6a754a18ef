"""`status`: the file of the record, what survives a power cut, and the table for people."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import documents
import pytest
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.record import AppRecord, Recorder, RunRecord, write
from compose_apps_early_start.report import Event, Kind
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.shortlist import UnknownName
from compose_apps_early_start.status import load, table
from pytest_mock import MockerFixture


def check_schema(record: dict[str, Any]) -> None:
    documents.run(json.dumps(record))


def silent(text: str) -> None:
    pytest.fail(f"unexpected warning: {text}")


def recorder(settings: Settings, *apps: str) -> Recorder:
    made = Recorder(settings, silent)
    made.begin(map(AppRecord, apps), [UnknownName("shpo", "shop"), UnknownName("x", None)])
    return made


EXITED = Failure(Cause.EXITED, "container 'db-1' ended with exit status 1")
STORY = (
    Event(Kind.WAITING, "waiting for dockerd"),
    Event(Kind.READY, "dockerd is ready", seconds=3.0),
    Event(Kind.STARTING, "coming up", app="shop"),
    Event(Kind.STARTING, "coming up", app="db"),
    Event(Kind.UP, "up, settling", app="shop", seconds=1.0),
    Event(Kind.NOTE, "worth knowing", app="shop", hint="know it"),
    Event(Kind.PENDING, "db is starting", app="shop"),
    Event(Kind.UP, "up, settling", app="db", seconds=1.5),
    Event(Kind.RETRYING, "trying again", app="db", cause="exited"),
    Event(Kind.RUNNING, "runs", app="shop", seconds=3.0),
    Event.failed("db", EXITED, 9.0),
)


def read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="ascii"))
    return record


def test_at_each_moment_of_a_run_the_file_has_exactly_the_documented_keys(
    settings: Settings,
) -> None:
    record = recorder(settings, "shop", "db", "later")
    for event in STORY:
        record(event)
        check_schema(read(settings.run_status))
    record.end("degraded", 3)
    check_schema(read(settings.last_run))


def test_how_a_run_is_recorded(settings: Settings) -> None:
    record = recorder(settings, "shop", "db", "later")
    for event in STORY:
        record(event)
    found = load(settings)
    assert found["state"] == "running"
    assert found["exit_status"] is None
    assert found["engine_wait_seconds"] == 3.0
    shop, db, later = found["apps"]
    assert [each["name"] for each in found["apps"]] == ["shop", "db", "later"]
    assert [each["state"] for each in found["apps"]] == ["running", "failed", "waiting"]
    assert [each["attempts"] for each in found["apps"]] == [1, 2, 0]
    assert [each["up_seconds"] for each in found["apps"]] == [1.0, 1.5, None]
    assert [each["settled_seconds"] for each in found["apps"]] == [3.0, 9.0, None]
    assert (db["cause"], db["message"]) == ("exited", "container 'db-1' ended with exit status 1")
    assert db["hint"] == "look at its log with 'docker compose logs'"
    for each in (shop, later):
        assert (each["cause"], each["message"], each["hint"]) == (None, None, None)
    assert found["unknown"] == [
        {"name": "shpo", "nearest": "shop"},
        {"name": "x", "nearest": None},
    ]


def test_an_app_that_runs_at_last_has_no_cause_left(settings: Settings) -> None:
    record = recorder(settings, "db")
    record(Event(Kind.RETRYING, "trying again", app="db", cause="exited"))
    assert load(settings)["apps"][0]["cause"] == "exited"
    record(Event(Kind.RUNNING, "runs", app="db", seconds=2.0))
    assert load(settings)["apps"][0]["cause"] is None
    assert load(settings)["apps"][0]["state"] == "running"


def test_what_an_app_waits_for_is_recorded_until_it_runs(settings: Settings) -> None:
    record = recorder(settings, "shop")
    record(Event(Kind.UP, "up, settling", app="shop", seconds=1.0))
    record(Event(Kind.PENDING, "web restarted 5 times, db is starting", app="shop"))
    (shop,) = load(settings)["apps"]
    assert (shop["state"], shop["message"]) == ("settling", "web restarted 5 times, db is starting")
    assert (shop["cause"], shop["hint"]) == (None, None)
    record(Event(Kind.RUNNING, "runs", app="shop", seconds=2.0))
    (shop,) = load(settings)["apps"]
    assert (shop["state"], shop["message"]) == ("running", None)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (Kind.RESTORING, "restoring"),
        (Kind.RESTORED, "waiting"),
        (Kind.LOADING, "loading"),
        (Kind.LOADED, "waiting"),
        (Kind.STARTING, "starting"),
        (Kind.UP, "settling"),
        (Kind.PENDING, "settling"),
        (Kind.RETRYING, "retrying"),
        (Kind.RUNNING, "running"),
        (Kind.FAILED, "failed"),
        # They tell what was done, not how far the app is.
        *((kind, "waiting") for kind in (Kind.NOTE, Kind.HEALED, Kind.REPLACED)),
    ],
)
def test_which_event_brings_an_app_into_which_state(
    settings: Settings, kind: Kind, state: str
) -> None:
    record = recorder(settings, "shop")
    record(Event(kind, "something", app="shop"))
    assert record.record.app("shop").state == state


def test_an_app_that_waits_for_something_is_shown_with_it(settings: Settings) -> None:
    record = recorder(settings, "shop")
    record(Event(Kind.PENDING, "db is starting", app="shop"))
    lines = table(record.record.to_json()).split("\n")
    assert "shop: db is starting" in lines
    assert not [line for line in lines if "None" in line]


def test_why_a_run_could_not_begin_is_recorded(settings: Settings) -> None:
    record = recorder(settings)
    record(Event(Kind.ABORTED, "cannot read the shortlist", hint="correct it"))
    record.end("failed", 1)
    found = load(settings)
    assert (found["message"], found["hint"]) == ("cannot read the shortlist", "correct it")


def test_a_run_that_ended_is_kept_where_it_outlives_a_reboot(settings: Settings) -> None:
    record = recorder(settings, "shop")
    record(Event(Kind.RUNNING, "runs", app="shop", seconds=2.0))
    assert settings.run_status.exists()
    assert not settings.last_run.exists()
    record.end("ok", 0)
    assert not settings.run_status.exists()
    assert (read(settings.last_run)["state"], read(settings.last_run)["exit_status"]) == ("ok", 0)


def test_names_that_are_no_text_are_recorded(settings: Settings) -> None:
    record = recorder(settings, "caf\udce9")
    record(Event(Kind.RUNNING, "runs", app="caf\udce9", seconds=2.0))
    assert load(settings)["apps"][0]["name"] == "caf\udce9"


# A disk that is full or loses power

BROKEN = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("cut", ["os.fsync", "pathlib.Path.replace", "json.dumps"])
def test_the_file_is_the_old_one_whole_or_the_new_one_whole(
    tmp_path: Path, mocker: MockerFixture, cut: str
) -> None:
    file = tmp_path / "deep/status.json"
    write(RunRecord(state="ok").to_json(), file)
    before = file.read_bytes()
    mocker.patch(cut, side_effect=BROKEN)
    with pytest.raises(OSError, match="No space left"):
        write(RunRecord(state="failed").to_json(), file)
    mocker.stopall()
    assert file.read_bytes() == before
    write(RunRecord(state="failed").to_json(), file)
    assert read(file)["state"] == "failed"
    assert list(file.parent.iterdir()) == [file]


def test_the_data_is_on_the_disk_before_the_name_is_and_the_name_in_the_end(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        assert found.st_size > 0
        order.append("fsync folder" if stat.S_ISDIR(found.st_mode) else "fsync")
        real_sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return real_replace(self, target)

    mocker.patch("os.fsync", sync)
    mocker.patch.object(Path, "replace", rename)
    write(RunRecord().to_json(), tmp_path / "status.json")
    assert order == ["fsync", "rename", "fsync folder"]


def test_a_disk_that_takes_no_status_is_told_once_and_the_run_goes_on(
    settings: Settings, mocker: MockerFixture
) -> None:
    warnings: list[str] = []
    record = Recorder(settings, warnings.append)
    record.begin([AppRecord("shop")], [])
    mocker.patch("os.fsync", side_effect=BROKEN)
    record(Event(Kind.STARTING, "coming up", app="shop"))
    record(Event(Kind.RUNNING, "runs", app="shop", seconds=1.0))
    record.end("ok", 0)
    assert warnings == [
        f"{settings.run_status}: cannot write the status file: No space left on device"
    ]
    assert record.record.apps[0].state == "running"


def test_where_only_the_disk_is_full_run_still_tells_how_it_ended(
    settings: Settings, mocker: MockerFixture
) -> None:
    settings.last_run.parent.parent.mkdir(parents=True)
    settings.last_run.parent.touch()  # no folder can be made there
    warnings: list[str] = []
    record = Recorder(settings, warnings.append)
    record.begin([], [])
    record.end("ok", 0)
    assert len(warnings) == 1
    assert load(settings)["state"] == "ok"


# load


def test_the_run_that_goes_on_comes_before_the_last_one(settings: Settings) -> None:
    write(RunRecord(state="failed", exit_status=1).to_json(), settings.last_run)
    write(RunRecord(state="running", pid=os.getpid()).to_json(), settings.run_status)
    assert load(settings)["state"] == "running"
    settings.run_status.unlink()
    assert load(settings)["state"] == "failed"


def test_a_run_whose_process_is_gone_was_interrupted(settings: Settings) -> None:
    write(
        RunRecord(state="running", pid=2**22 + 1).to_json(), settings.run_status
    )  # beyond the largest
    found = load(settings)
    check_schema(found)
    assert found["state"] == "interrupted"
    assert found["message"] == "the run was killed before it ended"
    assert found["hint"] == "run 'systemctl restart compose-apps-early-start'"


def test_a_run_that_ended_is_not_interrupted_for_its_process_being_gone(
    settings: Settings,
) -> None:
    write(RunRecord(state="ok", exit_status=0, pid=2**22 + 1).to_json(), settings.last_run)
    assert load(settings)["state"] == "ok"


NEW_ONE = "run 'compose-apps-early-start start' to have a new one written"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "not a record of a run", id="empty"),
        pytest.param(b'{"schema": 1, "sta', "not a record of a run", id="cut off"),
        pytest.param(b"\x00" * 64, "not a record of a run", id="zeros"),
        pytest.param(b"\xff", "not a record of a run", id="no text"),
        pytest.param(b"[]", "not a record of a run", id="a list"),
        pytest.param(b"null", "not a record of a run", id="null"),
        pytest.param(b"{}", "not a record of a run", id="no schema"),
        pytest.param(b'{"schema": 2}', "not a record of a run", id="nothing but the schema"),
        pytest.param(
            b'{"schema": 3, "state": "ok"}',
            "schema 3, this version knows 1 to 2",
            id="a later schema",
        ),
        pytest.param(
            b'{"schema": "1", "state": "ok"}',
            "schema 1, this version knows 1 to 2",
            id="schema as text",
        ),
    ],
)
@pytest.mark.parametrize("name", ["run_status", "last_run"])
def test_a_file_that_is_no_record(settings: Settings, name: str, data: bytes, message: str) -> None:
    file: Path = getattr(settings, name)
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    with pytest.raises(EarlyStartError) as raised:
        load(settings)
    assert str(raised.value) == f"{file}: {message}"
    assert raised.value.hint == NEW_ONE


def test_no_record_at_all(settings: Settings) -> None:
    with pytest.raises(EarlyStartError) as raised:
        load(settings)
    assert str(raised.value) == "there is no record of a run on this device"
    assert "systemctl status compose-apps-early-start" in raised.value.hint


def test_a_record_that_must_not_be_read(settings: Settings, mocker: MockerFixture) -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    mocker.patch("compose_apps_early_start.plainfile.read", side_effect=denied)
    with pytest.raises(EarlyStartError) as raised:
        load(settings)
    assert str(raised.value) == f"{settings.run_status}: cannot read: Permission denied"
    assert raised.value.hint == "run it as root"


# The table


def recorded(settings: Settings, *events: Event) -> dict[str, Any]:
    record = recorder(settings, "shop", "db", "a-third-app")
    for event in events:
        record(event)
    found = record.record.to_json()
    return {**found, "started": "2026-11-23T08:00:00+00:00", "seconds": 10.04}


def test_the_table_of_a_run(settings: Settings) -> None:
    record = recorded(settings, *STORY)
    assert table({**record, "state": "degraded", "exit_status": 3}).split("\n") == [
        "APP          STATE    UP     SETTLED  TRIES  CAUSE",
        "shop         running  1.0 s  3.0 s    1      -",
        "db           failed   1.5 s  9.0 s    2      exited",
        "a-third-app  waiting  -      -        0      -",
        "",
        "db: container 'db-1' ended with exit status 1",
        "  Next: look at its log with 'docker compose logs'",
        "",
        "shpo: no preloaded app has this name; did you mean 'shop'?",
        "",
        "x: no preloaded app has this name",
        "",
        "degraded: run 1 of 2026-11-23T08:00:00+00:00, engine waited for 3.0 s, whole run 10.0 s",
    ]


def test_the_table_of_a_run_that_could_not_begin(settings: Settings) -> None:
    record = recorded(settings, Event(Kind.ABORTED, "it is a folder", hint="make it a file"))
    record = {**record, "apps": [], "unknown": [], "state": "failed", "seconds": None}
    assert table(record).split("\n") == [
        "APP  STATE  UP  SETTLED  TRIES  CAUSE",
        "",
        "it is a folder",
        "  Next: make it a file",
        "",
        "failed: run 1 of 2026-11-23T08:00:00+00:00, engine waited for -, whole run -",
    ]


def test_no_name_in_the_table_steers_the_terminal(settings: Settings) -> None:
    record = Recorder(settings, silent)
    record.begin([AppRecord("a\nb\x1b[2J\udce9")], [UnknownName("c\x1b", None)])
    text = table(record.record.to_json())
    assert text.replace("\n", "").isprintable()
    assert "a\\nb\\x1b[2J\\udce9  waiting" in text
