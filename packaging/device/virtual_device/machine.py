"""A machine: a disk under QEMU, with systemd as its first process and without a network card.

The owner is the process that entered the context. When it leaves the context, raises or dies, by
whatever signal, the machine ends at once and its files vanish. A machine that crashes, panics or
hangs causes an error, so an answer can be trusted.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from compose_apps_preload.trial import emulator
from compose_apps_preload.trial.emulator import CONSOLE, Disk, Emulator, EmulatorError

from virtual_device import scratch
from virtual_device.kernel import Kernel

_LINE = (
    # QEMU waits for its owner, because a guest treats an unconnected line as closed.
    *("-chardev", "socket,id=line,path=line.sock,server=on,wait=on"),
    *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=line"),
)
_TAIL = 3000  # characters of the console that an error shows
_GRACE = 30.0  # seconds that an answer may come after its script's time
BOOT_TIMEOUT = 1500.0
"""The seconds after which a boot or a shutdown counts as hanging."""


class MachineError(Exception):
    """A machine crashed, hung, or could not do what was requested."""


@dataclass(frozen=True)
class _LoggedDisk(Disk):
    """A disk whose writes and flushes are logged in the file ``log``."""

    log: Path = Path()

    def options(self) -> list[str]:
        self.log.touch()
        disk, log = ({"driver": "file", "filename": str(each)} for each in (self.file, self.log))
        node = {
            "driver": "blklogwrites",
            "node-name": "disk",
            "file": {"driver": self.form, "file": disk},
            "log": log,
        }
        # QEMU 7.2 logs a write of zeroes incorrectly. Linux numbers the devices by their addresses,
        # and the line to the owner must be the first.
        device = "virtio-blk-pci,drive=disk,discard=off,write-zeroes=off,addr=0x10"
        return ["-blockdev", json.dumps(node), "-device", device]


class Machine:
    """A disk that can be booted time and again; a context manager. Several may run at once.

    ``disk`` is not changed: the machine's writes are kept for its later boots, until the context
    ends. ``processors``: their number. ``clock``: the time of its clock when a boot begins, in the
    form of QEMU's `-rtc base=`.
    """

    def __init__(
        self, kernel: Kernel, disk: Path, *, processors: int = 2, clock: str = "utc"
    ) -> None:
        self._kernel = kernel
        self._clock = clock
        self._base = disk
        self._processors = processors
        self._emulator: Emulator | None = None

    def __enter__(self) -> Self:
        self.folder, lock = scratch.make()
        try:
            # This process removes the folder when its standard input is closed, or when the owner
            # has ended.
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "virtual_device.supervisor", str(self.folder), "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[lock],
                start_new_session=True,
            )
        except BaseException:
            scratch.remove(self.folder)
            raise
        finally:
            os.close(lock)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.cut_power()
        finally:
            self._keeper.communicate()

    @property
    def console(self) -> str:
        """The output of the machine's serial console since it was booted."""
        log = self.folder / CONSOLE
        return log.read_text(errors="replace") if log.exists() else ""

    def boot(
        self,
        provide: Mapping[str, str | bytes] | None = None,
        *arguments: str,
        terminal: bool = False,
        log: Path | None = None,
    ) -> None:
        """Switches the machine on; returns at once.

        ``provide``: absolute path to content of files that are put onto the disk before systemd
        starts. ``arguments`` are added to the kernel's command line. ``terminal``: whether the
        serial console is on this process's terminal, else see :attr:`console`. ``log``: a file
        that gets all writes to the disk, see :class:`.write_log.WriteLog`.
        """
        file = self.folder / "disk.qcow2"
        if not file.exists():
            backing = ["-F", "raw", "-b", str(self._base)]
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(file)]
            subprocess.run(argv, check=True)
        files = {
            f"device{path}": content.encode() if isinstance(content, str) else content
            for path, content in (provide or {}).items()
        }
        (self.folder / "initrd").write_bytes(self._kernel.initrd_with(files))
        (self.folder / "line.sock").unlink(missing_ok=True)
        disk = Path(file.name)
        self._emulator = Emulator(
            self._kernel.board,
            emulator.Kernel(
                self._kernel.image, Path("initrd"), " ".join([self._kernel.arguments, *arguments])
            ),
            [_LoggedDisk(disk, "qcow2", log) if log else Disk(disk, "qcow2")],
            self.folder,
            processors=self._processors,
            terminal=terminal,
            options=[*_LINE, "-rtc", f"base={self._clock}"],
        )
        self._emulator.start()
        try:
            self._line = self._emulator.connected("line.sock")
        except EmulatorError as error:
            raise MachineError(str(error)) from error

    def run(self, script: str, *, timeout: float = 300.0) -> str:
        """Runs ``script`` with the machine's sh and returns its output, including errors.

        It may be called as soon as the machine is switched on. Raises MachineError: with the output
        if the exit status is not 0, with the journal if it takes longer than ``timeout`` seconds.
        """
        status, output = self._ask(script, timeout)
        if status == 137:  # killed by the machine's end of the line
            raise MachineError(f"not done in {timeout:.0f} s: {script}\n{output}\n{self.journal()}")
        if status:
            raise MachineError(f"exit status {status}: {script}\n{output[-_TAIL:]}")
        return output

    def journal(self) -> str:
        """Returns the journal of this boot, as far as the machine still answers."""
        try:
            return self._ask("journalctl --boot --no-pager --output=short-monotonic", 120)[1]
        except MachineError as error:
            return str(error)

    def _ask(self, script: str, timeout: float) -> tuple[int, str]:
        encoded = base64.b64encode(script.encode()).decode()
        self._line.settimeout(timeout + _GRACE)
        answer = b""
        try:
            self._line.sendall(f"{timeout:.0f} {encoded}\n".encode())
            while not answer.endswith(b"\n"):
                part = self._line.recv(1 << 16)
                if not part:
                    raise ConnectionResetError
                answer += part
        except (TimeoutError, ConnectionError) as error:
            what = "ended" if isinstance(error, ConnectionError) else "does not answer"
            assert self._emulator
            said = self.console[-_TAIL:] + self._emulator.complaints
            raise MachineError(f"the machine {what}:\n{said}") from error
        status, _, output = answer.decode().partition(" ")
        return int(status), base64.b64decode(output).decode(errors="replace")

    def wait_until_booted(self) -> None:
        """Waits until systemd has no jobs left. Raises MachineError."""
        self.run("systemctl is-system-running --wait >/dev/null || true", timeout=BOOT_TIMEOUT)

    def power_off(self) -> None:
        """Shuts the machine down. Raises MachineError if it does not shut down properly."""
        self.run("systemctl --no-block poweroff")
        self.wait(BOOT_TIMEOUT)
        # QEMU ends in the same way when the kernel panics.
        if "reboot: Power down" not in self.console:
            raise MachineError(f"the machine did not power off:\n{self.console[-_TAIL:]}")

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the machine is off. Raises MachineError after ``timeout`` seconds."""
        assert self._emulator
        if not self._emulator.wait(timeout):
            raise MachineError(
                f"the machine is not off after {timeout} s:\n{self.console[-_TAIL:]}"
            )
        self.cut_power()

    def cut_power(self) -> None:
        """Ends the machine at once; data that it has not flushed to its disk is lost."""
        if self._emulator is None:
            return
        self._emulator.cut_power()
        self._emulator = None
        self._line.close()
