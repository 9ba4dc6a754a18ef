"""A registry that is far away, or ill: passes on to a sound one, after a while, or does not."""

import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from preload_image.registry import Registry

_HEADERS = ("Content-Type", "Content-Length", "Docker-Content-Digest")


@dataclass
class Behaviour:
    """How it answers. `latency` in seconds, before each answer; `failures`: statuses to come."""

    latency: float = 0.0
    failures: list[int] = field(default_factory=list)
    silent: bool = False
    """Whether it takes requests and never answers."""
    asked: list[str] = field(default_factory=list)
    """The paths of all requests but that for the version."""


@contextmanager
def proxy(registry: Registry, behaviour: Behaviour) -> Iterator[int]:
    """Run it in this process, and lend its port on loopback."""
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/v2/":
                behaviour.asked.append(self.path)
            if behaviour.silent:
                ended.wait()
            time.sleep(behaviour.latency)
            if behaviour.failures and self.path != "/v2/":
                self._answer(behaviour.failures.pop(0), {"Content-Length": "0"}, b"")
                return
            connection = http.client.HTTPConnection("127.0.0.1", registry.port)
            wanted = {"Accept": accept} if (accept := self.headers.get_all("Accept")) else {}
            connection.request(
                self.command, self.path, headers={k: ", ".join(v) for k, v in wanted.items()}
            )
            answer = connection.getresponse()
            headers = {name: value for name in _HEADERS if (value := answer.headers[name])}
            self._answer(answer.status, headers, answer.read())
            connection.close()

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
