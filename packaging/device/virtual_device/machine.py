"""A machine: a disk under QEMU, with systemd as its first process and without a network card.

The owner is the process that entered the context. When it leaves the context, raises or dies, by
whatever signal, the machine ends at once and its files vanish. A machine that crashes, panics or
hangs causes an error, so an answer can be trusted.
"""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from virtual_device import cpio, scratch
from virtual_device.kernel import Kernel

_MACHINE = (
    # An old processor is faster to emulate: `max` takes a twelfth longer to boot. 16-byte
    # compare-and-swap is broken in QEMU 7.2's emulation: guests panic at random.
    *("-accel", "tcg,thread=multi", "-cpu", "Nehalem,-cx16", "-m", "2048"),
    *("-nodefaults", "-nic", "none", "-display", "none", "-no-reboot"),
    # QEMU waits for its owner, because a guest treats an unconnected line as closed.
    *("-chardev", "socket,id=line,path=line.sock,server=on,wait=on"),
    *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=line"),
    *("-chardev", "socket,id=monitor,path=monitor.sock,server=on,wait=off"),
    *("-mon", "chardev=monitor,mode=readline"),
    # As on a real disk, a power cut loses data that was not flushed.
    *("-drive", "file=disk.qcow2,if=virtio,cache=writeback"),
)
_COMMAND_LINE = (
    *("root=/dev/vda", "console=ttyS0", "panic=-1", "mitigations=off"),
    # LmP has none; and where the parser is not installed, docker 20.10 starts no container.
    "apparmor=0",
    # Useless for a device, and slow to load.
    "modprobe.blacklist=aesni_intel,ata_piix,kvm,kvm_amd,kvm_intel",
)
_SNAPSHOT = "frozen"
_TAIL = 3000  # characters of the console that an error shows
_QEMU_TIMEOUT = 120.0  # seconds, for operations of QEMU itself
_GRACE = 30.0  # seconds that an answer may come after its script's time
BOOT_TIMEOUT = 1500.0
"""The seconds after which a boot or a shutdown counts as hanging."""


class MachineError(Exception):
    """A machine crashed, hung, or could not do what was requested."""


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
        self._qemu: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder, lock = scratch.make()
        try:
            # This process removes the folder when its standard input is closed, or when the owner
            # has ended.
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "virtual_device.supervisor", str(self.folder), "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
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
        log = self.folder / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def boot(
        self, provide: Mapping[str, str] | None = None, *arguments: str, terminal: bool = False
    ) -> None:
        """Switches the machine on; returns at once.

        ``provide``: absolute path to content of files that are put onto the disk before systemd
        starts. ``arguments`` are added to the kernel's command line. ``terminal``: whether the
        serial console is on this process's terminal, else see :attr:`console`.
        """
        disk = self.folder / "disk.qcow2"
        if not disk.exists():
            backing = ["-F", "raw", "-b", str(self._base)]
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk)]
            subprocess.run(argv, check=True)
        files = {f"device{path}": text.encode() for path, text in (provide or {}).items()}
        initrd = self._kernel.initrd.read_bytes()
        # The kernel wants archives to begin at multiples of four.
        (self.folder / "initrd").write_bytes(initrd + bytes(-len(initrd) % 4) + cpio.archive(files))
        self._start([], arguments, terminal=terminal)

    def _start(self, options: Sequence[str], arguments: Sequence[str], *, terminal: bool) -> None:
        serial = "mon:stdio" if terminal else "file:console.log"
        for name in ("line.sock", "monitor.sock", "console.log"):
            (self.folder / name).unlink(missing_ok=True)
        log = (self.folder / "qemu.log").open("w")
        self._qemu = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--kill-child"),
                *("sh", str(Path(__file__).with_name("machine.sh"))),
                "/dev/tty" if terminal else "/dev/null",
                *("qemu-system-x86_64", *_MACHINE, "-smp", str(self._processors)),
                *("-rtc", f"base={self._clock}"),
                *("-kernel", str(self._kernel.image), "-initrd", "initrd", "-serial", serial),
                *("-append", " ".join([*_COMMAND_LINE, *arguments]), *options),
            ],
            # Held by this process alone: no thread, signal handler or exit hook has to work.
            stdin=subprocess.PIPE,
            stderr=log,
            cwd=self.folder,
        )
        log.close()
        self._line = self._connect("line.sock")

    def _connect(self, name: str) -> socket.socket:
        """Returns a connection to one of QEMU's sockets, which may not exist yet."""
        connection = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + _QEMU_TIMEOUT
        while True:
            try:
                connection.connect(str(self.folder / name))
                return connection
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if self._ended() or time.monotonic() > deadline:
                    text = (self.folder / "qemu.log").read_text()
                    raise MachineError(f"QEMU did not start: {text}") from error
                time.sleep(0.01)

    def _ended(self) -> bool:
        return self._qemu is None or self._qemu.poll() is not None

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
            said = self.console[-_TAIL:] + (self.folder / "qemu.log").read_text()
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
        assert self._qemu
        try:
            self._qemu.wait(timeout)
        except subprocess.TimeoutExpired as error:
            text = f"the machine is not off after {timeout} s:\n{self.console[-_TAIL:]}"
            raise MachineError(text) from error
        self.cut_power()

    def cut_power(self) -> None:
        """Ends the machine at once; data that it has not flushed to its disk is lost."""
        if self._qemu is None:
            return
        self._qemu.communicate()
        self._qemu = None
        self._line.close()

    def freeze(self, into: Path) -> None:
        """Stops the machine for good and saves its memory and disk in the file ``into``.

        Raises MachineError.
        """
        self._command("stop")
        self._command(f"savevm {_SNAPSHOT}")
        self.cut_power()
        shutil.move(self.folder / "disk.qcow2", into)

    def thaw(self, saved: Path) -> None:
        """Continues the machine that :meth:`freeze` saved.

        Both must have been made with the same kernel, disk and processors.
        """
        subprocess.run(["cp", "--sparse=always", saved, self.folder / "disk.qcow2"], check=True)
        (self.folder / "initrd").write_bytes(self._kernel.initrd.read_bytes())
        self._start(["-loadvm", _SNAPSHOT], [], terminal=False)

    def _command(self, command: str) -> None:
        prompt = b"(qemu) "
        with self._connect("monitor.sock") as monitor:
            monitor.settimeout(_QEMU_TIMEOUT)
            answer = b""
            for text in ("", f"{command}\n"):
                monitor.sendall(text.encode())
                answer = b""
                while not answer.endswith(prompt):
                    answer += monitor.recv(1 << 16)
        if b"Error" in answer:
            raise MachineError(f"{command}: {answer.decode(errors='replace')}")
