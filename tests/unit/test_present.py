"""The column NOW of `status`: the state of an app at this moment."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start import present, status
from compose_apps_early_start.container import Container
from compose_apps_early_start.engine import Engine
from compose_apps_early_start.errors import EngineError
from compose_apps_early_start.record import AppRecord, RunRecord
from compose_apps_early_start.settings import Settings
from unit.builders import app, container

SHOP = app("shop")


def recorded(*containers: Container) -> dict[str, Any]:
    """The app as it was recorded with these containers."""
    record = AppRecord("shop", "running", folder=str(SHOP.folder))
    record.saw(containers)
    return asdict(record)


WEB, DB = container(SHOP, "web"), container(SHOP, "db")


@pytest.mark.parametrize(
    ("containers", "words"),
    [
        pytest.param([{}], "runs", id="it runs"),
        pytest.param([{"id": "another"}], "runs", id="a container was made anew"),
        pytest.param([{"health": "starting"}], "runs", id="its health is not known"),
        pytest.param([{"health": "unhealthy"}], "web unhealthy", id="unhealthy"),
        pytest.param(
            [{"state": "restarting", "restarts": 12}], "web restarting, 12 times", id="restarting"
        ),
        pytest.param([{"state": "restarting", "restarts": 1}], "web restarting, once", id="once"),
        pytest.param([{"state": "exited", "exit_code": 3}], "web exited (3)", id="it ended"),
        pytest.param(
            [{"state": "exited", "restart_policy": "no"}], "runs", id="a one-shot is done"
        ),
        pytest.param([{"state": "exited"}], "web exited (0)", id="it was stopped"),
        pytest.param([{"state": "paused"}], "web paused", id="paused"),
        pytest.param([{"one_off": True}], "gone", id="what 'docker compose run' made is none"),
        pytest.param([], "gone", id="nothing is left"),
    ],
)
def test_what_an_app_is(containers: list[dict[str, Any]], words: str) -> None:
    now = [container(SHOP, "web", **changes) for changes in containers]
    assert present.words(recorded(WEB), now) == words


def test_what_is_wrong_with_several_containers() -> None:
    now = [container(SHOP, "web", state="exited", exit_code=1)]
    assert present.words(recorded(WEB, DB), now) == "db gone, web exited (1)"


def test_an_app_that_never_had_a_container_has_none_now() -> None:
    assert present.words(recorded(), []) == "-"


def test_containers_of_others_do_not_count() -> None:
    assert present.words(recorded(WEB), [container(app("other"), "web")]) == "gone"


# Asking


@pytest.fixture
def record(settings: Settings) -> dict[str, Any]:
    made = AppRecord("shop", "running", folder=str(SHOP.folder))
    made.saw([WEB])
    settings.docker_pid.parent.mkdir(parents=True, exist_ok=True)
    settings.docker_pid.write_text(f"{os.getpid()}\n")
    settings.docker_socket.touch()
    return RunRecord(state="ok", exit_status=0, apps=[made]).to_json()


class Dockerd(Engine):
    """It has one container, which restarts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def with_timeout(self, seconds: float) -> Engine:
        assert seconds <= 2.0
        return self

    def containers(self, *folders: str) -> tuple[Container, ...]:
        self.asked += folders
        return (container(SHOP, "web", state="restarting", restarts=12),)


def test_the_table_says_what_each_app_is_now(
    settings: Settings, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerd = Dockerd()
    monkeypatch.setattr(Engine, "connect", lambda *_: dockerd)
    now = present.ask(settings, record)
    assert now == {"shop": "web restarting, 12 times"}
    assert dockerd.asked == [str(SHOP.folder)]
    head, shop, *_ = status.table(record, now).splitlines()
    assert head.endswith("CAUSE  NOW")
    assert shop.startswith("shop  running ")
    assert shop.endswith("web restarting, 12 times")
    assert "NOW" not in status.table(record)


@pytest.mark.parametrize("pid", ["", "no number", str(2**22 + 1)])
def test_a_dockerd_that_does_not_run_is_not_started_by_asking(
    settings: Settings, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    def connect(*_: object) -> None:
        pytest.fail("it was asked")

    monkeypatch.setattr(Engine, "connect", connect)
    settings.docker_pid.write_text(pid)
    assert present.ask(settings, record) is None
    settings.docker_pid.unlink()
    assert present.ask(settings, record) is None


def test_a_dockerd_that_does_not_answer_costs_the_column_only(
    settings: Settings, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_settings: Settings, seconds: float) -> None:
        assert seconds <= 2.0
        raise EngineError("no answer", "look at it")

    monkeypatch.setattr(Engine, "connect", connect)
    assert present.ask(settings, record) is None


def test_who_may_not_ask_dockerd_does_without(
    settings: Settings, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != settings.docker_socket)
    assert present.ask(settings, record) is None
