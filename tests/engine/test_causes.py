"""Every way in which an app can fail is reported with its cause and next step, for that app alone.

One run meets them all, beside apps that are in order; the tests look at it from all sides.
"""

from dataclasses import dataclass

import pytest
from engine.apps import ABSENT, Content, after, app, health, shell, worker
from engine.board import Board, Run, limits

NEVER_HEALTHY = health("false", retries=1000)


def with_data(content: Content, **volumes: Content) -> Content:
    """The app with a named volume in which it has data, mounted into its first service."""
    name, first = next(iter(content["services"].items()))
    first = {**first, "volumes": ["data:/data", *first.get("volumes", ())]}
    services = {**content["services"], name: first}
    return {**content, "services": services, "volumes": {"data": {}, **volumes}}


# App to its compose file, the label of the cause, and what the message must name.
FAILING: dict[str, tuple[Content, str, str]] = {
    "no-image": (
        app(first=worker(), second=worker(image=ABSENT)),
        "image-missing",
        f"image {ABSENT} is not on this device",
    ),
    "unknown-property": (
        app(worker=worker(comand=["true"])),
        "compose-file-invalid",
        "comand",
    ),
    "unset-variable": (
        app(worker=worker(environment={"KEY": "${LICENSE_KEY:?}"})),
        "variable-missing",
        "LICENSE_KEY",
    ),
    "no-env-file": (
        app(worker=worker(env_file=["license.env"])),
        "env-file-missing",
        "license.env",
    ),
    "no-network": (
        app(
            {"networks": {"default": {"name": "plant", "external": True}}},
            worker=worker(),
        ),
        "external-network-missing",
        "network plant ",
    ),
    "no-volume": (
        app(worker=worker(volumes=["archive:/archive"])),
        "external-volume-missing",
        'external volume "archive" not found',
    ),
    "name-taken": (
        app(worker=worker(container_name="squatter")),
        "container-name-taken",
        '"/squatter" is already in use',
    ),
    "project-taken": (
        app(worker=worker()),
        "project-taken",
        "container 'lodger' of /srv/elsewhere belongs to the compose project 'project-taken' too",
    ),
    "no-such-command": (
        app(worker=worker(command=["no-such-program"])),
        "container-start-failed",
        "no-such-program",
    ),
    "exits-1": (
        app(worker=worker(), job=shell("echo no license; exit 1")),
        "exited",
        "container 'exits-1-job-1' ended with exit status 1: no license",
    ),
    "crash-loop": (
        app(worker=worker(), job=shell("echo no license; exit 7", restart="always")),
        "crash-loop",
        "last exit status 7: no license",
    ),
    "one-shot-fails": (
        app(
            setup=shell("exit 5"),
            worker=worker(**after("setup", "service_completed_successfully")),
        ),
        "dependency-failed",
        "exit 5",
    ),
    "dependency-unhealthy": (
        app(db=worker(**health("false")), worker=worker(**after("db", "service_healthy"))),
        "dependency-failed",
        "dependency-unhealthy-db-1 is unhealthy",
    ),
    "unhealthy": (
        app(worker=worker(**health("false"))),
        "unhealthy",
        "container 'unhealthy-worker-1' is unhealthy",
    ),
    "hang": (
        app(db=worker(**NEVER_HEALTHY), worker=worker(**after("db", "service_healthy"))),
        "timeout",
        "db is starting, worker is created",
    ),
    "no-runtime": (
        app(worker=worker(runtime="no-such-runtime")),
        "runtime-missing",
        "no-such-runtime",
    ),
    "no-gpu": (
        app(worker=worker(deploy={"resources": {"reservations": {"devices": [
            {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}})),
        "runtime-missing",
        'could not select device driver "nvidia"',
    ),
    "no-device": (
        app(worker=worker(devices=["/dev/ttyUSB9:/dev/ttyUSB9"])),
        "device-missing",
        "/dev/ttyUSB9",
    ),
    "no-collector": (
        app(worker=worker(logging={"driver": "gelf", "options": {
            "gelf-address": "tcp://127.0.0.1:12201", "gelf-tcp-max-reconnect": "1"}})),
        "log-driver-failed",
        "127.0.0.1:12201",
    ),
    "no-address": (
        app(worker=worker(ports=["192.0.2.9:18090:80"])),
        "address-missing",
        "192.0.2.9",
    ),
    "bad-port": (
        app(worker=worker(ports=["5005:${PORT}"])),
        "compose-file-invalid",
        "5005:",
    ),
    "cycle": (
        app(one=worker(depends_on=["two"]), two=worker(depends_on=["one"])),
        "compose-file-invalid",
        "dependency cycle detected",
    ),
    "bad-env-file": (
        app(worker=worker(env_file=["bad.env"])),
        "compose-file-invalid",
        "line 1: key cannot contain a space",
    ),
    "no-include": (
        app({"include": ["parts/missing.yml"]}, worker=worker()),
        "compose-file-invalid",
        "parts/missing.yml",
    ),
    "unforeseen": (
        app(worker=worker(cpus=64)),
        "compose-failed",
        "ange of CPUs is from",
    ),
}  # fmt: skip
VOLUMES: dict[str, dict[str, Content]] = {
    "no-volume": {"archive": {"external": True}},
}
FILES = {"bad-env-file": {"bad.env": "not a line of an env file\n"}}
FINE = {
    "shop": None,
    "telemetry": None,
    "one-shot": app(job=shell("true")),
    "health-unknown": app(worker=worker(**NEVER_HEALTHY)),
    "slow-health": app(
        worker=shell(
            "trap 'exit 0' TERM; sleep 3; touch /tmp/ok; sleep 3600 & wait $!",
            **health("test -e /tmp/ok", retries=1000),
        )
    ),
}
PAIRS = {
    "port-taken": (
        ("port-a", "port-b"),
        app(worker=worker(ports=["18080:80"])),
        "port is already allocated",
    ),
    "subnet-taken": (
        ("subnet-a", "subnet-b"),
        app(
            {"networks": {"default": {"ipam": {"config": [{"subnet": "10.90.0.0/24"}]}}}},
            worker=worker(),
        ),
        "overlap",
    ),
}


@dataclass(frozen=True)
class Seen:
    """The run that meets every failure, and what the device had before and after it."""

    board: Board
    run: Run
    calls: list[str]
    squatter: str
    lodger: str
    before: dict[str, object]
    after: dict[str, object]
    foreign: dict[str, str]


@pytest.fixture(scope="module")
def seen(shared_board: Board) -> Seen:
    board = shared_board
    for name, (content, _cause, _names) in FAILING.items():
        board.preload(name, with_data(content, **VOLUMES.get(name, {})), FILES.get(name))
    twice = b"services:\n  worker:\n    image: a\n    image: b\n"
    board.preload_raw("duplicate-key", b"include: []\n" + twice)
    board.preload_raw("broken-yaml", b"services:\n  worker:\n    image: [unclosed\n")
    board.preload_raw("no-services", b"version: '3'\n")
    for names, content, _words in PAIRS.values():
        for name in names:
            board.preload(name, content)
    for name, fine in FINE.items():
        if fine:
            board.preload(name, fine)
    board.preload_sample("shop", "telemetry")
    board.device.start_dockerd()
    board.fill_volumes(f"{name}_data" for name in FAILING)
    squatter = board.foreign_container("squatter")
    lodger = board.foreign_container(
        "lodger",
        {
            "com.docker.compose.project": "project-taken",
            "com.docker.compose.project.working_dir": "/srv/elsewhere",
            "com.docker.compose.service": "worker",
        },
    )
    before, foreign = board.possessions(), board.lives()
    board.record_compose_calls()
    run = board.start(env=limits(app=25, settle=1))
    return Seen(
        board, run, board.compose_calls(), squatter, lodger, before, board.possessions(), foreign
    )


@pytest.mark.parametrize("name", FAILING)
def test_the_cause_is_named_with_the_thing_and_a_hint(seen: Seen, name: str) -> None:
    _content, cause, names = FAILING[name]
    found = seen.run.app(name)
    assert found["state"] == "failed"
    assert found["cause"] == cause, found["message"]
    assert names in found["message"]
    assert "\n" not in found["message"]
    assert found["hint"]
    (line,) = (each for each in seen.run.lines if each.startswith(f"{name}: ") and "Next" in each)
    assert found["message"] in line
    assert f"Next: {found['hint']}" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken-yaml", "docker-compose.yml is not YAML: line "),
        ("no-services", "docker-compose.yml: it names no services"),
    ],
)
def test_a_broken_compose_file_is_told_without_asking_compose(
    seen: Seen, name: str, words: str
) -> None:
    found = seen.run.app(name)
    assert (found["state"], found["cause"]) == ("failed", "compose-file-invalid")
    assert found["message"].startswith(words)
    assert not [call for call in seen.calls if call.startswith(f"{name} ")]


@pytest.mark.parametrize("cause", PAIRS)
def test_of_two_apps_that_want_the_same_one_runs(seen: Seen, cause: str) -> None:
    names, _content, words = PAIRS[cause]
    assert sorted(seen.run.states[name] for name in names) == ["failed", "running"]
    (loser,) = (name for name in names if seen.run.states[name] == "failed")
    (winner,) = (name for name in names if seen.run.states[name] == "running")
    assert seen.run.causes[loser] == cause
    assert words in seen.run.app(loser)["message"]
    assert seen.run.app(loser)["hint"]
    assert seen.board.states(winner) == {f"{winner}-worker-1": "running"}


@pytest.mark.parametrize("name", FINE)
def test_apps_in_order_run_beside_those_that_fail(seen: Seen, name: str) -> None:
    assert seen.run.states[name] == "running"
    assert seen.run.app(name)["attempts"] == 1
    assert set(seen.board.states(name).values()) <= {"running", "exited"}


def test_the_run_is_degraded_and_says_so(seen: Seen) -> None:
    run = seen.run
    assert run.exit_status == 3
    assert run.record["state"] == "degraded"
    wanted = len(FAILING) + 3 + len(FINE) + 2 * len(PAIRS)
    assert len(run.states) == wanted
    assert f"{len(FINE) + len(PAIRS)} of {wanted} apps run" in run.lines[-1]
    for name, cause in run.causes.items():
        assert (f"{name} ({cause})" in run.lines[-1]) == (cause is not None)


def test_each_app_has_exactly_one_last_word(seen: Seen) -> None:
    for name, state in seen.run.states.items():
        own = [line for line in seen.run.lines if line.startswith(f"{name}: ")]
        ends = [line for line in own if ": runs" in line or ". Next: " in line]
        assert len(ends) == 1, own
        assert own[-1] == ends[0]
        assert (": runs" in ends[0]) == (state == "running")


def test_an_error_of_several_lines_is_told_with_the_line_that_matters(seen: Seen) -> None:
    found = seen.run.app("duplicate-key")
    assert found["cause"] == "compose-file-invalid"
    assert 'mapping key "image" already defined' in found["message"]


def test_an_app_with_a_missing_image_is_not_brought_up_in_part(seen: Seen) -> None:
    assert not [call for call in seen.calls if call.startswith("no-image ")]
    assert seen.board.containers("no-image") == []
    assert seen.board.networks("no-image") == []


def test_foreign_containers_are_left_alone(seen: Seen) -> None:
    now = seen.board.lives()
    assert {key: now.get(key) for key in seen.foreign} == seen.foreign
    for name, identifier in (("squatter", seen.squatter), ("lodger", seen.lodger)):
        found = seen.board.api.inspect_container(name)
        assert found["Id"] == identifier
        assert found["State"]["Running"]
    assert not [call for call in seen.calls if call.startswith("project-taken ")]


def test_volumes_images_and_app_folders_are_left_alone(seen: Seen) -> None:
    assert len([key for key in seen.before if key.startswith("volume ")]) == len(FAILING) + 2
    assert {key: seen.after.get(key) for key in seen.before} == seen.before


def test_compose_is_asked_for_one_thing_only(seen: Seen) -> None:
    allowed = {"up -d --pull never --no-build", "config --format json"}
    assert {call.partition(" ")[2] for call in seen.calls} == allowed


def test_what_may_pass_is_tried_again_and_the_rest_is_not(seen: Seen) -> None:
    ups = [call.partition(" ")[0] for call in seen.calls if " up " in call]
    final = ("unknown-property", "unset-variable", "no-env-file", "bad-port", "cycle")
    assert {name: ups.count(name) for name in final if ups.count(name) > 1} == {}
    # After 1, 2, 4, 8 and 10 seconds.
    assert 4 <= ups.count("unforeseen") <= 6
    # What an app's files say is known before any container is touched.
    assert "no-include" not in ups


def test_a_hang_costs_its_own_time_only(board: Board) -> None:
    content, *_ = FAILING["hang"]
    board.preload("a-hang", content)
    board.preload_sample("shop")
    board.device.start_dockerd()
    run = board.begin(env=limits(app=12, settle=0.5))  # the first app is alone for 5 s
    shop = run.read_until("shop: runs")
    hang = run.read_until("'docker compose up' did not end in time")
    ended = run.end()
    assert shop < hang
    assert ended.exit_status == 3
    assert ended.causes == {"a-hang": "timeout", "shop": None}
    assert 12 <= ended.app("a-hang")["settled_seconds"] < 24
    assert "docker-compose" not in board.shell("ps axo args")
    assert board.states("a-hang")["a-hang-db-1"] == "running"


def test_nothing_can_start_at_all(board: Board) -> None:
    board.preload_raw("broken", b"services: 7\n")
    board.preload("absent", app(worker=worker(image=ABSENT)))
    board.device.start_dockerd()
    run = board.start()
    assert run.exit_status == 1
    assert run.record["state"] == "failed"
    assert run.causes == {"absent": "image-missing", "broken": "compose-file-invalid"}
    assert "0 of 2 apps run" in run.lines[-1]


def test_a_device_without_compose_says_so(board: Board) -> None:
    board.preload_sample("shop")
    board.device.start_dockerd()
    board.shell("rm /usr/libexec/docker/cli-plugins/docker-compose $(command -v docker)")
    run = board.start()
    assert run.exit_status == 1
    assert run.causes == {"shop": "compose-not-found"}
    assert "neither the compose plugin nor docker was found" in run.stderr
