"""The apps that an image is preloaded with already: read them, keep their blobs, remove them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import containers, docker_store, installed_versions
from .cache import Cache
from .ext4 import FileSystem
from .layout import Layout


@dataclass(frozen=True)
class Preloaded:
    """The preloaded apps of an image: name to version, or None if the version is unknown.

    `installed` are the apps that the image's installed_versions names, preloaded or not.
    """

    apps: Mapping[str, str | None]
    installed: Mapping[str, str]
    docker: frozenset[str]
    """The folders of docker's store that the image has."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is preloaded."""
        return not self.apps and "image" not in self.docker

    @classmethod
    def read(cls, system: FileSystem, layout: Layout) -> "Preloaded":
        """Read an image; raises `PreloadError` if its installed_versions is damaged."""
        installed = installed_versions.apps(system.read(layout.installed_versions))
        apps: dict[str, str | None] = dict.fromkeys(system.names(layout.compose_apps))
        for name in system.names(f"{layout.reset_apps}/apps"):
            folder = f"{layout.reset_apps}/apps/{name}"
            versions = [system.read(f"{folder}/{version}/uri") for version in system.names(folder)]
            uris = [version.decode(errors="replace").strip() for version in versions if version]
            if uris:
                apps[name] = uris[0] if len(uris) == 1 else None
        for name in apps:
            apps[name] = installed.get(name) or apps[name]
        folders = (*docker_store.IMAGE_FOLDERS, *containers.FOLDERS)
        docker = frozenset(each for each in folders if system.names(f"{layout.docker}/{each}"))
        return cls(apps, installed, docker)


def keep_blobs(system: FileSystem, layout: Layout, cache: Cache, scratch: Path) -> None:
    """Move all blobs of the restorable store into the cache, so that they need not be fetched."""
    system.dump(f"{layout.reset_apps}/blobs", scratch)
    for file in (scratch / "blobs").glob("sha256/*"):
        cache.adopt(file)


def remove(system: FileSystem, layout: Layout, existing: Preloaded, scratch: Path) -> None:
    """Remove all preloaded apps and images from a file system; raises `PreloadError`."""
    folders = docker_store.IMAGE_FOLDERS
    if "containers" in existing.docker:
        # They would lack their images. Without containers, volumes were not preloaded.
        folders += containers.FOLDERS
    paths = [f"{layout.compose_apps}/{name}" for name in system.names(layout.compose_apps)]
    paths += [f"{layout.reset_apps}/{name}" for name in system.names(layout.reset_apps)]
    paths += [f"{layout.docker}/{name}" for name in folders]
    system.remove(paths, scratch)
