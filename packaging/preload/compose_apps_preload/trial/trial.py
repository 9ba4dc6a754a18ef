"""`try`: boot a copy of an image under QEMU without a network, and report what the agent did."""

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compose_apps_early_start.settings import Settings
from compose_apps_early_start.start import ALL_RUN, DEGRADED, NOTHING_RUNS
from compose_apps_early_start.status import GOES_ON, NO_RUN

from .. import command
from ..errors import PreloadError, UsageError
from ..image import architecture, compression, disk, tool
from ..image.ext4 import FileSystem
from ..image.layout import Layout
from ..image.progress import step
from . import bootable, emulator, observer
from .boot import Patience, Seen, boot
from .emulator import Board
from .observer import Limits

_DEFAULTS = Settings()
_ON_DEVICE = Limits(
    engine=_DEFAULTS.engine_seconds, app=_DEFAULTS.app_seconds, run=_DEFAULTS.run_seconds
)
"""The default limits of the agent."""

_EMULATED = Limits(engine=600, app=600, run=1200)
"""The limits for an emulated processor, which is like a very slow board."""

_BOOT_SECONDS, _EMULATED_BOOT_SECONDS = 300.0, 900.0
_REST_SECONDS = 600.0  # for the start of dockerd, the reports and the shutdown
_MEANINGS = {
    ALL_RUN: "all wanted apps run",
    NOTHING_RUNS: "no wanted app runs",
    DEGRADED: "some of the wanted apps run, some do not",
    GOES_ON: "the run did not end in time",
    NO_RUN: "the agent did not run",
}


def add_command(commands: command.Subparsers) -> None:
    """Add `try` to the command line."""
    parser = commands.add_parser(
        "try",
        help="boot a copy of an image under QEMU, and report whether its apps start",
        description="Boot an unchanged copy of an image under QEMU without a network card, and "
        "report what the early start did. The image itself is never modified.",
        epilog="exit status: that of the agent: 0 all wanted apps run; 1 no app runs, or the image "
        "could not be tried; 2 wrong usage; 3 some apps run, some do not; 4 the run did not end in "
        "time; 5 the agent did not run",
    )
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help="a .wic or .ext4 image, optionally compressed")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="write the record, the timeline and the logs to this folder",
    )
    add("--reboot", action="store_true", help="boot a second time")
    add("--register", action="store_true", help="boot a second time, as a registered device")
    add("--shell", action="store_true", help="open a root shell before the machine is switched off")
    add(
        "--app-seconds",
        type=_positive,
        metavar="N",
        help="how long one app may take, in seconds (default: as on the device; 600 if the "
        "processor is emulated)",
    )
    add(
        "--memory",
        type=_positive,
        default=2048,
        metavar="MIB",
        help="the memory of the machine, in MiB (default: 2048)",
    )
    add(
        "--cpus",
        type=_positive,
        metavar="N",
        help="the number of processors (default: 2; 1 if they are emulated)",
    )
    add(
        "--partition",
        type=int,
        metavar="N",
        help="the number of the partition with the root file system (default: it is found by its "
        "label or its content)",
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


@dataclass(frozen=True)
class Request:
    """The options. `memory` is in MiB; None for `app_seconds` or `processors` means the default."""

    image: Path
    output: Path | None
    boots: int
    register: bool
    shell: bool
    app_seconds: int | None
    memory: int
    processors: int | None
    partition: int | None


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if options.shell and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--shell needs a terminal", "leave --shell out")
    if options.output and options.output.exists() and not _is_empty(options.output):
        raise UsageError(f"{options.output} is not an empty folder", "name a new folder")
    request = Request(
        image=options.image,
        output=options.output,
        boots=2 if options.reboot or options.register else 1,
        register=options.register,
        shell=options.shell,
        app_seconds=options.app_seconds,
        memory=options.memory,
        processors=options.cpus,
        partition=options.partition,
    )
    with command.ended_by_signals(), tempfile.TemporaryDirectory() as folder:
        return _Trial(request, Path(folder)).run()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


class _Trial:
    """Tries an image; all files are written to the folder `work`."""

    def __init__(self, request: Request, work: Path) -> None:
        self._request = request
        self._work = work
        image = request.image
        if not image.is_file():
            raise PreloadError(f"{image} does not exist", "name a .wic or .ext4 file")
        tool.check(
            *("cp", "debugfs", "e2fsck", "mke2fs", "setpriv", "sfdisk"),
            *compression.programs(image, image),
        )
        copy = work / "disk"
        if compression.is_packed(image):
            self._check_space(compression.unpacked_size(image))
            with step(f"unpacking {image.name}", compression.unpacked_size(image)) as progress:
                disk.unpack(image, copy, progress)
            image = copy
        found = disk.find_root(image, request.partition)
        system = FileSystem(found.file, found.start)
        self._layout = Layout.find(system)
        self._board = self._find_board(system)
        missing = emulator.missing(self._board, bootable.kind(image))
        if missing:
            raise PreloadError(
                f"not installed: {', '.join(missing)}",
                "install them (Debian and Ubuntu: apt-get install --no-install-recommends "
                f"{' '.join(missing)})",
            )
        if image != copy:
            self._check_space(image.stat().st_blocks * 512)
            with step(f"copying {image.name}") as progress:
                disk.copy(image, copy, progress)
        self._partition = found.in_copy(copy)
        self._system = FileSystem(copy, found.start)
        self._start = bootable.start(self._partition, self._layout, self._board, work)

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self._work).free
        if free < size:
            raise PreloadError(
                f"{self._work.parent} has too little space: {free} bytes are free, a copy of the "
                f"image takes {size}",
                "set TMPDIR to a folder with more space",
            )

    def _find_board(self, system: FileSystem) -> Board:
        _, found = architecture.find(system, self._layout)
        if found is None:
            raise PreloadError(
                "no program in the image's root file system shows its architecture",
                "if this is the wrong partition, choose another one with --partition",
            )
        return Board.of(found)

    def run(self) -> int:
        """Boot the requested number of times; return the exit status."""
        emulated = emulator.is_emulated(self._board, self._start)
        how = "emulated, which is slow" if emulated else "run by this machine's processor"
        print(f"{self._request.image.name}: {self._board.machine} board, {how}; no network")
        first = self._boot(1)
        statuses = [first.exit_status]
        if self._request.boots == 2 and not first.trouble:
            self._system.replay_journal()
            if self._request.register:
                print("\nThe device is registered now and boots again.")
                observer.register(self._system, self._layout, self._work)
            else:
                print("\nThe device boots again.")
            second = self._boot(2)
            skipped = self._request.register and second.exit_status == NO_RUN
            statuses.append(0 if skipped else second.exit_status or int(self._request.register))
        return next((status for status in statuses if status), 0)

    def _boot(self, number: int) -> Seen:
        request = self._request
        emulated = emulator.is_emulated(self._board, self._start)
        limits = self._limits(emulated)
        bounds = limits or _ON_DEVICE
        with step("preparing the boot"):
            observer.install(
                *(self._system, self._layout, self._work),
                console=self._board.console,
                limits=limits,
                shell=request.shell,
                last=number == request.boots,
            )
        files = self._work / f"boot-{number}"
        seen = boot(
            *(self._partition, self._layout, self._board, self._start, self._work, files),
            Patience(
                boot=_EMULATED_BOOT_SECONDS if emulated else _BOOT_SECONDS,
                run=bounds.unit + _REST_SECONDS,
            ),
            memory=request.memory,
            processors=request.processors or (1 if emulated else 2),
            terminal=request.shell,
        )
        _tell(seen)
        if request.output:
            target = request.output if number == 1 else request.output / "second-boot"
            shutil.copytree(files, target, dirs_exist_ok=True)
            print(f"\nIn {target}: {', '.join(sorted(each.name for each in files.iterdir()))}")
        return seen

    def _limits(self, emulated: bool) -> Limits | None:
        """Return the limits for the agent; None for those of the image."""
        seconds = self._request.app_seconds
        if not emulated and seconds is None:
            return None
        usual = _EMULATED if emulated else _ON_DEVICE
        app = seconds or usual.app
        return Limits(usual.engine, app, max(usual.run, 2 * app))


def _tell(seen: Seen) -> None:
    """Print the result of a boot."""
    if seen.trouble:
        print(f"\nThe boot did not complete: {seen.trouble}. The last lines on the console:")
        print(seen.last_lines)
    elif seen.has_agent:
        print(f"\n{seen.text('status.txt') or seen.text('errors.txt')}")
    else:
        print(
            f"\nThe image has no {observer.AGENT}. Its containers at the end of the boot:\n\n"
            f"{seen.text('containers.txt') or 'none, or docker does not answer'}\n\n"
            "Only the agent can report whether they work, which apps should run, and why one does "
            "not.\nNext: put it into the image, see docs/integration.md"
        )
    print(f"\nexit status {seen.exit_status}: {_MEANINGS.get(seen.exit_status, 'unknown')}")
