"""docker's own store, filled by a private dockerd.

This dockerd has its own data root and its own namespaces; its network is only a loopback device. It
pulls by digest from a registry there, which serves the blobs fetched before. With `--create`, it
also creates the apps' containers. Nothing in the images is executed, so their architecture does
not matter. This needs root.

A store without containers is cached: another run with the same images unpacks it.
"""

import contextlib
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PreloadError
from . import (
    archive,
    containers,
    daemon_json,
    docker_engine,
    privilege,
    registry_server,
    skopeo,
    tool,
)
from .cache import MAX_BYTES, Cache
from .containers import Creation
from .docker_engine import Download, Engine
from .ext4 import Tree, usage
from .oci import Image
from .progress import step

IMAGE_FOLDERS: tuple[str, ...] = ("image", "overlay2")
"""The folders of docker's data root that hold images.

Apart from `containers.FOLDERS`, the rest belongs to one device: its identity and keys, swarm,
plugins, the build cache and temporary files.
"""

_DOCKER_HUB = "docker.io"
_START_SECONDS = 60.0
_BLOCK = 4096  # bytes; of the file system with the cache, about
_PARALLEL_PULLS = 2  # images; dockerd fetches three layers of each at a time
_SCRIPT = Path(__file__).with_name("dockerd.sh")
_NO_BRIDGE = {"bridge": "none"}


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
    tool.check("unshare", "setpriv", "mount", "tar")
    with privilege.root():
        return docker_engine.find()


class DockerStore:
    """docker's store with `images`, taken from `cache` or filled by a dockerd in `folder`.

    The blobs of the images are in the folder `blobs`. With `creation`, the store also gets the
    containers of all apps in the folder `apps`. Such a store is not cached, because it depends on
    the apps and on this machine.
    """

    def __init__(
        self,
        images: Iterable[Image],
        blobs: Path,
        apps: Path,
        folder: Path,
        cache: Cache,
        creation: Creation | None,
    ) -> None:
        self._images = list(images)
        self._blobs = blobs
        self._apps = apps
        self._folder = folder
        self._data = folder / "data"
        self._cache = cache
        self._creation = creation
        self._key = ""
        self._dockerd: _Dockerd | None = None

    @contextlib.contextmanager
    def begun(self, engine: Engine | Download) -> Iterator[None]:
        """Take the store from the cache, or start dockerd, which comes up while the block runs.

        Raises `PreloadError`.
        """
        with privilege.root():
            if isinstance(engine, Download):
                engine = docker_engine.fetch(engine)
            self._data.mkdir(parents=True, mode=0o710)  # as dockerd does
        if not self._creation:
            self._key = _key(engine, self._images)
            if self._unpack():
                yield
                return
        self._apps.mkdir(parents=True, exist_ok=True)
        self._start = functools.partial(
            _Dockerd, engine, self._images, self._blobs, self._apps, self._folder
        )
        with privilege.root():
            dockerd = self._start(self._creation.settings if self._creation else _NO_BRIDGE)
        self._dockerd = dockerd
        try:
            yield
        finally:
            dockerd.stop()

    @contextlib.contextmanager
    def filled(self) -> Iterator[Path]:
        """Fill the store unless it came from the cache, and yield docker's data root.

        The data root belongs to root, and the block runs as root. Raises `PreloadError`.
        """
        with privilege.root():
            if self._dockerd:
                self._fill(self._dockerd)
            yield self._data

    def keep(self) -> None:
        """Keep the store in the cache, unless it came from there or space is scarce."""
        if not self._dockerd or not self._key:
            return
        with privilege.root():
            size = usage([Tree(self._data, "", IMAGE_FOLDERS)], _BLOCK).blocks * _BLOCK
        if size > min(shutil.disk_usage(self._cache.folder).free, MAX_BYTES // 2):
            return
        try:
            with step("caching docker's store"), self._cache.keeping(self._key) as file:
                archive.pack(self._data, IMAGE_FOLDERS, file)
        except PreloadError as error:
            # The image is finished, and the next run can fill the store again.
            message = f"compose-apps-preload: warning: docker's store is not cached: {error}"
            print(message, file=sys.stderr)

    def _fill(self, dockerd: "_Dockerd") -> None:
        running = dockerd.ready()

        def pull(image: Image) -> None:
            with step(f"docker pull {image.reference}"):
                _pull(running.client, image)

        with ThreadPoolExecutor(_PARALLEL_PULLS) as pool:
            list(pool.map(pull, self._images))
        if self._creation:
            names = sorted(each.name for each in self._apps.iterdir())
            containers.make(self._creation, names, running.client, running.process)
        dockerd.stop()
        if self._creation:
            self._remove_default_network()
        # The device that this machine's data lies on, which dockerd makes anew at each start.
        (self._data / "volumes/backingFsBlockDev").unlink(missing_ok=True)

    def _remove_default_network(self) -> None:
        """Remove what the device's dockerd would restore, only to delete it and create it anew."""
        dockerd = self._start(_NO_BRIDGE)
        try:
            dockerd.ready()
        finally:
            dockerd.stop()

    def _unpack(self) -> bool:
        """Take the store from the cache; return False if the cache does not have it."""
        archived = self._cache.archive(self._key)
        if archived is None:
            return False
        with step("taking docker's store from the cache"), archived:
            archive.unpack(archived, self._data)
        return True


@dataclass(frozen=True)
class _Running:
    """A dockerd that runs: a client of its API, and the id of a process in its namespaces."""

    client: Any
    process: int


class _Dockerd:
    """A dockerd, started with these `settings` of a device besides its own. This needs root."""

    def __init__(
        self,
        engine: Engine,
        images: Sequence[Image],
        blobs: Path,
        apps: Path,
        folder: Path,
        settings: Mapping[str, Any],
    ) -> None:
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
        self._log = folder / "log"
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env=engine.environment,
            )

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def ready(self) -> _Running:
        """Wait until it answers; raises `PreloadError` with its messages."""
        import docker

        process = self._process
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
        log_lines = self._log.read_text(errors="replace").strip().splitlines()
        raise PreloadError(
            f"docker's store cannot be made: dockerd did not start: {' / '.join(log_lines[-3:])}",
            "write the output to an ext4 or xfs file system, because docker's overlay2 does not "
            "work on an overlay or a network file system; or leave out docker's store with "
            "--no-docker-store",
        )


def _key(engine: Engine, images: Sequence[Image]) -> str:
    """Return a key of all that determines a store: the code, the engine, and the images."""
    key = hashlib.sha256()
    for source in (Path(__file__), Path(archive.__file__), _SCRIPT):
        key.update(source.read_bytes())
    named = [(each.manifest_reference, each.reference, str(each.platform)) for each in images]
    key.update(json.dumps([engine.identity, sorted(named)]).encode())
    return key.hexdigest()


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
