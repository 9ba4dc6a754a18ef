"""What the engine holds, as plain data: decided upon without the docker SDK."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Listed:
    """A container of some compose project, as far as its labels tell.

    More is not asked about a container that may be somebody else's: dockerd cannot even inspect one
    whose data is damaged.
    """

    id: str
    name: str
    project: str
    folder: str
    service: str = ""


@dataclass(frozen=True)
class Container(Listed):
    """A container of an app. `state` is dockerd's word, or "unreadable" if it cannot be inspected.

    `up_for` is for how many seconds its process has been running, None if it is not. `error` is
    what dockerd said when it failed to start or to be inspected. `finished_at` is dockerd's text,
    only good for telling whether it ended again. `networks` are the names and ids of the networks
    that it is connected to, `network_mode` that of the one it was made for, or none, host and such.
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
        """Whether an exit status of 0 can be the end of a one-shot: no policy restarts it."""
        return self.restart_policy not in ("always", "unless-stopped")

    @property
    def ended_well(self) -> bool:
        """Whether it is a one-shot that ended with 0."""
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
        # One that was never started has no id of its network yet.
        return tuple(
            name for name, identifier in self.networks if identifier and identifier not in known
        )


@dataclass(frozen=True)
class Storage:
    """How the engine keeps images. `containerd`: in containerd's store, else in its own.

    `root` is the folder of its data, `architecture` as docker names it (amd64, arm64).
    """

    containerd: bool
    root: Path
    architecture: str


@dataclass(frozen=True)
class State:
    """What the engine holds, as far as the plan needs it.

    `images` are the references that resolve, `listed` all containers of compose projects,
    `containers` those of the apps, `networks` the ids of all networks.
    """

    images: frozenset[str]
    listed: tuple[Listed, ...] = ()
    containers: tuple[Container, ...] = ()
    networks: frozenset[str] = frozenset()
