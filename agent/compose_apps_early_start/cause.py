"""The causes why an app does not run: their names, next steps, and whether waiting can help."""

import traceback
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

_FINAL, _PASSES = False, True


class Cause(Enum):
    """The name of a cause, the next step for a person, and whether it can pass by waiting.

    A final cause fails its app at once. With any other cause, the run waits until the app's time is
    up, because most of them pass at a first boot: a database creates its files, a device node
    appears, a port becomes free.
    """

    # Errors in the files, found before any container is touched.
    APP_FOLDER_INVALID = (
        "app-folder-invalid",
        "make it a real folder whose name has only a-z, 0-9, '-' and '_' and is no other app's",
        _FINAL,
    )
    APP_FOLDER_UNREADABLE = (
        "app-folder-unreadable",
        "see 'journalctl -k': does the disk fail?",
        _FINAL,
    )
    COMPOSE_FILE_MISSING = (
        "compose-file-missing",
        "put the app's docker-compose.yml back into the folder",
        _FINAL,
    )
    COMPOSE_FILE_INVALID = (
        "compose-file-invalid",
        "run 'docker compose config' in the app's folder and correct the file",
        _FINAL,
    )
    VARIABLE_MISSING = (
        "variable-missing",
        "set the variable in the app's .env, or give it a default in docker-compose.yml",
        _FINAL,
    )
    ENV_FILE_MISSING = (
        "env-file-missing",
        "add the file to the app, or mark it with 'required: false'",
        _FINAL,
    )
    PROJECT_TAKEN = (
        "project-taken",
        "remove or rename the other compose project of this name",
        _FINAL,
    )
    # Things that the device lacks.
    COMPOSE_NOT_FOUND = (
        "compose-not-found",
        "add docker-compose, version 2 or later, to the image",
        _FINAL,
    )
    IMAGE_MISSING = (
        "image-missing",
        "preload the image with the app, or register the device so that the image is pulled",
        _FINAL,
    )
    REGISTRY_NEEDED = (
        "registry-needed",
        "preload what the app wants from the registry, or register the device",
        _FINAL,
    )
    PLATFORM_MISSING = (
        "platform-missing",
        "preload the image for this device's architecture, or register the device so that the "
        "image is pulled",
        _FINAL,
    )
    READ_ONLY = (
        "read-only",
        "look at 'journalctl -k' for why the file system became read-only, and repair it",
        _FINAL,
    )
    STORE_DAMAGED = (
        "store-damaged",
        "flash the device again, or register it so that the app is fetched again",
        _FINAL,
    )
    VERSION_UNCLEAR = (
        "version-unclear",
        "name the version in /var/sota/import/installed_versions, or remove the other one",
        _FINAL,
    )
    IMAGE_NOT_LOADED = (
        "image-not-loaded",
        "look at 'journalctl -u docker'; overlay2 needs LmP's patch: otherwise use the containerd "
        "image store, or preload docker's own store",
        _FINAL,
    )
    FOLDER_NOT_RESTORED = (
        "folder-not-restored",
        "move away what is in its place in /var/sota/compose-apps; if nothing is, check the disk",
        _FINAL,
    )
    NO_SPACE = ("no-space", "free space below /var, or grow the file system", _PASSES)
    NO_RESOURCES = (
        "no-resources",
        "look at 'journalctl -k' and 'systemctl status' for what uses up memory or processes",
        _PASSES,
    )
    DEVICE_MISSING = (
        "device-missing",
        "plug the device in, load its driver, or correct 'devices:' in docker-compose.yml",
        _PASSES,
    )
    MOUNT_FAILED = (
        "mount-failed",
        "make sure that the source of the mount exists and is a file or a folder as needed",
        _PASSES,
    )
    LOG_DRIVER_FAILED = (
        "log-driver-failed",
        "start the log collector first, or use the journald or json-file log driver",
        _PASSES,
    )
    RUNTIME_MISSING = (
        "runtime-missing",
        "add the runtime or device driver to the image, and name it in dockerd's daemon.json",
        _PASSES,
    )
    NETWORK_MISSING = (
        "external-network-missing",
        "create the network with 'docker network create', or start what creates it",
        _PASSES,
    )
    VOLUME_MISSING = (
        "external-volume-missing",
        "create the volume with 'docker volume create', or start what creates it",
        _PASSES,
    )
    # Conflicts.
    PORT_TAKEN = (
        "port-taken",
        "change the port of this app, or that of the app or host service that uses it",
        _PASSES,
    )
    ADDRESS_MISSING = (
        "address-missing",
        "give this address to the host, or publish the port on all addresses",
        _PASSES,
    )
    NAME_TAKEN = (
        "container-name-taken",
        "drop 'container_name:', or remove the other container with 'docker rm'",
        _PASSES,
    )
    SUBNET_TAKEN = (
        "subnet-taken",
        "remove unused networks, or give dockerd more subnets with default-address-pools",
        _PASSES,
    )
    NETWORK_STALE = (
        "network-stale",
        "copy what you need out of the container, then run "
        "'docker compose up -d --no-deps --force-recreate SERVICE' in the app's folder",
        _PASSES,
    )
    FIREWALL_FLUSHED = (
        "firewall-flushed",
        "find out what removed dockerd's firewall rules; 'systemctl restart docker' restores them",
        _PASSES,
    )
    # Failures of containers.
    START_FAILED = (
        "container-start-failed",
        "check the container's command, mounts and devices in docker-compose.yml",
        _PASSES,
    )
    NOT_STARTED = (
        "container-not-started",
        "look at 'docker ps -a' and 'journalctl -u docker'",
        _PASSES,
    )
    PAUSED = (
        "container-paused",
        "run 'docker unpause' on the container, then restart compose-apps-early-start",
        _FINAL,
    )
    DEPENDENCY_FAILED = (
        "dependency-failed",
        "run 'docker compose logs' for the service that failed, in the app's folder",
        _PASSES,
    )
    EXITED = ("exited", "look at its log with 'docker compose logs'", _PASSES)
    CRASH_LOOP = ("crash-loop", "look at its log with 'docker compose logs'", _PASSES)
    UNHEALTHY = (
        "unhealthy",
        "look at its log, and at the results of its health check with 'docker inspect'",
        _PASSES,
    )
    TIMEOUT = (
        "timeout",
        "find out what it waits for (often 'depends_on:'), or raise EARLY_START_APP_SECONDS",
        _PASSES,
    )
    # Events outside of the app.
    ENGINE_UNAVAILABLE = (
        "engine-unavailable",
        "look at 'systemctl status docker'; on a slow board raise EARLY_START_ENGINE_SECONDS",
        _FINAL,
    )
    ENGINE_LOST = ("engine-lost", "look at 'journalctl -u docker'", _PASSES)
    APPS_TAKEN = (
        "apps-taken",
        "leave the apps to aktualizr-lite, or restart compose-apps-early-start after it has ended",
        _FINAL,
    )
    RUN_TIMEOUT = (
        "run-timeout",
        "find out which app took the time, or raise EARLY_START_RUN_SECONDS",
        _FINAL,
    )
    INTERRUPTED = (
        "interrupted",
        "run 'systemctl restart compose-apps-early-start'",
        _FINAL,
    )
    INTERNAL_ERROR = (
        "internal-error",
        "report this line as a defect of compose-apps-early-start",
        _FINAL,
    )
    COMPOSE_FAILED = (
        "compose-failed",
        "run 'docker compose up -d --pull never' in the app's folder to see all of it",
        _PASSES,
    )

    def __init__(self, label: str, hint: str, passes: bool) -> None:
        self.label = label
        self.hint = hint
        self.passes = passes


@dataclass(frozen=True)
class Failure:
    """One app's failure: its cause, and in one line what exactly happened.

    `container` is the id of the container whose log may say more. `details` is the whole output of
    compose, or the traceback of a defect of the agent.
    """

    cause: Cause
    message: str
    container: str | None = None
    details: str = field(default="", compare=False, repr=False)

    @classmethod
    def unexpected(cls, error: Exception) -> "Failure":
        """Return the failure of an app for which the agent itself raised `error`."""
        trace = error.__traceback__
        place = ""
        while trace is not None:
            place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            trace = trace.tb_next
        return cls(
            Cause.INTERNAL_ERROR,
            f"{type(error).__name__}: {error}{place}",
            details="".join(traceback.format_exception(error)),
        )


NOT_TRIED = Failure(Cause.INTERRUPTED, "the run was ended before its turn")
