"""What the agent heals itself, and what it never touches while it tries."""

import pytest
from engine.apps import Content, app, health, shell, worker
from engine.board import QUICK, Board, assert_success, limits

EXTERNAL_NETWORK = app(
    {"networks": {"default": {"name": "plant", "external": True}}}, worker=worker()
)
EXTERNAL_VOLUME = app(
    {"volumes": {"archive": {"external": True}}}, worker=worker(volumes=["archive:/archive"])
)


def test_a_container_whose_network_is_gone_is_made_anew(board: Board) -> None:
    board.preload("stale", app({"volumes": {"data": {}}}, worker=worker(volumes=["data:/data"])))
    board.device.start_dockerd()
    board.start_well(env=QUICK)
    board.shell("docker exec stale-worker-1 touch /data/keep")
    board.shell("docker kill stale-worker-1; docker network rm stale_default")
    before = board.possessions()
    board.record_compose_calls()
    run = board.start_well(env=QUICK)
    assert "network-stale" in run.stderr
    assert board.states() == {"stale-worker-1": "running"}
    assert board.compose_calls()[-1].endswith("--force-recreate")
    assert board.possessions() == before


def test_a_container_that_was_only_created_is_started(board: Board) -> None:
    board.preload("cut-off", app(worker=worker()))
    board.device.start_dockerd()
    board.shell("cd /var/sota/compose-apps/cut-off && docker compose create")
    before = set(board.lives())
    assert board.states() == {"cut-off-worker-1": "created"}
    board.start_well(env=QUICK)
    assert board.states() == {"cut-off-worker-1": "running"}
    assert set(board.lives()) == before


def test_a_recreation_that_was_cut_off_is_completed(board: Board) -> None:
    board.preload("cut-off", app(worker=worker()))
    board.device.start_dockerd()
    board.start_well(env=QUICK)
    board.shell("docker kill cut-off-worker-1; docker rename cut-off-worker-1 0a1b2c3d_cut-off")
    board.start_well(env=QUICK)
    assert list(board.states().values()) == ["running"]


@pytest.mark.parametrize(
    ("content", "word", "create"),
    [
        (EXTERNAL_NETWORK, "external-network-missing", "docker network create plant"),
        (EXTERNAL_VOLUME, "external-volume-missing", "docker volume create archive"),
    ],
)
def test_what_comes_late_from_outside_is_waited_for(
    board: Board, content: Content, word: str, create: str
) -> None:
    board.preload("late", content)
    board.preload_sample("shop")
    board.device.start_dockerd()
    run = board.begin(env=limits(app=60, settle=0.5))
    run.read_until(f"late: {word}")
    board.shell(create)
    ended = run.end()
    assert_success(ended)
    assert board.states("late") == {"late-worker-1": "running"}


def test_a_port_that_another_app_gives_back_is_taken(board: Board) -> None:
    board.preload("web", app(worker=worker(ports=["18080:80"])))
    board.device.start_dockerd()
    squatter = board.device.popen(["busybox", "nc", "-l", "-p", "18080"])
    board.shell("until ss -Hltn | grep -q :18080; do :; done")
    run = board.begin(env=QUICK)
    run.read_until("web: port-taken")
    squatter.kill()
    assert_success(run.end())
    assert board.states() == {"web-worker-1": "running"}


def test_a_container_that_is_no_longer_in_the_compose_file_goes(board: Board) -> None:
    board.preload("app", app(old=worker(), worker=worker()))
    board.device.start_dockerd()
    board.start_well(env=QUICK)
    board.preload("app", app(worker=worker()))
    board.start_well(env=QUICK)
    assert board.states() == {"app-worker-1": "running"}


def test_the_ladder_keeps_volumes_and_foreign_things(board: Board) -> None:
    keep = app({"volumes": {"data": {}}}, worker=worker(volumes=["data:/data"]))
    board.preload("db", keep)
    board.device.start_dockerd()
    board.start_well(env=QUICK)
    board.shell("docker exec db-worker-1 sh -c 'echo precious >/data/keep'")
    board.foreign_container("bystander")
    bystander = board.lives()
    keep["services"]["other"] = worker(runtime="no-such-runtime")
    board.preload("db", keep)
    before = board.possessions()
    board.record_compose_calls()
    run = board.start(env=limits(settle=0.2, app=30))
    assert run.causes == {"db": "compose-failed"}
    assert "db down" in board.compose_calls()
    assert board.possessions() == before
    now = board.lives()
    foreign = board.api.inspect_container("bystander")["Id"]
    assert now[foreign] == bystander[foreign]
    # The way back is as good as ever.
    del keep["services"]["other"]
    board.preload("db", keep)
    board.start_well(env=QUICK)
    assert board.shell("docker exec db-worker-1 cat /data/keep") == "precious\n"


def test_an_app_that_becomes_healthy_within_its_time_runs(board: Board) -> None:
    slow = shell(
        "trap 'exit 0' TERM; sleep 3; touch /tmp/ok; sleep 3600 & wait $!",
        **health("test -e /tmp/ok", retries=1000),
    )
    board.preload("slow", app(worker=slow))
    board.device.start_dockerd()
    run = board.start_well(env=limits(settle=0.5, health=30))
    assert run.app("slow")["settled_seconds"] > 2
    assert board.containers()[0]["State"]["Health"]["Status"] == "healthy"
