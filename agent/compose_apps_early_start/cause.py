"""Why an app does not run: each cause has a name, the next step, and says whether waiting helps."""

import traceback
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

_FINAL, _PASSES = False, True


class Cause(Enum):
    """The name of a cause, the next step for a person, and whether it can pass by waiting.

    A final cause ends its app at once. Any other is waited for until the app's time is up, because
    at a first boot most of them pass: a database makes its files, a device node appears, a port
    becomes free.
    """

    # What the files say, before any container is touched.
    APP_FOLDER_INVALID = (
        "app-folder-invalid",
        "make it a plain folder with a name of a-z, 0-9, '-' and '_' that no other app has",
        _FINAL,
    )
    COMPOSE_FILE_MISSING = (
        "compose-file-missing",
        "the folder must hold docker-compose.yml; put the app there again",
        _FINAL,
    )
    COMPOSE_FILE_INVALID = (
        "compose-file-invalid",
        "run 'docker compose config' in the app's folder and correct the file",
        _FINAL,
    )
    VARIABLE_MISSING = (
        "variable-missing",
        "give the variable a default in docker-compose.yml, or a value in the app's .env",
        _FINAL,
    )
    ENV_FILE_MISSING = (
        "env-file-missing",
        "add the file to the app, or mark it 'required: false'",
        _FINAL,
    )
    PROJECT_TAKEN = (
        "project-taken",
        "containers of another folder carry the same project name; remove or rename that project",
        _FINAL,
    )
    # What the device lacks.
    COMPOSE_NOT_FOUND = (
        "compose-not-found",
        "install docker-compose (version 2 or later) into the image",
        _FINAL,
    )
    IMAGE_MISSING = (
        "image-missing",
        "preload the image with the app, or register the device so that it can be pulled",
        _FINAL,
    )
    REGISTRY_NEEDED = (
        "registry-needed",
        "the app wants something from a registry; preload it, or register the device",
        _FINAL,
    )
    PLATFORM_MISSING = (
        "platform-missing",
        "preload the image for this device's architecture, or register the device so that it is "
        "pulled",
        _FINAL,
    )
    READ_ONLY = (
        "read-only",
        "see 'journalctl -k' for why the file system is mounted read-only, and repair it",
        _FINAL,
    )
    STORE_DAMAGED = (
        "store-damaged",
        "flash the device again, or register it so that the app is fetched anew",
        _FINAL,
    )
    VERSION_UNCLEAR = (
        "version-unclear",
        "/var/sota/import/installed_versions must name the version, or one must be removed",
        _FINAL,
    )
    IMAGE_NOT_LOADED = (
        "image-not-loaded",
        "see 'journalctl -u docker'; overlay2 needs LmP's patch, or give dockerd the containerd "
        "image store, or preload docker's own",
        _FINAL,
    )
    FOLDER_NOT_RESTORED = (
        "folder-not-restored",
        "see what is in the way in /var/sota/compose-apps, and whether the disk is sound",
        _FINAL,
    )
    NO_SPACE = ("no-space", "free space under /var, or grow the file system", _PASSES)
    NO_RESOURCES = (
        "no-resources",
        "the device is short of memory or processes; see 'journalctl -k' and 'systemctl status'",
        _PASSES,
    )
    DEVICE_MISSING = (
        "device-missing",
        "plug the device in or load its driver; else correct 'devices:' in docker-compose.yml",
        _PASSES,
    )
    MOUNT_FAILED = (
        "mount-failed",
        "see that the source of the mount is there and has the right kind: file or folder",
        _PASSES,
    )
    LOG_DRIVER_FAILED = (
        "log-driver-failed",
        "start the log collector first, or use the journald or json-file log driver",
        _PASSES,
    )
    RUNTIME_MISSING = (
        "runtime-missing",
        "add the runtime or the device driver to the image and to dockerd's daemon.json",
        _PASSES,
    )
    NETWORK_MISSING = (
        "external-network-missing",
        "create it with 'docker network create', or start what creates it",
        _PASSES,
    )
    VOLUME_MISSING = (
        "external-volume-missing",
        "create it with 'docker volume create', or start what creates it",
        _PASSES,
    )
    # What stands in the way.
    PORT_TAKEN = (
        "port-taken",
        "two apps, or an app and a host service, want the same port; change one of them",
        _PASSES,
    )
    ADDRESS_MISSING = (
        "address-missing",
        "give the host this address, or publish the port on all addresses",
        _PASSES,
    )
    NAME_TAKEN = (
        "container-name-taken",
        "another container has that name; remove it with 'docker rm', or drop container_name",
        _PASSES,
    )
    SUBNET_TAKEN = (
        "subnet-taken",
        "remove unused networks, or give dockerd more with default-address-pools",
        _PASSES,
    )
    NETWORK_STALE = (
        "network-stale",
        "its network is gone; keep what the container holds, then run "
        "'docker compose up -d --force-recreate SERVICE' in the app's folder",
        _PASSES,
    )
    FIREWALL_FLUSHED = (
        "firewall-flushed",
        "something removed dockerd's firewall rules; 'systemctl restart docker' sets them again",
        _PASSES,
    )
    # What the containers did.
    START_FAILED = (
        "container-start-failed",
        "the container cannot be started as described; check its command, mounts and devices",
        _PASSES,
    )
    NOT_STARTED = (
        "container-not-started",
        "look at 'docker ps -a' and dockerd's journal",
        _PASSES,
    )
    PAUSED = (
        "container-paused",
        "somebody paused it; run 'docker unpause' on it, then restart compose-apps-early-start",
        _FINAL,
    )
    DEPENDENCY_FAILED = (
        "dependency-failed",
        "a service that others depend on failed; look at its log with 'docker compose logs'",
        _PASSES,
    )
    EXITED = ("exited", "look at its log with 'docker compose logs'", _PASSES)
    CRASH_LOOP = ("crash-loop", "look at its log with 'docker compose logs'", _PASSES)
    UNHEALTHY = (
        "unhealthy",
        "look at its log, and at its health check's with 'docker inspect'",
        _PASSES,
    )
    TIMEOUT = (
        "timeout",
        "see what it waits for (depends_on?), or raise EARLY_START_APP_SECONDS",
        _PASSES,
    )
    # What happened around it.
    ENGINE_UNAVAILABLE = (
        "engine-unavailable",
        "look at 'systemctl status docker'; on a slow board raise EARLY_START_ENGINE_SECONDS",
        _FINAL,
    )
    ENGINE_LOST = ("engine-lost", "look at 'journalctl -u docker'", _PASSES)
    APPS_TAKEN = (
        "apps-taken",
        "leave the apps to aktualizr-lite, or restart compose-apps-early-start when it has ended",
        _FINAL,
    )
    RUN_TIMEOUT = (
        "run-timeout",
        "see which app took the time, or raise EARLY_START_RUN_SECONDS",
        _FINAL,
    )
    INTERRUPTED = (
        "interrupted",
        "run 'systemctl restart compose-apps-early-start'",
        _FINAL,
    )
    INTERNAL_ERROR = (
        "internal-error",
        "this is a defect of compose-apps-early-start; report it with this line",
        _FINAL,
    )
    COMPOSE_FAILED = (
        "compose-failed",
        "run 'docker compose up -d --pull never' in the app's folder",
        _PASSES,
    )

    def __init__(self, label: str, hint: str, passes: bool) -> None:
        self.label = label
        self.hint = hint
        self.passes = passes


@dataclass(frozen=True)
class Failure:
    """One app's failure: its cause, and in one line what exactly happened.

    `container` is the id of the container whose log may say more. `details` is all that compose
    said, or the traceback of a defect of ours.
    """

    cause: Cause
    message: str
    container: str | None = None
    details: str = field(default="", compare=False, repr=False)

    @classmethod
    def unexpected(cls, error: Exception) -> "Failure":
        """Return the failure of an app at which the agent itself met `error`."""
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
