"""Reading registries with skopeo, whose configuration files name mirrors and logins."""

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import PreloadError
from . import tool
from .cache import Blob, Cache

IDLE_TIMEOUT_SECONDS = 60.0
"""How long a registry may send nothing before the run gives up, in seconds."""

RETRY_PAUSES = (1.0, 2.0, 4.0)
"""The pauses before further attempts, in seconds."""

_PARALLEL_REQUESTS = 6
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB = "docker.io"
# Source of the syntax: the grammar in distribution/reference.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[\w][\w.-]{{0,127}})?"
    r"(?:@[a-z0-9]+:[0-9a-f]{32,})?"
)
# Everything is verified by digest, and the host may have no policy file.
_SKOPEO = ("skopeo", "--insecure-policy")
_V2S2 = "application/vnd.docker.distribution.manifest.v2+json"
_POLL_SECONDS = 0.1
_FATAL = re.compile(r'level=fatal msg="(.*)"$', re.MULTILINE)
_TRANSIENT = re.compile(
    r"toomanyrequests|too many requests|status(?: ?code)?:? (?:429|5\d\d)"
    r"|\b5\d\d (?:internal|bad|service|gateway)"
    r"|connection re(?:set|fused)|unexpected eof|i/o timeout|tls handshake timeout",
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(
    r"unauthorized|authentication required|denied|forbidden|status(?: ?code)?:? 40[13]"
    r"|invalid username",
    re.IGNORECASE,
)
_NOT_FOUND = re.compile(
    r"manifest unknown|name unknown|not found|status(?: ?code)?:? 404", re.IGNORECASE
)


def digest_of(data: bytes) -> str:
    """Return `sha256:<hex>` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_pinned(reference: str) -> bool:
    """Whether a reference names its image by digest."""
    return _DIGEST.fullmatch(reference.rpartition("@")[2]) is not None and "@" in reference


def repository(reference: str) -> str:
    """Return a reference without tag and digest."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def host(reference: str) -> str:
    """Return the registry of a reference as `host[:port]`; the default is docker.io."""
    first, slash, _ = reference.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return first
    return _DOCKER_HUB


def full(reference: str) -> str:
    """Return a reference with its registry, as publishing writes it: `docker.io/library/alpine`.

    Raises ValueError if it is not a reference.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ValueError("this is not a valid image reference")
    if host(reference) != reference.partition("/")[0]:
        reference = f"{_DOCKER_HUB}/{reference}"
    head, _, rest = reference.partition("/")
    if head == "index.docker.io":
        head = _DOCKER_HUB
    if head == _DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return f"{head}/{rest}"


class Registries:
    """All registries, read through `cache`. `advance` is called with the number of bytes received.

    Every method raises `PreloadError` if a registry lacks what was requested, or sends something
    else or nothing.
    """

    def __init__(self, cache: Cache, advance: Callable[[int], None] = lambda size: None) -> None:
        self.cache = cache
        self.advance = advance
        self._manifests: dict[str, bytes] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._in_flight: set[Blob] = set()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._places = threading.BoundedSemaphore(_PARALLEL_REQUESTS)

    @contextlib.contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """Yield threads that read registries. If one fails or is interrupted, all of them stop.

        Such a thread may have threads of its own. Together, they send a limited number of requests
        at a time.
        """
        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
            try:
                yield pool
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def manifest(self, reference: str) -> bytes:
        """Return the exact manifest or index that `reference` names. It is requested only once."""
        with self._locked(reference):
            found = self._manifests.get(reference)
            digest = reference.partition("@")[2]
            if found is None and digest:
                found = self.cache.read(digest)
            if found is None:
                argv = ("inspect", "--raw", f"docker://{_without_tag(reference)}")
                found = self._run(argv, reference).stdout
                self.advance(len(found))
                _check(found, digest or digest_of(found), reference)
                self.cache.write(found)
            self._manifests[reference] = found
            self._manifests[f"{repository(reference)}@{digest_of(found)}"] = found
            return found

    def config(self, reference: str, digest: str) -> bytes:
        """Return the config `digest` of the image whose manifest `reference` names."""
        found = self.cache.read(digest)
        if found is None:
            argv = ("inspect", "--raw", "--config", f"docker://{_without_tag(reference)}")
            found = self._run(argv, reference).stdout
            self.advance(len(found))
            _check(found, digest, reference)
            self.cache.write(found)
        return found

    def blob(self, reference: str, digest: str) -> bytes:
        """Return a small blob in the repository of `reference`. No manifest has to name it."""
        with tempfile.TemporaryDirectory() as folder:
            argv = ("layers", f"docker://{_without_tag(reference)}", digest)
            self._run(argv, reference, cwd=Path(folder))
            file = next(Path(folder).glob(f"*/{digest.removeprefix('sha256:')}"), None)
            data = file.read_bytes() if file else b""
        self.advance(len(data))
        _check(data, digest, reference)
        return data

    def fetch(self, reference: str, media_type: str, blobs: Sequence[Blob], folder: Path) -> None:
        """Put all blobs of the manifest `reference` into `folder/sha256`."""
        for _ in range(2):
            with self._claimed(blobs):
                if not all(self.cache.has(blob) for blob in blobs):
                    self._copy(reference, media_type)
            if all(self.cache.link(blob.digest, folder) for blob in blobs):
                return
        raise PreloadError(f"{reference}: the fetched data is damaged", "check the disk")

    def _copy(self, reference: str, media_type: str) -> None:
        """Let skopeo fetch what the cache does not have."""
        blobs = self.cache.blobs
        layout = Path(tempfile.mkdtemp(prefix="layout-", dir=blobs))
        try:
            argv = (
                *("copy", "--quiet", "--preserve-digests"),
                # Without this, skopeo would convert docker's manifests for an OCI layout.
                f"--format={'v2s2' if media_type == _V2S2 else 'oci'}",
                f"--dest-shared-blob-dir={blobs}",
                "--dest-oci-accept-uncompressed-layers",
                f"docker://{_without_tag(reference)}",
                f"oci:{layout}:image",
            )
            self._run(argv, reference, growing_folder=layout)
        finally:
            shutil.rmtree(layout, ignore_errors=True)

    @contextlib.contextmanager
    def _claimed(self, blobs: Sequence[Blob]) -> Iterator[None]:
        """Wait while another thread fetches any of these, because images often share layers."""
        missing = {blob for blob in blobs if not self.cache.has(blob)}
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight & missing)
            self._in_flight |= missing
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= missing
                self._changed.notify_all()

    @contextlib.contextmanager
    def _locked(self, reference: str) -> Iterator[None]:
        with self._lock:
            lock = self._locks.setdefault(reference, threading.Lock())
        with lock:
            yield

    def _run(
        self,
        arguments: Sequence[str],
        reference: str,
        *,
        cwd: Path | None = None,
        growing_folder: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run skopeo, and retry transient errors. It writes to `growing_folder` first."""
        for pause in (*RETRY_PAUSES, None):
            try:
                done = self._attempt(arguments, reference, cwd, growing_folder)
            except _StalledError as error:
                raise PreloadError(
                    f"{host(reference)} sent nothing for {IDLE_TIMEOUT_SECONDS:.0f} s: {reference}",
                    "check that this machine can reach the registry (network, proxy, VPN), then "
                    "try again",
                ) from error
            if not done.returncode:
                return done
            message = _message(done.stderr)
            if pause is None or not _TRANSIENT.search(message):
                break
            print(
                f"compose-apps-preload: {host(reference)}: {message}; "
                f"trying again in {pause:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            self._stopped.wait(pause)
        raise PreloadError(f"{reference}: {message}", _hint(message, host(reference)))

    def _attempt(
        self,
        arguments: Sequence[str],
        reference: str,
        cwd: Path | None,
        growing_folder: Path | None,
    ) -> subprocess.CompletedProcess[bytes]:
        argv = (*_SKOPEO, *arguments)
        with (
            self._places,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tool.start(argv, cwd=cwd, stdout=out, stderr=err) as process,
        ):
            last_growth, size = time.monotonic(), _size(growing_folder)
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                grown = _size(growing_folder)
                if grown > size:
                    self.advance(grown - size)
                if grown != size:
                    last_growth, size = time.monotonic(), grown
                if process.returncode is not None:
                    break
                if self._stopped.is_set():
                    process.kill()
                    raise PreloadError(f"{reference} was not fetched", "see the other message")
                if time.monotonic() - last_growth > IDLE_TIMEOUT_SECONDS:
                    process.kill()
                    raise _StalledError(reference)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(argv, process.returncode, out.read(), err.read())


def _check(data: bytes, digest: str, reference: str) -> None:
    if digest_of(data) != digest:
        raise PreloadError(f"{reference}: the registry sent something else", "try again")


class _StalledError(Exception):
    """A registry has sent nothing for too long."""


def _size(folder: Path | None) -> int:
    """Return the total size of the files in a folder, which may change meanwhile."""
    total = 0
    for file in folder.rglob("*") if folder else ():
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _message(stderr: bytes) -> str:
    """Return skopeo's error message without the format of its log."""
    text = stderr.decode(errors="replace").strip()
    fatal = _FATAL.search(text)
    return (fatal[1].replace('\\"', '"') if fatal else text)[-1000:]


def _hint(message: str, registry: str) -> str:
    if _TRANSIENT.search(message):
        return "the registry is overloaded or down: try again later"
    if _FORBIDDEN.search(message):
        return f"log in with skopeo login {registry}, using an account that may read it"
    if _NOT_FOUND.search(message):
        return "correct the name; the registry does not have it"
    return "check the name, and that this machine can reach the registry"


def _without_tag(reference: str) -> str:
    """Return a reference for skopeo, which accepts a tag or a digest, but not both."""
    if "@" in reference:
        return f"{repository(reference)}@{reference.partition('@')[2]}"
    return reference
