"""The only module that talks to dockerd.

Importing it loads the docker SDK (0.1 s on a PC, seconds on a slow board): do that while dockerd
starts.
"""

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import charset, uptime
from .container import Container, Listed, State, Storage
from .errors import EngineError, NotUnderstoodError, RefusedError
from .settings import Settings

with charset.not_detected():
    import docker
    import requests
    import urllib3
    from docker.transport import UnixHTTPAdapter

REQUEST_SECONDS = 60.0
"""The time-out of a request to a running engine, in seconds."""

LOG_SECONDS = 2.0
"""The time-out for reading the last line of a log, in seconds. A verdict waits for it."""

_FIRST_DELAY, MAX_DELAY = 0.05, 0.5
"""The first pause between two attempts while nothing listens on the socket, in seconds."""

_NOT_UNDERSTOOD = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors that the SDK and this module raise if an answer does not match dockerd's API.

The SDK raises RuntimeError if a stream ends within an object, because dockerd was killed.
"""

_COMPOSE = "com.docker.compose"
_PROJECT = f"{_COMPOSE}.project"

_MAX_LINES = 1000
"""How many lines are read from the end of a log at most."""

# The agent needs nothing of root's docker configuration, and a broken one must not stop it.
docker.utils.config.find_config_file = lambda _path=None: None

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

    def __init__(self, client: docker.APIClient, url: str, pid_file: Path) -> None:
        self._client = client
        self._url = url
        self._pid_file = pid_file
        self._first_seen: dict[str, tuple[str, float]] = {}

    @classmethod
    def connect(cls, settings: Settings, seconds: float) -> "Engine":
        """Wait up to `seconds` for dockerd, and return it.

        If systemd holds the socket, the first request is answered as soon as dockerd is ready, so
        polling is not needed. Raises `EngineError` after a time-out.
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
            except (
                docker.errors.DockerException,
                requests.RequestException,
                *_NOT_UNDERSTOOD,
            ) as error:
                if time.monotonic() + delay > deadline:
                    raise EngineError(
                        f"dockerd did not answer on {settings.docker_socket} "
                        f"within {round(seconds, 1):g} s: {_innermost(error)}",
                        "look at 'systemctl status docker'; on a slow board raise "
                        "EARLY_START_ENGINE_SECONDS",
                    ) from error
            time.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)
        client.timeout = REQUEST_SECONDS
        return cls(client, url, settings.docker_pid)

    def state(self, images: Collection[str], folders: Collection[str]) -> State:
        """Return which of `images` are present, and the containers of the apps in `folders`.

        An image is present if its reference resolves as written in the compose file. Containers of
        other folders are only listed.
        """
        listed = self._list(_PROJECT)
        containers = self._inspected(listed, folders)
        # A first boot has no containers, and each request delays the first start.
        ask = any(each.networks for each in containers)
        return State(
            images=self._present(images),
            listed=listed,
            containers=containers,
            networks=frozenset(self.networks()) if ask else frozenset(),
        )

    def networks(self) -> Mapping[str, str]:
        """Return the names of all networks by their ids."""
        with _speaking():
            return {_text(each["Id"]): _text(each["Name"]) for each in self._client.networks()}

    def identity(self) -> str | None:
        """Return an identity of this dockerd within this boot; None if it cannot be known.

        Source: dockerd's `--pidfile`, by default /run/docker.pid; proc(5).
        """
        try:
            pid = int(self._pid_file.read_text())
            return f"{pid}:{uptime.process_ticks(pid)}"
        except (OSError, ValueError, IndexError):
            return None

    def storage(self) -> Storage:
        """Return the engine's image store."""
        with _speaking():
            info = self._client.info()
            status = dict(info.get("DriverStatus") or ())
            return Storage(
                containerd="io.containerd.snapshotter.v1" in status.values(),
                root=Path(info["DockerRootDir"]),
                architecture=_text(self._client.version()["Arch"]),
            )

    def has_image(self, image: str) -> bool:
        """Whether `image` resolves as written in the compose file."""
        with _speaking():
            return self._resolves(image)

    def discard(self, image: str) -> bool:
        """Remove `image` with all its names in its repository; return whether it is gone.

        An image that a container uses stays.
        """
        repository = image.rpartition("@")[0]
        try:
            with _speaking():
                if self._client.containers(all=True, filters={"ancestor": image}):
                    return False
                found = self._client.inspect_image(image)
                for name in (*_tags(found), *(found["RepoDigests"] or ())):
                    if name.startswith((f"{repository}@", f"{repository}:")):
                        with contextlib.suppress(docker.errors.NotFound):
                            self._client.remove_image(name)
        except RefusedError:
            return False
        return not self.has_image(image)

    def load(self, archive: Iterator[bytes], seconds: float) -> str | None:
        """Send an image archive; return dockerd's error message, or None if there is none.

        dockerd sends status 200 before it is done, so errors come later, and only a reference that
        resolves afterwards proves success. `seconds` is how long dockerd may be silent. Exceptions
        of `archive` cancel the request and are passed on.
        """
        with _speaking():
            # A separate client, because dockerd may unpack for longer than any other request takes.
            client = docker.APIClient(
                base_url=self._url, version=self._client.api_version, timeout=seconds
            )
            trouble = None
            try:
                for message in client.load_image(archive):
                    if "errorDetail" in message or "message" in message:
                        trouble = str(message.get("error") or message.get("message") or message)
                    elif "Error unpacking image" in message.get("stream", ""):
                        trouble = message["stream"].strip()
            except docker.errors.APIError as error:  # dockerd is there, and says no
                return str(error.explanation or error)
            return trouble

    def _present(self, images: Collection[str]) -> frozenset[str]:
        with _speaking():
            listed = {
                reference
                for image in self._client.images()
                for reference in (*(image["RepoDigests"] or ()), *_tags(image))
            }
            # The list has full names; only references that it lacks are requested one by one.
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

    def containers(self, *folders: str) -> tuple[Container, ...]:
        """Return the containers of the apps in `folders`."""
        label = f"{_PROJECT}.working_dir={folders[0]}" if len(folders) == 1 else _PROJECT
        return self._inspected(self._list(label) if folders else (), folders)

    def _inspected(
        self, listed: Collection[Listed], folders: Collection[str]
    ) -> tuple[Container, ...]:
        own = (self._inspect(each) for each in listed if each.folder in folders)
        return tuple(each for each in own if each is not None)

    def _list(self, label: str) -> tuple[Listed, ...]:
        with _speaking():
            return tuple(
                Listed(
                    id=_text(each["Id"]),
                    name=next(iter(each.get("Names") or ()), "").lstrip("/"),
                    project=_text((each.get("Labels") or {}).get(_PROJECT, "")),
                    folder=_text((each.get("Labels") or {}).get(f"{_PROJECT}.working_dir", "")),
                    service=_text((each.get("Labels") or {}).get(f"{_COMPOSE}.service", "")),
                )
                for each in self._client.containers(all=True, filters={"label": label})
            )

    def _inspect(self, listed: Listed) -> Container | None:
        """Inspect a container; return None if it was removed since it was listed."""
        try:
            with _speaking():
                return self._container(listed, self._client.inspect_container(listed.id))
        except (RefusedError, NotUnderstoodError) as error:
            if isinstance(error, RefusedError) and error.missing:
                return None
            return Container(**vars(listed), error=str(error))

    def _container(self, listed: Listed, found: dict[str, Any]) -> Container:
        labels = found["Config"].get("Labels") or {}
        state, host = found["State"], found["HostConfig"]
        attached = found["NetworkSettings"].get("Networks") or {}
        return Container(
            **vars(listed),
            one_off=labels.get(f"{_COMPOSE}.oneoff") == "True",
            image=_text(found["Config"]["Image"]),
            published_hash=labels.get("io.compose-spec.config-hash"),
            state=_text(state["Status"]),
            error=" ".join(state.get("Error", "").split()),
            exit_code=int(state["ExitCode"]),
            out_of_memory=state.get("OOMKilled", False),
            health=(state.get("Health") or {}).get("Status"),
            restart_policy=(host.get("RestartPolicy") or {}).get("Name") or "no",
            restarts=int(found.get("RestartCount", 0)),
            up_for=self._up_for(listed.id, state) if state["Status"] == "running" else None,
            finished_at=_text(state["FinishedAt"]),
            networks=tuple((name, _text(each["NetworkID"])) for name, each in attached.items()),
            network_mode=_text(host.get("NetworkMode") or "none"),
        )

    def _up_for(self, identifier: str, state: dict[str, Any]) -> float:
        """Return for how many seconds the container's process has been running.

        The kernel's clock measures this, so setting the time changes nothing. If that is not
        possible, the time counts from when this start of the container was first seen.
        """
        with contextlib.suppress(OSError, ValueError, IndexError):
            ticks = uptime.process_ticks(int(state["Pid"]))
            began = ticks / os.sysconf("SC_CLK_TCK")
            return float(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began))
        now = time.monotonic()
        start, since = self._first_seen.get(identifier, ("", now))
        if start != state["StartedAt"]:
            since = now
        self._first_seen[identifier] = (state["StartedAt"], since)
        return now - since

    def reconnect(self, container: Container, network: str) -> str | None:
        """Connect `container` to the network of this name again, as it was connected before.

        This is for a network that was created again under the same name. The container is not
        changed otherwise. Returns dockerd's message if it refuses, None on success.
        """
        try:
            with _speaking():
                found = self._client.inspect_container(container.id)
                known = found["NetworkSettings"].get("Networks") or {}
                before = known.get(network) or {}
                addresses = before.get("IPAMConfig") or {}
                # dockerd adds the container's short id to them by itself.
                aliases = before.get("Aliases") or ()
                aliases = [each for each in aliases if not container.id.startswith(each)]
                if network in known:
                    self._client.disconnect_container_from_network(
                        container.id, network, force=True
                    )
                self._client.connect_container_to_network(
                    container.id,
                    network,
                    ipv4_address=addresses.get("IPv4Address") or None,
                    ipv6_address=addresses.get("IPv6Address") or None,
                    aliases=aliases or [container.service],
                    links=before.get("Links"),
                )
        except RefusedError as error:
            return str(error)
        return None

    def last_words(self, container: str) -> str | None:
        """Return the last line that the container with this id logged, at most 200 characters.

        None if there is none, or it cannot be read.
        """
        with contextlib.suppress(EngineError), _speaking():
            log = self.with_timeout(LOG_SECONDS)._client.logs(container, tail=1)
            lines = log.decode(errors="replace").split("\n")
            return next((line.strip()[:200] for line in reversed(lines) if line.strip()), None)
        return None

    def with_timeout(self, seconds: float) -> "Engine":
        """Return the same engine with a time-out of `seconds` for each request."""
        client = docker.APIClient(
            base_url=self._url, version=self._client.api_version, timeout=seconds
        )
        return Engine(client, self._url, self._pid_file)

    def states(self, folders: Collection[str]) -> list[dict[str, Any]]:
        """Return the containers of the apps in `folders`, with the whole State of each.

        They are plain data: id, name, service, folder, restarts, and dockerd's state.
        """
        found = []
        for container in self._list(_PROJECT):
            if container.folder not in folders:
                continue
            with contextlib.suppress(RefusedError), _speaking():
                document = self._client.inspect_container(container.id)
                found.append(
                    {
                        "id": container.id,
                        "name": container.name,
                        "service": container.service,
                        "folder": container.folder,
                        "restarts": document.get("RestartCount", 0),
                        "state": document["State"],
                    }
                )
        return found

    def log(self, container: str, most_bytes: int) -> str:
        """Return the end of the log of the container with this id, `most_bytes` of it at most.

        If the log cannot be read, dockerd's message is returned.
        """
        try:
            with _speaking():
                # Not as a stream: the SDK reads a stream without a time limit, and the log of a
                # container that runs has no end.
                log: bytes = self._client.logs(container, tail=_MAX_LINES)
        except EngineError as error:
            return f"the log cannot be read: {error}"
        return log[-most_bytes:].decode(errors="replace")

    def watch(self) -> "Watch":
        """Return a watch on the containers of compose projects; close it when done."""
        return Watch(self._client)


class Watch:
    """Wakes up a thread when containers of compose projects change.

    The events only wake the thread, which then asks the engine for the state. So a lost event only
    costs time.
    """

    def __init__(self, client: docker.APIClient) -> None:
        self._client = client
        self._condition = threading.Condition()
        self._changed: set[str] = set()
        self._closed = False
        self.losses = 0
        """How often dockerd went away. Containers that ran before may not run afterwards."""
        self._since = int(time.time())
        threading.Thread(target=self._listen, name="events", daemon=True).start()

    def changes(self, seconds: float) -> frozenset[str]:
        """Return the projects that changed since the last call; wait up to `seconds` for one."""
        with self._condition:
            self._condition.wait_for(lambda: self._changed or self._closed, max(0.0, seconds))
            changed = frozenset(self._changed)
            self._changed.clear()
            return changed

    def wake(self, project: str = "") -> None:
        """Wake the waiting thread."""
        with self._condition:
            self._changed.add(project)
            self._condition.notify_all()

    def close(self) -> None:
        """Stop watching."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _listen(self) -> None:
        # Not the frequent events of health checks.
        filters = {"type": "container", "label": _PROJECT, "event": _EVENTS}
        connected = True
        while not self._closed:
            # If dockerd sends something that is not an event, the stream is opened again.
            with contextlib.suppress(EngineError), _speaking():
                events = self._client.events(since=self._since, filters=filters, decode=True)
                connected = True
                for event in events:
                    with contextlib.suppress(*_NOT_UNDERSTOOD):  # an event that is of no project
                        self.wake(event["Actor"]["Attributes"][_PROJECT])
            # The stream ends when dockerd ends. This counts once, whatever the number of new
            # attempts.
            self.losses += connected
            connected = False
            self.wake()
            time.sleep(MAX_DELAY)


# Without "create": a container that only exists changes no verdict, and the runner lets other apps
# begin when the first app's first container starts.
_EVENTS = ["start", "die", "oom", "pause", "unpause", "destroy", "health_status"]


def _tags(image: dict[str, Any]) -> Iterator[str]:
    # A name with a digest may be left over from an import. It is listed, but does not resolve.
    return (each for each in image["RepoTags"] or () if "@" not in each)


def _text(found: object) -> str:
    """Return `found`; raises TypeError if it is not text."""
    if not isinstance(found, str):
        raise TypeError(f"{found!r:.50} in the place of text")
    return found


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """Turn all errors of the SDK into `EngineError`.

    An error that dockerd itself reports becomes a `RefusedError`.
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise RefusedError(
            str(error.explanation or error),
            "look at 'journalctl -u docker'",
            missing=error.status_code == 404,
        ) from error
    except (
        docker.errors.DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise EngineError(
            f"dockerd does not answer: {_innermost(error)}", "look at 'journalctl -u docker'"
        ) from error
    except _NOT_UNDERSTOOD as error:
        raise NotUnderstoodError(
            f"dockerd's answer is not understood: {type(error).__name__}: {error}",
            "look at 'journalctl -u docker', and at 'docker version'",
        ) from error


def _innermost(error: BaseException) -> str:
    """Return the message of the innermost error, which the SDK wraps up to five times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
