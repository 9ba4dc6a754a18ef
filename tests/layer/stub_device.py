"""A device in a folder, whose dockerd and compose plugin only play along."""

import contextlib
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

HASH = "5" * 64
IMAGE = "hub.example.test/factory/web@sha256:" + "a" * 64

COMPOSE_FILE = f"""\
services:
  web:
    image: {IMAGE}
    labels:
      io.compose-spec.config-hash: {HASH}
    restart: always
"""

COMPOSE = """\
#!/bin/sh
# Plays `docker compose up`: the dockerd beside it looks for the file.
[ "$1" = up ] && : >"{root}/up-${{PWD##*/}}"
"""


class StubDevice:
    """Apps below ``root``; serves docker's socket there while the context lasts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        plugin = root / "usr/libexec/docker/cli-plugins/docker-compose"
        plugin.parent.mkdir(parents=True)
        plugin.write_text(COMPOSE.format(root=root))
        plugin.chmod(0o755)
        (root / "run").mkdir()

    def preload(self, app: str) -> None:
        """Put an app on the device."""
        folder = self.root / "var/sota/compose-apps" / app
        folder.mkdir(parents=True)
        (folder / "docker-compose.yml").write_text(COMPOSE_FILE)

    def shortlist(self, text: str) -> None:
        """Put a default-apps on the device."""
        (self.root / "var/lmp").mkdir(parents=True)
        (self.root / "var/lmp/default-apps").write_text(text)

    def up(self) -> list[str]:
        """Return the names of the apps that were brought up."""
        return sorted(file.name.removeprefix("up-") for file in self.root.glob("up-*"))

    @contextlib.contextmanager
    def engine(self) -> Iterator[None]:
        """Answer on docker's socket."""
        device, ended = self, threading.Event()

        class Handler(_Handler):
            def answer(self, path: str) -> Any:
                return device.answer(path)

            def wait(self) -> None:
                ended.wait()

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        socket = self.root / "run/docker.sock"
        with Server(str(socket), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield
            finally:
                ended.set()
                server.shutdown()
                socket.unlink()

    def answer(self, path: str) -> Any:
        """Return the Engine API's answer to a GET; None: there is no such thing."""
        if path == "/version":
            return {"ApiVersion": "1.43", "Version": "25.0.3", "Arch": "amd64"}
        if path == "/info":
            return {"Driver": "overlay2", "DriverStatus": [], "DockerRootDir": str(self.root)}
        if path == "/images/json":
            return [{"Id": "sha256:1", "RepoDigests": [IMAGE], "RepoTags": []}]
        if path == "/containers/json":
            return [
                {"Id": app, "Names": [f"/{app}-web-1"], "Labels": self._labels(app)}
                for app in self.up()
            ]
        if path == "/networks":
            return [{"Id": "1", "Name": "bridge"}]
        if path.startswith("/containers/"):
            return self._container(path.split("/")[2])
        return None

    def _labels(self, app: str) -> dict[str, str]:
        return {
            "com.docker.compose.project": app,
            "com.docker.compose.project.working_dir": str(
                self.root / "var/sota/compose-apps" / app
            ),
            "com.docker.compose.service": "web",
            "io.compose-spec.config-hash": HASH,
        }

    def _container(self, app: str) -> dict[str, Any]:
        state = {
            "Status": "running",
            "ExitCode": 0,
            "Pid": os.getpid(),
            "StartedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z"),
            "FinishedAt": "0001-01-01T00:00:00Z",
        }
        return {
            "Id": app,
            "Name": f"/{app}-web-1",
            "Config": {"Labels": self._labels(app), "Image": IMAGE},
            "HostConfig": {"RestartPolicy": {"Name": "always"}, "NetworkMode": "bridge"},
            "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "1"}}},
            "RestartCount": 0,
            "State": state,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, path: str) -> Any:
        raise NotImplementedError

    def wait(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        if path == "/events":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wait()
            self.close_connection = True
            return
        found = self.answer(path)
        body = json.dumps({"message": f"no such thing: {path}"} if found is None else found)
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def address_string(self) -> str:
        return "the agent"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
