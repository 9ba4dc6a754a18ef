"""A run starts all preloaded apps, or those that default-apps names."""

import pytest
from engine.board import COMPOSE_APPS, QUICK, Board, limits
from engine.watch import watching

SAMPLES = ("debug-tools", "shop", "telemetry")
ODD_FILE = (
    b"\xef\xbb\xbf# the factory's apps\r\n"
    b"telemetry,\tdebug-tools # not for customers: shop\r\n"
    b"\r\n telemetry \r\n"
)
IN_ORDER = {**QUICK, "EARLY_START_PARALLEL": "1"}


def order_of_creation(board: Board) -> list[str]:
    """The apps in the order in which their first containers were made."""
    by_age = sorted(board.containers(), key=lambda each: str(each["Created"]))
    labels = (each["Config"]["Labels"]["com.docker.compose.project"] for each in by_age)
    return list(dict.fromkeys(labels))


def test_without_default_apps_every_app_starts_from_its_own_folder(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    before = board.possessions_of_apps()
    board.device.start_dockerd()
    run = board.start_well()
    assert run.states == dict.fromkeys(SAMPLES, "running")
    for name in SAMPLES:
        containers = board.containers(name)
        assert containers
        for each in containers:
            labels = each["Config"]["Labels"]
            assert labels["com.docker.compose.project.working_dir"] == f"{COMPOSE_APPS}/{name}"
            one_shot = labels["com.docker.compose.service"] == "setup"
            assert each["State"]["Status"] == ("exited" if one_shot else "running")
    assert len(board.containers()) == 5
    assert board.possessions_of_apps() == before


def test_a_shortlist_starts_exactly_its_apps_in_its_order(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    before = board.possessions_of_apps()
    board.shortlist("telemetry\ndebug-tools\n")
    board.device.start_dockerd()
    run = board.start_well(env=IN_ORDER)
    assert list(run.states) == ["telemetry", "debug-tools"]
    assert order_of_creation(board) == ["telemetry", "debug-tools"]
    assert board.possessions_of_apps() == before


def test_an_odd_file_is_read_as_it_is_meant(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.shortlist(ODD_FILE)
    board.device.start_dockerd()
    run = board.start_well(env=IN_ORDER)
    assert list(run.states) == ["telemetry", "debug-tools"]
    assert order_of_creation(board) == ["telemetry", "debug-tools"]


def test_an_empty_default_apps_starts_nothing_and_deletes_nothing(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.shortlist("")
    board.device.start_dockerd()
    before = board.possessions()
    run = board.start_well()
    assert run.record["apps"] == []
    assert board.containers() == []
    assert board.possessions() == before


def test_unknown_names_are_reported_and_the_others_start(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.shortlist("telemetrie web shop")
    board.device.start_dockerd()
    before = board.possessions_of_apps()
    run = board.start()
    assert run.exit_status == 3
    assert run.record["state"] == "degraded"
    assert run.states == {"shop": "running"}
    assert run.record["unknown"] == [
        {"name": "telemetrie", "nearest": "telemetry"},
        {"name": "web", "nearest": None},
    ]
    assert "did you mean 'telemetry'?" in run.stderr
    assert "'web' in /var/lmp/default-apps: no preloaded app has this name" in run.stderr
    assert set(board.states()) == {"shop-web-1", "shop-worker-1"}
    assert board.possessions_of_apps() == before


def test_names_match_whole_never_in_part(board: Board) -> None:
    for name in ("web", "webserver", "xyz"):
        board.preload(name, "services:\n  worker:\n    image: hub.example.test/factory/worker\n")
    board.shortlist("webserver x.z")
    board.device.start_dockerd()
    run = board.start()
    assert run.exit_status == 3
    assert run.states == {"webserver": "running"}
    assert [each["name"] for each in run.record["unknown"]] == ["x.z"]


def test_only_unknown_names_start_nothing_and_delete_nothing(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.shortlist("nothing-like-it")
    board.device.start_dockerd()
    before = board.possessions()
    run = board.start()
    assert run.exit_status == 1
    assert board.containers() == []
    assert board.possessions() == before


def test_a_default_apps_that_cannot_be_read_starts_nothing(board: Board) -> None:
    board.preload_sample("shop")
    board.device.path("/var/lmp/default-apps").mkdir()
    board.device.start_dockerd()
    before = board.possessions()
    run = board.start()
    assert run.exit_status == 1
    assert run.record["state"] == "failed"
    assert "/var/lmp/default-apps: cannot read the shortlist: Is a directory" in run.stderr
    assert run.record["hint"]
    assert run.record["hint"] in run.stderr
    assert board.containers() == []
    assert board.possessions() == before


@pytest.mark.parametrize("file", ["sql.db", "client.pem", "sota.toml"])
def test_on_a_registered_device_nothing_is_done(shared_board: Board, file: str) -> None:
    board = shared_board
    if not board.folder("shop").exists():
        board.preload_sample("shop")
        board.device.start_dockerd()
    board.record_compose_calls()
    board.device.path(f"/var/sota/{file}").touch()
    run = board.start()
    board.device.path(f"/var/sota/{file}").unlink()
    assert run.exit_status == 0
    assert run.lines == [f"this device is registered (/var/sota/{file}): nothing is started"]
    assert board.containers() == []
    assert board.compose_calls() == []
    assert run.record == {}


def test_no_apps_at_all_is_a_success(board: Board) -> None:
    run = board.start(env=limits(engine=1))
    assert (run.exit_status, run.record["state"], run.record["apps"]) == (0, "ok", [])
    (line,) = run.lines
    assert line.startswith("no app is preloaded: there is none in /var/sota/compose-apps or ")
    assert ". Next: register the device to have its apps installed, or flash an image" in line


def test_nothing_is_ever_made_or_changed_among_the_apps(board: Board) -> None:
    board.preload_sample(*SAMPLES)
    board.preload_raw("broken", b"services: [\n")
    board.preload("crash", "services:\n  worker:\n    image: hub.example.test/factory/tool\n"
                           "    restart: always\n")  # fmt: skip
    folder = board.folder("")
    board.device.start_dockerd()
    before = board.possessions_of_apps()
    with watching([folder, *(folder / name for name in (*SAMPLES, "broken", "crash"))]) as watch:
        run = board.start(env=limits(settle=0.5, app=6))
        assert run.exit_status == 3
        assert board.possessions_of_apps() == before
        assert watch.changed() == []
