"""What is asked of dockerd, and how each way in which it fails to answer is told."""

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import urllib3
from compose_apps_early_start.container import Container, State, Storage
from compose_apps_early_start.engine import REQUEST_SECONDS, Engine, Watch
from compose_apps_early_start.errors import EngineError
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import StoreError
from docker.transport import UnixHTTPAdapter
from pytest_mock import MockerFixture
from unit.given import HASH, IMAGE

FOLDER = "/var/sota/compose-apps/shop"
URL = "unix:///run/docker.sock"
PROJECT = "com.docker.compose.project"


def inspected(identifier: str = "id-1", **state: Any) -> dict[str, Any]:
    """A container as `GET /containers/ID/json` tells it."""
    return {
        "Id": identifier,
        "Name": "/shop-web-1",
        "RestartCount": 2,
        "Config": {
            "Image": IMAGE,
            "Labels": {
                PROJECT: "shop",
                f"{PROJECT}.working_dir": FOLDER,
                "com.docker.compose.service": "web",
                "com.docker.compose.oneoff": "False",
                "io.compose-spec.config-hash": HASH,
            },
        },
        "State": {
            "Status": "running",
            "ExitCode": 0,
            "StartedAt": "2026-11-23T08:00:00.25Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            **state,
        },
        "HostConfig": {"RestartPolicy": {"Name": "always"}},
    }


STARTED = 1795420800.25
"""2026-11-23T08:00:00.25Z"""


def engine(client: "Client") -> Engine:
    return Engine(client, URL)


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
        return {}

    def containers(self, *, all: bool, filters: object) -> list[dict[str, Any]]:  # noqa: A002
        self._ask()
        assert all
        self.filters.append(filters)
        return [{"Id": each} for each in ("gone", *self.found)]

    def inspect_container(self, identifier: str) -> dict[str, Any]:
        if identifier not in self.found:
            raise not_found()
        return self.found[identifier]

    def logs(self, identifier: str, *, tail: int) -> bytes:
        self._ask()
        assert tail == 1
        return self.logged


# What it holds


def test_a_container_is_read_from_what_the_engine_says() -> None:
    assert engine(Client(inspected())).containers() == (
        Container(
            id="id-1",
            name="shop-web-1",
            project="shop",
            folder=FOLDER,
            service="web",
            one_off=False,
            image=IMAGE,
            published_hash=HASH,
            state="running",
            exit_code=0,
            health=None,
            restart_policy="always",
            restarts=2,
            started_at=STARTED,
            finished_at=None,
        ),
    )


def test_a_container_with_next_to_nothing() -> None:
    bare = inspected(Health=None, Status="created", StartedAt="0001-01-01T00:00:00Z")
    bare["Config"]["Labels"] = None
    bare["HostConfig"]["RestartPolicy"]["Name"] = ""
    (found,) = engine(Client(bare)).containers()
    assert (found.project, found.folder, found.service) == ("", "", "")
    assert (found.published_hash, found.health, found.started_at) == (None, None, None)
    assert found.restart_policy == "no"
    assert not found.one_off


def test_health_and_one_off() -> None:
    checked = inspected(Health={"Status": "starting", "Log": []})
    checked["Config"]["Labels"]["com.docker.compose.oneoff"] = "True"
    (found,) = engine(Client(checked)).containers()
    assert found.health == "starting"
    assert found.one_off


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-23T08:00:00Z", STARTED - 0.25),
        ("2026-11-23T08:00:00.25Z", STARTED),
        ("2026-11-23T08:00:00.250000001Z", STARTED + 1e-9),
        ("1970-01-01T00:00:00Z", 0.0),
        ("0001-01-01T00:00:00Z", None),
    ],
)
def test_times_are_seconds_of_the_epoch(text: str, seconds: float | None) -> None:
    (found,) = engine(Client(inspected(FinishedAt=text))).containers()
    assert found.finished_at == seconds


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        pytest.param(None, PROJECT, id="those of every project"),
        pytest.param(FOLDER, f"{PROJECT}.working_dir={FOLDER}", id="those of one folder"),
    ],
)
def test_only_containers_of_compose_projects_are_asked_for(folder: str | None, label: str) -> None:
    client = Client(inspected())
    assert len(engine(client).containers(folder)) == 1  # the one that is gone is not among them
    assert client.filters == [{"label": label}]


MISNAMED = "hub.example.test/web@sha256:" + "b" * 64
"""A name that points to another image, as composectl leaves it in a containerd store."""


def test_state_is_the_images_that_resolve_and_all_containers() -> None:
    client = Client(inspected())
    client.listed = [
        {"RepoDigests": [IMAGE], "RepoTags": None},
        {"RepoDigests": None, "RepoTags": ["hub.example.test/db:1", "<none>:<none>"]},
        {"RepoDigests": None, "RepoTags": [MISNAMED]},
    ]
    client.resolved = {"busybox"}
    wanted = [IMAGE, "hub.example.test/db:1", "busybox", "absent", "NO-REFERENCE", MISNAMED]
    state = engine(client).state(wanted)
    assert state == State(
        images=frozenset({IMAGE, "hub.example.test/db:1", "busybox"}),
        containers=engine(client).containers(),
    )
    # Those in the list are not asked for once more; a digest among the tags is no digest.
    assert client.inspected == ["busybox", "absent", "NO-REFERENCE", MISNAMED]


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
def test_last_words(logged: bytes, words: str | None) -> None:
    client = Client()
    client.logged = logged
    assert engine(client).last_words("id-1") == words


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
        broken.containers,
        broken.storage,
        lambda: broken.state([]),
        lambda: broken.state(["absent"]),
        lambda: broken.has_image("absent"),
    ]
    for ask in asked:
        with pytest.raises(EngineError) as raised:
            ask()
        assert words in str(raised.value)
        assert str(raised.value).startswith("dockerd does not answer: ")
        assert raised.value.hint == "look at 'journalctl -u docker'"


def test_the_words_are_those_of_the_first_cause() -> None:
    client = Client()
    client.error = docker.errors.DockerException("Error while fetching server API version: (…)")
    client.error.__cause__ = requests.ConnectionError("('Connection aborted.', …)")
    client.error.__cause__.__context__ = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(EngineError, match=r"^dockerd does not answer: No such file or directory$"):
        engine(client).containers()


def test_an_image_is_not_missing_because_the_engine_is_broken(mocker: MockerFixture) -> None:
    client = Client()
    mocker.patch.object(client, "inspect_image", side_effect=server_error())
    with pytest.raises(EngineError, match="layer does not exist"):
        engine(client).state(["busybox"])


def test_no_last_words_are_no_error() -> None:
    client = Client()
    client.error = server_error()
    assert engine(client).last_words("id-1") is None


def test_a_defect_of_ours_is_not_taken_for_dockerds() -> None:
    client = Client()
    client.error = ValueError("ours")
    with pytest.raises(ValueError, match="ours"):
        engine(client).containers()


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


def nothing_listens() -> docker.errors.DockerException:
    error = docker.errors.DockerException("Error while fetching server API version")
    error.__cause__ = FileNotFoundError(2, "No such file or directory")
    return error


def test_a_dockerd_that_is_up_is_taken_at_once(
    clock: Clock, mocker: MockerFixture, settings: Settings
) -> None:
    client = Client(inspected())
    make = mocker.patch("docker.APIClient", return_value=client)
    assert len(Engine.connect(settings, 120).containers()) == 1
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
        self.changed = threading.Condition()

    def give(self, event: str | Exception | None) -> None:
        """Have the stream yield an event of a project, fail, or end (None)."""
        with self.changed:
            self.given.append(event)
            self.changed.notify_all()

    def events(self, *, since: int, filters: object, decode: bool) -> Iterator[dict[str, Any]]:
        assert abs(since - time.time()) < 60
        assert filters == {"type": "container", "label": PROJECT}
        assert decode
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.given)
                event = self.given.pop(0)
            if isinstance(event, Exception):
                raise event
            if event is None:
                return
            yield {"Actor": {"Attributes": {PROJECT: event}}}


@pytest.fixture
def events() -> Iterator[EventClient]:
    client = EventClient()
    yield client
    client.give(None)


LONG = 10.0
"""Seconds that no test waits through unless it fails."""


def test_who_waits_for_a_project_is_woken_by_its_events_only(events: EventClient) -> None:
    watch = Watch(events)
    shop, other = watch.count("shop"), watch.count("other")
    events.give("shop")
    began = time.monotonic()
    watch.wait("shop", shop, LONG)
    watch.wait("shop", shop, LONG)  # it has changed since, though nothing comes any more
    assert time.monotonic() - began < LONG
    assert watch.count("shop") > shop
    assert watch.count("other") == other
    watch.wait("other", other, 0.01)
    watch.close()


def test_everybody_is_woken_when_dockerd_goes_away(events: EventClient) -> None:
    watch = Watch(events)
    count = watch.count("shop")
    events.give(requests.ConnectionError("gone"))
    began = time.monotonic()
    watch.wait("shop", count, LONG)
    assert time.monotonic() - began < LONG
    watch.close()


def test_closing_lets_all_waiters_go(events: EventClient) -> None:
    watch = Watch(events)
    began = time.monotonic()
    waiter = threading.Thread(target=watch.wait, args=("shop", watch.count("shop"), LONG))
    waiter.start()
    watch.close()
    waiter.join(LONG)
    assert time.monotonic() - began < LONG


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
