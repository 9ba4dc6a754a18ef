"""A dockerd that is late, slow, restarting or missing: the wait is limited, nothing is lost."""

import signal
import subprocess
from collections.abc import Callable

import pytest
from docker.errors import APIError
from engine.apps import app, shell, waiting_for, worker
from engine.board import Board, assert_success, limits
from virtual_device import Device

LATE = 10  # seconds
DATA = {"volumes": ["/srv/data:/data"]}


def connections(board: Board) -> int:
    """How many connections were made to the socket that is held for dockerd, answered or not."""
    lines = board.shell("cat /proc/net/unix").splitlines()
    return sum(line.endswith("/run/docker.sock") for line in lines)


def test_a_dockerd_that_is_late_is_waited_for_with_one_single_request(board: Board) -> None:
    board.preload_sample("shop")
    board.device.hold_socket()
    run = board.begin(env=limits(engine=60, settle=0.5))
    run.read_until("waiting for dockerd")
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(LATE)
    assert connections(board) == 1
    board.device.start_dockerd()
    ended = run.end()
    assert_success(ended)
    assert ended.record["engine_wait_seconds"] >= LATE - 1
    # From the ready engine, not from the start of the agent.
    assert ended.app("shop")["settled_seconds"] < LATE


def absent(_device: Device) -> None:
    pass


def refusing(device: Device) -> None:
    device.hold_socket()
    device.drop_socket()


@pytest.mark.parametrize("before", [absent, refusing])
def test_a_socket_that_comes_late_is_waited_for(
    board: Board, before: Callable[[Device], None]
) -> None:
    board.preload_sample("shop")
    before(board.device)
    run = board.begin(env=limits(engine=60, settle=0.5))
    run.read_until("waiting for dockerd")
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(2)
    board.device.start_dockerd()
    assert_success(run.end())


def test_a_dockerd_that_is_killed_while_an_app_comes_up_costs_time_only(board: Board) -> None:
    board.preload("slow", waiting_for("/srv/go/now"))
    board.preload_sample("shop")
    board.shell("mkdir /srv/go")
    board.device.start_dockerd()
    run = board.begin(env=limits(settle=0.5))
    run.read_until("shop: runs")
    board.await_event("start", "slow-first-1")
    board.device.stop_dockerd(signal.SIGKILL)
    board.device.start_dockerd()
    board.shell("touch /srv/go/now")
    ended = run.end()
    assert ended.exit_status == 0, ended.stderr
    assert ended.states == {"shop": "running", "slow": "running"}
    assert board.states("slow") == {"slow-first-1": "exited", "slow-last-1": "running"}
    assert set(board.states("shop").values()) == {"running"}


def test_a_dockerd_that_is_killed_while_an_app_settles_costs_time_only(board: Board) -> None:
    board.preload("app", app(worker=worker()))
    board.device.start_dockerd()
    run = board.begin(env=limits(settle=4))
    run.read_until("app: up, settling")
    board.device.stop_dockerd(signal.SIGKILL)
    board.device.start_dockerd()
    ended = run.end()
    assert ended.exit_status == 0, ended.stderr
    assert board.states() == {"app-worker-1": "running"}


def test_a_dockerd_that_is_killed_and_stays_away_is_not_waited_for_for_ever(board: Board) -> None:
    board.preload("slow", waiting_for("/srv/go/now"))
    board.shell("mkdir /srv/go")
    board.device.start_dockerd()
    before = board.possessions()
    run = board.begin(env=limits(engine=3, app=30, settle=0.5))
    board.await_event("start", "slow-first-1")
    board.device.stop_dockerd(signal.SIGKILL)
    board.device.drop_socket()
    ended = run.end()
    assert ended.exit_status == 1
    assert ended.causes["slow"] in ("engine-lost", "engine-unavailable")
    assert ended.app("slow")["hint"]
    assert ended.seconds < 40
    board.device.start_dockerd()
    assert {key: board.possessions().get(key) for key in before} == before
    board.shell("touch /srv/go/now")
    board.start_well()


@pytest.mark.parametrize("held", [False, True], ids=["no socket", "socket only"])
def test_without_dockerd_it_gives_up_in_time_and_says_why(board: Board, held: bool) -> None:
    board.preload_sample("shop", "telemetry")
    board.preload_raw("broken", b"services: 7\n")
    if held:
        board.device.hold_socket()
    before = board.possessions_of_apps()
    run = board.start(env=limits(engine=3))
    assert run.exit_status == 1
    assert 2 <= run.seconds < 15
    assert run.record["state"] == "failed"
    assert run.causes == {
        "broken": "compose-file-invalid",
        "shop": "engine-unavailable",
        "telemetry": "engine-unavailable",
    }
    assert "dockerd did not answer on /run/docker.sock within 3 s" in run.stderr
    assert "EARLY_START_ENGINE_SECONDS" in run.app("shop")["hint"]
    assert board.possessions_of_apps() == before
    # Nothing was damaged: as soon as dockerd is there, they run.
    board.shell("rm -r /var/sota/compose-apps/broken")
    board.device.start_dockerd()
    board.start_well()


def test_an_app_that_comes_up_slowly_holds_back_no_other(board: Board) -> None:
    names = [f"slow-{number}" for number in range(4)]
    board.shell("mkdir /srv/go")
    for name in names:
        board.preload(name, waiting_for("/srv/go/now"))
    board.preload("the-last", app(worker=worker()))
    board.device.start_dockerd()
    run = board.begin(env=limits(settle=0.5))
    # All places are taken, yet it comes to its turn.
    run.read_until("the-last: runs")
    board.shell("touch /srv/go/now")
    assert_success(run.end())


def test_what_ended_with_dockerd_is_no_one_shot_that_is_done(board: Board) -> None:
    polite = shell("trap 'exit 0' TERM; sleep 3600 & wait $!")
    board.preload("mixed", app(once=shell("echo >>/data/runs", **DATA), worker=polite))
    board.shell("mkdir /srv/data")
    board.device.start_dockerd()
    board.start_well()
    ids = set(board.lives())
    board.record_compose_calls()
    board.start_well()
    assert board.compose_calls() == []  # it saw the one-shot end under this dockerd
    board.device.stop_dockerd()
    board.device.start_dockerd()
    assert board.states() == {"mixed-once-1": "exited", "mixed-worker-1": "exited"}
    assert {each["State"]["ExitCode"] for each in board.containers()} == {0}
    board.start_well()
    assert board.states() == {"mixed-once-1": "exited", "mixed-worker-1": "running"}
    assert set(board.lives()) == ids
    assert board.shell("cat /srv/data/runs | wc -l").strip() == "2"


def test_apps_that_were_told_to_run_are_judged_again_after_a_restart_of_dockerd(
    board: Board,
) -> None:
    board.preload("worker", app(worker=worker()))
    board.preload("slow", waiting_for("/srv/go/now"))
    board.shell("mkdir /srv/go")
    board.device.start_dockerd()
    run = board.begin(env=limits(settle=0.5, app=60))
    run.read_until("worker: runs")
    board.device.stop_dockerd()
    board.device.start_dockerd()
    assert board.states("worker") == {"worker-worker-1": "exited"}
    board.shell("touch /srv/go/now")
    ended = run.end()
    assert ended.exit_status == 0, ended.stderr
    assert board.states("worker") == {"worker-worker-1": "running"}


def test_containers_that_dockerd_cannot_inspect_stop_no_other_app(board: Board) -> None:
    board.preload("broken", app(worker=worker()))
    board.preload_sample("shop")
    board.device.start_dockerd()
    board.shell("cd /var/sota/compose-apps/broken && docker compose up -d --pull never")
    labels = {
        "com.docker.compose.project": "elsewhere",
        "com.docker.compose.project.working_dir": "/srv/elsewhere",
    }
    foreign = board.foreign_container("lodger", labels)
    own = board.api.inspect_container("broken-worker-1")["Id"]
    board.shell("docker kill lodger broken-worker-1")
    for identifier in (foreign, own):
        mounts = f"/var/lib/docker/image/overlay2/layerdb/mounts/{identifier}/mount-id"
        board.shell(f"rm -r /var/lib/docker/overlay2/$(cat {mounts})")
        with pytest.raises(APIError):
            board.api.inspect_container(identifier)
    run = board.start(env=limits(settle=0.5, app=4))
    assert run.states["shop"] == "running"
    assert run.states["broken"] == "failed", run.stderr


def test_a_run_whose_dockerd_hangs_ends_when_it_is_told_to(board: Board) -> None:
    board.preload("slow", waiting_for("/srv/go/now"))
    board.shell("mkdir /srv/go")
    dockerd = board.device.start_dockerd()
    run = board.begin()
    board.await_event("start", "slow-first-1")
    dockerd.send_signal(signal.SIGSTOP)
    try:
        run.process.terminate()
        assert run.process.wait(25) == 1  # the unit's TimeoutStopSec= is 30 s
    finally:
        dockerd.send_signal(signal.SIGCONT)
    assert board.record()["state"] == "interrupted"


def test_output_that_nobody_reads_any_more_does_not_end_the_run(board: Board) -> None:
    board.preload_sample("shop", "telemetry")
    board.device.start_dockerd()
    board.shell(
        "EARLY_START_SETTLE_SECONDS=0.2 compose-apps-early-start start 2>&1 | head -n 1;"
        "compose-apps-early-start status | head -n 1"
    )
    assert board.record()["state"] == "ok"
