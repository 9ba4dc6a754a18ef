"""The bill of materials of a preloaded image, as plain data."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ContainerImage:
    """An image that an app needs. `size` is in bytes: compressed if the restorable store has it.

    `stores` are the stores that hold the whole image, verified by digest.
    """

    reference: str
    services: tuple[str, ...]
    architecture: str | None
    config: str | None
    size: int
    stores: tuple[str, ...]
    layers: tuple[str, ...]
    """Digests of the compressed layers if the restorable store has them, else uncompressed."""


@dataclass(frozen=True)
class PreloadedApp:
    """A preloaded app. `uri` is its version; None if nothing in the image says which it is."""

    name: str
    uri: str | None
    ready: bool
    """Whether its folder is in compose-apps. If not, the device restores it."""
    images: tuple[ContainerImage, ...]
    containers: tuple[str, ...]
    """The names of its containers that were created ahead."""


@dataclass
class BillOfMaterials:
    """The bill of materials of an image, and the problems found in it."""

    image: str
    var: str
    stores: tuple[str, ...] = ()
    default_apps: tuple[str, ...] | None = None
    apps: list[PreloadedApp] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
