"""What the tests start from: layers, an app, and the command line of this checkout."""

import json
import os
import random
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents
from preload.examples import PATHS
from preload_image.registry import HOST, archive
from virtual_device.architecture import OWN

ARCH = os.environ.get("DEVICE_ARCH", OWN)
"""The architecture of the devices whose images are booted."""


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _noise(architecture: str, size: int) -> bytes:
    return random.Random(architecture).randbytes(size)


def layers(architecture: str) -> list[bytes]:
    """Two layers with what makes file systems sweat; the second hides a file of the first."""
    owned = tarfile.TarInfo("home/user")
    owned.type, owned.uid, owned.gid, owned.mode = tarfile.DIRTYPE, 1000, 1000, 0o2750
    attributed = tarfile.TarInfo("bin/ping")
    # A file capability (cap_net_raw), as docker finds it in a layer.
    attributed.pax_headers = {
        "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20" + "\x00" * 14
    }
    first = archive(
        {
            "bin/busybox": architecture.encode() + _noise(architecture, 300_000),
            "bin/ping": attributed,
            "bin/sh": _link("bin/sh", "busybox", tarfile.SYMTYPE),
            "bin/ash": _link("bin/ash", "bin/busybox", tarfile.LNKTYPE),
            'etc/a "name" with <brackets>': b"quoted",
            "etc/<12>": b"not an inode",
            "etc/ümlaut": b"utf-8",
            "etc/zeros": bytes(50_000),
            "home/user": owned,
            "etc/hidden": b"hidden",
        }
    )
    return [first, archive({"etc/.wh.hidden": b"", "etc/second": b"second"})]


SHOP = f"""\
# A web shop.
x-common: &common
  restart: always
services:
  web:
    <<: *common
    image: {HOST}/factory/web
    ports:
      - 22:22
    volumes: ["./site:/www:ro"]
  worker:
    <<: *common
    image: {HOST}/factory/worker:latest
    environment: {{SHOP: "on"}}
"""


def app(folder: Path, compose: str, **files: str) -> Path:
    """Make an app's folder: its compose file and more files."""
    folder.mkdir(parents=True)
    (folder / "docker-compose.yml").write_text(compose)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@dataclass(frozen=True)
class Ended:
    """A run of the command line that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        document = dict(json.loads(self.stdout))
        return documents.verify(self.stdout) if "problems" in document else document


def arguments(*words: object) -> tuple[list[str], dict[str, str]]:
    """The command line of this checkout, and the environment it needs."""
    paths = os.pathsep.join(PATHS)
    argv = [sys.executable, "-m", "compose_apps_preload", *map(str, words)]
    # Not the cache of who runs the tests, which the devices' trees are in.
    cache = str(Path.home() / ".cache")
    return argv, {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": cache}


def preload(*words: object, prefix: tuple[object, ...] = ()) -> Ended:
    """Run `compose-apps-preload` with these words, by the command `prefix` if there is one."""
    argv, environment = arguments(*words)
    argv = [*map(str, prefix), *argv]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def preload_well(*words: object) -> Ended:
    """The same, and it must succeed."""
    done = preload(*words)
    assert done.status == 0, done.stderr
    return done


@dataclass(frozen=True)
class Preloaded:
    """An image before and after: a disk with a GPT, and OSTree's layout in its last partition."""

    source: Path
    source_sha256: str
    made: Path
    flashed: Path
    """What bmaptool made of it, on a disk that was full of something else."""
