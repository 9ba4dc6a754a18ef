"""docker's own store, filled by a dockerd that nobody else sees.

It runs in namespaces of its own, whose network is a loopback and nothing more, with a data root of
its own, and pulls by digest from a registry there that serves what was fetched before. Nothing of
the images is executed, so their architecture does not matter. Needs root.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import docker_engine, privilege, registry_server, skopeo, tool
from .docker_engine import Download, Engine
from .oci import Image
from .progress import step

IMAGE_FOLDERS = ("image", "overlay2")
"""What of docker's data root is an image's: the rest belongs to one device."""

_DOCKER_HUB = "docker.io"
_START_SECONDS = 60.0
_PARALLEL_PULLS = 2  # images; dockerd fetches three layers of each at a time
_SCRIPT = Path(__file__).with_name("dockerd.sh")


def check() -> Engine | Download:
    """Return the engine that will be used; raises `PreloadError` if the store cannot be made."""
    if not privilege.is_root():
        script = Path(sys.argv[0]).resolve()
        program = [sys.executable, "-m", "compose_apps_preload"]
        program = program if script.name == "__main__.py" else [str(script)]
        command = shlex.join(["sudo", *program, *sys.argv[1:]])
        raise PreloadError(
            "docker's store can only be made as root",
            f"run {command}, or leave the store out with --no-docker-store",
        )
    tool.check("unshare", "setpriv", "mount")
    with privilege.root():
        return docker_engine.find()


@contextlib.contextmanager
def filled(
    images: Iterable[Image], blobs: Path, folder: Path, engine: Engine | Download
) -> Iterator[Path]:
    """Pull images, whose blobs lie in `blobs`, and lend docker's data root. dockerd is stopped.

    The data root is made in `folder`, and belongs to root. Raises `PreloadError`.
    """
    images = list(images)
    with privilege.root():
        if isinstance(engine, Download):
            engine = docker_engine.fetch(engine)
        folder.mkdir()
        with _dockerd(engine, images, blobs, folder) as client:

            def pull(image: Image) -> None:
                with step(f"docker pull {image.reference}"):
                    _pull(client, image)

            with ThreadPoolExecutor(_PARALLEL_PULLS) as pool:
                list(pool.map(pull, images))
        yield folder / "data"


@contextlib.contextmanager
def _dockerd(engine: Engine, images: Sequence[Image], blobs: Path, folder: Path) -> Iterator[Any]:
    """Run dockerd, and lend a client of its API."""
    hosts = sorted({skopeo.host(image.reference) for image in images} - {_DOCKER_HUB})
    ports = sorted({"80"} | {host.partition(":")[2] for host in hosts if ":" in host})
    names = ["localhost", *(host.partition(":")[0] for host in hosts)]
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in names))
    (folder / "daemon.json").write_text(json.dumps(_configuration(folder / "data", hosts)))
    argv = [
        # Whatever becomes of this process, all of it ends.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--net", "--ipc", "--uts", "--pid"),
        *("--fork", "--kill-child", "--mount-proc"),
        *("sh", str(_SCRIPT), str(folder / "daemon.json"), str(folder / "hosts")),
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
            yield _client(process, log)
        finally:
            process.stdin.close()
            process.wait()


def _configuration(data: Path, hosts: Sequence[str]) -> dict[str, Any]:
    return {
        "data-root": str(data),
        "exec-root": "/run/docker",
        "pidfile": "/run/dockerd.pid",
        "hosts": ["unix:///run/docker.sock"],
        # What the device has: docker 29 would take containerd's store for an empty data root.
        "storage-driver": "overlay2",
        "features": {"containerd-snapshotter": False},
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "insecure-registries": list(hosts),
        # Docker Hub is the one registry that is never insecure; a mirror of it may be.
        "registry-mirrors": ["http://127.0.0.1"],
    }


def _client(process: subprocess.Popen[bytes], log: Path) -> Any:
    """Wait for dockerd, and return a client; raises `PreloadError` with dockerd's own words."""
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
                return client
        time.sleep(0.05)
    log_lines = log.read_text(errors="replace").strip().splitlines()
    raise PreloadError(
        f"docker's store cannot be made: dockerd did not start: {' / '.join(log_lines[-3:])}",
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
