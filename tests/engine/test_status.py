"""`status` after a run with an app in a crash loop: the record, the column NOW and the evidence."""

import subprocess
import time
from dataclasses import dataclass

import documents
import pytest
from engine.apps import app, shell, worker
from engine.board import AGENT, Board, Run, limits


@dataclass(frozen=True)
class Crash:
    """A run with an app that runs and one that crash-loops, and who waited for its verdict.

    `late` is for how many seconds the waiting one went on after the verdict was told.
    """

    board: Board
    run: Run
    waiter: tuple[int, str]
    late: float


@pytest.fixture(scope="module")
def crash(shared_board: Board) -> Crash:
    board = shared_board
    board.preload("good", app(worker=worker(restart="always")))
    crashing = shell("echo 'no cloud, giving up'; exit 3", restart="always")
    board.preload("bad", app(web=crashing, fine=worker(restart="always")))
    board.device.path("/var/sota/import").mkdir()
    board.device.path("/var/sota/import/installed_versions").write_text(
        '{"board-lmp-42": {"is_current": true, "custom": {"docker_compose_apps":'
        ' {"bad": {"uri": "hub.example.test/factory/bad@sha256:1"}}}}}'
    )
    board.device.start_dockerd()
    waiting = board.device.popen(
        [AGENT, "status", "--wait", "--json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    start = board.begin(env=limits(settle=0.2, app=4))
    start.read_until("1 of 2 apps run")
    told = time.monotonic()
    output, _ = waiting.communicate(timeout=30)
    late = time.monotonic() - told
    return Crash(board, start.end(), (waiting.returncode, output), late)


def test_who_waited_got_the_verdict_and_the_exit_status(crash: Crash) -> None:
    assert crash.run.exit_status == 3
    status, output = crash.waiter
    assert status == 3
    assert documents.run(output) == crash.run.record
    print(f"{crash.late:.3f} s after the verdict")
    assert crash.late < 1.0  # the end of Python's process included


def test_the_record_tells_of_containers_and_time(crash: Crash) -> None:
    record = crash.run.record
    assert record["run"] == 1
    assert record["target"] == "board-lmp-42"
    assert [each["state"] for each in record["steps"]] == [
        *("started", "loaded", "waiting", "ready", "ended"),
    ]
    times = [each["uptime"] for each in record["steps"]]
    assert times == sorted(times)
    bad, good = crash.run.app("bad"), crash.run.app("good")
    assert bad["version"] == "hub.example.test/factory/bad@sha256:1"
    assert good["version"] is None
    assert [each["state"] for each in good["steps"]] == [
        *("waiting", "starting", "settling", "running"),
    ]
    for each in (*bad["steps"], *good["steps"]):
        assert times[0] < each["uptime"] <= times[-1]
    ids = {each["Name"][1:]: each["Id"] for each in crash.board.containers()}
    seen = {each["name"]: each for each in (*bad["containers"], *good["containers"])}
    assert {name: each["id"] for name, each in seen.items()} == ids
    web, fine = seen["bad-web-1"], seen["bad-fine-1"]
    assert web["exit_code"] == 3
    assert web["restarts"] >= 2
    assert web["restart_uptimes"] == sorted(web["restart_uptimes"])
    assert len(web["restart_uptimes"]) >= 1
    assert (fine["state"], fine["restarts"]) == ("running", 0)
    assert times[0] < fine["started_uptime"] < times[-1]


def test_the_evidence_has_the_last_words_of_what_failed_only(crash: Crash) -> None:
    evidence = crash.board.evidence()
    assert evidence["run"] == 1
    (bad,) = evidence["apps"]
    assert (bad["name"], bad["cause"]) == ("bad", "crash-loop")
    (web,) = bad["containers"]
    assert (web["name"], web["service"]) == ("bad-web-1", "web")
    assert set(web["log"].splitlines()) == {"no cloud, giving up"}
    assert web["state"]["ExitCode"] == 3
    mode = crash.board.shell("stat -c '%a %U' /var/lib/compose-apps-early-start/evidence.json")
    assert mode.strip() == "600 root"
    assert "no cloud, giving up\n" in crash.board.shell(f"{AGENT} status --log bad")
    told = crash.board.device.run([AGENT, "status", "--log", "good"], check=False)
    assert (told.returncode, told.stdout) == (1, "")


def test_now_is_not_the_verdict(crash: Crash) -> None:
    def now() -> dict[str, str]:
        lines = crash.board.device.run([AGENT, "status"], check=False).stdout.splitlines()
        at = lines[0].index("NOW")
        return {line.split()[0]: line[at:] for line in lines[1:3]}

    before = now()
    assert before["good"] == "runs"
    assert before["bad"].startswith("web restarting, ") or before["bad"] == "runs"
    crash.board.shell("docker rm --force good-worker-1")
    assert now()["good"] == "gone"
