"""The command line: its exit statuses, and what it prints to which stream."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import documents
import pytest
from compose_apps_early_start import __version__
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.cli import main
from compose_apps_early_start.evidence import Evidence
from compose_apps_early_start.record import AppRecord, Recorder, RunRecord, write
from compose_apps_early_start.report import Event
from compose_apps_early_start.settings import Settings
from unit.builders import IMAGE, preloaded, shortlist

REGISTRATION = ("sql.db", "client.pem", "sota.toml")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours in the environment, and a wide terminal for the help."""
    for name in ("ROOT", "APP_SECONDS", "PARALLEL"):
        monkeypatch.delenv(f"EARLY_START_{name}", raising=False)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def run(*arguments: str | Path) -> int:
    """Run the command line; return its exit status however it ends."""
    try:
        return main([str(each) for each in arguments])
    except SystemExit as end:
        return int(str(end.code))


Streams = pytest.CaptureFixture[str]


# Help


def test_help_has_examples_and_the_exit_statuses(capfd: Streams) -> None:
    assert run("--help") == 0
    text = capfd.readouterr().out
    examples = text.split("examples:")[1]
    for command in ("plan", "status", "status --json"):
        assert f"  compose-apps-early-start {command} " in examples
    assert "systemctl restart compose-apps-early-start" in examples
    assert re.findall(r"\b(\d) [a-z]+", text.split("exit status:")[1]) == list("012345")
    for command in ("start", "plan", "status"):
        assert re.search(rf"^    {command} +\w", text, re.MULTILINE)


def test_help_of_start_lists_every_limit(capfd: Streams) -> None:
    assert run("start", "--help") == 0
    text = capfd.readouterr().out
    for name in ("engine", "app", "settle", "run"):
        assert f"--{name}-seconds N" in text
    assert "--parallel N" in text


def test_version(capfd: Streams) -> None:
    assert run("--version") == 0
    assert capfd.readouterr().out == f"{__version__}\n"


# Wrong usage: 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "COMMAND", id="no command"),
        pytest.param(["stop"], "stop", id="an unknown command"),
        pytest.param(["start", "now"], "now", id="a surplus word"),
        pytest.param(["start", "--fast"], "--fast", id="an unknown option"),
        pytest.param(["plan", "--app-seconds", "3"], "--app-seconds", id="a limit of start"),
        pytest.param(["start", "--json"], "--json", id="start prints no JSON"),
        pytest.param(["status", "--wait=-1"], "--wait: invalid seconds", id="time runs forward"),
        pytest.param(["status", "--wait=nan"], "--wait: invalid seconds", id="no such time"),
        pytest.param(["status", "--run", "one"], "--run: invalid int", id="a run has a number"),
        pytest.param(["status", "--list", "--wait"], "not allowed with", id="one or the other"),
        pytest.param(["--root"], "--root", id="an option without its value"),
        pytest.param(["start", "--app-seconds", "soon"], "--app-seconds: 'soon'", id="no number"),
        pytest.param(["start", "--parallel", "0"], "--parallel: '0'", id="a number too small"),
        pytest.param(["start", "--run-seconds=-1"], "--run-seconds: '-1'", id="a negative number"),
    ],
)
def test_wrong_usage(capfd: Streams, settings: Settings, arguments: list[str], words: str) -> None:
    preloaded(settings, "shop")
    # The root first, so that nothing outside of it is touched should the usage be taken.
    assert run("--root", settings.root, *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_a_wrong_variable_is_wrong_usage_and_named(
    capfd: Streams, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARLY_START_APP_SECONDS", "long")
    assert run("--root", settings.root, "start") == 2
    assert capfd.readouterr().err == (
        "compose-apps-early-start: EARLY_START_APP_SECONDS: 'long' is not a number of seconds "
        "from 0 to 1000000. Next: correct the value; 'compose-apps-early-start start --help' "
        "lists the settings\n"
    )


# start


@pytest.mark.parametrize("name", REGISTRATION)
def test_start_on_a_registered_device_does_nothing_and_says_which_file_told(
    capfd: Streams, settings: Settings, name: str
) -> None:
    preloaded(settings, "shop")
    file = settings.root / "var/sota" / name
    file.touch()
    assert run("start", "--root", settings.root) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"this device is registered ({file}): nothing is started\n"


def test_start_without_the_right_to_look_is_exit_1(
    capfd: Streams, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.lstat", denied)
    assert run("start", "--root", settings.root) == 1
    assert capfd.readouterr().err == (
        f"compose-apps-early-start: {settings.root}/var/sota/sql.db: cannot tell whether the "
        "device is registered: Permission denied. Next: run it as root\n"
    )


def test_the_exit_status_of_start_is_that_of_the_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Settings] = []

    def degraded(settings: Settings) -> int:
        got.append(settings)
        return 3

    monkeypatch.setattr("compose_apps_early_start.start.start", degraded)
    monkeypatch.setenv("EARLY_START_APP_SECONDS", "7")
    monkeypatch.setenv("EARLY_START_PARALLEL", "7")
    assert run("start", "--root", settings.root, "--parallel", "2") == 3
    assert got == [Settings(root=settings.root, app_seconds=7.0, parallel=2)]


# --root


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--root", "{}", "plan", "--json"], id="before the command"),
        pytest.param(["plan", "--root", "{}", "--json"], id="after the command"),
        pytest.param(["plan", "--json", "--root={}"], id="at the end"),
        pytest.param(["--root", "/nowhere", "plan", "--json", "--root", "{}"], id="the last wins"),
    ],
)
def test_root_may_stand_before_and_after_the_command(
    capfd: Streams, settings: Settings, arguments: list[str]
) -> None:
    preloaded(settings, "shop")
    assert run(*(each.format(settings.root) for each in arguments)) == 0
    assert [each["name"] for each in documents.plan(capfd.readouterr().out)["apps"]] == ["shop"]


# plan


@pytest.mark.usefixtures("no_engine")
def test_plan_of_a_device_folder_without_an_engine(capfd: Streams, settings: Settings) -> None:
    preloaded(settings, "shop")
    preloaded(settings, "telemetry", "services: {probe: {image: x}}")
    preloaded(settings, "unwanted")
    (settings.compose_apps / "README").touch()
    shortlist(settings, "telemetry shop shpo")
    assert run("plan", "--json", "--root", settings.root) == 0
    out, err = capfd.readouterr()
    assert err == ""
    found = documents.plan(out)
    (unchecked,) = found.pop("unchecked")
    assert unchecked.startswith(
        f"images and containers: dockerd did not answer on {settings.docker_socket} within "
    )
    shared: dict[str, Any] = {
        "reason": "shortlist",
        "notes": [],
        "source": "folder",
        "version": None,
        "steps": [{"action": "up"}],
        "cause": None,
        "message": None,
        "hint": None,
    }
    assert found == {
        "schema": 1,
        "registered_by": None,
        "shortlist": str(settings.default_apps),
        "apps": [
            {
                "name": "telemetry",
                "folder": str(settings.compose_apps / "telemetry"),
                "project": "telemetry",
                "services": ["probe"],
                "images": [{"reference": "x", "present": None}],
                **shared,
            },
            {
                "name": "shop",
                "folder": str(settings.compose_apps / "shop"),
                "project": "shop",
                "services": ["web"],
                "images": [{"reference": IMAGE, "present": None}],
                **shared,
            },
        ],
        "unknown": [{"name": "shpo", "nearest": "shop"}],
        "strays": ["README"],
    }


@pytest.mark.usefixtures("no_engine")
def test_plan_is_text_unless_json_is_asked_for(capfd: Streams, settings: Settings) -> None:
    preloaded(settings, "shop")
    assert run("plan", "--root", settings.root) == 0
    assert "  shop: docker compose up\n" in capfd.readouterr().out


def test_plan_with_an_unreadable_shortlist_is_exit_1(capfd: Streams, settings: Settings) -> None:
    settings.default_apps.mkdir(parents=True)
    assert run("plan", "--root", settings.root) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(
        f"compose-apps-early-start: {settings.default_apps}: cannot read the shortlist: "
        "Is a directory. Next: "
    )


# status


def recorded(settings: Settings, **changes: Any) -> RunRecord:
    """Have such a run on record as the last one."""
    record = RunRecord(**{"state": "ok", "exit_status": 0, "run": 7, **changes})
    record.apps = [AppRecord("shop", "running" if record.state == "ok" else "failed")]
    goes_on = record.state == "running"
    write(record.to_json(), settings.run_status if goes_on else settings.last_run)
    return record


@pytest.mark.parametrize("terminal", [True, False])
def test_status_is_a_table_everywhere_unless_json_is_asked_for(
    capsys: Streams, settings: Settings, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    record = recorded(settings)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert run("status", "--root", settings.root) == 0
    assert capsys.readouterr().out.startswith("APP   STATE    UP")
    assert run("status", "--json", "--root", settings.root) == 0
    assert documents.run(capsys.readouterr().out) == record.to_json()


@pytest.mark.parametrize(
    ("changes", "exit_status"),
    [
        ({"state": "ok", "exit_status": 0}, 0),
        ({"state": "failed", "exit_status": 1}, 1),
        ({"state": "degraded", "exit_status": 3}, 3),
        ({"state": "running", "exit_status": None, "pid": os.getpid()}, 4),
        ({"state": "running", "exit_status": None, "pid": 2**22 + 1}, 1),  # it was killed
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--run", "7"], ["--wait=0"]])
def test_the_exit_status_of_status_is_that_of_the_run(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    exit_status: int,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("BOOT_ID", "b" * 32)
    recorded(settings, boot_id="b" * 32, **changes)
    assert run("status", *arguments, "--root", settings.root) == exit_status


def test_who_waits_may_go_away(
    capfd: Streams, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert run("status", "--wait", "--root", settings.root) == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--list"]])
def test_status_without_a_record_is_exit_5(
    capfd: Streams, settings: Settings, arguments: list[str]
) -> None:
    assert run("status", *arguments, "--root", settings.root) == 5
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(
        "compose-apps-early-start: there is no record of a run on this device. Next: see "
    )


def test_status_with_a_broken_record_is_exit_1(capfd: Streams, settings: Settings) -> None:
    settings.last_run.parent.mkdir(parents=True)
    settings.last_run.write_text("{")
    assert run("status", "--root", settings.root) == 1
    assert f"{settings.last_run}: not a record of a run" in capfd.readouterr().err


def test_the_runs_are_listed_and_shown_by_their_number(capfd: Streams, settings: Settings) -> None:
    for number in (1, 2, 3):
        recorder = Recorder(settings, pytest.fail)
        recorder.begin([AppRecord("shop")], [])
        state, exit_status = ("ok", 0) if number == 2 else ("failed", 1)
        recorder.end(state, exit_status)
    assert run("status", "--list", "--root", settings.root) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "1", "2", "3"]
    assert run("status", "--list", "--json", "--root", settings.root) == 0
    found = documents.runs(capfd.readouterr().out)
    assert [(each["run"], each["state"]) for each in found] == [
        (1, "failed"),
        (2, "ok"),
        (3, "failed"),
    ]
    assert run("status", "--run", "2", "--json", "--root", settings.root) == 0
    assert documents.run(capfd.readouterr().out) == found[1]
    assert run("status", "--run", "1", "--root", settings.root) == 1
    assert "run 1 of " in capfd.readouterr().out
    assert run("status", "--run", "9", "--root", settings.root) == 5
    assert "there is no record of run 9. Next: " in capfd.readouterr().err


def test_status_shows_the_evidence(capfd: Streams, settings: Settings) -> None:
    assert run("status", "--log", "--root", settings.root) == 1
    assert "there is no evidence on this device. Next: " in capfd.readouterr().err
    evidence = Evidence(settings)
    for name in ("shop", "db"):
        failure = Failure(Cause.PORT_TAKEN, "port 80", details=f"{name} said:\x1b[2J\nmuch")
        evidence(Event.failed(name, failure))
    evidence.keep(RunRecord(run=7, started="2026-11-23T08:00:00+00:00"))
    assert run("status", "--log", "db", "--root", settings.root) == 0
    assert capfd.readouterr().out.splitlines() == [
        "Run 7 of 2026-11-23T08:00:00+00:00",
        "",
        "db: port-taken: port 80",
        "",
        "--- db: all that was said",
        "db said:\\x1b[2J",
        "much",
    ]
    assert run("status", "--log", "--json", "--root", settings.root) == 0
    assert [each["name"] for each in documents.evidence(capfd.readouterr().out)["apps"]] == [
        "shop",
        "db",
    ]
    assert run("status", "--log", "other", "--root", settings.root) == 1
    assert "there is no evidence of app 'other'. Next: " in capfd.readouterr().err
    settings.evidence.write_text('{"schema": 1, "apps": [{"name": "db"}]}')
    assert run("status", "--log", "--root", settings.root) == 1
    assert f"{settings.evidence}: not the evidence of a run" in capfd.readouterr().err
