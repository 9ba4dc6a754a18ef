"""Two runs at once, or one that is cut off, break nothing; the next run completes the work."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from engine.apps import app, waiting_for, worker
from engine.board import AGENT, Board, Start, assert_success, limits

OWN_LOCK = "/run/compose-apps-early-start/lock"
AKTUALIZR_LOCK = "/run/lock/aklite.lock"


def half_way(board: Board) -> Start:
    """A run in which `shop` runs already, and `slow` comes up until /srv/go/now is there."""
    board.preload_sample("shop")
    board.preload("slow", waiting_for("/srv/go/now"))
    board.shell("mkdir /srv/go")
    board.device.start_dockerd()
    run = board.begin(env=limits(settle=0.5))
    run.read_until("shop: runs")
    board.await_event("start", "slow-first-1")
    return run


@contextmanager
def locked(board: Board, path: str) -> Iterator[None]:
    """Hold a lock as another process of the device would. Raises BlockingIOError if it is held."""
    descriptor = os.open(board.device.path(path), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def complete(board: Board) -> None:
    """Let the awaited come, and assert that the next run ends well."""
    shop = board.lives("shop")
    board.shell("touch /srv/go/now")
    run = board.start()
    assert_success(run)
    assert board.states("slow") == {"slow-first-1": "exited", "slow-last-1": "running"}
    assert board.lives("shop") == shop


def test_of_two_runs_at_once_the_second_ends_and_touches_nothing(board: Board) -> None:
    first = half_way(board)
    before, record = board.lives(), board.record()
    board.record_compose_calls()
    second = board.device.run([AGENT, "start"], check=False)
    assert second.returncode == 1
    assert "another run is at work" in second.stderr
    assert "Next: " in second.stderr
    assert board.compose_calls() == []
    assert board.lives() == before
    assert board.record() == record
    board.shell("touch /srv/go/now")
    assert_success(first.end())


def test_while_aktualizr_lite_is_at_work_nothing_is_touched(board: Board) -> None:
    board.preload_sample("shop")
    board.device.start_dockerd()
    board.record_compose_calls()
    with locked(board, AKTUALIZR_LOCK):
        run = board.start()
    assert run.exit_status == 1
    assert "aktualizr-lite is at work on the apps" in run.stderr
    assert board.compose_calls() == []
    assert board.containers() == []
    board.start_well()


def test_while_it_runs_it_holds_the_lock_of_aktualizr_lite(board: Board) -> None:
    run = half_way(board)
    with pytest.raises(BlockingIOError), locked(board, AKTUALIZR_LOCK):
        pass
    board.shell("touch /srv/go/now")
    assert_success(run.end())
    with locked(board, AKTUALIZR_LOCK), locked(board, OWN_LOCK):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_leaves_the_containers_running(
    board: Board, number: signal.Signals
) -> None:
    run = half_way(board)
    before = board.lives()
    run.process.send_signal(number)
    ended = run.end()
    assert ended.exit_status == 3
    assert ended.record["state"] == "interrupted"
    assert ended.causes == {"shop": None, "slow": "interrupted"}
    assert "the run was interrupted" in ended.lines[-1]
    assert "docker-compose" not in board.shell("ps axo args")
    after = board.lives()
    assert {key: after[key] for key in before} == before
    assert board.states()["shop-web-1"] == board.states()["slow-first-1"] == "running"
    complete(board)


def test_a_run_that_is_told_to_end_while_it_waits_for_dockerd_ends(board: Board) -> None:
    board.preload_sample("shop")
    board.device.hold_socket()
    run = board.begin()
    run.read_until("waiting for dockerd")
    run.process.terminate()
    ended = run.end()
    assert ended.exit_status == 1
    assert ended.record["state"] == "interrupted"
    assert ended.seconds < 30
    board.device.start_dockerd()
    board.start_well()


def test_a_run_that_was_killed_is_told_as_such_and_the_next_completes(board: Board) -> None:
    run = half_way(board)
    run.process.kill()
    ended = run.end()
    assert ended.exit_status == -signal.SIGKILL
    assert ended.record["state"] == "interrupted"
    assert ended.record["exit_status"] is None
    assert ended.record["hint"]
    assert ended.states == {"shop": "running", "slow": "starting"}
    complete(board)
    assert board.record()["state"] == "ok"
    left = board.shell("ls -A /run/compose-apps-early-start /var/lib/compose-apps-early-start")
    assert set(left.split()) == {
        *("/run/compose-apps-early-start:", "/var/lib/compose-apps-early-start:"),
        *("finished.json", "last-run.json", "lock"),
    }


def test_a_status_file_that_was_cut_off_harms_nothing(board: Board) -> None:
    board.preload("app", app(worker=worker()))
    board.device.start_dockerd()
    board.shell("mkdir -p /run/compose-apps-early-start /var/lib/compose-apps-early-start")
    for file in (
        "/run/compose-apps-early-start/status.json",
        "/run/compose-apps-early-start/.status.json.new",
        "/var/lib/compose-apps-early-start/last-run.json",
    ):
        board.device.path(file).write_text('{"schema": 1, "sta')
    told = board.device.run([AGENT, "status"], check=False)
    assert told.returncode == 1
    assert "not a record of a run. Next: " in told.stderr
    board.start_well()
