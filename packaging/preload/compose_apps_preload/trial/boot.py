"""One boot of the copy of an image: its console, and the files that it leaves."""

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compose_apps_early_start.status import GOES_ON, NO_RUN

from ..errors import PreloadError
from ..image import tool
from ..image.disk import Partition
from ..image.ext4 import FileSystem
from ..image.layout import Layout
from .emulator import CONSOLE, Board, Disk, Emulator, EmulatorError, Kernel, Uefi
from .observer import AGENT, GREETING

_LOOK_SECONDS = 0.2
_SHUTDOWN_SECONDS = 90.0
_RESULTS_BYTES = 64 << 20  # sparse
_TAIL = 25  # lines of the console that an error shows
_SPOKEN = re.compile(rf"(\[ *\d+\.\d+\]) {AGENT}\[\d+\]: (.*)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()].|[\r\x00]")


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: until the system is up, and from then until the power-off."""

    boot: float
    run: float


@dataclass(frozen=True)
class Seen:
    """The result of one boot. `files` is the folder with the files that the system has written.

    `trouble` says why the boot did not complete; None if it did.
    """

    files: Path
    trouble: str | None

    @property
    def has_agent(self) -> bool:
        """Whether the agent was asked."""
        return (self.files / "exit-status").exists()

    @property
    def exit_status(self) -> int:
        """The agent's exit status, or `GOES_ON` or `NO_RUN`."""
        if self.trouble:
            return GOES_ON
        return int(self.text("exit-status") or NO_RUN)

    def text(self, name: str) -> str:
        """Return the content of one of the files; "" if it does not exist."""
        file = self.files / name
        return file.read_text(errors="replace").strip() if file.exists() else ""

    @property
    def last_lines(self) -> str:
        """The last lines of the console, for people."""
        lines = [line for line in self.text("console.txt").splitlines() if line.strip()]
        return "\n".join(f"    {line}" for line in lines[-_TAIL:])


def boot(
    partition: Partition,
    layout: Layout,
    board: Board,
    start: Kernel | Uefi,
    work: Path,
    files: Path,
    patience: Patience,
    *,
    memory: int,
    processors: int,
    terminal: bool = False,
) -> Seen:
    """Boot the disk image with `partition`, and put the files that it writes into `files`.

    The image is written to. Raises `PreloadError` if QEMU cannot run it.
    """
    results = _results_disk(work)
    trouble = None
    disks = (Disk(partition.file), Disk(results))
    with Emulator(
        *(board, start, disks, work),
        memory=memory,
        processors=processors,
        terminal=terminal,
    ) as machine:
        if terminal:
            machine.wait()
        else:
            trouble = _followed(machine, work / CONSOLE, patience)
        if machine.has_failed:
            raise PreloadError(
                f"QEMU failed: {machine.complaints}", "correct the problem that it names"
            )
    FileSystem(results).replay_journal()
    FileSystem(results).dump("/", files)
    with contextlib.suppress(OSError):
        (files / "lost+found").rmdir()
    lines = _lines(work / CONSOLE)
    if lines:
        (files / "console.txt").write_text("\n".join(lines))
    if not (files / "complete").exists():
        trouble = trouble or "the machine went off before it told anything"
        _save(partition, layout, files)
    (files / "complete").unlink(missing_ok=True)
    return Seen(files, trouble)


def _results_disk(work: Path) -> Path:
    """Make a disk for the system's reports, because its own disk may be full."""
    results = work / "results"
    with results.open("wb") as file:
        file.truncate(_RESULTS_BYTES)
    tool.run(("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", str(results)))
    return results


def _save(partition: Partition, layout: Layout, files: Path) -> None:
    """Read the record of the last run that ended from the image itself, where it is safe."""
    system = FileSystem(partition.file, partition.start)
    system.replay_journal()
    record = system.read(f"{layout.var}/lib/{AGENT}/last-run.json")
    if record is not None:
        (files / "last-run.json").write_bytes(record)


def _followed(machine: Emulator, console: Path, patience: Patience) -> str | None:
    """Show the agent's lines until the machine is off; return why it did not shut down itself."""
    shown, up, deadline = 0, False, time.monotonic() + patience.boot
    with _progress() as progress:
        while not machine.wait(_LOOK_SECONDS):
            lines = _lines(console)
            # The last line may still be missing.
            for line in lines[shown:-1]:
                if not up and GREETING in line:
                    up, deadline = True, time.monotonic() + patience.run
                spoken = _SPOKEN.search(line)
                if spoken:
                    progress.clear()
                    print(*spoken.groups(), flush=True)
            shown = max(shown, len(lines) - 1)
            progress.draw(lines[-2] if len(lines) > 1 else "")
            if time.monotonic() > deadline:
                if not up:
                    return f"the system was not up after {patience.boot:.0f} s"
                _shut_down(machine)
                return f"it was not done {patience.run:.0f} s after the system was up"
        progress.clear()
    for line in _lines(console)[shown:]:
        if spoken := _SPOKEN.search(line):
            print(*spoken.groups(), flush=True)
    return None


def _shut_down(machine: Emulator) -> None:
    with contextlib.suppress(EmulatorError):
        machine.command("system_powerdown")
        machine.wait(_SHUTDOWN_SECONDS)


def _lines(console: Path) -> list[str]:
    if not console.exists():
        return []
    return _ESCAPES.sub("", console.read_text(errors="replace")).split("\n")


class _Progress:
    """A line on the terminal with the elapsed time and the last message."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def draw(self, last: str) -> None:
        if self._terminal:
            seconds = time.monotonic() - self._began
            text = f"booted {seconds:.0f} s ago: {last.strip()}"
            print(f"\r{text[:79]}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress() -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.clear()
