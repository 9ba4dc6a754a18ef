"""docker's own store, filled by a dockerd that nobody else sees.

It runs in the virtual device (packaging/device), whose network is a loopback and nothing more, and
pulls by digest from a registry there that serves what was fetched before. Nothing of the images
is executed, so their architecture does not matter. Needs root.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import PreloadError
from . import registry_server, skopeo
from .oci import Image
from .progress import step

PARTS = ("image", "overlay2")
"""What of docker's data root is an image's: the rest belongs to one device."""

_DOCKER_HUB = "docker.io"


def check() -> None:
    """Raise `PreloadError` if docker's store cannot be made here."""
    if os.geteuid() != 0:
        raise PreloadError(
            "docker's store can only be made as root",
            "run this with sudo, or leave it out with --no-docker-store",
        )
    try:
        import virtual_device  # noqa: F401
    except ImportError as error:
        raise PreloadError(
            "the virtual device, whose dockerd makes docker's store, is not there",
            "set PYTHONPATH to packaging/device, or leave the store out with --no-docker-store",
        ) from error


@contextlib.contextmanager
def filled(images: Iterable[Image], blobs: Path) -> Iterator[Path]:
    """Pull images, whose blobs lie in `blobs`, and lend docker's data root. dockerd is stopped.

    Raises `PreloadError`.
    """
    from virtual_device import Device, DeviceError, TreeError, device_tree
    from virtual_device.archive import unpacked

    images = list(images)
    hosts = {skopeo.host(image.reference) for image in images} - {_DOCKER_HUB}
    try:
        tree = device_tree()
        pigz = unpacked(tree.suite, "pigz") / "usr/bin/pigz"
        with Device(tree) as device:
            # dockerd uses it if it is there: a pull takes two thirds of the time.
            shutil.copy(pigz, device.path("/usr/bin/unpigz"))
            with device.path("/etc/hosts").open("a") as stream:
                stream.writelines(f"127.0.0.1 {host.partition(':')[0]}\n" for host in sorted(hosts))
            options = [f"--insecure-registry={host}" for host in sorted(hosts)]
            # The one registry that is never insecure; a mirror may be.
            options.append("--registry-mirror=http://127.0.0.1")
            ports = {"80"} | {host.partition(":")[2] for host in hosts if ":" in host}
            with _registry(device.pid, blobs / "sha256", sorted(ports)):
                device.start_dockerd("--storage-driver=overlay2", *options)
                for image in images:
                    with step(f"docker pull {image.reference}"):
                        device.run(
                            [
                                *("docker", "pull", "--quiet"),
                                *("--platform", image.platform, image.reference),
                            ]
                        )
                device.stop_dockerd()
            yield device.folder / "docker"
    except (DeviceError, TreeError, LookupError, subprocess.CalledProcessError) as error:
        raise PreloadError(
            f"docker's store cannot be made: {error}",
            "the restorable store alone needs no dockerd: --no-docker-store",
        ) from error


@contextlib.contextmanager
def _registry(pid: int, blobs: Path, ports: Iterable[str]) -> Iterator[None]:
    """Serve `blobs` in the network of the process `pid`; it ends with this process."""
    script = registry_server.__file__
    argv = ["nsenter", f"--target={pid}", "--net", sys.executable, "-I", script, str(blobs), *ports]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        try:
            if not server.stdout.readline():
                raise PreloadError("the loopback registry did not start", "see the lines above")
            yield
        finally:
            server.stdin.close()
