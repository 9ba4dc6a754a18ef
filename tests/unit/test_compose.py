"""How the agent runs compose, with a script in its place that is a real process."""

import contextlib
import errno
import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start import compose as under_test
from compose_apps_early_start.cause import NOT_TRIED, Cause, Failure
from compose_apps_early_start.compose import MAX_MEMORY, MAX_OUTPUT, Compose, environment
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

LONG = 30.0
"""Seconds that no test waits through unless it fails."""

SOON = 0.5
"""Seconds that a test gives a compose that is not to end in time."""


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


def executable(root: Path, path: Path, script: str = "") -> str:
    file = below(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n" if script else "")
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


Call = Callable[[Compose, Path, float], Failure | None]

UP = "up -d --pull never --no-build"
CALLS: dict[str, tuple[Call, str]] = {
    "up": (Compose.up, UP),
    "make_networks": (Compose.make_networks, f"{UP} --no-recreate"),
    "recreate": (
        lambda compose, folder, deadline: compose.recreate(folder, "web", deadline),
        f"{UP} --no-deps --force-recreate web",
    ),
}


@pytest.fixture(params=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    """Each of the calls that change containers."""
    return CALLS[request.param][0]


def test_without_any_compose_each_call_says_so(
    settings: Settings, tmp_path: Path, call: Call
) -> None:
    compose = Compose(settings)
    assert compose.command is None
    failure = Failure(Cause.COMPOSE_NOT_FOUND, "neither the compose plugin nor docker was found")
    assert call(compose, tmp_path, 0) == failure
    assert compose.config(tmp_path) == failure


# How it is run

Script = Callable[[str], Compose]


@pytest.fixture
def script(settings: Settings, real_processes: None) -> Script:
    """Have compose be this shell script."""

    def make(text: str) -> Compose:
        executable(settings.root, PLUGINS[3], text)
        return Compose(settings)

    return make


def soon() -> float:
    return time.monotonic() + SOON


def later() -> float:
    return time.monotonic() + LONG


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    """No test here may wait for what it was not to wait for."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LONG / 2


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "STOP_SECONDS", SOON)
    monkeypatch.setattr(under_test, "CONFIG_SECONDS", SOON)


@pytest.mark.parametrize("name", list(CALLS))
def test_the_words_of_a_call(script: Script, tmp_path: Path, name: str) -> None:
    call, words = CALLS[name]
    assert call(script('echo "$*" >words'), tmp_path, later()) is None
    assert (tmp_path / "words").read_text() == f"{words}\n"


@pytest.mark.parametrize("name", list(CALLS))
def test_no_call_takes_anything_away(name: str) -> None:
    words = CALLS[name][1].split()
    assert words[0] == "up"
    for word in ("-v", "--volumes", "--remove-orphans", "-y", "-V", "--renew-anon-volumes"):
        assert word not in words
    # Only for a service that is named, and not for what that depends on.
    assert ("--force-recreate" in words) is (words[-1] == "web") is ("--no-deps" in words)


def test_it_runs_in_the_apps_folder_in_a_session_of_its_own_with_nothing_to_read(
    script: Script, settings: Settings, tmp_path: Path
) -> None:
    assert script(
        """\
        pwd >where
        env | sort >environment
        read line && exit 9
        cut -d ' ' -f 1,5,6,7 /proc/$$/stat >session
        """
    ).up(tmp_path, later()) is None  # fmt: skip
    assert (tmp_path / "where").read_text() == f"{tmp_path}\n"
    pid, group, session, terminal = (tmp_path / "session").read_text().split()
    assert pid == group == session
    assert terminal == "0"
    lines = (tmp_path / "environment").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines)
    expected = {**environment(), "DOCKER_HOST": f"unix://{settings.docker_socket}"}
    assert {key: found.get(key) for key in expected} == expected
    assert set(found) - set(expected) <= {"PWD", "OLDPWD", "_", "SHLVL"}  # the shell's own


def test_on_the_device_itself_docker_host_is_not_set(mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(os, "access", side_effect=lambda path, _: path == PLUGINS[3])
    popen = mocker.patch("subprocess.Popen", side_effect=OSError(errno.ENOENT, "gone"))
    Compose(Settings()).up(tmp_path, later())
    assert popen.call_args.args[0] == [str(PLUGINS[3]), *UP.split()]
    assert popen.call_args.kwargs["env"] == environment()


def test_it_may_take_no_more_memory_than_it_needs(script: Script, tmp_path: Path) -> None:
    compose = script("until ulimit -d | grep -qv unlimited; do :; done; ulimit -d >limit")
    assert compose.up(tmp_path, later()) is None
    assert int((tmp_path / "limit").read_text()) << 10 == MAX_MEMORY


def test_the_kernel_is_asked_to_read_the_whole_program_ahead(
    settings: Settings, mocker: MockerFixture
) -> None:
    asked = []

    def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        asked.append((str(file), offset, size, advice))

    mocker.patch("os.posix_fadvise", advise)
    plugin = executable(settings.root, PLUGINS[3])
    Compose(settings).read_ahead()
    assert asked == [(plugin, 0, 0, os.POSIX_FADV_WILLNEED)]


def test_a_program_that_cannot_be_read_ahead_is_left_to_the_first_call(settings: Settings) -> None:
    plugin = executable(settings.root, PLUGINS[3])
    compose = Compose(settings)
    Path(plugin).unlink()
    compose.read_ahead()
    Compose(settings).read_ahead()  # which finds none


# How it ends

PORT = "Bind for 0.0.0.0:80 failed: port is already allocated"


@pytest.mark.parametrize("stream", ["1", "2"], ids=["output", "errors"])
def test_a_failed_call_is_read_for_its_cause(
    script: Script, tmp_path: Path, stream: str, call: Call
) -> None:
    text = f"exec >&{stream}; echo ' Container x  Error'; printf '{PORT} d\\351\\n'; exit 1"
    failure = call(script(text), tmp_path, later())
    assert failure == Failure(Cause.PORT_TAKEN, f"{PORT} d\ufffd")


def test_of_endless_output_only_the_end_is_read(script: Script, tmp_path: Path) -> None:
    text = f"yes | head -c {MAX_OUTPUT + 5000} >&2; echo '{PORT}' >&2; exit 1"
    assert script(text).up(tmp_path, later()) == Failure(Cause.PORT_TAKEN, PORT)


def test_an_end_by_a_signal_is_a_failure(script: Script, tmp_path: Path) -> None:
    failure = script("kill -KILL $$").make_networks(tmp_path, later())
    assert failure == Failure(Cause.COMPOSE_FAILED, "compose ended without a word")


@pytest.mark.usefixtures("impatient")
def test_a_call_whose_time_is_up_is_asked_to_end(script: Script, tmp_path: Path) -> None:
    compose = script("trap 'touch asked; exit 1' TERM; while :; do sleep 0.01; done")
    failure = compose.up(tmp_path, soon())
    assert failure == Failure(Cause.TIMEOUT, "'docker compose up' did not end in time")
    assert (tmp_path / "asked").exists()


def ended(file: Path) -> bool:
    """Whether the process whose number is in `file` ends: a signal takes a moment."""
    stat = Path(f"/proc/{file.read_text().strip()}/stat")
    deadline = later()
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(") ")[2][0] != "Z":
                time.sleep(0.005)
                continue
        return True
    return False


@pytest.mark.usefixtures("impatient")
def test_a_call_that_does_not_end_when_asked_is_killed_with_its_children(
    script: Script, tmp_path: Path
) -> None:
    compose = script(
        """\
        trap '' TERM
        sleep 300 & echo $! >child
        echo $$ >pid
        wait
        while :; do sleep 0.01; done
        """
    )
    failure = compose.up(tmp_path, soon())
    assert failure == Failure(Cause.TIMEOUT, "'docker compose up' did not end in time")
    assert ended(tmp_path / "pid")
    assert ended(tmp_path / "child")


@pytest.mark.parametrize("status", [0, 1])
def test_a_child_in_its_own_session_that_keeps_the_output_open_holds_nothing_up(
    script: Script, tmp_path: Path, status: int
) -> None:
    compose = script(
        f"setsid sleep 300 & echo $! >child; echo '{PORT}'; exit {status}"
    )  # fmt: skip
    began = time.monotonic()
    failure = compose.up(tmp_path, later())
    try:
        assert time.monotonic() - began < LONG / 4
        assert failure == (Failure(Cause.PORT_TAKEN, PORT) if status else None)
    finally:
        os.kill(int((tmp_path / "child").read_text()), 9)


@pytest.mark.usefixtures("impatient")
def test_a_process_that_is_gone_when_it_is_asked_to_end_is_no_error(
    script: Script, tmp_path: Path, mocker: MockerFixture
) -> None:
    kill = os.killpg

    def gone(group: int, number: int) -> None:
        kill(group, 9)
        raise ProcessLookupError(number)

    mocker.patch("os.killpg", gone)
    failure = script("sleep 300").up(tmp_path, soon())
    assert failure
    assert failure.cause is Cause.TIMEOUT


# A run that is told to end


def begun(file: Path) -> None:
    deadline = later()
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trap", ["", "trap '' TERM"], ids=["ends when asked", "ignores SIGTERM"])
def test_cancel_ends_what_runs_and_lets_nothing_start(
    script: Script, tmp_path: Path, trap: str
) -> None:
    compose = script(f"{trap}\necho $$ >pid\nwhile :; do sleep 0.01; done")
    told: list[Failure | None] = []
    thread = threading.Thread(target=lambda: told.append(compose.up(tmp_path, later())))
    thread.start()
    begun(tmp_path / "pid")
    compose.cancel()
    thread.join(LONG)
    interrupted = Failure(Cause.INTERRUPTED, "the run was ended while the app was coming up")
    assert told == [interrupted]
    assert ended(tmp_path / "pid")
    (tmp_path / "pid").unlink()
    assert compose.up(tmp_path, later()) == interrupted
    assert compose.config(tmp_path) == NOT_TRIED
    assert not (tmp_path / "pid").exists()


# A compose that cannot be run


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("function", ["subprocess.Popen", "os.memfd_create"])
def test_a_device_short_of_memory_or_processes_is_not_told_to_install_compose(
    settings: Settings, mocker: MockerFixture, tmp_path: Path, number: int, function: str
) -> None:
    executable(settings.root, PLUGINS[3])
    mocker.patch(function, side_effect=OSError(number, os.strerror(number)))
    words = f"compose cannot be started: {os.strerror(number)}"
    compose = Compose(settings)
    assert compose.up(tmp_path, later()) == Failure(Cause.NO_RESOURCES, words)
    assert compose.config(tmp_path) == Failure(Cause.NO_RESOURCES, words)


def test_a_folder_that_is_gone_is_the_apps_failure(script: Script, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    failure = Failure(Cause.APP_FOLDER_INVALID, f"{gone} is gone")
    compose = script("exit 0")
    assert compose.up(gone, later()) == failure
    assert compose.config(gone) == failure


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda f: f.write_bytes(b""), "Exec format error", id="left empty"),
        pytest.param(lambda f: f.write_bytes(b"\x7fELF" * 9), "Exec format error", id="foreign"),
        pytest.param(lambda f: f.write_text("#!/no/such"), "No such file", id="no interpreter"),
        pytest.param(Path.unlink, "No such file or directory", id="gone since"),
        pytest.param(lambda f: f.chmod(0o644), "Permission denied", id="no right to execute it"),
    ],
)
def test_a_plugin_that_cannot_be_executed_is_named(
    script: Script, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    compose = script("exit 0")
    assert compose.command
    spoil(Path(compose.command[0]))
    for failure in (compose.up(tmp_path, later()), compose.config(tmp_path)):
        assert isinstance(failure, Failure)
        assert failure.cause is Cause.COMPOSE_NOT_FOUND
        assert failure.message.startswith(f"{compose.command[0]} cannot be run: {words}")


def test_without_the_right_to_limit_its_memory_it_runs_all_the_same(
    script: Script, tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("resource.prlimit", side_effect=PermissionError(1, "Operation not permitted"))
    assert script("exit 0").up(tmp_path, later()) is None


# What compose makes of the files


def test_config_returns_what_compose_makes_of_the_files(script: Script, tmp_path: Path) -> None:
    compose = script(
        """\
        echo "$*" >words
        echo warning >&2
        echo '{"name": "x", "services": {"web": {}}}'
        """
    )
    assert compose.config(tmp_path) == {"name": "x", "services": {"web": {}}}
    assert (tmp_path / "words").read_text() == "config --format json\n"


def test_a_wrapper_may_say_something_first(script: Script, tmp_path: Path) -> None:
    compose = script("echo 'compose 5, by courtesy'; echo '{\"services\": {\"web\": null}}'")
    assert compose.config(tmp_path) == {"services": {"web": None}}


BOMB = "fatal error: runtime: out of memory"


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        pytest.param(
            "echo 'yaml: line 2: oh' >&2; exit 15",
            Failure(Cause.COMPOSE_FILE_INVALID, "yaml: line 2: oh"),
            id="refused",
        ),
        pytest.param(
            "echo 'required variable TAG is missing a value: set it' >&2; exit 1",
            Failure(Cause.VARIABLE_MISSING, "required variable TAG is missing a value: set it"),
            id="refused, with a cause of its own",
        ),
        pytest.param(
            "echo 'words of another year' >&2; exit 1",
            Failure(Cause.COMPOSE_FILE_INVALID, "words of another year"),
            id="refused in unknown words: the file's fault all the same",
        ),
        pytest.param(
            f"echo '{BOMB}' >&2; echo; echo 'goroutine 1 [running]:' >&2; exit 2",
            Failure(Cause.COMPOSE_FILE_INVALID, BOMB),
            id="more memory than it may have",
        ),
        pytest.param(
            'echo \'{"name": "x", "services": {}}\'',
            Failure(Cause.COMPOSE_FILE_INVALID, "no service is active"),
            id="no service left by the profiles",
        ),
        pytest.param(
            "sleep 300",
            Failure(Cause.COMPOSE_FILE_INVALID, "'docker compose config' took too long"),
            id="hangs",
        ),
        *(
            pytest.param(
                f"printf '{output}'",
                Failure(Cause.COMPOSE_FAILED, "'docker compose config' printed no JSON"),
                id=f"printed {output or 'nothing'}",
            )
            for output in ("", "[]", "{", "hello {", "null")
        ),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_config_that_comes_to_nothing(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, failure: Failure
) -> None:
    if text != "sleep 300":
        monkeypatch.setattr(under_test, "CONFIG_SECONDS", LONG)
    assert script(text).config(tmp_path) == failure


# Words of `up` that nobody knows


@pytest.mark.parametrize(
    ("config", "failure"),
    [
        pytest.param(
            "echo 'bad port' >&2; exit 1",
            Failure(Cause.COMPOSE_FILE_INVALID, "bad port"),
            id="compose refuses the file: told at once",
        ),
        pytest.param(
            'echo \'{"services": {"web": {}}}\'',
            Failure(Cause.COMPOSE_FAILED, "no idea"),
            id="the file is good: waited for",
        ),
    ],
)
def test_unknown_words_of_up_are_the_files_if_compose_refuses_that(
    script: Script, tmp_path: Path, config: str, failure: Failure
) -> None:
    compose = script(f"test $1 = config && {{ {config}; exit 0; }}; echo 'no idea' >&2; exit 1")
    assert compose.up(tmp_path, later()) == failure


def test_known_words_of_up_need_no_second_opinion(script: Script, tmp_path: Path) -> None:
    compose = script(f"test $1 = config && touch asked; echo '{PORT}' >&2; exit 1")
    assert compose.up(tmp_path, later()) == Failure(Cause.PORT_TAKEN, PORT)
    assert not (tmp_path / "asked").exists()


def test_no_process_and_no_file_is_left(script: Script, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    compose: Any = script("exit 1")
    for _ in range(3):
        compose.up(tmp_path, later())
    assert compose._running == set()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
