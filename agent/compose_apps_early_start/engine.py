"""The only place that speaks to dockerd.

Importing it loads the docker SDK (0.1 s on a PC, seconds on a slow board): do that while dockerd
starts.
"""

import contextlib
import datetime
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import docker
import requests
import urllib3
from docker.transport import UnixHTTPAdapter

from .container import Container, State, Storage
from .errors import EngineError
from .settings import Settings

REQUEST_SECONDS = 60.0
"""For one request to an engine that is up."""

_FIRST_DELAY, _LONGEST_DELAY = 0.05, 0.5
"""Between two attempts, in seconds, while nothing listens on the socket."""

_PROJECT = "com.docker.compose.project"
_EVERY_PROJECT = ""

# LmP v97 pairs docker 7.0.0 with requests 2.32, which asks the adapter for connections by a method
# that this SDK does not have yet ("Not supported URL scheme http+docker").
if "get_connection_with_tls_context" not in vars(UnixHTTPAdapter):

    def _get_connection_with_tls_context(
        self: Any, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        return self.get_connection(request.url, proxies)

    UnixHTTPAdapter.get_connection_with_tls_context = _get_connection_with_tls_context


class Engine:
    """A dockerd that is up. Safe to use from several threads."""

    def __init__(self, client: docker.APIClient, url: str) -> None:
        self._client = client
        self._url = url

    @classmethod
    def connect(cls, settings: Settings, seconds: float) -> "Engine":
        """Wait up to `seconds` for dockerd, and return it.

        While systemd holds the socket, the first request is answered when dockerd is ready: there
        is nothing to poll. Raises `EngineError` when time is up.
        """
        url = f"unix://{settings.docker_socket}"
        deadline = time.monotonic() + seconds
        delay = _FIRST_DELAY
        while True:
            try:
                client = docker.APIClient(
                    base_url=url,
                    version="auto",
                    timeout=max(0.001, deadline - time.monotonic()),
                )
                break
            except (docker.errors.DockerException, requests.RequestException) as error:
                if time.monotonic() + delay > deadline:
                    raise EngineError(
                        f"dockerd did not answer on {settings.docker_socket} "
                        f"within {round(seconds, 1):g} s: {_innermost(error)}",
                        "look at 'systemctl status docker'; on a slow board raise "
                        "EARLY_START_ENGINE_SECONDS",
                    ) from error
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        client.timeout = REQUEST_SECONDS
        return cls(client, url)

    def state(self, images: Collection[str]) -> State:
        """Return which of `images` are present, and all containers of compose projects.

        An image is present if the reference resolves as the compose file writes it.
        """
        return State(self._present(images), self.containers())

    def storage(self) -> Storage:
        """Return how this engine keeps images."""
        with _speaking():
            info = self._client.info()
            status = dict(info.get("DriverStatus") or ())
            return Storage(
                containerd="io.containerd.snapshotter.v1" in status.values(),
                root=Path(info["DockerRootDir"]),
                architecture=self._client.version()["Arch"],
            )

    def has_image(self, image: str) -> bool:
        """Tell whether `image` resolves as the compose file writes it."""
        with _speaking():
            return self._resolves(image)

    def load(self, archive: Iterator[bytes], seconds: float) -> str | None:
        """Send an image archive; return what dockerd says went wrong, None if it says nothing.

        It answers 200 before it is done: only its later words tell, and only that the reference
        resolves afterwards proves the success. `seconds` is how long it may be silent. What
        `archive` raises breaks the request off, and comes through.
        """
        with _speaking():
            # A client of its own: dockerd may unpack for longer than other requests ever take.
            client = docker.APIClient(
                base_url=self._url, version=self._client.api_version, timeout=seconds
            )
            trouble = None
            try:
                for told in client.load_image(archive):
                    if "errorDetail" in told or "message" in told:
                        trouble = told.get("error") or told.get("message")
                    elif "Error unpacking image" in told.get("stream", ""):
                        trouble = told["stream"].strip()
            except docker.errors.APIError as error:  # dockerd is there, and says no
                return str(error.explanation or error)
            return trouble

    def _present(self, images: Collection[str]) -> frozenset[str]:
        with _speaking():
            listed = {
                reference
                for image in self._client.images()
                # A digest among the tags is only a name that somebody gave the image.
                for reference in (
                    *(image["RepoDigests"] or ()),
                    *(tag for tag in image["RepoTags"] or () if "@" not in tag),
                )
            }
            # The list has full names; only what it does not have is asked for one by one.
            return frozenset(each for each in images if each in listed or self._resolves(each))

    def _resolves(self, image: str) -> bool:
        try:
            self._client.inspect_image(image)
        except docker.errors.NotFound:
            return False
        except docker.errors.APIError as error:
            if error.is_client_error():  # "invalid reference format"
                return False
            raise
        return True

    def containers(self, folder: str | None = None) -> tuple[Container, ...]:
        """Return the containers of the compose project run in `folder`, or of all of them."""
        label = _PROJECT if folder is None else f"{_PROJECT}.working_dir={folder}"
        with _speaking():
            found = self._client.containers(all=True, filters={"label": label})
            return tuple(
                container for each in found if (container := self._inspect(each["Id"])) is not None
            )

    def _inspect(self, identifier: str) -> Container | None:
        try:
            return _container(self._client.inspect_container(identifier))
        except docker.errors.NotFound:  # removed since it was listed
            return None

    def last_words(self, container: str) -> str | None:
        """Return the last line that the container with this id logged, at most 200 characters.

        None if there is none, or it cannot be read.
        """
        with contextlib.suppress(EngineError), _speaking():
            lines = self._client.logs(container, tail=1).decode(errors="replace").split("\n")
            return next((line.strip()[:200] for line in reversed(lines) if line.strip()), None)
        return None

    def watch(self) -> "Watch":
        """Return a watch on the containers of compose projects; close it when done."""
        return Watch(self._client)


class Watch:
    """Wakes up whoever waits for a container of a project to change.

    The events only wake: what happened is asked of the engine, so a lost event costs time, never
    truth.
    """

    def __init__(self, client: docker.APIClient) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._closed = False
        self.losses = 0
        """How often dockerd went away: what ran before need not run after."""
        self._since = int(time.time())
        threading.Thread(target=self._listen, name="events", daemon=True).start()

    def count(self, project: str) -> int:
        """How often `project` changed: take it before asking the engine, give it to `wait`."""
        with self._changed:
            return self._count(project)

    def wait(self, project: str, count: int, seconds: float) -> None:
        """Wait until `project` changed after `count`, but no longer than `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count(project) != count or self._closed, seconds)

    def close(self) -> None:
        """Let all waiters go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _count(self, project: str) -> int:
        return self._counts[project] + self._counts[_EVERY_PROJECT]

    def _listen(self) -> None:
        filters = {"type": "container", "label": _PROJECT}
        while not self._closed:
            with contextlib.suppress(EngineError), _speaking():
                for event in self._client.events(since=self._since, filters=filters, decode=True):
                    self._wake(event["Actor"]["Attributes"][_PROJECT])
            # The stream ends when dockerd does.
            self.losses += 1
            self._wake(_EVERY_PROJECT)
            time.sleep(_LONGEST_DELAY)

    def _wake(self, project: str) -> None:
        with self._changed:
            self._counts[project] += 1
            self._changed.notify_all()


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """Turn every way in which the SDK says that dockerd failed into `EngineError`."""
    try:
        yield
    except (
        docker.errors.DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise EngineError(
            f"dockerd does not answer: {_innermost(error)}", "look at 'journalctl -u docker'"
        ) from error


def _innermost(error: BaseException) -> str:
    """Return the words of the first cause: the SDK wraps it up to five times."""
    # An APIError has dockerd's own words, its cause only the HTTP status.
    while not isinstance(error, docker.errors.APIError):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _container(found: dict[str, Any]) -> Container:
    labels = found["Config"]["Labels"] or {}
    state = found["State"]
    return Container(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        project=labels.get(_PROJECT, ""),
        folder=labels.get(f"{_PROJECT}.working_dir", ""),
        service=labels.get("com.docker.compose.service", ""),
        one_off=labels.get("com.docker.compose.oneoff") == "True",
        image=found["Config"]["Image"],
        published_hash=labels.get("io.compose-spec.config-hash"),
        state=state["Status"],
        exit_code=state["ExitCode"],
        health=(state.get("Health") or {}).get("Status"),
        restart_policy=found["HostConfig"]["RestartPolicy"]["Name"] or "no",
        restarts=found["RestartCount"],
        started_at=_seconds(state["StartedAt"]),
        finished_at=_seconds(state["FinishedAt"]),
    )


def _seconds(text: str) -> float | None:
    """Read a time of the Engine API (RFC 3339 with nanoseconds); the year 1 means never."""
    if text.startswith("0001-"):
        return None
    whole, _, rest = text.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
    return moment.timestamp() + float(f"0.{rest or 0}")
