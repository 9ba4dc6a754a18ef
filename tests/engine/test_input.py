"""Folders that are not proper apps are reported, the other apps start, and nothing is lost."""

import os
from dataclasses import dataclass

import pytest
from engine.board import Board, Run, limits

ALIAS_BOMB = b"services: &a0 {x: y}\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b",".join([b"*a%d" % (level - 1)] * 10))
    for level in range(1, 12)
)
MERGE_BOMB = b"a0: &a0 {k: v}\n" + b"".join(
    b"a%d: &a%d {%s}\n"
    % (level, level, b", ".join(b"k%d: *a%d" % (key, level - 1) for key in range(10)))
    for level in range(1, 9)
) + b"services:\n  worker:\n    <<: [" + b", ".join([b"*a8"] * 1000) + b"]\n"  # fmt: skip
DEEP = b"services: " + b"[" * 20_000 + b"]" * 20_000 + b"\n"

# Compose file to what the message must say; the cause is that the file is invalid.
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "huge": (b"services: {}\n" + b"# filler\n" * 1_200_000, "larger than"),
    "alias-bomb": (ALIAS_BOMB, "nodes"),
    "merge-bomb": (MERGE_BOMB, "nodes"),
    "deep": (DEEP, "nested deeper than"),
    "self-alias": (b"services: &a\n  worker: *a\n", "nodes"),
    "empty": (b"", "is empty"),
    "list": (b"- services\n", "not a mapping"),
    "binary": (b"\x00\x01\x02\xff", "not YAML"),
    "latin-1": (b"services: {worker: {image: caf\xe9}}\n", "not YAML"),
    "python-tag": (b"services: !!python/object/apply:os.system [reboot]\n", "must be a mapping"),
}  # fmt: skip
# Folders with an app in order, whose names make it awkward: name to compose project.
ODD_NAMES = {
    b"my app": "myapp",
    "caf\u00e9".encode(): "caf",
    b"Upper": "upper",
    b"a..b": "ab",
    b"-dash": "dash",
    b"$HOME": "home",
}
WORKER = b"services:\n  worker:\n    image: %s\n"


@dataclass(frozen=True)
class Seen:
    board: Board
    run: Run
    before: dict[str, object]
    after: dict[str, object]


@pytest.fixture(scope="module")
def seen(shared_board: Board) -> Seen:
    board = shared_board
    board.preload_sample("shop")
    for name, (content, _words) in BAD_FILES.items():
        board.preload_raw(name, content)
    fine = WORKER % board.references["factory/worker"].encode()
    for odd in ODD_NAMES:
        board.preload_raw(odd, fine)
    for unfit in (b"...", b"latin-\xe9", b"new\nline"):
        board.preload_raw(unfit, fine)
    board.preload_raw("\u65e5\u672c", fine)
    folder = board.folder("")
    (folder / "no-compose-file").mkdir()
    (folder / "no-compose-file" / "compose.txt").write_text("services: {}\n")
    (folder / "folder-for-file" / "docker-compose.yml").mkdir(parents=True)
    (folder / "stray.txt").write_text("left here by somebody\n")
    (folder / "link").symlink_to("shop")
    (folder / "dangling").symlink_to("nothing")
    board.device.start_dockerd()
    board.foreign_container("bystander")
    before = board.possessions()
    run = board.start(env=limits(settle=0.5, app=30))
    return Seen(board, run, before, board.possessions())


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_compose_file_is_told(seen: Seen, name: str) -> None:
    found = seen.run.app(name)
    assert (found["state"], found["cause"]) == ("failed", "compose-file-invalid")
    assert BAD_FILES[name][1] in found["message"]
    if name != "python-tag":  # compose is asked about tags
        assert found["message"].startswith("docker-compose.yml")
    assert len(found["message"]) < 200
    assert found["hint"]


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("no-compose-file", "compose-file-missing", "there is no docker-compose.yml in"),
        ("folder-for-file", "compose-file-missing", "there is no docker-compose.yml in"),
        ("link", "app-folder-invalid", "the app's folder is a symbolic link"),
        ("latin-\udce9", "app-folder-invalid", "the folder's name is not printable UTF-8 text"),
        ("new\nline", "app-folder-invalid", "the folder's name is not printable UTF-8 text"),
        ("\u65e5\u672c", "app-folder-invalid", "compose can make no project name"),
    ],
)
def test_a_bad_folder_is_told(seen: Seen, name: str, cause: str, words: str) -> None:
    found = seen.run.app(name)
    assert (found["state"], found["cause"]) == ("failed", cause)
    assert words in found["message"]
    assert found["hint"]


@pytest.mark.parametrize("name", ["stray.txt", "dangling", "..."])
def test_what_is_no_folder_of_an_app_is_told_and_left_alone(seen: Seen, name: str) -> None:
    assert name not in seen.run.states
    assert [line for line in seen.run.lines if f"compose-apps/{name} is no app's folder" in line]


@pytest.mark.parametrize("name", ODD_NAMES, ids=os.fsdecode)
def test_an_app_with_an_awkward_name_runs_and_a_note_says_what_follows(
    seen: Seen, name: bytes
) -> None:
    shown = os.fsdecode(name)
    project = ODD_NAMES[name]
    assert seen.run.states[shown] == "running"
    assert seen.board.states(project) == {f"{project}-worker-1": "running"}
    assert [line for line in seen.run.lines if f"its compose project is '{project}'" in line]


def test_the_apps_in_order_run(seen: Seen) -> None:
    assert seen.run.states["shop"] == "running"
    assert set(seen.board.states("shop").values()) == {"running"}


def test_nothing_is_lost(seen: Seen) -> None:
    assert seen.run.exit_status == 3
    assert seen.after == seen.before
    assert seen.board.states()["bystander"] == "running"


def test_every_line_of_the_log_is_one_line_of_text(seen: Seen) -> None:
    assert all(line.isprintable() for line in seen.run.lines)
    assert not [line for line in seen.run.lines if line.startswith("line:")]


def test_a_second_run_finds_the_awkward_names_running(seen: Seen) -> None:
    before = seen.board.lives()
    run = seen.board.start(env=limits(settle=0.5, app=30))
    assert run.states == seen.run.states
    assert seen.board.lives() == before


def test_two_folders_of_one_project_do_not_fight(board: Board) -> None:
    fine = WORKER % board.references["factory/worker"].encode()
    for name in ("my app", "myapp"):
        board.preload_raw(name, fine)
    board.device.start_dockerd()
    run = board.start(env=limits(settle=0.5))
    assert run.exit_status == 3
    assert run.causes == {"my app": "app-folder-invalid", "myapp": None}
    assert "its compose project name is 'myapp', as that of app 'myapp'" in run.stderr
    assert board.states() == {"myapp-worker-1": "running"}


def test_a_path_in_default_apps_names_no_app(board: Board) -> None:
    board.preload_sample("shop")
    board.shortlist("../shop ./shop shop/ /var/sota/compose-apps/shop .. . shop")
    board.device.start_dockerd()
    run = board.start(env=limits(settle=0.5))
    assert run.exit_status == 3
    assert run.states == {"shop": "running"}
    assert len(run.record["unknown"]) == 6
