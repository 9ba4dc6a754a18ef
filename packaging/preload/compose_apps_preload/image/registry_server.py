"""A read-only registry for one folder of blobs.

    python3 registry_server.py BLOBS PORT...

serves the blobs in the folder BLOBS, each named by its sha256, until it is killed. Every repository
name is accepted, because clients ask by digest. It runs as a program in a network namespace of its
own and brings up the loopback device there. So it imports nothing from this package.
"""

import fcntl
import http.server
import json
import re
import shutil
import socket
import struct
import sys
import threading
from pathlib import Path

_PATH = re.compile(r"/v2/.+/(manifests|blobs)/(sha256:([0-9a-f]{64}))")
_OCI = "application/vnd.oci.image"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs: Path

    def do_GET(self) -> None:
        match = _PATH.fullmatch(self.path.partition("?")[0])
        if self.path.rstrip("/") == "/v2":
            self._answer(200, "application/json", 2)
            self._send(b"{}")
        elif match is None or not (self.blobs / match[3]).is_file():
            self._answer(404, "application/json", 2)
            self._send(b"{}")
        else:
            blob = self.blobs / match[3]
            kind = "application/octet-stream"
            if match[1] == "manifests":
                document = json.loads(blob.read_bytes())
                name = "index" if "manifests" in document else "manifest"
                kind = document.get("mediaType") or f"{_OCI}.{name}.v1+json"
            self._answer(200, kind, blob.stat().st_size, match[2])
            if self.command == "GET":
                with blob.open("rb") as stream:
                    shutil.copyfileobj(stream, self.wfile, 1 << 20)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, kind: str, size: int, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Log nothing: dockerd reports failed requests."""


def _raise_loopback() -> None:
    """Set the flag IFF_UP of the interface `lo`; source: netdevice(7)."""
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 1)
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def main() -> None:
    _raise_loopback()
    _Handler.blobs = Path(sys.argv[1])
    for port in sys.argv[2:]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
