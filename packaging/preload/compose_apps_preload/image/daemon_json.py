"""The docker settings in an image that become part of containers and networks.

dockerd writes its defaults into containers and networks: the log driver, the runtime, addresses. If
this machine's dockerd creates them for a device, they need the device's defaults.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import PreloadError
from .ext4 import FileSystem
from .layout import Layout

DATA_ROOT = "/var/lib/docker"
"""docker's default data root, which is the place of an image's docker store."""

_FILES = (
    "etc/docker/daemon.json",
    "usr/etc/docker/daemon.json",  # OSTree makes /etc from this folder
    "usr/lib/docker/daemon.json",  # the dockerd of the Linux microPlatform, if there is no other
)
_TAKEN = (
    # Written into containers.
    *("default-cgroupns-mode", "default-ipc-mode", "default-runtime", "default-shm-size"),
    *("log-driver", "log-opts", "no-new-privileges", "runtimes"),
    # Written into networks, or avoided by them.
    *("bip", "default-address-pools", "default-network-opts", "fixed-cidr", "fixed-cidr-v6"),
    *("ipv6", "mtu"),
)


def read(system: FileSystem, layout: Layout) -> Mapping[str, Any]:
    """Return these settings; raises `PreloadError` if docker would not find the containers."""
    for path in _paths(system, layout):
        found = system.read(path)
        if found is not None:
            return _taken(found, path)
    return {}


def _paths(system: FileSystem, layout: Layout) -> Iterator[str]:
    for root in layout.roots(system):
        yield from (f"{root}/{file}" for file in _FILES)


def _taken(text: bytes, path: str) -> Mapping[str, Any]:
    try:
        settings = json.loads(text or b"{}")
        root = settings.get("data-root", DATA_ROOT)
        containerd = (settings.get("features") or {}).get("containerd-snapshotter", False)
    except (ValueError, AttributeError) as error:
        raise PreloadError(
            f"{path} in the image cannot be read: {error}", "correct the file, which must be JSON"
        ) from error
    for name, wrong in (
        (f"data-root {root}", str(root).rstrip("/") != DATA_ROOT),
        ("the containerd image store", containerd),
        (f"userns-remap {settings.get('userns-remap')}", settings.get("userns-remap")),
        (
            f"storage-driver {settings.get('storage-driver')}",
            settings.get("storage-driver", "overlay2") != "overlay2",
        ),
    ):
        if wrong:
            raise PreloadError(
                f"the image's docker has {name} ({path}): it would not find containers that are "
                "created ahead",
                "leave out --create",
            )
    taken = {name: settings[name] for name in _TAKEN if name in settings}
    return taken | ({"bridge": "none"} if settings.get("bridge") == "none" else {})
