"""The command line: `start`, `plan`, `status`, `timeline`."""

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import __version__, evidence, present, preview, start, status
from .errors import EarlyStartError
from .report import silence
from .settings import (
    ENVIRONMENT_PREFIX,
    MAXIMUM,
    Settings,
    add_limit_options,
    add_root_option,
    load,
)

_DESCRIPTION = """\
Start the Docker Compose apps that were preloaded into this device's image: offline, and before
the device is registered. On a registered device this does nothing: aktualizr-lite manages the
apps there."""

_EPILOG = f"""\
examples:
  systemctl restart compose-apps-early-start   run it now, as at boot
  compose-apps-early-start plan                show what would be done, and change nothing
  compose-apps-early-start status              show what the last run did, and why an app failed
  compose-apps-early-start status --json       the same for programs
  compose-apps-early-start status --wait       the same, once the run of this boot has ended
  compose-apps-early-start status --log shop   show what the containers of the app 'shop' said
  compose-apps-early-start timeline            show where the time to the apps went

'systemctl start' does nothing while the unit is active, which it is after every good run.

Each option of 'start' is also an environment variable, which a drop-in of the unit can set:
'--app-seconds' is {ENVIRONMENT_PREFIX}APP_SECONDS.

exit status: 0 all wanted apps run, or nothing was to be done; 1 no app runs, or the run could not
begin; 2 wrong usage; 3 some apps run, some do not. 'status' exits with the status of the run that
it shows, and with 4 while a run is in progress, 5 if there is no run to show"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        settings = load(vars(options), os.environ)
        result: int = options.execute(settings, options)
        sys.stdout.flush()
        return result
    except BrokenPipeError:  # 'status | head' has read enough
        silence(sys.stdout)
        return 0
    except KeyboardInterrupt:  # somebody interrupts 'status --wait'
        return 128 + signal.SIGINT
    except EarlyStartError as error:
        print(f"compose-apps-early-start: {error}. Next: {error.hint}", file=sys.stderr)
        return error.exit_status


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line; the completion of shells is made from it."""
    parser = argparse.ArgumentParser(
        prog="compose-apps-early-start",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_root_option(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    begin = commands.add_parser("start", help="start the apps; the unit runs this at boot")
    show = commands.add_parser("plan", help="show which apps would be started, and how")
    status = commands.add_parser("status", help="show what the current or the last run did")
    drawn = commands.add_parser("timeline", help="show where the time to the apps went")
    for command, execute in (
        (begin, _start),
        (show, _plan),
        (status, _status),
        (drawn, _timeline),
    ):
        command.set_defaults(execute=execute)
        add_root_option(command)
    add_limit_options(begin)
    for command in (show, status):
        command.add_argument("--json", action="store_true", help="print JSON")
    which = status.add_mutually_exclusive_group()
    which.add_argument(
        "--wait",
        nargs="?",
        type=seconds,
        const=math.inf,
        metavar="SECONDS",
        help="wait until the run of this boot has ended, up to SECONDS",
    )
    which.add_argument("--list", action="store_true", help="list the runs that are kept")
    which.add_argument("--run", type=int, metavar="N", help="show run N of that list")
    which.add_argument(
        "--log",
        nargs="?",
        const="",
        metavar="APP",
        help="show what the containers of failed apps, or of APP, and compose said",
    )
    form = drawn.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--svg", metavar="FILE", type=Path, help="draw the timeline into FILE, as SVG"
    )
    return parser


def _start(settings: Settings, _options: argparse.Namespace) -> int:
    return start.start(settings)


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    shown = preview.preview(settings)
    _print(options, preview.to_json(shown), lambda: preview.text(shown))
    return 0


def _status(settings: Settings, options: argparse.Namespace) -> int:
    if options.list:
        records = status.load_all(settings)
        _print(options, status.list_json(records), lambda: status.list_table(records))
        return 0
    if options.log is not None:
        found = status.load_evidence(settings, options.log or None)
        _print(options, found, lambda: evidence.text(found))
        return 0
    if options.wait is not None:
        record = status.wait(settings, options.wait)
    elif options.run is not None:
        record = status.load_number(settings, options.run)
    else:
        record = status.load(settings)
    _print(options, record, lambda: status.table(record, _now(settings, options, record)))
    return status.exit_status(record)


def _now(
    settings: Settings, options: argparse.Namespace, record: dict[str, Any]
) -> Mapping[str, str] | None:
    # A run in progress needs the device's time, and after --wait the answer must come at once.
    asks = options.run is None and options.wait is None and record["state"] != "running"
    return present.ask(settings, record) if asks else None


def _timeline(settings: Settings, options: argparse.Namespace) -> int:
    from . import drawing, timeline  # not at a start, where every millisecond counts

    shown = timeline.read(settings)
    if options.svg is None:
        _print(options, timeline.to_json(shown), lambda: timeline.text(shown))
        return 0
    try:
        options.svg.write_text(drawing.svg(shown), encoding="utf-8")
    except OSError as error:
        raise EarlyStartError(
            f"{options.svg}: cannot write: {error.strerror}",
            "name a file in a folder where you may write",
        ) from error
    return 0


def _print(options: argparse.Namespace, document: dict[str, Any], text: Callable[[], str]) -> None:
    print(json.dumps(document, indent=2) if options.json else text())


def seconds(text: str) -> float:
    """Parse a number of seconds; argparse shows this function's name. Raises ValueError."""
    number = float(text)
    if not 0 <= number <= MAXIMUM:
        raise ValueError
    return number
