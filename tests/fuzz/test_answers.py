"""Wrong answers of dockerd, from a stand-in for its API on a socket."""

import contextlib
import json
import os
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start.cause import Failure
from compose_apps_early_start.container import Container, State, Storage
from compose_apps_early_start.engine import Engine
from compose_apps_early_start.errors import EngineError
from compose_apps_early_start.preloaded import App, Service
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.verdict import is_up_to_date, judge
from fuzz.fuzzing import Fuzz, Within
from fuzz.mutations import RAW_JSON, altered, damaged
from hypothesis import strategies as st

FOLDER = "/var/sota/compose-apps/shop"
IMAGE = "hub.example.test/factory/web@sha256:" + "a" * 64
ID, NETWORK = "c" * 64, "d" * 64
LABELS = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.project.working_dir": FOLDER,
    "com.docker.compose.service": "web",
    "com.docker.compose.oneoff": "False",
    "io.compose-spec.config-hash": "5" * 64,
}
STATE = {
    "Status": "running",
    "Error": "",
    "ExitCode": 0,
    "OOMKilled": False,
    "Health": {"Status": "healthy"},
    "Pid": os.getpid(),
    "StartedAt": "2026-11-25T08:00:00.1Z",
    "FinishedAt": "0001-01-01T00:00:00Z",
}
CONTAINER = {
    "Id": ID,
    "Name": "/shop-web-1",
    "Config": {"Labels": LABELS, "Image": IMAGE, "Tty": True},
    "State": STATE,
    "HostConfig": {"RestartPolicy": {"Name": "always"}, "NetworkMode": "shop_default"},
    "NetworkSettings": {
        "Networks": {"shop_default": {"NetworkID": NETWORK, "Aliases": ["web"], "IPAMConfig": None}}
    },
    "RestartCount": 0,
}
ANSWERS: dict[str, Any] = {
    "/version": {"ApiVersion": "1.45", "MinAPIVersion": "1.24", "Arch": "amd64"},
    "/info": {
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "DockerRootDir": "/var/lib/docker",
    },
    "/images/json": [{"Id": "sha256:x", "RepoTags": ["web:1"], "RepoDigests": [IMAGE]}],
    "/images/[^/]+.*/json": {"Id": "sha256:x"},
    "/images/load": {"stream": "Loaded image: web\n"},
    "/containers/json": [{"Id": ID, "Names": ["/shop-web-1"], "Labels": LABELS}],
    "/containers/[^/]+/json": CONTAINER,
    "/containers/[^/]+/logs": "its last words\n",
    "/networks": [{"Id": NETWORK, "Name": "shop_default"}],
    "/networks/[^/]+/(dis)?connect": {},
    "/events": {"Type": "container", "Actor": {"Attributes": LABELS}},
}
"""By the path, as far as it is read."""


class Dockerd(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each request as `answers` says: a status and a body, None: not at all."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, tuple[int, bytes] | None] = {}
        super().__init__(str(path), Answering)

    def handle_error(self, *_: object) -> None:
        """The client went away."""

    def set(self, answers: dict[str, tuple[int, bytes] | None]) -> None:
        good = {path: (200, json.dumps(each).encode()) for path, each in ANSWERS.items()}
        self.answers = {**good, **answers}


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    server: Dockerd
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = re.sub(r"^/v[0-9.]+/|\?.*", lambda each: "/" if each[0][0] == "/" else "", self.path)
        self._drop_body()
        # The last one: a list is no container.
        found = [
            each for pattern, each in self.server.answers.items() if re.fullmatch(pattern, path)
        ]
        answer = found[0] if found else (404, b'{"message": "page not found"}')
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if path in ("/events", "/images/load"):
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if body else b"")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def _drop_body(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while int(self.rfile.readline() or b"0", 16):
                self.rfile.readline()
            return
        self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dockerd, Settings]]:
    settings = Settings(root=tmp_path_factory.mktemp("device"))
    settings.docker_socket.parent.mkdir()
    settings.docker_pid.write_text(f"{os.getpid()}\n")
    with Dockerd(settings.docker_socket) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server, settings
        server.shutdown()
        thread.join()


def answers(document: Any) -> st.SearchStrategy[tuple[int, bytes] | None]:
    """Draw what may come instead of a good answer."""
    good = json.dumps(document).encode()
    return st.one_of(
        altered(document).map(lambda each: (200, json.dumps(each).encode())),
        altered(document).map(lambda each: (200, json.dumps(each).encode())),
        damaged(good).map(lambda each: (200, each)),
        st.sampled_from(RAW_JSON).map(lambda each: (200, each)),
        st.tuples(st.sampled_from([400, 404, 409, 500, 503]), st.sampled_from(RAW_JSON)),
        st.tuples(
            st.sampled_from([404, 409, 500]),
            altered({"message": "no such container"}).map(lambda each: json.dumps(each).encode()),
        ),
        st.none(),
    )


WRONG = st.lists(
    st.sampled_from(sorted(ANSWERS)).flatmap(
        lambda path: st.tuples(st.just(path), answers(ANSWERS[path]))
    ),
    min_size=1,
    max_size=2,
)

APP = App("shop", Path(FOLDER), "shop", (Service("web", IMAGE, "5" * 64),))


def use(settings: Settings) -> None:
    """Ask all that a run asks; each question may fail in the one documented way."""
    engine = Engine.connect(settings, 0.2)
    ask: tuple[Callable[[], object], ...] = (
        lambda: check_state(engine.state([IMAGE, "web:2"], [FOLDER])),
        lambda: check_containers(engine.containers(FOLDER)),
        lambda: check_storage(engine.storage()),
        lambda: check(engine.has_image(IMAGE), bool),
        lambda: check(engine.last_words(ID), str | None),
        lambda: check(engine.load(iter([b"x"]), 5.0), str | None),
        lambda: check(engine.reconnect(FOUND, "shop_default"), str | None),
    )
    for question in ask:
        with contextlib.suppress(EngineError):
            question()


FOUND = Container(ID, "shop-web-1", "shop", FOLDER, "web")


def check(found: object, kind: Any) -> None:
    assert isinstance(found, kind), found


def check_state(state: State) -> None:
    assert state.images <= {IMAGE, "web:2"}
    assert all(isinstance(each, str) for each in state.networks)
    for listed in state.listed:
        assert all(isinstance(each, str) for each in vars(listed).values())
    check_containers(state.containers)


def check_storage(storage: Storage) -> None:
    assert isinstance(storage.root, Path)
    assert isinstance(storage.architecture, str)


def check_containers(containers: tuple[Container, ...]) -> None:
    for each in containers:
        each.lost_networks(frozenset())
    # A verdict, whatever it is.
    is_up_to_date(APP, containers, ())
    verdict = judge(APP, containers, settle_seconds=0, finished=(), brought_up=True)
    if isinstance(verdict, Failure):
        assert isinstance(verdict.message, str)


def test_answers_of_dockerd(fuzz: Fuzz, dockerd: tuple[Dockerd, Settings]) -> None:
    server, settings = dockerd

    def check(wrong: list[tuple[str, tuple[int, bytes] | None]]) -> None:
        server.set(dict(wrong))
        with Within(settings.root), contextlib.suppress(EngineError):
            use(settings)

    fuzz(check, WRONG)


def test_events_of_dockerd(
    fuzz: Fuzz, dockerd: tuple[Dockerd, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes, the watch asks again, and does not do so without a pause."""
    server, settings = dockerd
    server.set({})
    client = Engine.connect(settings, 5.0)
    monkeypatch.setattr("compose_apps_early_start.engine.MAX_DELAY", 0.005)

    def check(answer: tuple[int, bytes] | None) -> None:
        server.set({"/events": answer})
        watch = client.watch()
        deadline = time.monotonic() + 2
        wakes = 0
        while wakes < 2 and time.monotonic() < deadline:
            wakes += bool(watch.changes(0.05))
        watch.close()
        assert wakes >= 2, "the watch has ended"
        assert watch.losses >= 1

    fuzz(check, answers(ANSWERS["/events"]))


def test_the_stand_in_is_understood(dockerd: tuple[Dockerd, Settings]) -> None:
    server, settings = dockerd
    server.set({})
    engine = Engine.connect(settings, 5.0)
    (found,) = engine.containers(FOLDER)
    assert (found.service, found.state, found.networks) == (
        "web",
        "running",
        (("shop_default", NETWORK),),
    )
    assert engine.state([IMAGE, "web:2"], [FOLDER]).images == {IMAGE, "web:2"}
    assert engine.load(iter([b"x"]), 5.0) is None
    assert engine.last_words(ID) == '"its last words\\n"'  # in JSON, as everything here
