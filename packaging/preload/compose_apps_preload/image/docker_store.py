"""docker's own store, filled by a private dockerd.

This dockerd has its own data root and its own namespaces; its network is only a loopback device. It
pulls by digest from a registry there, which serves the blobs fetched before. With `--create`, it
also creates the apps' containers. Nothing in the images is executed, so their architecture does
not matter. This needs root.
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
from .containers import Creation
from .docker_engine import Download, Engine
from .oci import Image
from .progress import step

IMAGE_FOLDERS: tuple[str, ...] = ("image", "overlay2")
"""The folders of docker's data root that hold images.

Apart from `containers.FOLDERS`, the rest belongs to one device: its identity and keys, swarm,
plugins, the build cache and temporary files.
"""

_DOCKER_HUB = "docker.io"
_START_SECONDS = 60.0
_PARALLEL_PULLS = 2  # images; dockerd fetches three layers of each at a time
_SCRIPT = Path(__file__).with_name("dockerd.sh")


def check() -> Engine | Download:
    """Return the engine to use; raises `PreloadError` if the store cannot be made."""
    if not privilege.is_root():
        script = Path(sys.argv[0]).resolve()
        program = [sys.executable, "-m", "compose_apps_preload"]
        program = program if script.name == "__main__.py" else [str(script)]
        command = shlex.join(["sudo", *program, *sys.argv[1:]])
        raise PreloadError(
            "only root can make docker's store",
            f"run {command}, or leave out the store with --no-docker-store",
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
    creation: Creation | None,
) -> Iterator[Path]:
    """Pull images from the blobs in `blobs`, stop dockerd, and yield docker's data root.

    The data root is created in `folder` and belongs to root. With `creation`, the containers of all
    apps in the folder `apps` are created as well. Raises `PreloadError`.
    """
    images = list(images)
    names = sorted(each.name for each in apps.iterdir())
    with privilege.root():
        if isinstance(engine, Download):
            engine = docker_engine.fetch(engine)
        (folder / "data").mkdir(parents=True)
        settings = creation.settings if creation else {"bridge": "none"}
        with _dockerd(engine, images, blobs, apps, folder, settings) as running:

            def pull(image: Image) -> None:
                with step(f"docker pull {image.reference}"):
                    _pull(running.client, image)

            with ThreadPoolExecutor(_PARALLEL_PULLS) as pool:
                list(pool.map(pull, images))
            if creation:
                containers.make(creation, names, running.client, running.process)
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
    """Run dockerd with these `settings` of a device, besides its own, and yield it."""
    hosts = sorted({skopeo.host(image.reference) for image in images} - {_DOCKER_HUB})
    ports = sorted({"80"} | {host.partition(":")[2] for host in hosts if ":" in host})
    names = ["localhost", *(host.partition(":")[0] for host in hosts)]
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in names))
    (folder / "daemon.json").write_text(json.dumps({**settings, **_configuration(hosts)}))
    argv = [
        # However this process ends, everything below it ends, too.
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
        # As on the device. With an empty data root, docker 29 would choose containerd's store.
        "storage-driver": "overlay2",
        "features": {"containerd-snapshotter": False},
        "iptables": False,
        "ip6tables": False,
        "insecure-registries": list(hosts),
        # docker refuses Docker Hub itself as an insecure registry, but accepts an insecure mirror.
        "registry-mirrors": ["http://127.0.0.1"],
    }


def _running(process: subprocess.Popen[bytes], log: Path) -> _Running:
    """Wait for dockerd and return it; raises `PreloadError` with dockerd's messages."""
    import docker

    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(docker.errors.DockerException, OSError, IndexError):
            # The /run of another mount namespace is visible through a process in it.
            inner = children.read_text().split()[0]
            address = f"unix:///proc/{inner}/root/run/docker.sock"
            if os.path.exists(address.removeprefix("unix://")):  # noqa: PTH110  # a socket
                client = docker.APIClient(base_url=address, version="auto", timeout=None)
                client.ping()
                return _Running(client, int(inner))
        time.sleep(0.05)
    log_lines = log.read_text(errors="replace").strip().splitlines()
    raise PreloadError(
        f"docker's store cannot be made: dockerd did not start: {' / '.join(log_lines[-3:])}",
        "write the output to an ext4 or xfs file system, because docker's overlay2 does not work "
        "on an overlay or a network file system; or leave out docker's store with "
        "--no-docker-store",
    )


def _pull(client: Any, image: Image) -> None:
    repository, _, digest = image.reference.partition("@")
    for line in client.pull(
        repository, tag=digest, platform=f"linux/{image.platform}", stream=True, decode=True
    ):
        if "error" in line:
            raise PreloadError(
                f"docker's store cannot be made: {image.reference}: {line['error']}",
                "try again, or leave out docker's store with --no-docker-store",
            )
