"""Containers, networks and volumes that are made ahead by `docker compose create`.

On the device `docker compose up` then finds them, and only starts them. They are made in the place
and in the environment in which the agent and aktualizr-lite call compose, because both enter
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
from . import daemon_json, docker_engine
from .ext4 import FileSystem
from .layout import Layout
from .progress import step

PARTS = ("containers", "network", "volumes")
"""What of docker's data root holds them, beside their layers in `image` and `overlay2`."""

_SECONDS = 300.0  # for one app: a volume may be filled from its image
_LABEL = "com.docker.compose.project.working_dir"
_WITHOUT = "or leave --create out: the device then makes containers at its first boot"
_ACCOUNTS = ("etc/passwd", "usr/etc/passwd", "usr/lib/passwd")
# dockerd makes a container without what this machine's kernel lacks, and tells.
_LOST = re.compile(r"Your kernel does not support .*|.*[Ll]imitation discarded.*")


@dataclass(frozen=True)
class Making:
    """How containers are made. `plugin` is compose, `settings` are the device's of dockerd."""

    plugin: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, str]

    @classmethod
    def for_image(cls, system: FileSystem, layout: Layout) -> "Making":
        """Read what an image says of its docker; raises `PreloadError`."""
        settings = {
            # By default that of this machine's kernel would count. systemd mounts version 2.
            "default-cgroupns-mode": "private",
            **daemon_json.read(system, layout),
        }
        return cls(docker_engine.compose(), settings, _environment(system, layout))


def _environment(system: FileSystem, layout: Layout) -> Mapping[str, str]:
    """Return what the agent gives compose on a device with this image."""
    found = {
        **compose.environment(),
        # Whose docker configuration this machine's root has, is no device's: it may name proxies.
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


def make(making: Making, apps: Sequence[str], client: Any, process: int) -> None:
    """Make what `apps` need, by the dockerd that `client` speaks to; raises `PreloadError`.

    `process` lives in that dockerd's namespaces, where apps lie as they do on the device.
    """
    for name in apps:
        with step(f"docker compose create, app {name}"):
            _make(making, name, client, process)
    if client.info().get("CgroupVersion") == "1":
        _check_privileged(client)


def made(folder: Path) -> Mapping[str, Sequence[str]]:
    """Return the names of the containers in docker's folder of them, by the app that they are of.

    Raises ValueError and its like if one is damaged.
    """
    found: dict[str, list[str]] = {}
    for file in folder.glob("*/config.v2.json"):
        container = json.loads(file.read_bytes())
        app = Path((container["Config"].get("Labels") or {}).get(_LABEL, "")).name
        found.setdefault(app, []).append(str(container["Name"]).lstrip("/"))
    return {app: sorted(names) for app, names in found.items()}


def _make(making: Making, name: str, client: Any, process: int) -> None:
    argv = (
        *("setpriv", "--pdeathsig", "KILL"),
        *("nsenter", f"--target={process}", "--mount", "--net", "--pid", "--ipc", "--uts"),
        f"--wdns={Settings().compose_apps / name}",
        *(str(making.plugin), "--progress", "plain", "create", "--pull", "never", "--no-build"),
    )
    try:
        done = subprocess.run(
            argv,
            env=making.environment,
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
    """Return what to do about compose's words."""
    if re.search("pool overlaps|non-overlapping", words, re.IGNORECASE):
        taken = ", ".join(_subnets(client))
        return f"give each network other addresses (these are taken: {taken}), {_WITHOUT}"
    name = re.search(r'container name "/?([^"]+)" is already in use', words)
    if name:
        labels = client.inspect_container(name[1])["Config"]["Labels"] or {}
        other = Path(labels.get(_LABEL, "another app")).name
        return f"{other} has a container of this name: leave container_name out, {_WITHOUT}"
    return f"correct the app, {_WITHOUT}"


def _subnets(client: Any) -> Iterator[str]:
    for network in client.networks():
        for each in network["IPAM"].get("Config") or ():
            yield f"{each.get('Subnet')} by {network['Name']}"


def _check_privileged(client: Any) -> None:
    """Raise `PreloadError` if a container got the host's cgroup namespace, for want of version 2.

    On the device, privileged containers have one of their own.
    """
    for each in client.containers(all=True):
        host = client.inspect_container(each["Id"])["HostConfig"]
        if host["Privileged"] and host["CgroupnsMode"] == "host":
            raise PreloadError(
                f"app {Path(each['Labels'][_LABEL]).name}: {each['Names'][0].lstrip('/')} is "
                "privileged, and this machine has cgroup version 1",
                f"make the image on a machine with cgroup version 2, {_WITHOUT}",
            )
