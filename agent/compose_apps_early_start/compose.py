"""Running docker compose: offline, bounded, as aktualizr-lite does; and reading why it failed."""

import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cause import Cause, Failure
from .settings import Settings

CONFIG_SECONDS = 30.0
"""For `compose config`, which takes 0.1 s on a PC and some seconds on a slow board."""

STOP_SECONDS = 5.0
"""From SIGTERM to SIGKILL for a compose that is to end."""

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

    def up(self, folder: Path, deadline: float, *, recreate: bool = False) -> Failure | None:
        """Bring the app in `folder` up, without network; None if compose ended well.

        `deadline` is a time of `time.monotonic()`. What compose started stays when time is up.
        """
        # Neither flag enters the hash of a service. -y is never given: it deletes volumes.
        arguments = ["up", "-d", "--remove-orphans", "--pull", "never", "--no-build"]
        if recreate:
            arguments.append("--force-recreate")
        return self._checked(arguments, folder, deadline)

    def down(self, folder: Path, deadline: float) -> Failure | None:
        """Remove the containers and networks of the app in `folder`; never its volumes."""
        return self._checked(["down"], folder, deadline)

    def config(self, folder: Path) -> Mapping[str, Any] | Failure:
        """Return what compose makes of the app's files; needs no dockerd."""
        if self.command is None:
            return _not_found()
        deadline = time.monotonic() + CONFIG_SECONDS
        try:
            status, output, errors = self._run(["config", "--format", "json"], folder, deadline)
        except OSError as error:
            return self._cannot_run(error)
        if status is None:
            return Failure(Cause.COMPOSE_FILE_INVALID, "'docker compose config' took too long")
        if status != 0:
            return diagnose(errors)
        document: Mapping[str, Any] = json.loads(output)
        if not document.get("services"):
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
            return self._cannot_run(error)
        if self._cancelled:
            return Failure(Cause.INTERRUPTED, "the run was ended while the app was coming up")
        if status is None:
            return Failure(Cause.TIMEOUT, f"'docker compose {arguments[0]}' did not end in time")
        return None if status == 0 else diagnose(output + "\n" + errors)

    def _cannot_run(self, error: OSError) -> Failure:
        # A plugin that a power cut left empty, or of another architecture.
        assert self.command is not None
        return Failure(
            Cause.COMPOSE_NOT_FOUND, f"{self.command[0]} cannot be run: {error.strerror}"
        )

    def _run(
        self, arguments: list[str], folder: Path, deadline: float
    ) -> tuple[int | None, str, str]:
        """Return exit status (None: time was up), output and errors."""
        assert self.command is not None
        process = self._start([*self.command, *arguments], folder)
        if process is None:
            return -signal.SIGTERM, "", ""
        try:
            output, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            output, errors = _stop(process)
            status = None
        finally:
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                _stop(process)
        return status, output.decode(errors="replace"), errors.decode(errors="replace")

    def _start(self, argv: list[str], folder: Path) -> "subprocess.Popen[bytes] | None":
        """Start compose in a process group of its own, unless the run was cancelled."""
        with self._lock:
            if self._cancelled:
                return None
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._running.add(process)
            return process


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


def _stop(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    _signal_group(process, signal.SIGTERM)
    try:
        return process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGKILL)
        return process.communicate()


_MESSAGES = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"no space left on device", Cause.NO_SPACE),
        (r"failed to extract layer|error unpacking image", Cause.IMAGE_NOT_LOADED),
        (r"cannot connect to the docker daemon|error during connect|connection reset by peer"
         r"|/docker\.sock.*(: EOF|connection refused|no such file)|unexpected EOF",
         Cause.ENGINE_LOST),
        (r"no such image|unable to find image|pull access denied", Cause.IMAGE_MISSING),
        (r"dial tcp|no such host|failed to resolve reference|TLS handshake timeout"
         r"|network is unreachable", Cause.REGISTRY_NEEDED),
        # A container refers to its network by id, a compose file by name.
        (r"network [0-9a-f]{64} not found|network-scoped alias .* but .* network",
         Cause.NETWORK_STALE),
        (r"network .* declared as external, but could not be found|network \S+ not found",
         Cause.NETWORK_MISSING),
        (r"external volume .* not found", Cause.VOLUME_MISSING),
        (r"required variable \S+ is missing a value", Cause.VARIABLE_MISSING),
        (r"env file .* not found", Cause.ENV_FILE_MISSING),
        (r"could not find an available, non-overlapping|pool overlaps with other one"
         r"|all predefined address pools have been fully subnetted", Cause.SUBNET_TAKEN),
        (r"port is already allocated|address already in use", Cause.PORT_TAKEN),
        (r"container name \S+ is already in use", Cause.NAME_TAKEN),
        (r"dependency failed to start|didn't complete successfully", Cause.DEPENDENCY_FAILED),
        (r"no configuration file provided", Cause.COMPOSE_FILE_MISSING),
        (r"validating .*:|yaml: |invalid (interpolation|compose|reference)"
         r"|undefined (network|volume|service|config|secret)"
         r"|depends on undefined|services\.\S+ (must|additional|conflicting)"
         r"|refers to undefined|empty compose file|additional propert", Cause.COMPOSE_FILE_INVALID),
        (r"oci runtime create failed|failed to create (shim )?task"
         r"|error (mounting|gathering device)|invalid mount config"
         r"|bind source path does not exist|exec format error",
         Cause.START_FAILED),
    )
)  # fmt: skip
"""Since compose 2.33 every failure has exit status 1, so only its words tell them apart."""


def diagnose(output: str) -> Failure:
    """Read the words of a failed compose into a cause, with the line that says it as message."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern, cause in _MESSAGES:
        for line in reversed(lines):
            if pattern.search(line):
                return Failure(cause, line)
    return Failure(Cause.COMPOSE_FAILED, lines[-1] if lines else "compose ended without a word")
