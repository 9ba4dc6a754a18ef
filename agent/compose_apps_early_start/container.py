"""What the engine holds, as plain data: decided upon without the docker SDK."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Container:
    """A container of some compose project. Times are seconds since the epoch, None for never."""

    id: str
    name: str
    project: str
    folder: str
    service: str
    one_off: bool
    image: str
    published_hash: str | None
    state: str
    exit_code: int
    health: str | None
    restart_policy: str
    restarts: int
    started_at: float | None
    finished_at: float | None


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
    """What the engine holds, as far as the plan needs it."""

    images: frozenset[str]
    containers: tuple[Container, ...]
