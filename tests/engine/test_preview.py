"""`plan` shows what `start` will do and changes nothing; `--root` puts all paths under a folder."""

import documents
import pytest
from engine.apps import ABSENT, app, worker
from engine.board import AGENT, QUICK, Board
from engine.watch import watching

SAMPLES = ("debug-tools", "shop", "telemetry")


def test_start_does_what_plan_showed(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.preload("absent", app(worker=worker(image=ABSENT)))
    board.shortlist("telemetry absent shop telemetri")
    board.device.start_dockerd()
    board.device.run(
        ["docker", "compose", "up", "-d"], cwd="/var/sota/compose-apps/shop"
    )  # runs already
    plan = board.plan()
    assert plan["schema"] == 1
    assert plan["registered_by"] is None
    assert plan["shortlist"] == "/var/lmp/default-apps"
    assert plan["unchecked"] == []
    assert plan["unknown"] == [{"name": "telemetri", "nearest": "telemetry"}]
    assert [each["name"] for each in plan["apps"]] == ["telemetry", "absent", "shop"]
    telemetry, absent, shop = plan["apps"]
    assert [each["reason"] for each in plan["apps"]] == ["shortlist"] * 3
    assert [each["folder"] for each in plan["apps"]] == [
        f"/var/sota/compose-apps/{name}" for name in ("telemetry", "absent", "shop")
    ]
    assert telemetry["steps"] == [{"action": "up"}]
    assert telemetry["cause"] is None
    assert (absent["steps"], absent["cause"]) == ([], "image-missing")
    assert absent["images"] == [{"reference": ABSENT, "present": False}]
    assert (shop["steps"], shop["cause"]) == ([], None)
    board.record_compose_calls()
    run = board.start()
    assert list(run.states) == [each["name"] for each in plan["apps"]]
    assert run.causes == {each["name"]: each["cause"] for each in plan["apps"]}
    assert {call.partition(" ")[0] for call in board.compose_calls()} == {"telemetry"}
    assert run.record["unknown"] == plan["unknown"]


def test_plan_touches_nothing(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.device.start_dockerd()
    before = board.possessions()
    folders = ("/var/sota/compose-apps", "/var/lmp", "/var/lib", "/run", "/run/lock")
    with watching(map(board.device.path, folders)) as watch:
        plan = board.plan()
        assert [each["name"] for each in plan["apps"]] == list(SAMPLES)
        assert [each["reason"] for each in plan["apps"]] == ["all"] * 3
        assert watch.changed() == []
    assert board.containers() == []
    assert board.possessions() == before


def test_plan_works_without_dockerd_and_says_what_it_could_not_check(board: Board) -> None:
    board.preload_sample("shop")
    plan = board.plan()
    (shop,) = plan["apps"]
    assert shop["steps"] == [{"action": "up"}]
    assert [image["present"] for image in shop["images"]] == [None, None]
    (unchecked,) = plan["unchecked"]
    assert unchecked.startswith("images and containers: ")
    readable = board.shell(f"{AGENT} plan")
    assert "Not checked: images and containers: " in readable
    assert "shop: docker compose up" in readable


def test_plan_on_a_registered_device_says_that_nothing_would_be_done(board: Board) -> None:
    board.preload_sample("shop")
    board.device.path("/var/sota/sql.db").touch()
    assert board.plan()["registered_by"] == "/var/sota/sql.db"
    assert "'start' would do nothing" in board.shell(f"{AGENT} plan")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_root_puts_every_path_under_a_folder(board: Board, before: bool) -> None:
    board.preload_sample("shop")
    board.shell("mkdir -p /other/var/lmp /other/var/sota/compose-apps /other/run")
    board.shell("mv /var/sota/compose-apps/shop /other/var/sota/compose-apps/boutique")
    board.shell("echo boutique >/other/var/lmp/default-apps")
    option = ["--root", "/other"]
    argv = [AGENT, *option, "plan", "--json"] if before else [AGENT, "plan", "--json", *option]
    plan = documents.plan(board.device.run(argv).stdout)
    assert plan["shortlist"] == "/other/var/lmp/default-apps"
    (app_plan,) = plan["apps"]
    assert app_plan["name"] == "boutique"
    assert app_plan["folder"] == "/other/var/sota/compose-apps/boutique"


def test_a_run_under_another_root_starts_that_roots_apps(board: Board) -> None:
    board.preload_sample("shop", "debug-tools")
    board.shell("mkdir -p /other/var/sota/compose-apps /other/run /other/usr/libexec/docker")
    board.shell("mv /var/sota/compose-apps/debug-tools /other/var/sota/compose-apps/")
    board.shell("cp -r /usr/libexec/docker/cli-plugins /other/usr/libexec/docker/")
    board.device.start_dockerd()
    board.shell("ln -s /run/docker.sock /other/run/docker.sock")
    run = board.device.run([AGENT, "--root", "/other", "start"], env=QUICK)
    assert "1 of 1 apps run" in run.stderr
    assert board.states() == {"debug-tools-shell-1": "running"}
    argv = [AGENT, "status", "--json", "--root=/other"]
    status = documents.run(board.device.run(argv).stdout)
    assert [each["name"] for each in status["apps"]] == ["debug-tools"]
    assert not board.device.path("/var/lib/compose-apps-early-start/last-run.json").exists()
