"""A real registry on loopback, and images and apps pushed to it.

skopeo finds it under `HOST` by its own configuration, in a HOME made for the test.
"""

import gzip
import hashlib
import http.client
import io
import json
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOST = "hub.example.test"
_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker"
_WAIT_SECONDS = 10.0


class Registry:
    """The registry at `port` of loopback, whose files are in `folder`."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder

    def push_image(
        self,
        repository: str,
        layers: Mapping[str, Iterable[bytes]],
        *,
        docker: bool = False,
        index: bool = True,
        tag: str = "latest",
        lie: bool = False,
    ) -> str:
        """Push an image, return its reference by digest.

        `layers`: architecture to the tar archives of its layers. `docker`: with docker's media
        types, not OCI's. `index`: of many platforms; else only the first is pushed.
        `lie`: the config names other layers than there are.
        """
        manifests = []
        for architecture, archives in layers.items():
            data, kind = self._manifest(repository, architecture, archives, docker=docker, lie=lie)
            if not index:
                return self._push_manifest(repository, data, kind, tag)
            pushed = self._push_manifest(repository, data, kind)
            manifests.append(
                {
                    "mediaType": kind,
                    "digest": pushed.partition("@")[2],
                    "size": len(data),
                    "platform": {"os": "linux", "architecture": architecture},
                }
            )
        kind = (
            f"{_DOCKER}.distribution.manifest.list.v2+json" if docker else f"{_OCI}.index.v1+json"
        )
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
        return self._push_manifest(repository, json.dumps(document).encode(), kind, tag)

    def _manifest(
        self,
        repository: str,
        architecture: str,
        archives: Iterable[bytes],
        *,
        docker: bool,
        lie: bool,
    ) -> tuple[bytes, str]:
        kinds = (
            (
                f"{_DOCKER}.distribution.manifest.v2+json",
                f"{_DOCKER}.container.image.v1+json",
                f"{_DOCKER}.image.rootfs.diff.tar.gzip",
            )
            if docker
            else (
                f"{_OCI}.manifest.v1+json",
                f"{_OCI}.config.v1+json",
                f"{_OCI}.layer.v1.tar+gzip",
            )
        )
        diff_ids, pushed = [], []
        for each in archives:  # one at a time: a benchmark's are large
            diff_ids.append(digest(each + bytes(lie)))
            pushed.append(self._described(repository, gzip.compress(each, 1, mtime=0), kinds[2]))
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        document = {
            "schemaVersion": 2,
            "mediaType": kinds[0],
            "config": self._described(repository, json.dumps(config).encode(), kinds[1]),
            "layers": pushed,
        }
        return json.dumps(document).encode(), kinds[0]

    def _described(self, repository: str, data: bytes, kind: str) -> dict[str, Any]:
        self.push_blob(repository, data)
        return {"mediaType": kind, "size": len(data), "digest": digest(data)}

    def push_app(self, name: str, manifest: bytes, blobs: Iterable[bytes]) -> str:
        """Push a published app to `factory/NAME`, return its uri."""
        repository = f"factory/{name}"
        for blob in blobs:
            self.push_blob(repository, blob)
        return self._push_manifest(repository, manifest, f"{_OCI}.manifest.v1+json", "latest")

    def push_blob(self, repository: str, data: bytes) -> None:
        """Push one blob."""
        begun = self._request("POST", f"/v2/{repository}/blobs/uploads/", b"", "")
        place = begun.partition(f":{self.port}")[2] or begun
        self._request("PUT", f"{place}&digest={digest(data)}", data, "application/octet-stream")

    def _push_manifest(self, repository: str, data: bytes, kind: str, tag: str = "") -> str:
        path = f"/v2/{repository}/manifests/{tag or digest(data)}"
        self._request("PUT", path, data, kind)
        return f"{HOST}/{repository}@{digest(data)}"

    def _request(self, method: str, path: str, data: bytes, kind: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_WAIT_SECONDS)
        try:
            connection.request(method, path, data, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status in (201, 202), said
            return str(answer.headers.get("Location", ""))
        finally:
            connection.close()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def archive(
    files: Mapping[str, bytes | tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]],
) -> bytes:
    """A layer: path to content, or to a member that is something else, perhaps with its content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, bytes):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                tar.addfile(member, io.BytesIO(content))
            elif isinstance(content, tuple):
                tar.addfile(content[0], io.BytesIO(content[1]))
            else:
                tar.addfile(content)
    return buffer.getvalue()


@contextmanager
def serve(program: Path, folder: Path) -> Iterator[Registry]:
    """Run the registry `program` on a free port of loopback; its files are in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = folder / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
    )
    argv = ["setpriv", "--pdeathsig", "KILL", str(program), "serve", str(settings)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(argv, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(port, folder / "log")
            yield Registry(port, folder)
        finally:
            process.kill()


def _wait(port: int, log: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)


def configure_skopeo(home: Path, port: int) -> None:
    """Write the configuration with which skopeo finds the registry as `HOST`."""
    file = home / ".config/containers/registries.conf"
    file.parent.mkdir(parents=True)
    file.write_text(
        "unqualified-search-registries = []\n"
        f'[[registry]]\nprefix = "{HOST}"\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'
    )
