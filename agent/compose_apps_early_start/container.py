"""The engine's state as plain data, so that decisions do not need the docker SDK."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Listed:
    """A container of any compose project, as far as its labels describe it.

    Containers that may belong to somebody else are not inspected. dockerd cannot even inspect a
    container with damaged data.
    """

    id: str
    name: str
    project: str
    folder: str
    service: str = ""


@dataclass(frozen=True)
class Container(Listed):
    """A container of an app. `state` is dockerd's word, or "unreadable" if it cannot be inspected.

    `up_for` is for how many seconds its process has been running, or None if it is not running.
    `error` is dockerd's message if the container could not be started or inspected. `finished_at`
    is dockerd's text; it only shows whether the container ended again. `networks` are the names and
    ids of its networks. `network_mode` is the name of the network it was created for, or `none`,
    `host` and the like.
    """

    one_off: bool = False
    image: str = ""
    published_hash: str | None = None
    state: str = "unreadable"
    error: str = ""
    exit_code: int = 0
    out_of_memory: bool = False
    health: str | None = None
    restart_policy: str = "no"
    restarts: int = 0
    up_for: float | None = None
    finished_at: str = ""
    networks: tuple[tuple[str, str], ...] = ()
    network_mode: str = "none"

    @property
    def may_end(self) -> bool:
        """Whether it can be a one-shot: no policy restarts it after exit status 0."""
        return self.restart_policy not in ("always", "unless-stopped")

    @property
    def ended_well(self) -> bool:
        """Whether it is a one-shot that exited with status 0."""
        return self.state == "exited" and self.exit_code == 0 and self.may_end

    @property
    def without_network(self) -> bool:
        """Whether it runs without the network that it should have."""
        shared = self.network_mode in ("none", "host") or ":" in self.network_mode
        return self.state == "running" and not shared and not self.networks

    def lost_networks(self, known: Collection[str]) -> tuple[str, ...]:
        """Return the names of its networks that are not among the ids `known`."""
        if self.state == "running":
            return ()
        # A container that was never started has no network id yet.
        return tuple(
            name for name, identifier in self.networks if identifier and identifier not in known
        )


@dataclass(frozen=True)
class Storage:
    """The engine's image store: containerd's, or docker's own.

    `root` is its data folder. `architecture` has docker's name, such as amd64 or arm64.
    """

    containerd: bool
    root: Path
    architecture: str


@dataclass(frozen=True)
class State:
    """The engine's state, as far as the plan needs it.

    `images` are the references that resolve, `listed` all containers of compose projects,
    `containers` those of the apps, `networks` the ids of all networks.
    """

    images: frozenset[str]
    listed: tuple[Listed, ...] = ()
    containers: tuple[Container, ...] = ()
    networks: frozenset[str] = frozenset()
