"""What is kept of failed apps: which apps, how much, and in which file."""

import json
import stat
import time
from typing import Any

import documents
import pytest
from compose_apps_early_start import evidence
from compose_apps_early_start.cause import NOT_TRIED, Cause, Failure
from compose_apps_early_start.engine import Engine
from compose_apps_early_start.errors import EngineError
from compose_apps_early_start.evidence import MAX_BYTES, MAX_LOG_BYTES, Evidence, bounded
from compose_apps_early_start.record import AppRecord, RunRecord
from compose_apps_early_start.report import Event, Kind
from compose_apps_early_start.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

EXITED = Failure(Cause.EXITED, "container 'web' ended", details="compose said this\nand that")


def told(folder: str, name: str, **more: Any) -> dict[str, Any]:
    """A container as the engine tells of it; without `more` it runs well."""
    state = {"Status": "running", "ExitCode": 0, **more.pop("state", {})}
    return {
        "id": f"id-of-{name}",
        "name": name,
        "service": name,
        "folder": folder,
        "restarts": 0,
        "state": state,
        **more,
    }


class Talkative(Engine):
    """A dockerd with these containers, each of which has logged its own name, and much."""

    def __init__(self, *containers: dict[str, Any], log: str = "so it went\n") -> None:
        self.told = containers
        self.log_text = log
        self.asked: list[str] = []

    def with_timeout(self, seconds: float) -> Engine:
        assert seconds <= 5.0
        return self

    def states(self, folders: Any) -> list[dict[str, Any]]:
        return [each for each in self.told if each["folder"] in folders]

    def log(self, container: str, most_bytes: int) -> str:
        self.asked.append(container)
        return self.log_text


RUN = RunRecord(
    run=7,
    boot_id="b" * 32,
    started="2026-11-23T08:00:00+00:00",
    apps=[AppRecord("shop", folder="/shop"), AppRecord("db", folder="/db")],
)


def kept(
    settings: Settings, engine: Engine | None, *events: Event, run: RunRecord = RUN
) -> dict[str, Any]:
    """What is kept of a run with these `events`."""
    made = Evidence(settings)
    for event in events:
        made(event)
    made.engine = engine
    made.keep(run)
    return documents.evidence(settings.evidence.read_text())


def test_of_a_failed_app_each_failed_container_is_heard(settings: Settings) -> None:
    engine = Talkative(
        told("/shop", "fine"),
        told("/shop", "done", state={"Status": "exited"}),
        told("/shop", "fell", state={"Status": "exited", "ExitCode": 3}),
        told("/shop", "sick", state={"Health": {"Status": "unhealthy"}}),
        told("/shop", "again", restarts=5),
        told("/shop", "never", state={"Status": "created"}),
        told("/db", "of-an-app-that-runs", restarts=9),
    )
    found = kept(
        settings,
        engine,
        Event(Kind.RUNNING, "runs", app="db"),
        Event.failed("shop", EXITED, 1.0),
    )
    assert (found["run"], found["boot_id"]) == (7, "b" * 32)
    (shop,) = found["apps"]
    assert (shop["name"], shop["cause"]) == ("shop", "exited")
    assert shop["words"] == "compose said this\nand that"
    assert [each["name"] for each in shop["containers"]] == ["fell", "sick", "again", "never"]
    fell = shop["containers"][0]
    assert fell["state"] == {"Status": "exited", "ExitCode": 3}
    assert fell["log"] == "so it went\n"
    assert len(engine.asked) == 4


def test_where_all_containers_look_well_all_are_heard(settings: Settings) -> None:
    engine = Talkative(told("/shop", "one"), told("/shop", "two"))
    (shop,) = kept(settings, engine, Event.failed("shop", EXITED))["apps"]
    assert [each["name"] for each in shop["containers"]] == ["one", "two"]


def test_if_all_runs_nothing_is_written_and_nothing_asked(settings: Settings) -> None:
    made = Evidence(settings)
    made(Event(Kind.RUNNING, "runs", app="shop"))
    made.engine = engine = Talkative(told("/shop", "web", restarts=1))
    made.keep(RUN)
    assert not settings.evidence.exists()
    assert engine.asked == []


def test_an_app_whose_run_was_told_to_end_has_not_failed(settings: Settings) -> None:
    made = Evidence(settings)
    made(Event.failed("shop", NOT_TRIED))
    made.keep(RUN)
    assert not settings.evidence.exists()


def test_the_evidence_of_a_run_outlives_a_later_one_in_which_all_runs(settings: Settings) -> None:
    before = kept(settings, None, Event.failed("shop", EXITED))
    Evidence(settings).keep(RUN)
    assert documents.evidence(settings.evidence.read_text()) == before


def test_it_is_for_root_only(settings: Settings) -> None:
    kept(settings, None, Event.failed("shop", EXITED))
    assert stat.S_IMODE(settings.evidence.stat().st_mode) == 0o600
    assert [each.name for each in settings.evidence.parent.iterdir()] == ["evidence.json"]


def test_without_an_engine_what_was_said_is_kept(settings: Settings) -> None:
    class Lost(Talkative):
        def states(self, folders: Any) -> list[dict[str, Any]]:
            raise EngineError("dockerd does not answer", "look at it")

    for engine in (None, Lost()):
        (shop,) = kept(settings, engine, Event.failed("shop", EXITED))["apps"]
        assert shop["words"] == "compose said this\nand that"
        assert shop["containers"] == []


def test_a_slow_engine_is_asked_until_the_time_for_it_is_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "SECONDS", 0.2)

    class Slow(Talkative):
        def log(self, container: str, most_bytes: int) -> str:
            time.sleep(0.15)
            return super().log(container, most_bytes)

    engine = Slow(*(told("/shop", f"web-{number}", restarts=1) for number in range(9)))
    (shop,) = kept(settings, engine, Event.failed("shop", EXITED))["apps"]
    assert len(shop["containers"]) == 2


def test_the_traceback_of_a_defect_is_kept(settings: Settings) -> None:
    try:
        raise KeyError("surprise")
    except KeyError as error:
        failure = Failure.unexpected(error)
    aborted = Event(Kind.ABORTED, failure.message, details=failure.details)
    shop, run = kept(settings, None, Event.failed("shop", failure), aborted)["apps"]
    for each in (shop, run):
        assert "Traceback (most recent call last)" in each["words"]
        assert "test_evidence.py" in each["words"]
        assert each["words"].endswith("KeyError: 'surprise'\n")
    assert run["name"] is None


# How much

LOG = "".join(map(chr, range(256))) * 256
"""64 KiB, of which most takes six bytes in JSON."""


@pytest.mark.parametrize("log", ["x" * MAX_LOG_BYTES, LOG, "\U0001f4a5" * MAX_LOG_BYTES])
@pytest.mark.parametrize(("apps", "containers"), [(1, 1), (1, 16), (5, 30), (300, 2)])
def test_the_file_has_a_megabyte_at_most(
    settings: Settings, log: str, apps: int, containers: int
) -> None:
    names = [f"app{number}" for number in range(apps)]
    run = RunRecord(apps=[AppRecord(name, folder=f"/{name}") for name in names])
    engine = Talkative(
        *(
            told(f"/{name}", f"{name}-{number}", restarts=1)
            for name in names
            for number in range(containers)
        ),
        log=log,
    )
    found = kept(settings, engine, *(Event.failed(name, EXITED) for name in names), run=run)
    size = settings.evidence.stat().st_size
    assert size <= MAX_BYTES
    if (apps, containers) == (1, 1):
        assert found["apps"][0]["containers"][0]["log"] == log[-MAX_LOG_BYTES:]
    else:
        assert size > MAX_BYTES / 8
    # Its end, where the reason stands.
    heard = [each for app in found["apps"] for each in app["containers"]]
    assert heard
    assert all(each["log"] and log.endswith(each["log"]) for each in heard)


@given(
    st.lists(st.lists(st.text(max_size=400), max_size=3), max_size=5),
    st.integers(min_value=60, max_value=5000),
)
def test_whatever_is_said_it_fits(logs: list[list[str]], most: int) -> None:
    apps = [
        {"words": "w" * 300, "containers": [{"log": log, "state": {}} for log in own]}
        for own in logs
    ]
    found = bounded({"schema": 1, "apps": apps}, most)
    assert len(json.dumps(found)) < most
