"""The settings of docker in an image: those that enter containers and networks when they are made.

dockerd writes its defaults into what it makes: the driver of the log, the runtime, addresses. What
this machine's dockerd makes for a device has to get the device's.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import PreloadError
from .ext4 import FileSystem
from .layout import Layout

DATA_ROOT = "/var/lib/docker"
"""Where docker keeps its data by default, and where an image's docker store is put."""

_FILES = (
    "etc/docker/daemon.json",
    "usr/etc/docker/daemon.json",  # what OSTree makes /etc of
    "usr/lib/docker/daemon.json",  # Linux microPlatform's dockerd, if there is no other
)
_TAKEN = (
    # Written into containers.
    *("default-cgroupns-mode", "default-ipc-mode", "default-runtime", "default-shm-size"),
    *("log-driver", "log-opts", "no-new-privileges", "runtimes"),
    # Written into networks, or they keep clear of it.
    *("bip", "default-address-pools", "default-network-opts", "fixed-cidr", "fixed-cidr-v6"),
    *("ipv6", "mtu"),
)


def read(system: FileSystem, layout: Layout) -> Mapping[str, Any]:
    """Return those settings; raises `PreloadError` if docker would not find what is made ahead."""
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
            f"{path} in the image cannot be read: {error}", "correct it: it is JSON"
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
                "made ahead",
                "leave --create out",
            )
    taken = {name: settings[name] for name in _TAKEN if name in settings}
    return taken | ({"bridge": "none"} if settings.get("bridge") == "none" else {})
