"""Requests to dockerd, and how each failure to answer is reported."""

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import urllib3
from compose_apps_early_start.container import Container, Listed, Storage
from compose_apps_early_start.engine import LOG_SECONDS, REQUEST_SECONDS, Engine, Watch
from compose_apps_early_start.errors import EngineError, RefusedError
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import StoreError
from docker.transport import UnixHTTPAdapter
from pytest_mock import MockerFixture
from unit.builders import HASH, IMAGE

FOLDER = "/var/sota/compose-apps/shop"
URL = "unix:///run/docker.sock"
PROJECT = "com.docker.compose.project"


NETWORK = "4c" * 32
LABELS = {
    PROJECT: "shop",
    f"{PROJECT}.working_dir": FOLDER,
    "com.docker.compose.service": "web",
    "com.docker.compose.oneoff": "False",
}


def inspected(identifier: str = "id-1", **state: Any) -> dict[str, Any]:
    """A container as `GET /containers/ID/json` tells it."""
    return {
        "Id": identifier,
        "Name": "/shop-web-1",
        "RestartCount": 2,
        "Config": {
            "Image": IMAGE,
            "Labels": {**LABELS, "io.compose-spec.config-hash": HASH},
        },
        "State": {
            "Status": "running",
            "ExitCode": 0,
            "Error": "",
            "OOMKilled": False,
            "Pid": os.getpid(),
            "StartedAt": "2026-11-23T08:00:00.25Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            **state,
        },
        "HostConfig": {"RestartPolicy": {"Name": "always"}, "NetworkMode": "shop_default"},
        "NetworkSettings": {"Networks": {"shop_default": {"NetworkID": NETWORK}}},
    }


NO_PID = Path("/no/such/docker.pid")


def engine(client: "Client", pid_file: Path = NO_PID) -> Engine:
    return Engine(client, URL, pid_file)


def response(status: int) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    return made


def not_found() -> docker.errors.NotFound:
    return docker.errors.NotFound("404 Client Error: no such thing", response(404))


def refused() -> docker.errors.APIError:
    return docker.errors.APIError("400: invalid reference format", response(400))


def server_error() -> docker.errors.APIError:
    # As the SDK raises it: the words of dockerd are in the error, not in its cause.
    made = docker.errors.APIError("500", response(500), explanation="layer does not exist")
    made.__cause__ = requests.HTTPError("500 Server Error: Internal Server Error for url: …")
    return made


def labels_of(container: dict[str, Any]) -> dict[str, str]:
    """Those that the list tells, even if the inspection is to tell nonsense."""
    config = container.get("Config")
    labels: dict[str, str] | None = config.get("Labels") if isinstance(config, dict) else None
    return labels or LABELS


class Client:
    """Stands for docker's APIClient, as far as the agent uses it."""

    api_version = "1.41"

    def __init__(self, *containers: dict[str, Any]) -> None:
        self.listed: list[dict[str, Any]] = []
        self.told: dict[str, Any] = {"DockerRootDir": "/var/lib/docker"}
        self.says: list[dict[str, Any]] = []
        self.sent = b""
        self.resolved: set[str] = set()
        self.found = {each["Id"]: each for each in containers}
        self.logged = b""
        self.inspected: list[str] = []
        self.asked: list[str] = []
        self.connected: dict[str, Any] = {}
        self.filters: list[object] = []
        self.error: BaseException | None = None
        self.timeout: float | None = None

    def _ask(self) -> None:
        if self.error:
            raise self.error

    def images(self) -> list[dict[str, Any]]:
        self._ask()
        return self.listed

    def info(self) -> dict[str, Any]:
        self._ask()
        return self.told

    def version(self) -> dict[str, str]:
        self._ask()
        return {"Arch": "arm64"}

    def load_image(self, archive: Iterator[bytes]) -> Iterator[dict[str, Any]]:
        self._ask()
        self.sent = b"".join(archive)
        yield from self.says

    def inspect_image(self, reference: str) -> dict[str, Any]:
        self._ask()
        self.inspected.append(reference)
        if reference not in self.resolved:
            raise refused() if reference.isupper() else not_found()
        digests = [each for each in self.resolved if "@" in each]
        return {"RepoDigests": digests, "RepoTags": sorted(self.resolved - {*digests})}

    def remove_image(self, name: str) -> None:
        self._ask()
        self.resolved.remove(name)

    def containers(self, *, all: bool, filters: object) -> list[dict[str, Any]]:  # noqa: A002
        self._ask()
        assert all
        self.filters.append(filters)
        return [
            {
                "Id": each["Id"],
                "Names": [each.get("Name", "/x")],
                "Labels": labels_of(each),
            }
            for each in self.found.values()
        ]

    def inspect_container(self, identifier: str) -> dict[str, Any]:
        self.asked.append(identifier)
        found = self.found[identifier]
        if "raises" in found:
            raise found["raises"]
        return found

    def networks(self) -> list[dict[str, Any]]:
        self._ask()
        self.asked.append("networks")
        return [{"Id": NETWORK, "Name": "shop_default"}, {"Id": "n2", "Name": "bridge"}]

    def disconnect_container_from_network(
        self, container: str, network: str, *, force: bool
    ) -> None:
        assert force
        self.asked.append(f"disconnect {container} {network}")

    def connect_container_to_network(self, container: str, network: str, **how: Any) -> None:
        self.asked.append(f"connect {container} {network}")
        self.connected = how
        self._ask()

    def logs(self, identifier: str, *, tail: int) -> bytes:
        self._ask()
        assert tail >= 1
        return self.logged


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(mocker: MockerFixture) -> Clock:
    made = Clock()
    mocker.patch("compose_apps_early_start.engine.time", made)
    return made


# What it holds


def only(client: Client) -> Container:
    (found,) = engine(client).containers(FOLDER)
    return found


def test_a_container_is_read_from_what_the_engine_says() -> None:
    found = only(Client(inspected()))
    assert found.up_for is not None
    assert replace(found, up_for=1.0) == Container(
        id="id-1",
        name="shop-web-1",
        project="shop",
        folder=FOLDER,
        service="web",
        one_off=False,
        image=IMAGE,
        published_hash=HASH,
        state="running",
        error="",
        exit_code=0,
        out_of_memory=False,
        health=None,
        restart_policy="always",
        restarts=2,
        up_for=1.0,
        finished_at="0001-01-01T00:00:00Z",
        networks=(("shop_default", NETWORK),),
        network_mode="shop_default",
    )


def test_a_container_with_next_to_nothing() -> None:
    bare = inspected(Health=None, Status="created", StartedAt="0001-01-01T00:00:00Z")
    bare["Config"]["Labels"] = None
    bare["HostConfig"] = {"RestartPolicy": None, "NetworkMode": ""}
    bare["NetworkSettings"] = {"Networks": None}
    del bare["State"]["OOMKilled"], bare["State"]["Error"], bare["RestartCount"]
    found = only(Client(bare))
    assert found.state == "created"
    assert (found.published_hash, found.health, found.up_for) == (None, None, None)
    assert (found.restart_policy, found.restarts, found.error) == ("no", 0, "")
    assert (found.networks, found.network_mode) == ((), "none")
    assert not found.one_off
    assert not found.out_of_memory


def test_what_dockerd_says_of_a_container_that_failed() -> None:
    failed = inspected(
        Status="exited", ExitCode=137, OOMKilled=True, Error="cannot\n  start:\tit", Pid=0
    )
    found = only(Client(failed))
    assert (found.state, found.exit_code, found.out_of_memory) == ("exited", 137, True)
    assert found.error == "cannot start: it"
    assert found.up_for is None


def test_health_and_one_off() -> None:
    checked = inspected(Health={"Status": "starting", "Log": []})
    checked["Config"]["Labels"]["com.docker.compose.oneoff"] = "True"
    found = only(Client(checked))
    assert found.health == "starting"
    assert found.one_off


OTHER = "/var/sota/compose-apps/other"


def foreign(identifier: str, **changes: Any) -> dict[str, Any]:
    """A container of somebody else's folder, which dockerd cannot inspect."""
    labels = {**LABELS, f"{PROJECT}.working_dir": "/home/dev", PROJECT: "dev"}
    return {"Id": identifier, "Config": {"Labels": labels}, "raises": server_error(), **changes}


def test_one_folder_is_asked_for_by_its_label_and_several_by_the_projects() -> None:
    client = Client(inspected())
    assert len(engine(client).containers(FOLDER)) == 1
    assert len(engine(client).containers(FOLDER, OTHER)) == 1
    assert engine(client).containers(OTHER) == ()
    assert client.filters == [
        {"label": f"{PROJECT}.working_dir={FOLDER}"},
        {"label": PROJECT},
        {"label": f"{PROJECT}.working_dir={OTHER}"},
    ]


def test_for_no_folder_nothing_is_asked() -> None:
    client = Client(inspected())
    assert engine(client).containers() == ()
    assert client.filters == []


def test_a_container_that_goes_between_list_and_inspection_is_not_there() -> None:
    gone = {"Id": "gone", "raises": not_found()}
    assert [each.id for each in engine(Client(gone, inspected())).containers(FOLDER)] == ["id-1"]


def test_containers_of_others_are_listed_and_never_inspected() -> None:
    client = Client(*(foreign(f"x{number}") for number in range(300)), inspected())
    state = engine(client).state([], [FOLDER])
    assert [each.id for each in state.containers] == ["id-1"]
    assert client.asked == ["id-1", "networks"]
    assert len(state.listed) == 301
    assert state.listed[0] == Listed("x0", "x", "dev", "/home/dev", "web")


def test_a_container_that_cannot_be_inspected_is_unreadable_and_stops_nobody() -> None:
    broken = {"Id": "id-2", "Name": "/shop-db-1", "raises": server_error()}
    broken["Config"] = {"Labels": {**LABELS, "com.docker.compose.service": "db"}}
    found = engine(Client(broken, inspected())).containers(FOLDER)
    assert {each.id: each.state for each in found} == {"id-1": "running", "id-2": "unreadable"}
    assert found[0] == Container(
        id="id-2",
        name="shop-db-1",
        project="shop",
        folder=FOLDER,
        service="db",  # whose failure it is
        error="layer does not exist",
    )


@pytest.mark.parametrize("key", ["Config", "State", "HostConfig", "NetworkSettings"])
@pytest.mark.parametrize("answer", [None, [], "text", {}])
def test_an_answer_that_no_schema_has_is_one_containers_failure(key: str, answer: object) -> None:
    odd = {**inspected("id-2"), key: answer}
    found = {each.id: each for each in engine(Client(odd, inspected())).containers(FOLDER)}
    assert found["id-1"].state == "running"
    if answer != {} or key in ("Config", "State"):
        assert found["id-2"].state == "unreadable"
        assert "is not understood" in found["id-2"].error


def test_a_dockerd_that_goes_away_during_an_inspection_is_no_unreadable_container() -> None:
    gone = {"Id": "id-1", "raises": requests.ConnectionError("refused")}
    with pytest.raises(EngineError, match="refused"):
        engine(Client(gone)).containers(FOLDER)


def test_state_is_the_images_that_resolve_the_containers_and_the_networks() -> None:
    client = Client(inspected())
    client.listed = [
        {"RepoDigests": [IMAGE], "RepoTags": None},
        {"RepoDigests": None, "RepoTags": ["hub.example.test/db:1", "<none>:<none>"]},
    ]
    client.resolved = {"busybox"}
    wanted = [IMAGE, "hub.example.test/db:1", "busybox", "absent", "NO-REFERENCE"]
    state = engine(client).state(wanted, [FOLDER])
    assert state.images == {IMAGE, "hub.example.test/db:1", "busybox"}
    assert [each.id for each in state.containers] == ["id-1"]
    assert state.networks == {NETWORK, "n2"}
    # Those in the list are not asked for once more.
    assert client.inspected == ["busybox", "absent", "NO-REFERENCE"]


def test_a_name_with_a_digest_among_the_tags_need_not_resolve() -> None:
    client = Client()
    client.listed = [{"RepoDigests": [], "RepoTags": [IMAGE]}]
    assert engine(client).state([IMAGE], []).images == frozenset()
    client.resolved = {IMAGE}
    assert engine(client).state([IMAGE], []).images == {IMAGE}


def test_without_containers_no_networks_are_asked_for() -> None:
    client = Client(foreign("x"))
    assert engine(client).state([], [FOLDER]).networks == frozenset()
    assert client.asked == []


# For how long, and under which dockerd


def test_a_container_runs_as_long_as_its_process_whatever_the_clock_says() -> None:
    own = inspected(StartedAt="2099-01-01T00:00:00Z")
    began = only(Client(own)).up_for
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert began == pytest.approx(boot - ticks / os.sysconf("SC_CLK_TCK"), abs=5)


def test_a_process_that_cannot_be_looked_at_runs_since_it_was_first_seen(clock: Clock) -> None:
    client = Client(inspected(Pid=0))
    watched = engine(client)
    seconds = []
    for passed in (0, 4, 8):
        clock.now += passed
        seconds += [each.up_for for each in watched.containers(FOLDER)]
    assert seconds == [0, 4, 12]
    client.found["id-1"]["State"]["StartedAt"] = "2026-11-23T09:00:00Z"  # it was restarted
    assert [each.up_for for each in watched.containers(FOLDER)] == [0]
    clock.now += 3
    assert [each.up_for for each in watched.containers(FOLDER)] == [3]


def test_a_dockerd_is_told_from_others_by_its_process(tmp_path: Path) -> None:
    file = tmp_path / "docker.pid"
    assert engine(Client(), file).identity() is None
    file.write_text(f"{os.getpid()}\n")
    own = engine(Client(), file).identity()
    assert own is not None
    assert own.startswith(f"{os.getpid()}:")
    assert engine(Client(), file).identity() == own
    file.write_text(str(os.getppid()))
    assert engine(Client(), file).identity() != own


@pytest.mark.parametrize("text", ["", "x", "-1", "4194305", "\xff"])
def test_a_pid_file_that_tells_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "docker.pid"
    file.write_text(text, encoding="latin-1")
    assert engine(Client(), file).identity() is None


# Networks


def reconnected(client: Client, network: str = "shop_default") -> str | None:
    container = Container(id="id-1", name="web", project="shop", folder=FOLDER, service="web")
    return engine(client).reconnect(container, network)


def test_a_container_is_connected_as_it_was_before() -> None:
    stopped = inspected(Status="exited")
    stopped["NetworkSettings"]["Networks"]["shop_default"] = {
        "NetworkID": "gone",
        "IPAMConfig": {"IPv4Address": "172.20.0.5"},
        "Aliases": ["web", "shop-web-1", "id-1"],
        "Links": ["db:database"],
    }
    client = Client(stopped)
    assert reconnected(client) is None
    assert client.asked == [
        "id-1",
        "disconnect id-1 shop_default",
        "connect id-1 shop_default",
    ]
    assert client.connected == {
        "ipv4_address": "172.20.0.5",
        "ipv6_address": None,
        "aliases": ["web", "shop-web-1"],  # its id dockerd adds by itself
        "links": ["db:database"],
    }


def test_a_container_without_its_network_is_connected_by_its_services_name() -> None:
    client = Client(inspected())
    client.found["id-1"]["NetworkSettings"]["Networks"] = {}
    assert reconnected(client) is None
    assert client.asked == ["id-1", "connect id-1 shop_default"]
    assert client.connected["aliases"] == ["web"]
    assert client.connected["links"] is None


def test_what_dockerd_says_against_it_is_told() -> None:
    client = Client(inspected())
    client.error = server_error()
    assert reconnected(client) == "layer does not exist"


def test_a_dockerd_that_is_gone_does_not_refuse_it() -> None:
    client = Client(inspected())
    client.error = requests.ConnectionError("refused")
    with pytest.raises(EngineError, match="dockerd does not answer: refused"):
        reconnected(client)


# Root's docker configuration


@pytest.mark.parametrize("text", ["[]", "{", '{"HttpHeaders": 3}', '{"proxies": []}'])
def test_roots_docker_configuration_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(text)
    (tmp_path / ".dockercfg").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    client = docker.APIClient(base_url=URL, version="1.41")
    assert client._general_configs == {}
    assert not client._auth_configs.auths


@pytest.mark.parametrize(
    ("logged", "words"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"\n \n", None, id="nothing but blanks"),
        pytest.param(b"cannot open db\n", "cannot open db", id="a line"),
        pytest.param(b"first\nlast\n\n", "last", id="the last of several"),
        pytest.param(b"\xff\n", "\ufffd", id="no text"),
        pytest.param(b"x" * 5000, "x" * 200, id="a long line, shortened"),
    ],
)
def test_last_words(mocker: MockerFixture, logged: bytes, words: str | None) -> None:
    client = Client()
    client.logged = logged
    # A client of its own, with less time: a verdict waits for these words.
    made = mocker.patch("docker.APIClient", return_value=client)
    assert engine(client).last_words("id-1") == words
    assert made.call_args.kwargs["timeout"] == LOG_SECONDS


def test_a_log_is_not_read_as_a_stream_that_may_have_no_end() -> None:
    client = Client()
    client.logged = b"one\ntwo\n"
    assert engine(client).log("id-1", 5) == "\ntwo\n"
    client.error = requests.ReadTimeout("timed out")
    assert engine(client).log("id-1", 5).startswith("the log cannot be read: ")


# How it fails


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (server_error(), "layer does not exist"),
        (docker.errors.DockerException("broken"), "broken"),
        (requests.ConnectionError("refused"), "refused"),
        (requests.ReadTimeout("timed out"), "timed out"),
        (urllib3.exceptions.ProtocolError("Connection broken"), "Connection broken"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_however_dockerd_fails_it_is_an_engine_error(error: Exception, words: str) -> None:
    client = Client()
    client.error = error
    broken = engine(client)
    asked: list[Callable[[], object]] = [
        lambda: broken.containers(FOLDER),
        broken.networks,
        broken.storage,
        lambda: broken.state([], []),
        lambda: broken.state(["absent"], []),
        lambda: broken.has_image("absent"),
    ]
    for ask in asked:
        with pytest.raises(EngineError) as raised:
            ask()
        # What it answers are its own words.
        is_answer = isinstance(error, docker.errors.APIError)
        assert isinstance(raised.value, RefusedError) is is_answer
        prefix = "" if is_answer else "dockerd does not answer: "
        assert str(raised.value) == prefix + words
        assert raised.value.hint == "look at 'journalctl -u docker'"


def test_dockerd_says_what_it_does_not_know() -> None:
    client = Client()
    for error, missing in ((not_found(), True), (server_error(), False)):
        client.error = error
        with pytest.raises(RefusedError) as raised:
            engine(client).containers(FOLDER)
        assert raised.value.missing is missing


def test_the_words_are_those_of_the_first_cause() -> None:
    client = Client()
    client.error = docker.errors.DockerException("Error while fetching server API version: (…)")
    client.error.__cause__ = requests.ConnectionError("('Connection aborted.', …)")
    client.error.__cause__.__context__ = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(EngineError, match=r"^dockerd does not answer: No such file or directory$"):
        engine(client).containers(FOLDER)


def test_an_image_is_not_missing_because_the_engine_is_broken(mocker: MockerFixture) -> None:
    client = Client()
    mocker.patch.object(client, "inspect_image", side_effect=server_error())
    with pytest.raises(EngineError, match="layer does not exist"):
        engine(client).state(["busybox"], [])


def test_no_last_words_are_no_error(mocker: MockerFixture) -> None:
    client = Client()
    client.error = server_error()
    mocker.patch("docker.APIClient", return_value=client)
    assert engine(client).last_words("id-1") is None


# Images


@pytest.mark.parametrize(
    ("driver_status", "containerd"),
    [
        pytest.param([["driver-type", "io.containerd.snapshotter.v1"]], True, id="containerd's"),
        pytest.param([["Backing Filesystem", "extfs"]], False, id="overlay2"),
        pytest.param(None, False, id="a driver that says nothing"),
    ],
)
def test_how_the_engine_keeps_images(driver_status: object, containerd: bool) -> None:
    client = Client()
    client.told["DriverStatus"] = driver_status
    assert engine(client).storage() == Storage(
        containerd=containerd, root=Path("/var/lib/docker"), architecture="arm64"
    )


def test_an_image_is_there_if_its_reference_resolves() -> None:
    client = Client()
    client.resolved = {IMAGE}
    assert engine(client).has_image(IMAGE)
    assert not engine(client).has_image("absent")


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client that a load makes for itself."""
    made = Client()

    def make(*, base_url: str, version: str, timeout: float) -> Client:
        assert (base_url, version) == (URL, "1.41")
        made.timeout = timeout
        return made

    monkeypatch.setattr("docker.APIClient", make)
    return made


@pytest.mark.parametrize(
    ("says", "trouble"),
    [
        ([{"stream": "Loaded image: web\n"}], None),
        ([{"progressDetail": {"current": 1}}, {"stream": "Loading layer"}], None),
        ([], None),
        # Each of them after HTTP 200.
        (
            [{"stream": "…"}, {"errorDetail": {"message": "bad"}, "error": "bad tar"}],
            "bad tar",
        ),
        ([{"message": "unexpected EOF"}], "unexpected EOF"),
        (
            [{"stream": "Error unpacking image web: no space\n"}, {"stream": "Loaded image: web"}],
            "Error unpacking image web: no space",
        ),
    ],
)
def test_what_dockerd_says_of_a_load(
    loading: Client, says: list[dict[str, Any]], trouble: str | None
) -> None:
    loading.says = says
    assert engine(loading).load(iter([b"one", b"two"]), 7.0) == trouble
    assert loading.sent == b"onetwo"
    assert loading.timeout == 7.0


def test_what_an_archive_raises_comes_through(loading: Client) -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        raise StoreError("blob is damaged")

    with pytest.raises(StoreError, match="blob is damaged"):
        engine(loading).load(broken(), 7.0)


def test_a_load_that_dockerd_refuses_at_once_is_no_loss_of_dockerd(loading: Client) -> None:
    words = "mkdir /var/lib/docker/tmp/docker-import-1: read-only file system"
    loading.error = docker.errors.APIError("500 Server Error", explanation=words)
    assert engine(loading).load(iter([b"one"]), 7.0) == words


def test_a_dockerd_that_ends_during_a_load_is_an_engine_error(loading: Client) -> None:
    loading.error = ConnectionResetError(104, "Connection reset by peer")
    with pytest.raises(EngineError, match="Connection reset by peer"):
        engine(loading).load(iter([b"one"]), 7.0)


# Waiting for it


def nothing_listens() -> docker.errors.DockerException:
    error = docker.errors.DockerException("Error while fetching server API version")
    error.__cause__ = FileNotFoundError(2, "No such file or directory")
    return error


def test_a_dockerd_that_is_up_is_taken_at_once(
    clock: Clock, mocker: MockerFixture, settings: Settings
) -> None:
    client = Client(inspected())
    make = mocker.patch("docker.APIClient", return_value=client)
    assert len(Engine.connect(settings, 120).containers(FOLDER)) == 1
    assert clock.slept == []
    assert client.timeout == REQUEST_SECONDS
    make.assert_called_once_with(
        base_url=f"unix://{settings.docker_socket}", version="auto", timeout=120
    )


def test_a_socket_that_is_not_there_yet_is_asked_again_at_growing_intervals(
    clock: Clock, mocker: MockerFixture, settings: Settings
) -> None:
    errors = [nothing_listens() for _ in range(6)]
    make = mocker.patch("docker.APIClient", side_effect=[*errors, Client()])
    Engine.connect(settings, 120)
    assert clock.slept == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
    # The time that is left is the time for the request: systemd may hold the socket.
    left = [call.kwargs["timeout"] for call in make.mock_calls]
    assert left == pytest.approx([120, 119.95, 119.85, 119.65, 119.25, 118.75, 118.25])


@pytest.mark.parametrize("error", [nothing_listens(), requests.ReadTimeout("timed out")])
def test_a_dockerd_that_never_comes_is_given_up_when_time_is_up(
    clock: Clock, mocker: MockerFixture, settings: Settings, error: Exception
) -> None:
    mocker.patch("docker.APIClient", side_effect=error)
    with pytest.raises(EngineError) as raised:
        Engine.connect(settings, 30)
    assert 29 <= clock.now - 1000 <= 30
    words = "timed out" if isinstance(error, requests.ReadTimeout) else "No such file or directory"
    assert str(raised.value) == (
        f"dockerd did not answer on {settings.docker_socket} within 30 s: {words}"
    )
    assert "systemctl status docker" in raised.value.hint
    assert "EARLY_START_ENGINE_SECONDS" in raised.value.hint


def test_without_any_time_left_it_is_asked_once(
    clock: Clock, mocker: MockerFixture, settings: Settings
) -> None:
    make = mocker.patch("docker.APIClient", side_effect=nothing_listens())
    with pytest.raises(EngineError):
        Engine.connect(settings, -5)
    assert len(make.mock_calls) == 1
    assert make.mock_calls[0].kwargs["timeout"] > 0  # 0 would be "without end" for some
    assert clock.slept == []


# Changes


class EventClient:
    """Stands for a client whose events a test gives."""

    def __init__(self) -> None:
        self.given: list[str | Exception | None] = []
        self.down = False
        self.times = 0
        self.changed = threading.Condition()

    def give(self, event: str | Exception | None) -> None:
        """Have the stream yield an event of a project, fail, or end (None)."""
        with self.changed:
            self.given.append(event)
            self.changed.notify_all()

    def events(self, *, since: int, filters: Any, decode: bool) -> Iterator[dict[str, Any]]:
        assert abs(since - time.time()) < 60
        assert filters["type"] == "container"
        assert filters["label"] == PROJECT
        assert {"start", "die", "oom", "health_status", "destroy"} <= {*filters["event"]}
        assert not [each for each in filters["event"] if each.startswith("exec")]
        assert decode
        with self.changed:
            self.times += 1
            self.changed.notify_all()
            if self.down:
                raise requests.ConnectionError("refused")
        return self._stream()

    def _stream(self) -> Iterator[dict[str, Any]]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.given)
                event = self.given.pop(0)
            if isinstance(event, Exception):
                raise event
            if event is None:
                return
            yield {} if event == "odd" else {"Actor": {"Attributes": {PROJECT: event}}}

    def await_times(self, times: int) -> None:
        """Wait until events were asked for so often."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.times >= times, LONG)


LONG = 10.0
"""Seconds that no test waits through unless it fails."""


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventClient]:
    monkeypatch.setattr("compose_apps_early_start.engine.MAX_DELAY", 0.01)
    client = EventClient()
    yield client
    client.down = True
    client.give(None)


@pytest.fixture
def watch(events: EventClient) -> Iterator[Watch]:
    made = Watch(events)
    yield made
    made.close()


def test_a_project_that_changes_wakes_who_waits(events: EventClient, watch: Watch) -> None:
    events.give("shop")
    began = time.monotonic()
    assert watch.changes(LONG) == {"shop"}
    assert time.monotonic() - began < LONG / 2
    assert watch.changes(0.01) == frozenset()  # it is told once
    assert watch.losses == 0


def test_changes_between_two_waits_are_not_lost(events: EventClient, watch: Watch) -> None:
    for project in ("shop", "other", "shop"):
        events.give(project)
    seen: set[str] = set()
    while seen != {"shop", "other"}:
        found = watch.changes(LONG)
        assert found, "a change was lost"
        seen |= found


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_without_time_nothing_is_waited_for(watch: Watch, seconds: float) -> None:
    began = time.monotonic()
    assert watch.changes(seconds) == frozenset()
    assert time.monotonic() - began < LONG / 2


def test_a_call_that_ended_wakes_who_waits(watch: Watch) -> None:
    threading.Timer(0.02, watch.wake).start()
    assert watch.changes(LONG) == {""}
    watch.wake("shop")  # before anybody waits
    assert watch.changes(LONG) == {"shop"}


def test_who_waits_is_woken_when_dockerd_goes_away(events: EventClient, watch: Watch) -> None:
    events.give(requests.ConnectionError("gone"))
    assert watch.changes(LONG) == {""}
    assert watch.losses == 1


@pytest.mark.parametrize("end", [None, requests.ConnectionError("gone")])
def test_a_dockerd_that_is_away_for_long_is_lost_once(
    events: EventClient, watch: Watch, end: str | Exception | None
) -> None:
    events.down = True
    events.give(end)
    events.await_times(6)
    assert watch.losses == 1
    events.down = False
    events.await_times(events.times + 1)
    events.give("shop")
    while "shop" not in (found := watch.changes(LONG)):
        assert found, "the events did not come back"
    assert watch.losses == 1
    events.give(None)
    events.await_times(events.times + 1)
    assert watch.losses == 2


def test_closing_lets_who_waits_go(watch: Watch) -> None:
    began = time.monotonic()
    threading.Timer(0.02, watch.close).start()
    assert watch.changes(LONG) == frozenset()
    assert watch.changes(LONG) == frozenset()
    assert time.monotonic() - began < LONG / 2


# Removing an image


TAG = f"{IMAGE.partition('@')[0]}:1"
FOREIGN = "hub.example.test/other:1"


def test_an_image_goes_with_its_names_in_its_repository_and_keeps_others() -> None:
    client = Client()
    client.resolved = {IMAGE, TAG, FOREIGN}
    assert engine(client).discard(IMAGE)
    assert client.resolved == {FOREIGN}


def test_an_image_that_a_container_uses_stays() -> None:
    client = Client(inspected())
    client.resolved = {IMAGE, TAG}
    assert not engine(client).discard(IMAGE)
    assert client.resolved == {IMAGE, TAG}
    assert client.filters == [{"ancestor": IMAGE}]


def test_an_image_that_dockerd_does_not_remove_stays(mocker: MockerFixture) -> None:
    client = Client()
    client.resolved = {IMAGE}
    mocker.patch.object(client, "remove_image", side_effect=refused())
    assert not engine(client).discard(IMAGE)


# docker 7.0.0 beside requests 2.32, as LmP v97 has them


class Request:
    """Stands for a prepared request."""

    url = "http+docker://localhost/version"


def test_requests_finds_the_connection_method_that_it_asks_for() -> None:
    adapter = UnixHTTPAdapter("http+unix:///run/docker.sock")
    pool = adapter.get_connection_with_tls_context(Request(), verify=True, proxies={}, cert=None)
    assert pool is adapter.get_connection(Request.url, {})


def test_an_sdk_without_that_method_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldAdapter:
        def get_connection(self, url: str, proxies: object = None) -> tuple[str, object]:
            return url, proxies

    monkeypatch.setattr("docker.transport.UnixHTTPAdapter", OldAdapter)
    spec = importlib.util.find_spec("compose_apps_early_start.engine")
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    adapter: Any = OldAdapter()
    assert adapter.get_connection_with_tls_context(Request(), True, {"a": "b"}) == (
        Request.url,
        {"a": "b"},
    )
