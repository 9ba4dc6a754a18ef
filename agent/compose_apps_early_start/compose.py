"""Running docker compose: offline, bounded, and in the environment that aktualizr-lite gives it."""

import contextlib
import errno
import json
import math
import os
import pwd
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from .cause import NOT_TRIED, Cause, Failure
from .diagnosis import diagnose
from .settings import Settings

CONFIG_SECONDS = 30.0
"""The time-out of `compose config`, which takes 0.1 s on a PC and some seconds on a slow board."""

STOP_SECONDS = 5.0
"""The time from SIGTERM to SIGKILL for a compose process, in seconds."""

MAX_MEMORY = 512 << 20
"""The maximum memory for data of one compose process, in bytes.

It normally needs a tenth, but a few aliases in an included file could make it use all memory."""

MAX_OUTPUT = 4 << 20
"""How many bytes of compose's output are read at most."""

PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
"""Where the docker CLI looks for plugins, in its order, after `cli-plugins` in its own folder."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment() -> dict[str, str]:
    """Return the environment that aktualizr-lite's unit gives compose, and nothing else.

    Interpolated values are part of compose's hash of a service. With another environment,
    aktualizr-lite's own `up` would recreate the containers. Source: aktualizr-lite.service
    (`User=root` makes systemd set HOME, LOGNAME, SHELL and USER).
    """
    root = pwd.getpwuid(0)
    return {
        "PATH": _PATH,
        "HOME": root.pw_dir,
        "LOGNAME": root.pw_name,
        "SHELL": root.pw_shell,
        "USER": root.pw_name,
        "TMPDIR": "/run/aktualizr",
        "COMPOSE_HTTP_TIMEOUT": "60",
        "REGISTRY_AUTH_FILE": "/usr/lib/docker/config.json",
    }


class Compose:
    """docker compose on this device. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self.command = _find(settings)
        self._environment = environment()
        if settings.root != Path("/"):
            self._environment["DOCKER_HOST"] = f"unix://{settings.docker_socket}"
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False

    def read_ahead(self) -> None:
        """Make the kernel read the compose binary (60 MB) from the disk, without waiting."""
        if self.command is None:
            return
        # If it cannot be read, the first call reports it.
        with contextlib.suppress(OSError), Path(self.command[0]).open("rb") as program:
            os.posix_fadvise(program.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def up(self, folder: Path, deadline: float) -> Failure | None:
        """Bring up the app in `folder` without a network; return None on success.

        `deadline` is a time of `time.monotonic()`. Containers that compose has started stay when
        time is up. If compose's message is unknown, the app is at fault if compose refuses its
        files.
        """
        failure = self._up(folder, deadline)
        if failure is None or failure.cause is not Cause.COMPOSE_FAILED:
            return failure
        refused = self.config(folder)
        return refused if isinstance(refused, Failure) and refused != NOT_TRIED else failure

    def make_networks(self, folder: Path, deadline: float) -> Failure | None:
        """Create the app's networks, and other things that are missing; replace no container.

        This does not start containers whose network is gone.
        """
        return self._up(folder, deadline, "--no-recreate")

    def recreate(self, folder: Path, service: str, deadline: float) -> Failure | None:
        """Recreate the containers of one service. Data outside of volumes is lost."""
        return self._up(folder, deadline, "--no-deps", "--force-recreate", service)

    def _up(self, folder: Path, deadline: float, *more: str) -> Failure | None:
        # None of these flags enters the hash of a service. -y is never given: it deletes volumes.
        # Neither is --remove-orphans, which aktualizr-lite passes when it manages the app.
        return self._checked(["up", "-d", "--pull", "never", "--no-build", *more], folder, deadline)

    def config(self, folder: Path) -> Mapping[str, Any] | Failure:
        """Return the output of `docker compose config` for the app; needs no dockerd."""
        if self.command is None:
            return _not_found()
        deadline = time.monotonic() + CONFIG_SECONDS
        try:
            status, output, errors = self._run(["config", "--format", "json"], folder, deadline)
        except OSError as error:
            return self._cannot_run(error, folder)
        if self._cancelled:
            return NOT_TRIED
        if status is None:
            return Failure(Cause.COMPOSE_FILE_INVALID, "'docker compose config' took too long")
        if status != 0:
            refused = diagnose(errors)
            if refused.cause.passes:  # the message is about a file in any case
                refused = replace(refused, cause=Cause.COMPOSE_FILE_INVALID)
            return replace(refused, details=errors.strip())
        try:
            document = json.loads(output[output.index("{") :])
        except (ValueError, RecursionError):
            return Failure(Cause.COMPOSE_FAILED, "'docker compose config' printed no JSON")
        if not isinstance(document, dict) or not document.get("services"):
            return Failure(Cause.COMPOSE_FILE_INVALID, "no service is active")
        return document

    def cancel(self) -> None:
        """End all running compose processes and start no more; containers are left as they are."""
        with self._lock:
            self._cancelled = True
            running = tuple(self._running)
        for process in running:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)

    def _checked(self, arguments: list[str], folder: Path, deadline: float) -> Failure | None:
        if self.command is None:
            return _not_found()
        try:
            status, output, errors = self._run(arguments, folder, deadline)
        except OSError as error:
            return self._cannot_run(error, folder)
        if self._cancelled:
            return Failure(Cause.INTERRUPTED, "the run was ended while the app was coming up")
        if status is None:
            return Failure(Cause.TIMEOUT, f"'docker compose {arguments[0]}' did not end in time")
        if status == 0:
            return None
        said = f"{output}\n{errors}".strip()
        return replace(diagnose(said), details=said)

    def _cannot_run(self, error: OSError, folder: Path) -> Failure:
        assert self.command is not None
        if error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE):
            return Failure(Cause.NO_RESOURCES, f"compose cannot be started: {error.strerror}")
        if not folder.is_dir():
            return Failure(Cause.APP_FOLDER_INVALID, f"{folder} is gone")
        # The plugin is empty after a power cut, or built for another architecture.
        return Failure(
            Cause.COMPOSE_NOT_FOUND, f"{self.command[0]} cannot be run: {error.strerror}"
        )

    def _run(
        self, arguments: list[str], folder: Path, deadline: float
    ) -> tuple[int | None, str, str]:
        """Return the exit status (None after a time-out), the output and the errors."""
        assert self.command is not None
        # Not pipes, which end only when every child of compose has closed them, too.
        with _memory_file("output") as output, _memory_file("errors") as errors:
            process = self._start([*self.command, *arguments], folder, output, errors)
            if process is None:
                return -signal.SIGTERM, "", ""
            status: int | None = None
            try:
                if _ends(process, max(0.0, deadline - time.monotonic())):
                    status = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
                if process.poll() is None:
                    _stop(process)
            return status, _text(output), _text(errors)

    def _start(
        self, argv: list[str], folder: Path, output: BinaryIO, errors: BinaryIO
    ) -> "subprocess.Popen[bytes] | None":
        """Start compose in its own process group, unless the run was cancelled."""
        with self._lock:
            if self._cancelled:
                return None
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            self._running.add(process)
        # At this moment it has not read a file yet.
        with contextlib.suppress(OSError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
        return process


def _ends(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait up to `seconds` for the end of `process`; return whether it has ended.

    `Popen.wait` with a time-out only polls twenty times a second.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(math.ceil(seconds * 1000)))
    finally:
        os.close(descriptor)


def _memory_file(name: str) -> BinaryIO:
    return open(os.memfd_create(name), "w+b")  # noqa: PTH123


def _text(file: BinaryIO) -> str:
    """Return the text in `file`; if it is long, only the end, which has the reason."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_OUTPUT))
    return file.read().decode(errors="replace")


def _find(settings: Settings) -> tuple[str, ...] | None:
    """Return the command for compose: the plugin itself, which saves two process starts."""
    own = f"{pwd.getpwuid(0).pw_dir}/.docker/cli-plugins"
    for folder in (own, *PLUGIN_FOLDERS):
        plugin = settings.root / Path(folder).relative_to("/")
        if os.access(plugin / "docker-compose", os.X_OK):
            return (str(plugin / "docker-compose"),)
    for folder in _PATH.split(":"):
        docker = settings.root / Path(folder, "docker").relative_to("/")
        if os.access(docker, os.X_OK):
            return (str(docker), "compose")
    return None


def _not_found() -> Failure:
    return Failure(Cause.COMPOSE_NOT_FOUND, "neither the compose plugin nor docker was found")


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(process, number)
        # A process that does not even die hangs in the kernel, and is left behind.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
