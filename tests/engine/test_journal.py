"""A run sends structured records to the journal, and its progress to systemd as STATUS=."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from engine.apps import ABSENT, app, worker
from engine.board import AGENT, Board, limits

IN_JOURNAL = ("systemd-cat", f"--identifier={AGENT}")  # sets JOURNAL_STREAM, as systemd does


@dataclass(frozen=True)
class Seen:
    """The journal of one run in which some apps run and some do not."""

    board: Board
    entries: list[dict[str, Any]]
    record: dict[str, Any]

    def about(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry.get("APP") == name]


@pytest.fixture(scope="module")
def seen(shared_board: Board) -> Seen:
    board = shared_board
    board.preload_sample("shop", "telemetry")
    board.preload("absent", app(worker=worker(image=ABSENT)))
    board.preload("gone", app({"networks": {"default": {"name": "plant", "external": True}}},
                              worker=worker()))  # fmt: skip
    board.preload("My App", app(worker=worker()))
    (board.folder("") / "stray").write_text("")
    board.shortlist("shop, telemetry, absent, gone, telemetri")
    board.device.start_journald()
    board.device.start_dockerd()
    run = board.begin(before=IN_JOURNAL, env=limits(settle=0.5, app=5)).end()
    assert run.exit_status == 3
    assert run.stderr == ""
    board.shell("journalctl --sync")
    shown = board.shell(f"journalctl --output=json --identifier={AGENT}")
    entries = [json.loads(line) for line in shown.splitlines()]
    return Seen(board, entries, run.record)


def test_an_app_that_runs_is_told_with_its_name_and_time(seen: Seen) -> None:
    last = seen.about("shop")[-1]
    assert last["MESSAGE"].startswith("shop: runs")
    assert last["PRIORITY"] == "6"
    told = int(last["DURATION_USEC"]) / 1_000_000
    (record,) = (each for each in seen.record["apps"] if each["name"] == "shop")
    assert told == pytest.approx(record["settled_seconds"], abs=0.01)
    assert "CAUSE" not in last


@pytest.mark.parametrize(
    ("name", "cause"), [("absent", "image-missing"), ("gone", "external-network-missing")]
)
def test_an_app_that_failed_is_told_with_its_cause(seen: Seen, name: str, cause: str) -> None:
    last = seen.about(name)[-1]
    assert last["CAUSE"] == cause
    assert last["PRIORITY"] == "3"
    (record,) = (each for each in seen.record["apps"] if each["name"] == name)
    assert record["message"] in last["MESSAGE"]
    assert last["HINT"] == record["hint"]


def test_every_entry_is_of_a_kind_that_the_catalog_explains(seen: Seen) -> None:
    seen.board.shell("journalctl --update-catalog")
    kinds = {entry["MESSAGE_ID"] for entry in seen.entries}
    assert len(kinds) >= 8
    for kind in kinds:
        explained = seen.board.shell(f"journalctl --dump-catalog {kind}")
        assert re.search("^Subject: .+", explained, re.MULTILINE)
        assert "What to do next: " in explained
    shown = seen.board.shell("journalctl --catalog --output=short APP=absent")
    assert "What to do next: " in shown
    assert "-- Subject: " in shown or "Subject: " in shown


def test_the_whole_run_ends_with_one_entry_that_sums_it_up(seen: Seen) -> None:
    last = seen.entries[-1]
    assert last["MESSAGE"].startswith("2 of 5 apps run; failed: ")
    assert last["PRIORITY"] == "3"
    assert "APP" not in last


def test_the_journal_can_be_asked_for_one_app(seen: Seen) -> None:
    shown = seen.board.shell("journalctl --output=cat APP=shop").splitlines()
    assert shown
    assert all(line.startswith("shop: ") for line in shown)


def test_systemd_is_told_the_progress_in_ascii(board: Board) -> None:
    board.preload_sample("shop")
    board.preload_raw("caf\u00e9", b"services: 7\n")
    board.device.start_dockerd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(board.device.path("/run/notify")))
        run = board.start(env={"NOTIFY_SOCKET": "/run/notify", **limits(settle=0.5)})
        assert run.exit_status == 3
        listener.setblocking(False)
        messages = list(received(listener))
    assert all(message.isascii() and message.startswith(b"STATUS=") for message in messages)
    told = [message.decode().removeprefix("STATUS=") for message in messages]
    assert told[0] == "waiting for dockerd"
    assert any(each.startswith("shop: runs") for each in told)
    assert any("caf?: compose-file-invalid" in each for each in told)
    # Visible after it has ended.
    assert told[-1].startswith("1 of 2 apps run")


def received(listener: socket.socket) -> Iterator[bytes]:
    """What is there already; the sender has ended."""
    while True:
        try:
            yield listener.recv(1 << 16)
        except BlockingIOError:
            return
