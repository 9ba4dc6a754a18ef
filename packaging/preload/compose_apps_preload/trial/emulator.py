"""QEMU: a machine without a network card, which ends with the process that owns it.

All boots use this module, those of users' images and those of the virtual device.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import PreloadError
from ..image import tool

_MONITOR = "qmp.sock"
_LOG = "qemu.log"
CONSOLE = "console.log"
"""The file in a machine's folder with the output of its serial console."""

# What Linux says when it begins its first process, and when it has no disk with one; and a system
# whose kernel says nothing.
_BOOTED = (b" as init process", b"Unable to mount root fs", b" login:")
_PROBE_SECONDS = 30.0
_PROBE_MEMORY = 512  # MiB
_MONITOR_SECONDS = 120.0
_KVM = ("-accel", "kvm", "-cpu", "host")
_BARE = ("-nodefaults", "-nic", "none", "-display", "none", "-no-reboot")


class EmulatorError(Exception):
    """QEMU did not start, or does not answer."""


@dataclass(frozen=True)
class Board:
    """The emulated board for a device."""

    program: str
    """The QEMU program for its architecture."""
    machine: str
    processor: str
    """QEMU's name of the processor to emulate if KVM does not work."""
    console: str
    """The name of its serial port in Linux."""
    firmware: Path
    """Its UEFI firmware."""
    firmware_package: str

    @classmethod
    def of(cls, architecture: str) -> "Board":
        """Return the board for an architecture as Go names it; raises `PreloadError`."""
        if architecture not in _BOARDS:
            raise PreloadError(
                f"the image is for {architecture}, which cannot be tried",
                f"try an image for {' or '.join(_BOARDS)}, or boot this one on its device",
            )
        return _BOARDS[architecture]


_BOARDS = {
    "amd64": Board(
        program="qemu-system-x86_64",
        machine="pc",
        # An old processor is faster to emulate: `max` takes a twelfth longer to boot. 16-byte
        # compare-and-swap is broken in QEMU 7.2's emulation: guests panic at random.
        processor="Nehalem,-cx16",
        console="ttyS0",
        firmware=Path("/usr/share/ovmf/OVMF.fd"),
        firmware_package="ovmf",
    ),
    "arm64": Board(
        program="qemu-system-aarch64",
        machine="virt",
        processor="cortex-a57",
        console="ttyAMA0",
        firmware=Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
        firmware_package="qemu-efi-aarch64",
    ),
}


def _bound() -> list[str]:
    """Return a command prefix that kills the command when this process ends for any reason."""
    return ["setpriv", "--pdeathsig", "KILL", "--"]


@dataclass(frozen=True)
class Kernel:
    """A start without a boot loader. `initrd` may be None; `arguments` is the command line."""

    image: Path
    initrd: Path | None
    arguments: str

    def options(self) -> list[str]:
        """Return QEMU's options for it."""
        initrd = ["-initrd", str(self.initrd)] if self.initrd else []
        return ["-kernel", str(self.image), *initrd, "-append", self.arguments]

    def probe(self, board: Board) -> list[str]:
        """Return QEMU's options for a start that needs no disk and shows whether it works."""
        return replace(self, initrd=None, arguments=f"console={board.console}").options()


@dataclass(frozen=True)
class Uefi:
    """A start by firmware, which finds the boot loader on `disk`, the machine's first one."""

    firmware: Path
    disk: Path

    def options(self) -> list[str]:
        """Return QEMU's options for it."""
        return ["-bios", str(self.firmware)]

    def probe(self, board: Board) -> list[str]:
        """Return QEMU's options for a start that writes nothing and shows whether it works."""
        return [*self.options(), "-snapshot", *Disk(self.disk).options()]


@dataclass(frozen=True)
class Disk:
    """A disk; the first one is `/dev/vda`. Only flushed data is sure to reach the file."""

    file: Path
    form: str = "raw"

    def options(self) -> list[str]:
        """Return QEMU's options for it."""
        name = str(self.file).replace(",", ",,")
        return ["-drive", f"file={name},format={self.form},if=virtio,cache=writeback"]


def is_emulated(board: Board, start: Kernel | Uefi) -> bool:
    """Return whether the processor has to be emulated, which is slow: KVM cannot run this start.

    Its presence is not enough. Nested KVM may fail at an instruction of the firmware or of the
    kernel, and then the machine hangs.
    """
    native = board.program == f"qemu-system-{os.uname().machine}"
    return not (native and os.access("/dev/kvm", os.W_OK) and _runs(board, *start.probe(board)))


@functools.cache
def _runs(board: Board, *options: str) -> bool:
    """Whether KVM runs a machine until its console shows that it is up.

    Silence counts as failure: on a busy machine, it takes its time until KVM reports an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        console, log = Path(folder, CONSOLE), Path(folder, _LOG)
        argv = [*_bound(), board.program, "-machine", board.machine, *_KVM, *_BARE]
        argv += ["-m", str(_PROBE_MEMORY), "-serial", f"file:{console}", *options]
        with log.open("wb") as stderr:
            process = tool.start(argv, stdin=subprocess.DEVNULL, stderr=stderr)
        deadline = time.monotonic() + _PROBE_SECONDS
        try:
            while process.poll() is None and time.monotonic() < deadline:
                said = console.read_bytes() if console.exists() else b""
                if any(word in said for word in _BOOTED):
                    return True
                if b"KVM internal error" in log.read_bytes():
                    return False
                time.sleep(0.05)
            return False
        finally:
            process.kill()
            process.wait()


class Emulator:
    """QEMU in the folder `folder`; a context manager, which starts it and ends it.

    `memory` is in MiB. With `terminal`, the console is this process's terminal; otherwise it is
    written to the file `CONSOLE` in the folder. `options` are additional QEMU options.
    """

    def __init__(
        self,
        board: Board,
        start: Kernel | Uefi,
        disks: Sequence[Disk],
        folder: Path,
        *,
        memory: int = 2048,
        processors: int = 1,
        terminal: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._terminal = terminal
        emulation = ("-accel", "tcg,thread=multi", "-cpu", board.processor)
        accelerator = emulation if is_emulated(board, start) else _KVM
        self._argv = [
            *(*_bound(), board.program, "-machine", board.machine, *accelerator),
            *("-m", str(memory), "-smp", str(processors)),
            *_BARE,
            *("-serial", "mon:stdio" if terminal else f"file:{CONSOLE}"),
            *("-qmp", f"unix:{_MONITOR},server=on,wait=off"),
            *start.options(),
            *(word for disk in disks for word in disk.options()),
            *options,
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Switch the machine on; the caller must call `cut_power` in the end."""
        for name in (_MONITOR, CONSOLE):
            (self._folder / name).unlink(missing_ok=True)
        with (self._folder / _LOG).open("w") as log:
            self._process = tool.start(
                self._argv,
                stdin=None if self._terminal else subprocess.DEVNULL,
                stderr=log,
                cwd=self._folder,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut_power()

    @property
    def has_ended(self) -> bool:
        """Whether the machine is off."""
        return self._process.poll() is not None

    @property
    def has_failed(self) -> bool:
        """Whether QEMU failed; see `complaints`."""
        return self._process.poll() not in (None, 0, -signal.SIGKILL)

    @property
    def complaints(self) -> str:
        """The error output of QEMU."""
        return (self._folder / _LOG).read_text(errors="replace").strip()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds until the machine is off; return whether it is."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def cut_power(self) -> None:
        """End the machine at once; data that it has not flushed to its disk is lost."""
        self._process.kill()
        self._process.wait()

    def command(self, name: str, **arguments: str) -> Any:
        """Send QEMU a command of its protocol, and return the answer.

        Source: the QMP reference. Raises `EmulatorError` if QEMU refuses or does not answer.
        """
        requests = (
            {"execute": "qmp_capabilities"},
            {"execute": name, "arguments": arguments},
        )
        answer: dict[str, Any] = {}
        with self.connected(_MONITOR) as monitor, monitor.makefile("rb") as answers:
            monitor.settimeout(_MONITOR_SECONDS)
            try:
                answers.readline()  # a greeting
                for request in requests:
                    monitor.sendall(json.dumps(request).encode() + b"\n")
                    answer = {}
                    while not answer.keys() & {"return", "error"}:  # else it is an event
                        answer = json.loads(answers.readline())
            except (OSError, ValueError) as error:
                raise EmulatorError(f"QEMU does not answer: {error}") from error
        if "error" in answer:
            raise EmulatorError(f"{name}: {answer['error']}")
        return answer["return"]

    def connected(self, name: str) -> socket.socket:
        """Return a connection to a socket of QEMU in the folder, which may not exist yet.

        Raises `EmulatorError` with QEMU's error output if it has ended.
        """
        # The path of a socket may have at most 108 bytes, so it is relative to the folder.
        folder = os.open(self._folder, os.O_PATH)
        connection = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + _MONITOR_SECONDS
        try:
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    connection.connect(f"/proc/self/fd/{folder}/{name}")
                    return connection
                if self.has_ended or time.monotonic() > deadline:
                    connection.close()
                    raise EmulatorError(f"QEMU did not start: {self.complaints}")
                time.sleep(0.01)
        finally:
            os.close(folder)


def missing(board: Board, start: type[Kernel | Uefi]) -> list[str]:
    """Return the Debian packages that are needed for booting and missing on this machine."""
    packages = []
    if not shutil.which(board.program, path=tool.PATH):
        packages.append(tool.package(board.program))
    if start is Uefi and not board.firmware.is_file():
        packages.append(board.firmware_package)
    return packages
