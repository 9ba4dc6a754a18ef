"""How `plan` shows the plan, as JSON and as text."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start import plan, preview
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.container import State
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.preview import Preview, text, to_json
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.shortlist import UnknownName
from compose_apps_early_start.store import Store
from pytest_mock import MockerFixture
from unit.builders import IMAGE, app, container, preloaded, selection, service, shortlist

SETTINGS = Settings()
DB = "hub.example.test/factory/db@sha256:" + "b" * 64
BROKEN = app("broken", failure=Failure(Cause.COMPOSE_FILE_INVALID, "docker-compose.yml is empty"))
NOTED = app("noted", notes=("its compose project is 'x'",))
NO_DB = app("no-db", service(), service("db", DB))


def shown(
    *apps: App, state: State | None = None, registered_by: Path | None = None, **more: Any
) -> Preview:
    the_plan = plan.make(selection(*apps, **more), state, (), {})
    unchecked = () if state else ("images and containers: dockerd did not answer",)
    return Preview(the_plan, SETTINGS, registered_by, unchecked)


RUNNING = (container(app("runs")),)
ENGINE = State(frozenset({IMAGE}), RUNNING, RUNNING)


def test_the_json_has_exactly_the_documented_keys() -> None:
    found = to_json(
        shown(
            NO_DB,
            state=ENGINE,
            shortlisted=True,
            unknown=(UnknownName("shpo", "shop"),),
            not_apps=("README",),
        )
    )
    assert found == {
        "schema": 1,
        "registered_by": None,
        "shortlist": "/var/lmp/default-apps",
        "apps": [
            {
                "name": "no-db",
                "reason": "shortlist",
                "folder": "/var/sota/compose-apps/no-db",
                "project": "no-db",
                "services": ["web", "db"],
                "source": "folder",
                "version": None,
                "images": [
                    {"reference": IMAGE, "present": True},
                    {"reference": DB, "present": False},
                ],
                "notes": [],
                "steps": [],
                "cause": "image-missing",
                "message": f"image {DB} is not on this device",
                "hint": Cause.IMAGE_MISSING.hint,
            }
        ],
        "unknown": [{"name": "shpo", "nearest": "shop"}],
        "strays": ["README"],
        "unchecked": [],
    }


def test_the_json_says_what_could_not_be_checked() -> None:
    found = to_json(shown(app("shop"), registered_by=Path("/var/sota/sql.db")))
    assert found["registered_by"] == "/var/sota/sql.db"
    assert found["shortlist"] is None
    assert found["unchecked"] == ["images and containers: dockerd did not answer"]
    (only,) = found["apps"]
    assert only["reason"] == "all"
    assert only["images"] == [{"reference": IMAGE, "present": None}]
    assert only["steps"] == [{"action": "up"}]
    assert only["cause"] is only["message"] is only["hint"] is None


def test_the_lines_of_a_plan() -> None:
    lines = text(
        shown(
            app("runs"),
            NOTED,
            NO_DB,
            BROKEN,
            state=ENGINE,
            shortlisted=True,
            unknown=(UnknownName("shpo", "shop"), UnknownName("x", None)),
            not_apps=("README",),
        )
    )
    assert lines.split("\n") == [
        "4 apps, from the shortlist /var/lmp/default-apps:",
        "  runs: already runs",
        "    from /var/sota/compose-apps/runs",
        f"    image {IMAGE}",
        "  noted: docker compose up",
        "    from /var/sota/compose-apps/noted",
        f"    image {IMAGE}",
        "    note: its compose project is 'x'",
        f"  no-db: cannot start: image-missing: image {DB} is not on this device",
        "    from /var/sota/compose-apps/no-db",
        f"    image {IMAGE}",
        f"    image {DB}  MISSING",
        f"    next: {Cause.IMAGE_MISSING.hint}",
        "  broken: cannot start: compose-file-invalid: docker-compose.yml is empty",
        "    from /var/sota/compose-apps/broken",
        f"    image {IMAGE}",
        f"    next: {Cause.COMPOSE_FILE_INVALID.hint}",
        "Not preloaded: 'shpo'; did you mean 'shop'?",
        "Not preloaded: 'x'",
        "No app, left alone: /var/sota/compose-apps/README",
    ]


def test_the_lines_on_a_registered_device_and_without_an_engine() -> None:
    lines = text(shown(app("shop"), registered_by=Path("/var/sota/sql.db")))
    assert lines.split("\n") == [
        "This device is registered (/var/sota/sql.db): 'start' would do nothing.",
        "On an unregistered device it would be:",
        "1 apps, all preloaded ones: no /var/lmp/default-apps",
        "  shop: docker compose up",
        "    from /var/sota/compose-apps/shop",
        f"    image {IMAGE}",
        "Not checked: images and containers: dockerd did not answer",
    ]


def test_no_name_in_the_lines_steers_the_terminal() -> None:
    lines = text(shown(app("a\x1b[2J\nb\udce9"), not_apps=("\x07",)))
    assert lines.replace("\n", "").isprintable()
    assert "  a\\x1b[2J\\nb\\udce9: docker compose up" in lines.split("\n")


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_files_are_planned_all_the_same(settings: Settings) -> None:
    for name in ("shop", "telemetry", "unwanted"):
        preloaded(settings, name)
    shortlist(settings, "telemetry, shop")
    made = preview.preview(settings)
    assert [each.app.name for each in made.plan.apps] == ["telemetry", "shop"]
    assert not made.plan.engine_known
    assert len(made.unchecked) == 1
    assert made.unchecked[0].startswith("images and containers: dockerd did not answer on ")


@pytest.mark.usefixtures("no_engine")
def test_an_unreadable_store_is_not_checked(settings: Settings, mocker: MockerFixture) -> None:
    preloaded(settings, "shop")
    error = OSError(errno.EIO, os.strerror(errno.EIO), "apps")
    mocker.patch.object(Store, "versions", side_effect=error)
    made = preview.preview(settings)
    assert made.unchecked[0] == "restorable store: apps: Input/output error"
    assert len(made.unchecked) == 2


@pytest.mark.usefixtures("no_engine")
def test_a_preview_changes_nothing(settings: Settings) -> None:
    preloaded(settings, "shop")
    before = sorted(settings.root.rglob("*"))
    preview.preview(settings)
    assert sorted(settings.root.rglob("*")) == before
