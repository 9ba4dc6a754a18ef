"""Each defect that fuzzing has found, as a plain test."""

import json
import os
import time
from pathlib import Path
from typing import Any

import documents
import pytest
import stores
from compose_apps_early_start import bundle, diagnosis, oneshots, record, restorable, runner, status
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.compose import Compose
from compose_apps_early_start.engine import Engine
from compose_apps_early_start.errors import EarlyStartError, EngineError, NotUnderstoodError
from compose_apps_early_start.plan import Action, AppPlan, Step
from compose_apps_early_start.preloaded import App, Service
from compose_apps_early_start.report import Event, Kind
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Store, StoreError
from compose_apps_early_start.verdict import Runs
from fuzz.fuzzing import Within
from fuzz.test_answers import ANSWERS, CONTAINER, FOLDER, Dockerd, dockerd  # noqa: F401
from fuzz.test_files import INSTALLED, RECORD
from fuzz.test_runs import Loading, run
from fuzz.world import Call, Clock, Loss, World

DEEP = b"[" * 9000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path)


def put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"apps": [{"name": "shop"}]}, id="an app with keys missing"),
        pytest.param({"apps": None}, id="no apps"),
        pytest.param({"pid": "1"}, id="a process id that is text"),
        pytest.param({"unknown": [{"name": None}]}, id="an unknown name that is none"),
        pytest.param({"message": []}, id="a message that is no text"),
    ],
)
def test_a_record_that_is_not_whole_is_shown_as_far_as_it_goes(
    settings: Settings, change: dict[str, Any]
) -> None:
    put(settings.run_status, json.dumps({**RECORD, **change}).encode())
    found = documents.run(json.dumps(status.load(settings)))
    assert found["started"] == RECORD["started"]
    assert status.table(found)


def test_a_record_that_is_nested_too_deep_is_refused_by_name(settings: Settings) -> None:
    put(settings.run_status, DEEP)
    with pytest.raises(EarlyStartError, match=r"status\.json: not a record of a run"):
        status.load(settings)


def test_a_record_that_is_no_plain_file_is_refused_and_not_waited_for(settings: Settings) -> None:
    settings.run_status.parent.mkdir(parents=True)
    os.mkfifo(settings.run_status)
    with pytest.raises(EarlyStartError, match="not a plain file"):
        status.load(settings)


def test_one_shots_in_a_file_that_is_nested_too_deep_are_not_known(settings: Settings) -> None:
    put(settings.finished, DEEP)
    assert oneshots.recall(settings, "1:2") == frozenset()


def test_a_uri_in_installed_versions_that_is_no_text_is_none(tmp_path: Path) -> None:
    (target,) = INSTALLED.values()
    apps = {"shop": {"uri": 5}, "telemetry": {"uri": "x"}}
    changed = {"board": {**target, "custom": {"docker_compose_apps": apps}}}
    put(tmp_path / "installed_versions", json.dumps(changed).encode())
    assert restorable.installed_uris(tmp_path / "installed_versions") == {"telemetry": "x"}


def test_what_compose_prints_in_endless_lines_that_go_on_costs_no_time(tmp_path: Path) -> None:
    """It was 0.1 s for 200 KB, and four times as much for twice of that."""
    words = " x\n" * (1 << 20) + "Error: no space left on device\n"
    with Within(tmp_path):
        assert diagnosis.diagnose(words).cause is Cause.NO_SPACE


def test_json_of_compose_that_is_nested_too_deep_is_that_apps_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings.root / "usr/lib/docker/cli-plugins/docker-compose", b"")
    (settings.root / "usr/lib/docker/cli-plugins/docker-compose").chmod(0o755)
    compose = Compose(settings)
    monkeypatch.setattr(compose, "_run", lambda *_: (0, '{"a":' * 9000, ""))
    found = compose.config(settings.root)
    assert isinstance(found, Failure)
    assert found.cause is Cause.COMPOSE_FAILED


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/docker-compose.yml", "a\0b"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_name_in_a_bundle_that_leads_out_is_not_even_read(
    tmp_path: Path, name: str, indexed: bool
) -> None:
    if "\0" in name and not indexed:
        name = "../b"  # no tar archive can hold the other
    builder = stores.Builder(tmp_path / "store")
    packed = stores.files({name: b"x"} if not indexed else {})
    builder.app("shop", packed, {name: "0" * 64} if indexed else None)
    store = Store(tmp_path / "store")
    ((version,),) = store.versions().values()
    with Within(tmp_path), pytest.raises(StoreError, match="leads out of the app's folder"):
        bundle.index(store, version, store.manifest(version))


def test_a_container_of_which_dockerd_says_nonsense_is_one_apps_failure(
    dockerd: tuple[Dockerd, Settings],  # noqa: F811
) -> None:
    server, settings = dockerd
    without_state = {key: each for key, each in CONTAINER.items() if key != "State"}
    server.set({"/containers/[^/]+/json": (200, json.dumps(without_state).encode())})
    (found,) = Engine.connect(settings, 5.0).containers(FOLDER)
    assert found.state == "unreadable"
    assert found.error == "dockerd's answer is not understood: KeyError: 'State'"


def test_a_list_of_which_dockerd_says_nonsense_is_an_error_of_the_engine(
    dockerd: tuple[Dockerd, Settings],  # noqa: F811
) -> None:
    server, settings = dockerd
    server.set({"/containers/json": (200, b"[null]")})
    with pytest.raises(NotUnderstoodError, match="not understood"):
        Engine.connect(settings, 5.0).containers(FOLDER)


def test_networks_without_ids_are_no_answer_from_which_a_network_could_be_missed(
    dockerd: tuple[Dockerd, Settings],  # noqa: F811
) -> None:
    """Each container would have to be connected again, and made anew if that is refused."""
    server, settings = dockerd
    server.set({"/networks": (200, b'[{"Id": null, "Name": "shop_default"}]')})
    with pytest.raises(NotUnderstoodError, match="None in the place of text"):
        Engine.connect(settings, 5.0).networks()


def test_an_event_that_is_not_understood_does_not_end_the_watch(
    dockerd: tuple[Dockerd, Settings],  # noqa: F811
) -> None:
    server, settings = dockerd
    server.set({"/events": (200, b"null\n" + json.dumps(ANSWERS["/events"]).encode())})
    watch = Engine.connect(settings, 5.0).watch()
    deadline = time.monotonic() + 10
    found: set[str] = set()
    while "shop" not in found and time.monotonic() < deadline:
        found |= watch.changes(0.1)
    watch.close()
    assert "shop" in found


def test_a_dockerd_that_is_killed_within_an_event_is_a_loss_and_not_the_end_of_the_watch(
    dockerd: tuple[Dockerd, Settings],  # noqa: F811
) -> None:
    server, settings = dockerd
    server.set({"/events": (200, b'{"Type": "contai')})
    watch = Engine.connect(settings, 5.0).watch()
    deadline = time.monotonic() + 10
    while watch.losses < 2 and time.monotonic() < deadline:
        watch.changes(0.1)
    watch.close()
    assert watch.losses >= 2


def test_a_dockerd_that_is_killed_within_its_word_on_a_load_is_an_error_of_the_engine(
    dockerd: tuple[Dockerd, Settings],  # noqa: F811
) -> None:
    server, settings = dockerd
    server.set({"/images/load": (200, b'{"stream": "Loa')})
    with pytest.raises(EngineError):
        Engine.connect(settings, 5.0).load(iter([b"x"]), 5.0)


def world(seconds: float, *losses: Loss) -> tuple[World, AppPlan]:
    """One app that is up after so many seconds, and what happens to dockerd meanwhile."""
    app = App("shop", Path("/apps/shop"), "shop", (Service("web", "web", None),))
    made = World(Clock(), [app], calls=[[Call(seconds, None)]], losses=list(losses))
    return made, AppPlan(app, (Step(Action.UP),))


def test_a_dockerd_that_answers_with_errors_only_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended when systemd ended it: such a dockerd is there, so the run went on."""
    made, plan = world(1.0, Loss(0.5, 10_000.0, False, sick=True))
    limits = Settings(run_seconds=30.0)
    complete, events, _ = run(monkeypatch, made, limits, [plan], Loading(made, None, 0.0), None)
    assert complete
    assert 30.0 <= made.clock.now - made.begin < 32.0
    assert [each.cause for each in events if each.kind is Kind.FAILED] == ["engine-lost"]


def test_an_app_that_was_given_up_stays_so_on_record_when_its_call_ends(
    settings: Settings,
) -> None:
    recorder = record.Recorder(settings, pytest.fail)
    recorder.begin([record.AppRecord("shop")], ())
    recorder(Event.failed("shop", Failure(Cause.ENGINE_UNAVAILABLE, "dockerd did not answer")))
    recorder(Event(Kind.RESTORED, "folder put back", "shop"))
    (app,) = recorder.record.apps
    assert (app.state, app.cause) == ("failed", "engine-unavailable")


def test_a_defect_in_the_last_look_is_one_apps_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    made, plan = world(1.0)
    seen: list[App] = []

    def defect(app: App, *_: object, **__: object) -> Runs:
        seen.append(app)
        if len(seen) > 1:
            raise ValueError("a defect")
        return Runs()

    monkeypatch.setattr(runner, "judge", defect)
    complete, events, _ = run(monkeypatch, made, Settings(), [plan], Loading(made, None, 0.0), None)
    assert complete
    final = [each.cause for each in events if each.kind in (Kind.RUNNING, Kind.FAILED)]
    assert final == [None, "internal-error"]
