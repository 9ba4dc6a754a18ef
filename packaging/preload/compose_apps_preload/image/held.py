"""What an image is preloaded with already: read it, keep its blobs, take it out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import containers, docker_store
from .cache import Cache
from .ext4 import FileSystem
from .layout import Layout


@dataclass(frozen=True)
class Held:
    """The preloaded apps of an image: name to version; None if nothing tells the version.

    `installed` are the apps that the image's own installed_versions names, preloaded or not.
    """

    apps: Mapping[str, str | None]
    installed: Mapping[str, str]
    docker: frozenset[str]
    """Which parts of docker's store are in it."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is preloaded."""
        return not self.apps and "image" not in self.docker

    @classmethod
    def read(cls, system: FileSystem, layout: Layout) -> "Held":
        """Look into an image; raises `PreloadError` if its installed_versions is damaged."""
        installed = _installed(system, layout)
        apps: dict[str, str | None] = dict.fromkeys(system.names(layout.compose_apps))
        for name in system.names(f"{layout.reset_apps}/apps"):
            folder = f"{layout.reset_apps}/apps/{name}"
            versions = [system.read(f"{folder}/{each}/uri") for each in system.names(folder)]
            uris = [each.decode(errors="replace").strip() for each in versions if each]
            if uris:
                apps[name] = uris[0] if len(uris) == 1 else None
        for name in apps:
            apps[name] = installed.get(name) or apps[name]
        parts = (*docker_store.PARTS, *containers.PARTS)
        docker = frozenset(each for each in parts if system.names(f"{layout.docker}/{each}"))
        return cls(apps, installed, docker)


def keep_blobs(system: FileSystem, layout: Layout, cache: Cache, scratch: Path) -> None:
    """Put all blobs of the restorable store into the cache, so that nobody need fetch them."""
    system.dump(f"{layout.reset_apps}/blobs", scratch)
    for file in (scratch / "blobs").glob("sha256/*"):
        cache.adopt(file)


def remove(system: FileSystem, layout: Layout, before: Held, scratch: Path) -> None:
    """Take all that is preloaded out of a file system; raises `PreloadError`."""
    parts = docker_store.PARTS
    if "containers" in before.docker:
        # They would lack their images. Without any, volumes are nobody's who preloads.
        parts += containers.PARTS
    paths = [f"{layout.compose_apps}/{name}" for name in system.names(layout.compose_apps)]
    paths += [f"{layout.reset_apps}/{name}" for name in system.names(layout.reset_apps)]
    paths += [f"{layout.docker}/{name}" for name in parts]
    system.remove(paths, scratch)


def current(targets: Any) -> list[dict[str, Any]]:
    """Return the current targets of an installed_versions; raises ValueError and its like."""
    return [target for target in targets.values() if target.get("is_current")]


def _installed(system: FileSystem, layout: Layout) -> Mapping[str, str]:
    found = system.read(layout.installed_versions)
    if found is None:
        return {}
    try:
        return {
            str(name): str(details["uri"])
            for target in current(json.loads(found))
            for name, details in target.get("custom", {}).get("docker_compose_apps", {}).items()
        }
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise PreloadError(
            f"{layout.installed_versions} in the image cannot be read: {error}",
            "was the image made by a Factory?",
        ) from error
