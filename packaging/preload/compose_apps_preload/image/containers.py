"""Containers, networks and volumes that `docker compose create` creates ahead.

On the device, `docker compose up` finds them and only starts them. They are created in the place
and with the environment that the agent and aktualizr-lite use for compose, because both are part of
compose's labels and hashes.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose_apps_early_start import compose
from compose_apps_early_start.diagnosis import diagnose
from compose_apps_early_start.settings import Settings

from ..errors import PreloadError
from . import daemon_json
from .ext4 import FileSystem
from .layout import Layout
from .progress import step

FOLDERS = ("containers", "network", "volumes")
"""The folders of docker's data root that hold them. Their layers are in `image` and `overlay2`."""

_SECONDS = 300.0  # seconds for one app, because a volume may be filled from its image
_LABEL = "com.docker.compose.project.working_dir"
_WITHOUT = "or leave out --create; the device then creates the containers at its first boot"
_ACCOUNTS = ("etc/passwd", "usr/etc/passwd", "usr/lib/passwd")
# dockerd leaves out settings that this machine's kernel does not support, and prints a warning.
_LOST = re.compile(r"Your kernel does not support .*|.*[Ll]imitation discarded.*")


@dataclass(frozen=True)
class Creation:
    """How to create containers: compose's `plugin`, and the `settings` of the device's dockerd."""

    plugin: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, str]

    @classmethod
    def for_image(cls, plugin: Path, system: FileSystem, layout: Layout) -> "Creation":
        """Read the docker settings of an image; raises `PreloadError`."""
        settings = {
            # The default depends on this machine's kernel. On the device, systemd mounts version 2.
            "default-cgroupns-mode": "private",
            **daemon_json.read(system, layout),
        }
        return cls(plugin, settings, _environment(system, layout))


def _environment(system: FileSystem, layout: Layout) -> Mapping[str, str]:
    """Return the environment that the agent gives compose on a device with this image."""
    found = {
        **compose.environment(),
        # The docker configuration of root on this machine may contain proxies, for instance.
        "DOCKER_CONFIG": "/run/docker-config",
    }
    for root in layout.roots(system):
        for file in _ACCOUNTS:
            text = system.read(f"{root}/{file}") or b""
            account = re.search(rb"^root:.*:0:\d+:.*:(.*):(.*)$", text, re.MULTILINE)
            if account:
                home, shell = account[1].decode(), account[2].decode()
                return found | {"HOME": home, "SHELL": shell, "USER": "root", "LOGNAME": "root"}
    return found


def make(creation: Creation, apps: Sequence[str], client: Any, process: int) -> None:
    """Create the containers, networks and volumes of `apps`; raises `PreloadError`.

    `client` talks to dockerd. `process` is the id of a process in dockerd's namespaces, where the
    apps are in the same place as on the device.
    """
    for name in apps:
        with step(f"docker compose create, app {name}"):
            _make(creation, name, client, process)
    if client.info().get("CgroupVersion") == "1":
        _check_privileged(client)


def made(folder: Path) -> Mapping[str, Sequence[str]]:
    """Return the names of the containers in docker's folder for them, by their app.

    Raises ValueError, LookupError, TypeError or AttributeError if a container is damaged.
    """
    found: dict[str, list[str]] = {}
    for file in folder.glob("*/config.v2.json"):
        container = json.loads(file.read_bytes())
        app = Path((container["Config"].get("Labels") or {}).get(_LABEL, "")).name
        found.setdefault(app, []).append(str(container["Name"]).lstrip("/"))
    return {app: sorted(names) for app, names in found.items()}


def _make(creation: Creation, name: str, client: Any, process: int) -> None:
    argv = (
        *("setpriv", "--pdeathsig", "KILL"),
        *("nsenter", f"--target={process}", "--mount", "--net", "--pid", "--ipc", "--uts"),
        f"--wdns={Settings().compose_apps / name}",
        *(str(creation.plugin), "--progress", "plain", "create", "--pull", "never", "--no-build"),
    )
    try:
        done = subprocess.run(
            argv,
            env=creation.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PreloadError(
            f"app {name} cannot be created: compose did not end within {_SECONDS:.0f} s",
            f"try it by hand, {_WITHOUT}",
        ) from error
    lost = _LOST.search(done.stdout)
    if done.returncode:
        words = diagnose(done.stdout).message
        raise PreloadError(f"app {name} cannot be created: {words}", _hint(words, client))
    if lost:
        raise PreloadError(
            f"app {name}: on this machine docker creates it without a limit: {lost[0].strip()}",
            f"make the image on a machine with cgroup version 2, {_WITHOUT}",
        )


def _hint(words: str, client: Any) -> str:
    """Return the next step for a message of compose."""
    if re.search("pool overlaps|non-overlapping", words, re.IGNORECASE):
        taken = ", ".join(sorted(_subnets(client)))
        return f"give each network other addresses (these are taken: {taken}), {_WITHOUT}"
    name = re.search(r'container name "/?([^"]+)" is already in use', words)
    if name:
        labels = client.inspect_container(name[1])["Config"]["Labels"] or {}
        other = Path(labels.get(_LABEL, "another app")).name
        return f"{other} has a container of this name: remove container_name, {_WITHOUT}"
    return f"correct the app, {_WITHOUT}"


def _subnets(client: Any) -> Iterator[str]:
    for network in client.networks():
        for each in network["IPAM"].get("Config") or ():
            yield f"{each.get('Subnet')} by {network['Name']}"


def _check_privileged(client: Any) -> None:
    """Raise `PreloadError` if a container has the host's cgroup namespace without version 2.

    On the device, privileged containers have their own cgroup namespace.
    """
    for each in client.containers(all=True):
        host = client.inspect_container(each["Id"])["HostConfig"]
        if host["Privileged"] and host["CgroupnsMode"] == "host":
            raise PreloadError(
                f"app {Path(each['Labels'][_LABEL]).name}: {each['Names'][0].lstrip('/')} is "
                "privileged, and this machine has cgroup version 1",
                f"make the image on a machine with cgroup version 2, {_WITHOUT}",
            )
