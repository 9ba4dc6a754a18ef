"""docker's own store, filled by a dockerd that nobody else sees.

It runs in namespaces of its own, whose network is a loopback and nothing more, with a data root of
its own, and pulls by digest from a registry there that serves what was fetched before. If that is
wanted, the apps' containers are made, too. Nothing of the images is executed, so their architecture
does not matter. Needs root.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import containers, daemon_json, docker_engine, privilege, registry_server, skopeo, tool
from .containers import Making
from .docker_engine import Download, Engine
from .oci import Image
from .progress import step

PARTS: tuple[str, ...] = ("image", "overlay2")
"""What of docker's data root holds images. But for `containers.PARTS`, the rest is one device's.

That is its identity and keys, swarm, plugins, the cache of builds, what is temporary.
"""

_DOCKER_HUB = "docker.io"
_START_SECONDS = 60.0
_SIDE_BY_SIDE = 2  # images; dockerd fetches three layers of each at a time
_SCRIPT = Path(__file__).with_name("dockerd.sh")


def check() -> Engine | Download:
    """Return the engine that will be used; raises `PreloadError` if the store cannot be made."""
    if not privilege.is_root():
        program = Path(sys.argv[0]).resolve()
        itself = [sys.executable, "-m", "compose_apps_preload"]
        itself = itself if program.name == "__main__.py" else [str(program)]
        again = shlex.join(["sudo", *itself, *sys.argv[1:]])
        raise PreloadError(
            "docker's store can only be made as root",
            f"run {again}, or leave the store out with --no-docker-store",
        )
    tool.check("unshare", "setpriv", "mount")
    with privilege.root():
        return docker_engine.find()


@contextlib.contextmanager
def filled(
    images: Iterable[Image],
    blobs: Path,
    apps: Path,
    folder: Path,
    engine: Engine | Download,
    making: Making | None,
) -> Iterator[Path]:
    """Pull images, whose blobs lie in `blobs`, and lend docker's data root. dockerd is stopped.

    With `making`, the containers of all apps in the folder `apps` are made as well. The data root
    is made in `folder`, and belongs to root. Raises `PreloadError`.
    """
    images = list(images)
    names = sorted(each.name for each in apps.iterdir())
    with privilege.root():
        if isinstance(engine, Download):
            engine = docker_engine.fetched(engine)
        (folder / "data").mkdir(parents=True)
        settings = making.settings if making else {"bridge": "none"}
        with _dockerd(engine, images, blobs, apps, folder, settings) as running:

            def pull(image: Image) -> None:
                with step(f"docker pull {image.reference}"):
                    _pull(running.client, image)

            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                list(pool.map(pull, images))
            if making:
                containers.make(making, names, running.client, running.process)
        # The device that this machine's data lies on, which dockerd makes anew at each start.
        (folder / "data/volumes/backingFsBlockDev").unlink(missing_ok=True)
        yield folder / "data"


@dataclass(frozen=True)
class _Running:
    """A dockerd that runs: a client of its API, and the id of a process in its namespaces."""

    client: Any
    process: int


@contextlib.contextmanager
def _dockerd(
    engine: Engine,
    images: Sequence[Image],
    blobs: Path,
    apps: Path,
    folder: Path,
    settings: Mapping[str, Any],
) -> Iterator[_Running]:
    """Run dockerd with these `settings` of a device, among its own."""
    hosts = sorted({skopeo.host(image.reference) for image in images} - {_DOCKER_HUB})
    ports = sorted({"80"} | {host.partition(":")[2] for host in hosts if ":" in host})
    names = ["localhost", *(host.partition(":")[0] for host in hosts)]
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in names))
    (folder / "daemon.json").write_text(json.dumps({**settings, **_configuration(hosts)}))
    argv = [
        # Whatever becomes of this process, all of it ends.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--net", "--ipc", "--uts", "--pid"),
        *("--fork", "--kill-child", "--mount-proc"),
        *("sh", str(_SCRIPT), str(folder / "daemon.json"), str(folder / "hosts")),
        *(str(folder / "data"), str(apps)),
        *(sys.executable, "-I", registry_server.__file__, str(blobs / "sha256"), *ports),
    ]
    log = folder / "log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=engine.environment,
        ) as process,
    ):
        assert process.stdin
        try:
            yield _running(process, log)
        finally:
            process.stdin.close()
            process.wait()


def _configuration(hosts: Sequence[str]) -> dict[str, Any]:
    return {
        "data-root": daemon_json.DATA_ROOT,
        "exec-root": "/run/docker",
        "pidfile": "/run/dockerd.pid",
        "hosts": ["unix:///run/docker.sock"],
        # What the device has: docker 29 would take containerd's store for an empty data root.
        "storage-driver": "overlay2",
        "features": {"containerd-snapshotter": False},
        "iptables": False,
        "ip6tables": False,
        "insecure-registries": list(hosts),
        # Docker Hub is the one registry that is never insecure; a mirror of it may be.
        "registry-mirrors": ["http://127.0.0.1"],
    }


def _running(process: subprocess.Popen[bytes], log: Path) -> _Running:
    """Wait for dockerd, and return it; raises `PreloadError` with dockerd's own words."""
    import docker

    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(docker.errors.DockerException, OSError, IndexError):
            # Another mount namespace's /run is seen through a process in it.
            inner = children.read_text().split()[0]
            address = f"unix:///proc/{inner}/root/run/docker.sock"
            if os.path.exists(address.removeprefix("unix://")):  # noqa: PTH110  # a socket
                client = docker.APIClient(base_url=address, version="auto", timeout=None)
                client.ping()
                return _Running(client, int(inner))
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip().splitlines()
    raise PreloadError(
        f"docker's store cannot be made: dockerd did not start: {' / '.join(said[-3:])}",
        "docker's overlay2 needs a plain file system (ext4, xfs) for the output, no overlay or "
        "network file system; the restorable store alone needs no dockerd: --no-docker-store",
    )


def _pull(client: Any, image: Image) -> None:
    repository, _, digest = image.reference.partition("@")
    for line in client.pull(
        repository, tag=digest, platform=f"linux/{image.platform}", stream=True, decode=True
    ):
        if "error" in line:
            raise PreloadError(
                f"docker's store cannot be made: {image.reference}: {line['error']}",
                "the restorable store alone needs no dockerd: --no-docker-store",
            )
