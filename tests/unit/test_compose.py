"""How compose is run, and how its words are read. The process is a stand-in that remembers."""

import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.compose import Compose, diagnose, environment
from compose_apps_early_start.settings import Settings
from pytest_mock import MockerFixture

HOME = Path(pwd.getpwuid(0).pw_dir)
PLUGINS = (
    HOME / ".docker/cli-plugins/docker-compose",
    Path("/usr/local/lib/docker/cli-plugins/docker-compose"),
    Path("/usr/local/libexec/docker/cli-plugins/docker-compose"),
    Path("/usr/lib/docker/cli-plugins/docker-compose"),
    Path("/usr/libexec/docker/cli-plugins/docker-compose"),
)
"""In the docker CLI's order. Source: docker/cli, cli-plugins/manager."""


# What its words mean

NETWORK_ID = "4c" * 32
DAEMON = "Error response from daemon: "


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (DAEMON + "No such image: hub.example.test/factory/web@sha256:aa", Cause.IMAGE_MISSING),
        (
            DAEMON + "pull access denied for web, repository does not exist or may require "
            "'docker login': denied",
            Cause.IMAGE_MISSING,
        ),
        (
            DAEMON + 'Get "https://hub.example.test/v2/": dial tcp: lookup hub.example.test: '
            "no such host",
            Cause.REGISTRY_NEEDED,
        ),
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
            "Is the docker daemon running?",
            Cause.ENGINE_LOST,
        ),
        (
            'error during connect: Get "http://%2Frun%2Fdocker.sock/v1.45/containers/json": EOF',
            Cause.ENGINE_LOST,
        ),
        ("dial unix /run/docker.sock: connect: connection refused", Cause.ENGINE_LOST),
        ("no configuration file provided: not found", Cause.COMPOSE_FILE_MISSING),
        (
            "validating /var/sota/compose-apps/shop/docker-compose.yml: services.web additional "
            "properties 'imag' not allowed",
            Cause.COMPOSE_FILE_INVALID,
        ),
        (
            "validating /var/sota/compose-apps/shop/docker-compose.yml: services.web Additional "
            "property imag is not allowed",
            Cause.COMPOSE_FILE_INVALID,
        ),
        (
            "yaml: line 3: mapping values are not allowed in this context",
            Cause.COMPOSE_FILE_INVALID,
        ),
        (
            'service "web" refers to undefined network back: invalid compose project',
            Cause.COMPOSE_FILE_INVALID,
        ),
        (
            'service "web" depends on undefined service "db": invalid compose project',
            Cause.COMPOSE_FILE_INVALID,
        ),
        (
            "error while interpolating services.web.image: required variable TAG is missing a "
            "value: set it",
            Cause.VARIABLE_MISSING,
        ),
        (
            "env file /var/sota/compose-apps/shop/web.env not found: stat "
            "/var/sota/compose-apps/shop/web.env: no such file or directory",
            Cause.ENV_FILE_MISSING,
        ),
        (
            "network backbone declared as external, but could not be found",
            Cause.NETWORK_MISSING,
        ),
        (DAEMON + "network backbone not found", Cause.NETWORK_MISSING),
        ('external volume "data" not found', Cause.VOLUME_MISSING),
        (
            "failed to create network shop_default: " + DAEMON + "could not find an available, "
            "non-overlapping IPv4 address pool among the defaults to assign to the network",
            Cause.SUBNET_TAKEN,
        ),
        (
            "failed to create network shop_default: "
            + DAEMON
            + "all predefined address pools have been fully subnetted",
            Cause.SUBNET_TAKEN,
        ),
        (
            "failed to create network shop_default: "
            + DAEMON
            + "Pool overlaps with other one on this address space",
            Cause.SUBNET_TAKEN,
        ),
        (
            DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
            "(ab12): Bind for 0.0.0.0:8080 failed: port is already allocated",
            Cause.PORT_TAKEN,
        ),
        (
            DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
            "(ab12): Error starting userland proxy: listen tcp4 0.0.0.0:80: bind: "
            "address already in use",
            Cause.PORT_TAKEN,
        ),
        (
            DAEMON + 'Conflict. The container name "/web" is already in use by container "ab12". '
            "You have to remove (or rename) that container to be able to reuse that name.",
            Cause.NAME_TAKEN,
        ),
        (
            DAEMON + "failed to create task for container: failed to create shim task: OCI "
            'runtime create failed: runc create failed: exec: "nosuch": executable file not '
            "found in $PATH: unknown",
            Cause.START_FAILED,
        ),
        (
            DAEMON + 'invalid mount config for type "bind": bind source path does not exist: /data',
            Cause.START_FAILED,
        ),
        (
            DAEMON + 'error gathering device information while adding custom device "/dev/x": '
            "no such file or directory",
            Cause.START_FAILED,
        ),
        (
            "dependency failed to start: container shop-db-1 is unhealthy",
            Cause.DEPENDENCY_FAILED,
        ),
        ('service "setup" didn\'t complete successfully: exit 3', Cause.DEPENDENCY_FAILED),
        (DAEMON + f"network {NETWORK_ID} not found", Cause.NETWORK_STALE),
        (
            DAEMON + f"failed to set up container networking: network {NETWORK_ID} not found",
            Cause.NETWORK_STALE,
        ),
        (
            DAEMON + "mkdir /var/lib/docker/overlay2/ab12: no space left on device",
            Cause.NO_SPACE,
        ),
        (
            DAEMON + "failed to create task for container: OCI runtime create failed: write "
            "/proc/1/x: no space left on device",
            Cause.NO_SPACE,
        ),
        ("the gods are against it", Cause.COMPOSE_FAILED),
    ],
)
def test_each_known_message_is_a_cause_whatever_stands_around_it(line: str, cause: Cause) -> None:
    assert diagnose(line) == Failure(cause, line)
    noise = (
        'time="2026-11-23T08:00:00Z" level=warning msg="The \\"TAG\\" variable is not set. '
        'Defaulting to a blank string."\n'
        'time="2026-11-23T08:00:00Z" level=warning msg="/shop/docker-compose.yml: the attribute '
        '`version` is obsolete, it will be ignored"\n'
        'time="2026-11-23T08:00:00Z" level=warning msg="Found orphan containers ([shop-old-1]) '
        'for this project."\n'
        " Network shop_default  Creating\n"
        " Network shop_default  Created\n"
        " Container shop-web-1  Creating\n"
        " Container shop-web-1  Created\n"
        " Container shop-web-1  Starting\n"
    )
    assert diagnose(f"\n{noise}{line}\n") == Failure(cause, line)
    assert diagnose(f"{noise}\r\n   {line}  \r\n\n") == Failure(cause, line)


def test_the_telling_line_wins_over_what_compose_says_after_it() -> None:
    telling = DAEMON + "Bind for 0.0.0.0:80 failed: port is already allocated"
    assert diagnose(f"{telling}\n Container shop-db-1  Stopping\n") == Failure(
        Cause.PORT_TAKEN, telling
    )


def test_of_two_causes_the_deeper_one_is_told() -> None:
    deeper = "write /var/lib/docker/tmp/x: no space left on device"
    assert diagnose(f"{deeper}\ndependency failed to start: container db exited (1)") == Failure(
        Cause.NO_SPACE, deeper
    )


@pytest.mark.parametrize("output", ["", "\n \n"])
def test_silence_is_a_cause_too(output: str) -> None:
    assert diagnose(output) == Failure(Cause.COMPOSE_FAILED, "compose ended without a word")


# The environment


def test_the_environment_is_aktualizr_lites_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("COMPOSE_FILE", "COMPOSE_PROFILES", "DOCKER_HOST", "DOCKER_CONTEXT", "TAG"):
        monkeypatch.setenv(name, "from outside")
    monkeypatch.setenv("HOME", "/home/dev")
    root = pwd.getpwuid(0)
    assert environment() == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": root.pw_dir,
        "LOGNAME": "root",
        "SHELL": root.pw_shell,
        "USER": "root",
        "TMPDIR": "/run/aktualizr",
        "COMPOSE_HTTP_TIMEOUT": "60",
        "REGISTRY_AUTH_FILE": "/usr/lib/docker/config.json",
    }


# Which compose


def below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def executable(root: Path, path: Path) -> str:
    file = below(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize("first", range(len(PLUGINS)), ids=[str(each) for each in PLUGINS])
def test_the_plugin_itself_is_found_in_the_order_of_the_docker_cli(
    settings: Settings, first: int
) -> None:
    executable(settings.root, Path("/usr/bin/docker"))
    found = [executable(settings.root, each) for each in PLUGINS[first:]]
    assert Compose(settings).command == (found[0],)


def test_a_plugin_that_is_not_executable_is_passed_over(settings: Settings) -> None:
    Path(executable(settings.root, PLUGINS[0])).chmod(0o644)
    second = executable(settings.root, PLUGINS[3])
    assert Compose(settings).command == (second,)


@pytest.mark.parametrize("folder", ["/usr/local/bin", "/usr/bin", "/bin"])
def test_without_the_plugin_the_docker_command_does(settings: Settings, folder: str) -> None:
    docker = executable(settings.root, Path(folder, "docker"))
    assert Compose(settings).command == (docker, "compose")


def test_without_any_compose_each_call_says_so(settings: Settings, tmp_path: Path) -> None:
    compose = Compose(settings)
    assert compose.command is None
    failure = Failure(Cause.COMPOSE_NOT_FOUND, "neither the compose plugin nor docker was found")
    assert compose.up(tmp_path, 0) == failure
    assert compose.down(tmp_path, 0) == failure
    assert compose.config(tmp_path) == failure


# How it is run


@dataclass(eq=False)
class Process:
    """Stands for a compose: how it ends, and what it was told."""

    pid: int = 4711
    exit_status: int = 0
    output: bytes = b""
    errors: bytes = b""
    ends_at: str = "once"
    """`once`, `SIGTERM`, or `SIGKILL` if it ends only then."""

    returncode: int | None = None
    told: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        if self.ends_at == "once":
            self.ended.set()
        if not self.ended.wait(10 if timeout is None else timeout):
            assert timeout is not None, "compose would be waited for without end"
            raise subprocess.TimeoutExpired("compose", timeout)
        self.returncode = self.exit_status
        return self.output, self.errors

    def wait(self, timeout: float | None = None) -> int:
        if not self.ended.wait(timeout):
            assert timeout is not None, "compose would be waited for without end"
            raise subprocess.TimeoutExpired("compose", timeout)
        return self.exit_status

    def signal_group(self, number: int) -> None:
        name = signal.Signals(number).name
        self.told.append(name)
        if name == self.ends_at:
            self.exit_status = -number
            self.ended.set()


@dataclass
class Launched:
    """Stands for the system: which processes were started, and how."""

    process: Process
    argv: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def popen(self, argv: list[str], **options: Any) -> Process:
        self.argv, self.options = argv, options
        return self.process

    def killpg(self, group: int, number: int) -> None:
        assert group == self.process.pid
        self.process.signal_group(number)


Launch = Callable[[Process], Launched]


@pytest.fixture
def launch(mocker: MockerFixture) -> Launch:
    """Have the next process be the one given."""

    def make(process: Process) -> Launched:
        launched = Launched(process)
        mocker.patch("subprocess.Popen", launched.popen)
        mocker.patch("os.killpg", launched.killpg)
        return launched

    return make


@pytest.fixture
def compose(settings: Settings) -> Compose:
    executable(settings.root, PLUGINS[3])
    return Compose(settings)


SOON = 0.05
"""Seconds that a test gives a compose that is not to end in time."""

UP = ["up", "-d", "--remove-orphans", "--pull", "never", "--no-build"]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        pytest.param(lambda c, folder, end: c.up(folder, end), UP, id="up"),
        pytest.param(
            lambda c, folder, end: c.up(folder, end, recreate=True),
            [*UP, "--force-recreate"],
            id="up, all created anew",
        ),
        # No -v: volumes stay.
        pytest.param(lambda c, folder, end: c.down(folder, end), ["down"], id="down"),
    ],
)
def test_the_words_of_a_call(
    compose: Compose, launch: Launch, tmp_path: Path, call: Any, arguments: list[str]
) -> None:
    launched = launch(Process())
    assert call(compose, tmp_path, time.monotonic() + 60) is None
    assert compose.command is not None
    assert launched.argv == [*compose.command, *arguments]


def test_it_runs_in_the_apps_folder_alone_in_its_group_without_a_terminal(
    compose: Compose, launch: Launch, tmp_path: Path, settings: Settings
) -> None:
    launched = launch(Process())
    compose.up(tmp_path, time.monotonic() + 60)
    assert launched.options == {
        "cwd": tmp_path,
        "env": {**environment(), "DOCKER_HOST": f"unix://{settings.docker_socket}"},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "start_new_session": True,
    }


def test_on_the_device_itself_docker_host_is_not_set(
    launch: Launch, mocker: MockerFixture, tmp_path: Path
) -> None:
    mocker.patch.object(os, "access", side_effect=lambda path, _: path == PLUGINS[3])
    launched = launch(Process())
    Compose(Settings()).up(tmp_path, time.monotonic() + 60)
    assert launched.argv == [str(PLUGINS[3]), *UP]
    assert launched.options["env"] == environment()


def test_the_kernel_is_asked_to_read_the_whole_program_ahead(
    compose: Compose, mocker: MockerFixture
) -> None:
    asked = []

    def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        asked.append((str(file), offset, size, advice))

    mocker.patch("os.posix_fadvise", advise)
    compose.read_ahead()
    assert compose.command is not None
    assert asked == [(compose.command[0], 0, 0, os.POSIX_FADV_WILLNEED)]


def test_a_program_that_cannot_be_read_ahead_is_left_to_the_first_call(
    compose: Compose, settings: Settings
) -> None:
    assert compose.command is not None
    Path(compose.command[0]).unlink()
    compose.read_ahead()
    Compose(settings).read_ahead()  # which finds none


@pytest.mark.parametrize("where", ["output", "errors"])
def test_a_failed_call_is_read_for_its_cause(
    compose: Compose, launch: Launch, tmp_path: Path, where: str
) -> None:
    line = "dependency failed to start: container shop-d\xe9-1 is unhealthy"
    words = f" Container x  Error\n{line}\n".encode("latin-1")
    output, errors = (words, b"") if where == "output" else (b"", words)
    launch(Process(exit_status=1, output=output, errors=errors))
    failure = compose.up(tmp_path, time.monotonic() + 60)
    assert failure == Failure(Cause.DEPENDENCY_FAILED, line.replace("\xe9", "\ufffd"))


def test_a_call_whose_time_is_up_is_asked_to_end_and_what_it_started_stays(
    compose: Compose, launch: Launch, tmp_path: Path
) -> None:
    launched = launch(Process(ends_at="SIGTERM"))
    failure = compose.up(tmp_path, time.monotonic() + SOON)
    assert failure == Failure(Cause.TIMEOUT, "'docker compose up' did not end in time")
    assert launched.process.told == ["SIGTERM"]


def test_a_call_that_does_not_end_when_asked_is_killed(
    compose: Compose, launch: Launch, tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("compose_apps_early_start.compose.STOP_SECONDS", SOON)
    launched = launch(Process(ends_at="SIGKILL"))
    failure = compose.down(tmp_path, time.monotonic() + SOON)
    assert failure == Failure(Cause.TIMEOUT, "'docker compose down' did not end in time")
    assert launched.process.told == ["SIGTERM", "SIGKILL"]


def test_a_process_that_is_gone_when_it_is_asked_to_end_is_no_error(
    compose: Compose, launch: Launch, tmp_path: Path, mocker: MockerFixture
) -> None:
    launched = launch(Process(ends_at="SIGTERM"))

    def gone(group: int, number: int) -> None:
        launched.killpg(group, number)
        raise ProcessLookupError

    mocker.patch("os.killpg", gone)
    failure = compose.up(tmp_path, time.monotonic() + SOON)
    assert failure
    assert failure.cause is Cause.TIMEOUT


@pytest.mark.parametrize("ends_at", ["SIGTERM", "SIGKILL"])
def test_cancel_ends_what_runs_and_lets_nothing_start(
    compose: Compose, launch: Launch, tmp_path: Path, mocker: MockerFixture, ends_at: str
) -> None:
    mocker.patch("compose_apps_early_start.compose.STOP_SECONDS", 0.05)
    launched = launch(Process(ends_at=ends_at))
    told: list[Failure | None] = []
    thread = threading.Thread(
        target=lambda: told.append(compose.up(tmp_path, time.monotonic() + 60))
    )
    thread.start()
    while not launched.argv:
        time.sleep(0.001)
    compose.cancel()
    thread.join(10)
    interrupted = Failure(Cause.INTERRUPTED, "the run was ended while the app was coming up")
    assert told == [interrupted]
    assert ends_at in launched.process.told

    launched = launch(Process())
    assert compose.up(tmp_path, time.monotonic() + 60) == interrupted
    assert launched.argv == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(OSError(8, "Exec format error"), "Exec format error", id="an empty plugin"),
        pytest.param(FileNotFoundError(2, "No such file or directory"), "No such", id="gone since"),
    ],
)
def test_a_compose_that_cannot_be_executed_is_a_failure_of_the_app(
    compose: Compose, mocker: MockerFixture, tmp_path: Path, error: OSError, words: str
) -> None:
    mocker.patch("subprocess.Popen", side_effect=error)
    assert compose.command is not None
    for failure in (compose.up(tmp_path, time.monotonic() + 60), compose.config(tmp_path)):
        assert isinstance(failure, Failure)
        assert failure.cause is Cause.COMPOSE_NOT_FOUND
        assert failure.message.startswith(f"{compose.command[0]} cannot be run: {words}")


# What compose makes of the files


def test_config_returns_what_compose_makes_of_the_files(
    compose: Compose, launch: Launch, tmp_path: Path
) -> None:
    launched = launch(Process(output=b'{"name": "x", "services": {"web": {}}}', errors=b"warning"))
    assert compose.config(tmp_path) == {"name": "x", "services": {"web": {}}}
    assert compose.command is not None
    assert launched.argv == [*compose.command, "config", "--format", "json"]
    assert launched.options["cwd"] == tmp_path


@pytest.mark.parametrize(
    ("process", "failure"),
    [
        pytest.param(
            Process(exit_status=15, errors=b"yaml: line 2: oh"),
            Failure(Cause.COMPOSE_FILE_INVALID, "yaml: line 2: oh"),
            id="refused",
        ),
        pytest.param(
            Process(output=b'{"name": "x", "services": {}}'),
            Failure(Cause.COMPOSE_FILE_INVALID, "no service is active"),
            id="no service left by the profiles",
        ),
        pytest.param(
            Process(ends_at="SIGTERM"),
            Failure(Cause.COMPOSE_FILE_INVALID, "'docker compose config' took too long"),
            id="hangs",
        ),
    ],
)
def test_config_that_comes_to_nothing(
    compose: Compose,
    launch: Launch,
    tmp_path: Path,
    mocker: MockerFixture,
    process: Process,
    failure: Failure,
) -> None:
    mocker.patch("compose_apps_early_start.compose.CONFIG_SECONDS", SOON)
    launch(process)
    assert compose.config(tmp_path) == failure
