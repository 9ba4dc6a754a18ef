"""Bind mounts, and the folders that dockerd creates if their source does not exist.

Such a folder belongs to root, and prevents a program from creating its file, socket or device of
the same name. Only `bind: {create_host_path: false}` prevents this in every version of compose:
2.26 asks dockerd for it in the short form, newer versions in the long form, too.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml

from ..finding import Finding, Mark, Severity
from ..yaml_tree import flag, mark, quoted
from .app import App, Service

_ROOTS = ("/bin", "/boot", "/dev/mapper", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Nothing is created below these: they belong to the kernel, or are read-only with OSTree."""

_ALWAYS_PRESENT = frozenset(
    [
        *("/", "/dev", "/etc", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp"),
        *("/var", "/var/cache", "/var/lib", "/var/local", "/var/log", "/var/spool", "/var/tmp"),
        *("/etc/group", "/etc/hostname", "/etc/hosts", "/etc/localtime", "/etc/machine-id"),
        *("/etc/os-release", "/etc/passwd", "/etc/resolv.conf", "/etc/shadow", "/etc/ssl"),
        *("/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt", "/etc/systemd"),
        *("/run/containerd", "/run/containerd/containerd.sock", "/run/dbus"),
        *("/run/dbus/system_bus_socket", "/run/docker.sock", "/run/lock", "/run/log"),
        *("/run/log/journal", "/run/systemd", "/run/udev", "/tmp/.X11-unix"),
        *("/var/lib/docker", "/var/lib/systemd", "/var/sota"),
    ]
)
"""These exist on any device before the first app starts."""

_DEV_FOLDERS = frozenset(
    [
        *("block", "bus", "bus/usb", "char", "disk", "dma_heap", "dri", "input", "mqueue", "net"),
        *("pts", "serial", "shm", "snd", "v4l"),
    ]
)
"""Folders in /dev, in which nodes appear whoever created the folder."""

_DEV_NODES = frozenset(
    [
        *("console", "full", "fuse", "kmsg", "log", "mem", "net/tun", "null", "ptmx", "random"),
        *("tty", "urandom", "zero"),
    ]
)
"""Nodes in /dev that exist as soon as the kernel runs."""


@dataclass(frozen=True)
class _Bind:
    service: str
    source: str
    target: str
    makes_folder: bool | None
    """Whether a missing source becomes a folder; None: only with newer versions of compose."""
    at: Mark

    @property
    def maker(self) -> str:
        """The program that creates the folder, with the verb, for a sentence."""
        return "dockerd creates" if self.makes_folder else "newer versions of compose create"

    @property
    def is_file(self) -> bool:
        """Whether the source or the target has the name of a file."""
        return not self.source.endswith("/") and (
            _names_file(self.source) or _names_file(self.target)
        )


def findings(app: App, service: Service) -> Iterator[Finding]:
    """Yield the findings about the bind mounts of `service`."""
    for bind in _binds(app, service):
        if bind.source.startswith("/"):
            yield from _of_the_host(bind)
        elif not bind.source.startswith("~"):
            yield from _of_the_app(app, bind)


def _binds(app: App, service: Service) -> Iterator[_Bind]:
    for item in app.items(service.fields, "volumes"):
        if isinstance(item, yaml.MappingNode):
            fields = app.fields(item, "volumes[]")
            source, target = (app.value(fields, key) or "" for key in ("source", "target"))
            asked = app.below(fields, "bind").get("create_host_path")
            makes_folder = flag(asked.node) if asked else None
            if app.value(fields, "type") != "bind":
                continue
        else:
            source, _, target = (app.text(item) or "").partition(":")
            target, makes_folder = target.partition(":")[0], True
        # Anything else before the colon is the name of a volume.
        if source.startswith((".", "/", "~")) and target:
            yield _Bind(str(service), source, target, makes_folder, mark(item))


def _names_file(path: str) -> bool:
    name = PurePosixPath(path).name
    # `conf.d` is a folder, and so is `v1.2`.
    suffix = re.search(r"[^.]\.([A-Za-z][A-Za-z0-9_-]*)$", name)
    return suffix is not None and suffix[1] != "d"


def _of_the_app(app: App, bind: _Bind) -> Iterator[Finding]:
    path = os.path.normpath(bind.source)
    source = quoted(bind.source)
    if path.startswith(".."):
        yield Finding(
            Severity.ERROR,
            "outside-app",
            bind.at,
            f"service {bind.service} mounts {source}, which is outside the app's folder: a device "
            "gets only this folder",
            "move it into the app's folder",
        )
    elif app.has(path):
        return
    elif bind.is_file or not bind.makes_folder:
        folder = f"{bind.maker} an empty folder in its place"
        yield Finding(
            Severity.ERROR,
            "missing-file",
            bind.at,
            f"service {bind.service} mounts {source}, which is not in the app's folder: "
            + ("the start fails" if bind.makes_folder is False else folder),
            "add it, or correct the path, which is relative to the app's folder",
        )
    else:
        yield Finding(
            Severity.NOTICE,
            "host-folder",
            bind.at,
            f"service {bind.service} mounts {source}, which is not in the app's folder: dockerd "
            "creates it there, owned by root",
            "use a named volume for data that the service writes; the folder is for published "
            "files",
        )


def _of_the_host(bind: _Bind) -> Iterator[Finding]:
    path = os.path.normpath(bind.source)
    path = "/" + path.lstrip("/")
    if path.startswith("/var/run/") or path == "/var/run":
        path = path.removeprefix("/var")
    if bind.makes_folder is False or path in _ALWAYS_PRESENT or _is_below(path, _ROOTS):
        return
    device = path.removeprefix("/dev/") if path.startswith("/dev/") else None
    if device in _DEV_FOLDERS or device in _DEV_NODES:
        return
    source = quoted(bind.source)
    if device is None and not path.startswith("/run/user/") and not bind.is_file:
        yield Finding(
            Severity.NOTICE,
            "host-folder",
            bind.at,
            f"service {bind.service} mounts {source}: if the device does not have it, {bind.maker} "
            "an empty folder, owned by root",
            "if other programs write to it, let the image create it (tmpfiles.d); otherwise use a "
            "named volume",
        )
        return
    yield Finding(
        Severity.WARNING,
        "bind-before-made",
        bind.at,
        f"service {bind.service} mounts {source}: if it does not exist yet when the app starts, "
        f"{bind.maker} an empty folder in its place, owned by root",
        "list it in devices:, so that a start without it fails and is tried again"
        if device is not None
        else "use the long form with bind: {create_host_path: false}, so that a start without it "
        "fails and is tried again",
    )


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)
