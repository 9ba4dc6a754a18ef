"""The bill of materials of a preloaded image, as plain data."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageReport:
    """An image that an app needs. `size` is in bytes: packed in the restorable store, else not.

    `stores` are those that hold all of it, verified by digest.
    """

    reference: str
    services: tuple[str, ...]
    architecture: str | None
    config: str | None
    size: int
    stores: tuple[str, ...]
    layers: tuple[str, ...]
    """Digests: of the packed layers if the restorable store has it, else of what they unpack to."""


@dataclass(frozen=True)
class AppReport:
    """A preloaded app. `uri` is its version; None if nothing in the image tells."""

    name: str
    uri: str | None
    ready: bool
    """Whether its folder is in compose-apps; else the device restores it."""
    images: tuple[ImageReport, ...]
    containers: tuple[str, ...]
    """The names of its containers that were made ahead."""


@dataclass
class Report:
    """The bill of materials of an image, and what is wrong with it."""

    image: str
    var: str
    stores: tuple[str, ...] = ()
    default_apps: tuple[str, ...] | None = None
    apps: list[AppReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
