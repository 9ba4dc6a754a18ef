"""After registration aktualizr-lite adopts the running containers and recreates none."""

from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from engine.apps import app, worker
from engine.board import AKTUALIZR, COMPOSE_APPS, Board, limits

SAMPLES = ("debug-tools", "shop", "telemetry")
INTERPOLATED = ("HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "COMPOSE_HTTP_TIMEOUT",
                "REGISTRY_AUTH_FILE")  # fmt: skip
MISLEADING = {
    "HOME": "/nowhere",
    "USER": "nobody",
    "TMPDIR": "/tmp/elsewhere",
    "COMPOSE_HTTP_TIMEOUT": "7",
    "COMPOSE_PROJECT_NAME": "another",
    "COMPOSE_FILE": "/nothing.yml",
    "COMPOSE_PROFILES": "debug",
    "DOCKER_HOST": "tcp://192.0.2.1:2375",
    "DOCKER_CONTEXT": "another",
}
"""What a shell from which somebody starts the agent may hold."""


def obstacles(board: Board, name: str) -> list[str]:
    """Why aktualizr-lite would not adopt the app.

    Source: facts/device.md, that is `composectl ps` and aktualizr-lite's own check after an `up`.
    """
    document = yaml.safe_load((board.folder(name) / "docker-compose.yml").read_text())
    found = []
    for service, wanted in document["services"].items():
        owned = [each for each in board.containers() if belongs(each, name, service, wanted)]
        if not owned:
            found.append(f"service {service} has no container that belongs to it")
        for each in owned:
            if each["State"]["Status"] == "created":
                found.append(f"{each['Name']} was never started")
            if each["Config"]["Labels"]["com.docker.compose.project"] != name:
                found.append(f"{each['Name']} is of another project")
    return found


def belongs(container: dict[str, Any], app_name: str, service: str, wanted: dict[str, Any]) -> bool:
    labels = container["Config"]["Labels"]
    folder = labels.get("com.docker.compose.project.working_dir", "")
    published = labels.get("io.compose-spec.config-hash")
    return (
        folder.rpartition("/")[2] == app_name
        and labels.get("com.docker.compose.service") == service
        and container["Config"]["Image"] == wanted["image"]
        and published is not None
        and published == wanted["labels"]["io.compose-spec.config-hash"]
    )


def as_aktualizr_does(board: Board, name: str) -> None:
    folder = f"{COMPOSE_APPS}/{name}"
    argv = ["docker", "compose", "up", "--remove-orphans", "-d"]
    board.device.run(argv, cwd=folder, env=AKTUALIZR)


def adopted(board: Board, names: Sequence[str]) -> dict[str, str]:
    """Aktualizr-lite adopts the containers of the apps; return `Board.lives` before it does."""
    for name in names:
        assert obstacles(board, name) == []
    lives = board.lives()
    for name in names:
        as_aktualizr_does(board, name)
    assert set(board.lives()) == set(lives)
    return lives


@pytest.mark.parametrize("environment", [{}, MISLEADING], ids=["plain", "misleading"])
def test_aktualizr_lite_adopts_what_was_started(board: Board, environment: dict[str, str]) -> None:
    told = {name: f"${{{name}}}" for name in INTERPOLATED}
    board.preload_sample(*SAMPLES)
    board.preload("curious", app(worker=worker(environment=told, restart="always")))
    board.preload("optional", app(worker=worker(), extra=worker(profiles=["debug"])))
    board.device.start_dockerd()
    board.start_well(env={**environment, **limits(settle=1)})
    for name in (*SAMPLES, "curious"):
        assert obstacles(board, name) == []
    seen = board.api.inspect_container("curious-worker-1")["Config"]["Env"]
    assert {f"{name}={AKTUALIZR[name]}" for name in INTERPOLATED} <= set(seen)
    before = board.lives()
    one_shot = board.api.inspect_container("telemetry-setup-1")["Id"]
    for name in (*SAMPLES, "curious", "optional"):
        as_aktualizr_does(board, name)
    after = board.lives()
    assert set(after) == set(before)
    # Compose itself runs a one-shot again with each `up`; all others it leaves as they are.
    assert {each for each in after if after[each] != before[each]} <= {one_shot}


def test_the_check_of_adoption_can_fail(board: Board) -> None:
    board.preload_sample("shop")
    board.device.start_dockerd()
    assert len(obstacles(board, "shop")) == 2
    board.shell(f"cd {COMPOSE_APPS}/shop && docker compose -p other up -d --pull never")
    assert obstacles(board, "shop") == [
        "/other-web-1 is of another project",
        "/other-worker-1 is of another project",
    ]


def test_a_second_run_changes_nothing_and_calls_no_compose(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.device.start_dockerd()
    board.record_compose_calls()
    board.start_well()
    assert len(board.compose_calls()) == len(SAMPLES)
    before, possessions = board.lives(), board.possessions()
    board.record_compose_calls()
    run = board.start_well()
    assert board.lives() == before
    assert board.possessions() == possessions
    assert board.compose_calls() == []
    assert [app["attempts"] for app in run.record["apps"]] == [0, 0, 0]


def test_only_the_app_that_changed_is_brought_up(board: Board) -> None:
    board.preload_sample("shop")
    board.preload("app", app(worker=worker()))
    board.device.start_dockerd()
    board.start_well(env=limits(settle=0.5))
    before = board.lives("shop")
    board.preload("app", app(worker=worker(environment={"VERSION": "2"})))
    # The one thing for which compose makes a container anew: its own description changed.
    old = board.api.inspect_container("app-worker-1")["Id"]
    board.may_go.add(f"container app-worker-1 {old[:12]}")
    board.record_compose_calls()
    board.start_well(env=limits(settle=0.5))
    assert [call.partition(" ")[0] for call in board.compose_calls()] == ["app"]
    assert board.lives("shop") == before
    assert "VERSION=2" in board.containers("app")[0]["Config"]["Env"]


class TestReboot:
    """A boot before registration: dockerd and all containers end, the agent runs once more."""

    @staticmethod
    def start_after_boot(board: Board) -> list[str]:
        """Run the agent as on a device that has just booted: /run is empty; return its log."""
        board.shell("rm -r /run/compose-apps-early-start")
        run = board.start(env=limits(settle=0.5, app=30))
        assert run.exit_status == 0, run.stderr
        assert run.record["state"] == "ok"
        return run.lines

    def test_services_without_a_restart_policy_run_again(self, board: Board) -> None:
        board.preload_sample(*SAMPLES)
        board.device.start_dockerd()
        board.start_well(env=limits(settle=0.5))
        before = board.states()
        ids = set(board.lives())
        assert before["debug-tools-shell-1"] == "running"
        board.device.stop_dockerd()
        board.device.start_dockerd()
        assert board.states()["debug-tools-shell-1"] == "exited"
        self.start_after_boot(board)
        assert board.states() == before
        assert set(board.lives()) == ids

    def test_if_all_run_no_compose_is_called(self, board: Board) -> None:
        board.preload_sample("shop")
        board.device.start_dockerd()
        board.start_well(env=limits(settle=0.5))
        board.device.stop_dockerd()
        board.device.start_dockerd()
        before = board.lives()
        board.record_compose_calls()
        lines = self.start_after_boot(board)
        assert board.lives() == before
        assert board.compose_calls() == []
        assert not [line for line in lines if "Next: " in line]

    def test_after_a_power_cut_all_run_again(self, board: Board) -> None:
        board.preload_sample(*SAMPLES)
        board.device.start_dockerd()
        board.start_well(env=limits(settle=0.5))
        before = board.states()
        board.device.stop_dockerd(9)
        board.shell("pkill -9 containerd-shim; pkill -9 -x httpd; pkill -9 -x sleep; true")
        board.device.start_dockerd()
        self.start_after_boot(board)
        assert board.states() == before
