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
"""For `compose config`, which takes 0.1 s on a PC and some seconds on a slow board."""

STOP_SECONDS = 5.0
"""From SIGTERM to SIGKILL for a compose that is to end."""

MOST_MEMORY = 512 << 20
"""Bytes of data that one compose process may hold: it needs a tenth, and some bytes of aliases in a
file that an app includes would have it take all that the device has."""

MOST_OUTPUT = 4 << 20
"""Bytes of what compose printed that are read."""

_PLUGIN_FOLDERS = (
    ".docker/cli-plugins",  # below root's home
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
"""Where the docker CLI looks for plugins, in its order."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment() -> dict[str, str]:
    """Return the environment that aktualizr-lite's unit gives compose, and nothing else.

    Interpolation enters compose's hash of a service: with another environment aktualizr-lite's
    own `up` would create the containers anew. Source: aktualizr-lite.service (`User=root` makes
    systemd set HOME, LOGNAME, SHELL and USER).
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
        """Have the kernel read compose's program, 60 MB, from the disk; do not wait for it."""
        if self.command is None:
            return
        # That it cannot be read, the first call will tell.
        with contextlib.suppress(OSError), Path(self.command[0]).open("rb") as program:
            os.posix_fadvise(program.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def up(self, folder: Path, deadline: float) -> Failure | None:
        """Bring the app in `folder` up, without network; None if compose ended well.

        `deadline` is a time of `time.monotonic()`. What compose started stays when time is up. A
        failure that compose's words do not explain is the app's own if compose refuses its files.
        """
        failure = self._up(folder, deadline)
        if failure is None or failure.cause is not Cause.COMPOSE_FAILED:
            return failure
        refused = self.config(folder)
        return refused if isinstance(refused, Failure) and refused != NOT_TRIED else failure

    def make_networks(self, folder: Path, deadline: float) -> Failure | None:
        """Make what the app in `folder` lacks, its networks first of all; replace no container.

        Containers whose network is gone do not start by it.
        """
        return self._up(folder, deadline, "--no-recreate")

    def recreate(self, folder: Path, service: str, deadline: float) -> Failure | None:
        """Make the containers of one service anew; what they wrote outside of volumes is lost."""
        return self._up(folder, deadline, "--no-deps", "--force-recreate", service)

    def _up(self, folder: Path, deadline: float, *more: str) -> Failure | None:
        # None of these flags enters the hash of a service. -y is never given: it deletes volumes.
        # --remove-orphans is not either: aktualizr-lite gives it when the app is its own.
        return self._checked(["up", "-d", "--pull", "never", "--no-build", *more], folder, deadline)

    def config(self, folder: Path) -> Mapping[str, Any] | Failure:
        """Return what compose makes of the app's files; needs no dockerd."""
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
            if refused.cause.passes:  # these are the words of a file all the same
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
        """End every compose that runs, and let none start; the containers are left alone."""
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
        # A plugin that a power cut left empty, or of another architecture.
        return Failure(
            Cause.COMPOSE_NOT_FOUND, f"{self.command[0]} cannot be run: {error.strerror}"
        )

    def _run(
        self, arguments: list[str], folder: Path, deadline: float
    ) -> tuple[int | None, str, str]:
        """Return exit status (None: time was up), output and errors."""
        assert self.command is not None
        # Not pipes: their end comes only when every child of compose has closed them, too.
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
        """Start compose in a process group of its own, unless the run was cancelled."""
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
        # In the first moments of its life it has not read a file yet.
        with contextlib.suppress(OSError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        return process


def _ends(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait up to `seconds` for the end of `process`, and tell whether it came.

    `Popen.wait` with a limit looks twenty times a second, and learns of the end that much later.
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
    """Return what was written to `file`; of much only the end, where the reason stands."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_OUTPUT))
    return file.read().decode(errors="replace")


def _find(settings: Settings) -> tuple[str, ...] | None:
    """Return the words that run compose: the plugin itself, which saves two process starts."""
    for folder in _PLUGIN_FOLDERS:
        plugin = settings.root / Path(pwd.getpwuid(0).pw_dir, folder).relative_to("/")
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
        # One that does not even die hangs in the kernel: it is left behind.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
