"""How the journal, a terminal and `systemctl status` show events."""

import io
import os
import threading
import time
from typing import Any

import pytest
import systemd.journal
from compose_apps_early_start import report
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.report import Event, Kind, Priority, Report, line
from pytest_mock import MockerFixture

FAILED = Event.failed("shop", Failure(Cause.EXITED, "container 'a' ended with exit status 1"), 1.25)
UP = Event(Kind.UP, "up, settling", app="shop", seconds=0.5)
READY = Event(Kind.READY, "dockerd is ready", seconds=61.04)
NOTE = Event(Kind.NOTE, "something is odd", hint="look at it")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        pytest.param(Event(Kind.WAITING, "waiting"), "waiting", id="the run"),
        pytest.param(READY, "dockerd is ready (61.0 s)", id="the run, with a duration"),
        pytest.param(UP, "shop: up, settling (0.5 s)", id="an app"),
        pytest.param(NOTE, "something is odd. Next: look at it", id="what to do next"),
        pytest.param(
            FAILED,
            "shop: exited: container 'a' ended with exit status 1 (1.2 s). "
            "Next: look at its log with 'docker compose logs'",
            id="who, what, why, how long and what to do next",
        ),
    ],
)
def test_one_line_tells_all(event: Event, text: str) -> None:
    assert line(event) == text


# What is not printable in the name of a folder, and how it is shown.
NASTY = "a\nb\x1b[31m\r\t\x00\u202e\udce9é"
TAMED = "a\\nb\\x1b[31m\\r\\t\\x00\\u202e\\udce9é"


def test_the_terminal_gets_one_line_that_steers_nothing() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    report.terminal(stream)(Event(Kind.UP, "up", app=NASTY))
    assert stream.buffer.getvalue().decode() == f"{TAMED}: up\n"


# The journal


@pytest.fixture
def sent(mocker: MockerFixture) -> list[tuple[str, dict[str, Any]]]:
    """What was sent to journald: messages and their fields."""
    entries: list[tuple[str, dict[str, Any]]] = []
    mocker.patch.object(
        systemd.journal, "send", lambda message, **fields: entries.append((message, fields))
    )
    return entries


def test_the_journal_gets_the_line_and_its_fields(
    sent: list[tuple[str, dict[str, Any]]],
) -> None:
    report.journal(FAILED)
    assert sent == [
        (
            line(FAILED),
            {
                "MESSAGE_ID": "738707a932f746c6b522ea56b26f50fc",
                "PRIORITY": "3",
                "SYSLOG_IDENTIFIER": "compose-apps-early-start",
                "APP": "shop",
                "CAUSE": "exited",
                "HINT": "look at its log with 'docker compose logs'",
                "DURATION_USEC": "1250000",
            },
        )
    ]


def test_what_an_event_does_not_have_is_no_field(sent: list[tuple[str, dict[str, Any]]]) -> None:
    report.journal(Event(Kind.WAITING, "waiting for dockerd"))
    assert sent == [
        (
            "waiting for dockerd",
            {
                "MESSAGE_ID": "bdb541be710644c0a8949f67518dd93a",
                "PRIORITY": "6",
                "SYSLOG_IDENTIFIER": "compose-apps-early-start",
            },
        )
    ]


def test_a_duration_of_zero_is_a_duration(sent: list[tuple[str, dict[str, Any]]]) -> None:
    report.journal(Event(Kind.READY, "dockerd is ready", seconds=0.0))
    assert sent[0][1]["DURATION_USEC"] == "0"


def test_the_fields_of_the_journal_are_text(sent: list[tuple[str, dict[str, Any]]]) -> None:
    report.journal(Event(Kind.UP, "up", app=NASTY))
    assert sent[0][0] == f"{TAMED}: up"
    assert sent[0][1]["APP"] == TAMED


def test_each_kind_has_an_id_of_its_own() -> None:
    assert len({each.message_id for each in Kind}) == len(Kind)


def test_only_what_needs_somebody_is_an_error() -> None:
    errors = {each for each in Kind if each.priority is Priority.ERROR}
    assert errors == {Kind.FAILED, Kind.ABORTED, Kind.DEGRADED}


def test_the_journal_is_used_only_where_systemd_connected_standard_error_to_it() -> None:
    stat = os.fstat(2)
    with open(2, "w", closefd=False) as stderr, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        here = f"{stat.st_dev}:{stat.st_ino}"
        assert report.connected_to_journal({"JOURNAL_STREAM": here})
        # Inherited, as by a shell in a service whose output was sent elsewhere.
        assert not report.connected_to_journal({"JOURNAL_STREAM": f"{stat.st_dev}:1"})
        assert not report.connected_to_journal({})


# Many threads


def test_one_event_at_a_time_reaches_every_listener() -> None:
    inside: list[Event] = []
    heard: list[tuple[str, str | None]] = []

    def listener(name: str) -> report.Listener:
        def listen(event: Event) -> None:
            inside.append(event)
            time.sleep(0.0005)
            assert inside == [event]
            inside.remove(event)
            heard.append((name, event.app))

        return listen

    tell = Report([listener("first"), listener("second")])

    def talk(app: str) -> None:
        for _ in range(5):
            tell(Event(Kind.UP, "up", app=app))

    apps = [f"app{number}" for number in range(8)]
    threads = [threading.Thread(target=talk, args=(app,)) for app in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(heard) == sorted(
        (name, app) for name in ("first", "second") for app in apps for _ in range(5)
    )
    # Both hear of an event before any of the next.
    assert all(before[1] == after[1] for before, after in zip(heard[::2], heard[1::2], strict=True))
