"""Why an app does not run: the causes, what to do about each, and what the agent may try itself."""

from dataclasses import dataclass
from enum import Enum


class Remedy(Enum):
    """One rung of the ladder for an app that failed. None of them deletes data."""

    AGAIN = "up again, alone"
    RECREATE = "up --force-recreate"
    DOWN_UP = "down, then up"


_NONE = ()
_RACE = (Remedy.AGAIN,)
_CONTAINER = (Remedy.AGAIN, Remedy.RECREATE)
_NETWORK = (Remedy.RECREATE, Remedy.DOWN_UP)
_ALL = (Remedy.AGAIN, Remedy.RECREATE, Remedy.DOWN_UP)


class Cause(Enum):
    """Name, next step for a person, and the rungs that can help.

    A rung is left out where it cannot help: a missing image does not appear by trying again, and
    a container is not created anew (which drops what it wrote outside its volumes) for a port
    that somebody else holds.
    """

    # What the files say, before any container is touched.
    APP_FOLDER_INVALID = (
        "app-folder-invalid",
        "make it a plain folder with a name of a-z, 0-9, '-' and '_' that no other app has",
        _NONE,
    )
    COMPOSE_FILE_MISSING = (
        "compose-file-missing",
        "the folder must hold docker-compose.yml; put the app there again",
        _NONE,
    )
    COMPOSE_FILE_INVALID = (
        "compose-file-invalid",
        "run 'docker compose config' in the app's folder and correct the file",
        _NONE,
    )
    VARIABLE_MISSING = (
        "variable-missing",
        "give the variable a default in docker-compose.yml, or a value in the app's .env",
        _NONE,
    )
    ENV_FILE_MISSING = (
        "env-file-missing",
        "add the file to the app, or mark it 'required: false'",
        _NONE,
    )
    PROJECT_TAKEN = (
        "project-taken",
        "containers of another folder carry the same project name; remove or rename that project",
        _NONE,
    )
    # What the device lacks.
    COMPOSE_NOT_FOUND = (
        "compose-not-found",
        "install docker-compose (version 2 or later) into the image",
        _NONE,
    )
    IMAGE_MISSING = (
        "image-missing",
        "preload the image with the app, or register the device so that it can be pulled",
        _NONE,
    )
    REGISTRY_NEEDED = (
        "registry-needed",
        "the app wants something from the network; preload it, or register the device",
        _NONE,
    )
    STORE_DAMAGED = (
        "store-damaged",
        "flash the device again, or register it so that the app is fetched anew",
        _NONE,
    )
    VERSION_UNCLEAR = (
        "version-unclear",
        "/var/sota/import/installed_versions must name the version, or one must be removed",
        _NONE,
    )
    IMAGE_NOT_LOADED = (
        "image-not-loaded",
        "see 'journalctl -u docker'; overlay2 needs LmP's patch, or give dockerd the containerd "
        "image store, or preload docker's own",
        _NONE,
    )
    FOLDER_NOT_RESTORED = (
        "folder-not-restored",
        "see what is in the way in /var/sota/compose-apps, and whether the disk is sound",
        _NONE,
    )
    NO_SPACE = ("no-space", "free space under /var, or grow the file system", _NONE)
    NETWORK_MISSING = (
        "external-network-missing",
        "create it with 'docker network create', or start what creates it",
        _RACE,
    )
    VOLUME_MISSING = (
        "external-volume-missing",
        "create it with 'docker volume create', or start what creates it",
        _RACE,
    )
    # What stands in the way.
    PORT_TAKEN = (
        "port-taken",
        "two apps, or an app and a host service, want the same port; change one of them",
        _RACE,
    )
    NAME_TAKEN = (
        "container-name-taken",
        "another container has that name; remove it with 'docker rm', or drop container_name",
        _RACE,
    )
    SUBNET_TAKEN = (
        "subnet-taken",
        "remove unused networks, or give dockerd more with default-address-pools",
        _RACE,
    )
    NETWORK_STALE = (
        "network-stale",
        "run 'docker compose up -d --force-recreate' in the app's folder",
        _NETWORK,
    )
    # What the containers did.
    START_FAILED = (
        "container-start-failed",
        "the container cannot be started as described; check its command, mounts and devices",
        _CONTAINER,
    )
    NOT_STARTED = ("container-not-started", "look at 'docker ps -a' and dockerd's journal", _ALL)
    DEPENDENCY_FAILED = (
        "dependency-failed",
        "a service that others depend on failed; look at its log with 'docker compose logs'",
        _CONTAINER,
    )
    EXITED = ("exited", "look at its log with 'docker compose logs'", _CONTAINER)
    CRASH_LOOP = ("crash-loop", "look at its log with 'docker compose logs'", _CONTAINER)
    UNHEALTHY = (
        "unhealthy",
        "look at its log, and at its health check's with docker inspect",
        _NONE,
    )
    HEALTH_TIMEOUT = (
        "health-timeout",
        "see why it is slow, or raise EARLY_START_HEALTH_SECONDS",
        _NONE,
    )
    TIMEOUT = (
        "timeout",
        "see what it waits for (depends_on?), or raise EARLY_START_APP_SECONDS",
        _NONE,
    )
    # What happened around it.
    ENGINE_UNAVAILABLE = (
        "engine-unavailable",
        "look at 'systemctl status docker'; on a slow board raise EARLY_START_ENGINE_SECONDS",
        _NONE,
    )
    ENGINE_LOST = ("engine-lost", "look at 'journalctl -u docker'", _RACE)
    RUN_TIMEOUT = (
        "run-timeout",
        "see which app took the time, or raise EARLY_START_RUN_SECONDS",
        _NONE,
    )
    INTERRUPTED = ("interrupted", "run 'systemctl start compose-apps-early-start' again", _NONE)
    COMPOSE_FAILED = (
        "compose-failed",
        "run 'docker compose up -d --pull never' in the app's folder",
        _ALL,
    )
    PLATFORM_MISSING = (
        "platform-missing",
        "preload the image for this device's architecture, or register the device so that it is "
        "pulled",
        _NONE,
    )
    READ_ONLY = (
        "read-only",
        "see 'journalctl -k' for why the file system is mounted read-only, and repair it",
        _NONE,
    )

    def __init__(self, label: str, hint: str, remedies: tuple[Remedy, ...]) -> None:
        self.label = label
        self.hint = hint
        self.remedies = remedies

    @property
    def comes_later(self) -> bool:
        """What is missing may come without us: worth trying until the app's time is up."""
        return self in (Cause.NETWORK_MISSING, Cause.VOLUME_MISSING, Cause.ENGINE_LOST)


@dataclass(frozen=True)
class Failure:
    """One app's failure: its cause, and in one line what exactly happened.

    `container` is the id of the container whose log may say more.
    """

    cause: Cause
    message: str
    container: str | None = None


NOT_TRIED = Failure(Cause.INTERRUPTED, "the run was ended before its turn")
