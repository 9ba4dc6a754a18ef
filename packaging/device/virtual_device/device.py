"""A running device: a tree in namespaces of its own, the network and control groups included.

The owner is the process that entered the context. When it leaves the context, raises or dies, by
whatever signal, every process of the device is killed and its files, mounts, network and control
groups vanish.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from virtual_device import cgroup, scratch
from virtual_device.tree import Tree

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
}
SOCKET = "/run/docker.sock"
_CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_JOURNAL_SOCKET = "/run/systemd/journal/io.systemd.journal"
_START_TIMEOUT = 60.0  # seconds, for dockerd and journald
_STOP_TIMEOUT = 30.0  # seconds, for dockerd

# GROUP... -- ARGV...: runs ARGV in these control groups.
_JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
# systemd's protocol for passing a socket: descriptor 3, for exactly this process id.
_ACTIVATE = 'exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'


class DeviceError(Exception):
    """The device, or a daemon in it, did not start or stop."""


class Process(subprocess.Popen[str]):
    """A process in the device. ``pid`` is that of its proxy on the host, see :attr:`inner_pid`.

    Signals (``send_signal``, ``terminate``, ``kill``) reach the process itself, and ``returncode``
    is its own: negative if a signal ended it.
    """

    @property
    def inner_pid(self) -> int | None:
        """Its process id as the host sees it; None when it has ended."""
        while self.poll() is None:
            try:
                children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            except FileNotFoundError:
                continue
            if children:
                return int(children[0])
            time.sleep(0.001)
        return None

    def send_signal(self, sig: int) -> None:
        inner = self.inner_pid
        if inner is None:
            return
        try:
            os.kill(inner, sig)
            if sig == signal.SIGCONT:
                # The proxy stops when the process stops, but does not notice when the process
                # continues.
                os.kill(self.pid, sig)
        except ProcessLookupError:
            pass


class Device:
    """Runs ``tree``; a context manager. Several may run at once.

    ``preload``: a folder whose content is copied to /var/lib/docker first.
    ``tools``: whether the device has the tree's tools for making samples.
    Raises DeviceError on entering if it cannot be started.
    """

    def __init__(self, tree: Tree, *, preload: Path | None = None, tools: bool = False) -> None:
        self._layers = (tree.tools, *tree.layers) if tools else tree.layers
        self._preload = preload
        self._processes: list[Process] = []
        self._containerd: Process | None = None
        self._dockerd: Process | None = None
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.folder, lock = scratch.make()
        try:
            if self._preload:
                # cp keeps what overlay2 needs: owners, links, extended attributes.
                subprocess.run(
                    ["cp", "-a", f"{self._preload}/.", self.folder / "docker"], check=True
                )
            self._groups = scratch.make_groups(self.folder)
            log = (self.folder / "boot.log").open("w+")
            self._supervisor = self._supervise(lock, log)
        except BaseException:
            scratch.remove(self.folder)
            raise
        finally:
            os.close(lock)
        try:
            assert self._supervisor.stdout
            pid = self._supervisor.stdout.readline()
            if not pid:
                log.seek(0)
                raise DeviceError(f"the device did not start: {log.read().strip()}")
            self.pid = int(pid)
            for group in self._groups:
                cgroup.delegate(group)
        except BaseException:
            self._end()
            raise
        finally:
            log.close()
        return self

    def _supervise(self, lock: int, log: IO[str]) -> subprocess.Popen[str]:
        mounts = [(group.kind, group.options, group.inside) for group in self._groups]
        argv = [
            *(sys.executable, "-m", "virtual_device.supervisor", str(self.folder)),
            *self._joined("folder"),
            # Two steps: the groups' folders are the roots that the device sees, its processes
            # live in the leaves, and so must the second unshare, which stays to wait.
            *("unshare", "--cgroup"),
            *self._joined("leaf"),
            *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
            *("sh", str(Path(__file__).with_name("boot.sh")), str(self.folder)),
            ":".join(str(layer) for layer in self._layers),
            *(word for mount in mounts for word in mount),
        ]
        # The device lives as long as the writing end of its standard input. Only this process
        # has it, so ending the device needs no thread, signal handler or exit hook.
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[lock],
            start_new_session=True,
        )

    def _joined(self, attribute: str) -> list[str]:
        folders = [str(getattr(group, attribute)) for group in self._groups]
        return ["sh", "-c", _JOIN, "join", *folders, "--"]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.drop_socket()
        for group in self._groups:
            cgroup.thaw(group)
        # Closes the pipes, waits for everything to be killed and cleaned up.
        self._supervisor.communicate()
        for process in self._processes:
            process.wait()

    def path(self, path: str) -> Path:
        """Returns the host's path of the device's absolute ``path``, which need not exist.

        Symbolic links are followed as the device follows them: never out of the device.
        """
        root = Path(f"/proc/{self.pid}/root")
        names = path.split("/")[::-1]
        result = root
        for _ in range(1000):
            if not names:
                return result
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                result = result.parent if result != root else root
            elif (result / name).is_symlink():
                target = str((result / name).readlink())
                names += target.split("/")[::-1]
                if target.startswith("/"):
                    result = root
            else:
                result /= name
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        **options: Any,
    ) -> Process:
        """Starts ``argv`` in the device as root, in the folder ``cwd`` of the device.

        ``env`` is added to a minimal environment without the host's variables. Standard input is
        empty by default; ``options`` are those of subprocess.Popen. Text mode.
        """
        process = Process(
            [
                *self._joined("leaf"),
                *("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--ipc", "--uts"),
                *("--cgroup", f"--wdns={cwd}", "--", *argv),
            ],
            env={**ENVIRONMENT, **(env or {})},
            text=True,
            **{"stdin": subprocess.DEVNULL, **options},
        )
        process.args = argv  # for messages and exceptions
        self._processes.append(process)
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: str | None = None,
        check: bool = True,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``argv`` in the device and captures its output.

        ``timeout`` in seconds. Raises DeviceError with the output if ``check`` and the exit status
        is not 0, subprocess.TimeoutExpired after killing the process.
        """
        process = self.popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode:
            raise DeviceError(f"{argv}: exit status {process.returncode}\n{stdout}{stderr}")
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def hold_socket(self) -> None:
        """Listens on /run/docker.sock as docker.socket does, so that clients wait for dockerd."""
        if self._listener is None:
            path = self.path(SOCKET)
            path.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            path.chmod(0o660)
            self._listener.listen(4096)

    def drop_socket(self) -> None:
        """Stops listening, so that clients are refused unless dockerd itself listens."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def dockerd_log(self) -> Path:
        """The output of all dockerds of this device so far; a file of the host."""
        return self.folder / "dockerd.log"

    def start_dockerd(self, *options: str, wait: bool = True) -> Process:
        """Starts dockerd on the held socket with additional ``options``.

        ``wait``: returns when it answers, otherwise at once. Raises DeviceError if it does not
        answer.
        """
        self.hold_socket()
        self._start_containerd()
        argv = [
            *("sh", "-c", _ACTIVATE, "activate", "dockerd", "--host=fd://"),
            f"--containerd={_CONTAINERD_SOCKET}",
            # There is no systemd to ask for groups.
            *("--exec-opt=native.cgroupdriver=cgroupfs", *options),
        ]
        with self.dockerd_log.open("a") as log:
            self._dockerd = self.popen(argv, stdin=self._listener, stdout=log, stderr=log)
        if wait:
            self.wait_for_dockerd()
        return self._dockerd

    def _start_containerd(self) -> None:
        # Like containerd.service, which comes before docker.service. If dockerd started its own
        # containerd, this would take a second, because it first tries to connect too early.
        if self._containerd is not None and self._containerd.poll() is None:
            return
        self._containerd = self._daemon(["containerd"], _CONTAINERD_SOCKET)

    def start_journald(self) -> None:
        """Starts the journal, for ``journalctl`` in the device. Raises DeviceError."""
        self._daemon(["/usr/lib/systemd/systemd-journald"], _JOURNAL_SOCKET)

    def _daemon(self, argv: Sequence[str], socket_path: str) -> Process:
        with (self.folder / "daemons.log").open("a") as log:
            process = self.popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.path(socket_path).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "daemons.log").read_text()
                raise DeviceError(f"{argv[0]} did not start:\n{text}")
            time.sleep(0.005)
        return process

    def wait_for_dockerd(self, timeout: float = _START_TIMEOUT) -> None:
        """Waits until dockerd answers. Raises DeviceError with its log if it does not."""
        try:
            self.run(["docker", "version"], timeout=timeout)
        except (DeviceError, subprocess.TimeoutExpired) as error:
            raise DeviceError(f"dockerd: {error}\n{self.dockerd_log.read_text()}") from error

    def stop_dockerd(self, sig: int = signal.SIGTERM) -> None:
        """Sends ``sig`` and waits for dockerd's end; the socket stays held. Raises DeviceError."""
        if self._dockerd is None:
            return
        self._dockerd.send_signal(sig)
        try:
            self._dockerd.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"dockerd does not end:\n{self.dockerd_log.read_text()}") from error
        self._dockerd = None
