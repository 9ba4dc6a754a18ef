"""The command line: `start`, `plan`, `status`, `timeline`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__, preview, start, status
from .errors import EarlyStartError
from .report import silence
from .settings import ENVIRONMENT_PREFIX, Settings, add_limit_options, add_root_option, load

_DESCRIPTION = """\
Start the Docker Compose apps that were preloaded into this device's image: offline, before the
device is registered. On a registered device nothing is done: the apps are aktualizr-lite's."""

_EPILOG = f"""\
examples:
  systemctl start compose-apps-early-start   run it now, as at boot
  compose-apps-early-start plan              show what would be done, and touch nothing
  compose-apps-early-start status            show what the last run did, and why an app failed
  compose-apps-early-start status --json     the same for programs

Each option of 'start' is also a variable of its environment ('--app-seconds' is
{ENVIRONMENT_PREFIX}APP_SECONDS), for a drop-in of the unit.

exit status: 0 all wanted apps run, or nothing was to be done; 1 nothing could be started;
2 wrong usage; 3 some apps run, some do not"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        settings = load(vars(options), os.environ)
        result: int = options.run(settings, options)
        sys.stdout.flush()
        return result
    except BrokenPipeError:  # 'status | head' has read what it wanted
        silence(sys.stdout)
        return 0
    except EarlyStartError as error:
        print(f"compose-apps-early-start: {error}. Next: {error.hint}", file=sys.stderr)
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compose-apps-early-start",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_root_option(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    begin = commands.add_parser("start", help="start the apps (what the unit runs at boot)")
    show = commands.add_parser("plan", help="show which apps would be started, how and why")
    told = commands.add_parser("status", help="show what the last run did")
    drawn = commands.add_parser("timeline", help="show where the time to the apps went")
    for command, run in (
        (begin, _start),
        (show, _plan),
        (told, _status),
        (drawn, _timeline),
    ):
        command.set_defaults(run=run)
        add_root_option(command)
    add_limit_options(begin)
    for command in (show, told):
        command.add_argument("--json", action="store_true", help="print JSON")
    form = drawn.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--svg", metavar="FILE", type=Path, help="draw it into FILE")
    return parser


def _start(settings: Settings, _options: argparse.Namespace) -> int:
    return start.start(settings)


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    shown = preview.preview(settings)
    print(json.dumps(preview.to_json(shown), indent=2) if options.json else preview.text(shown))
    return 0


def _status(settings: Settings, options: argparse.Namespace) -> int:
    record = status.load(settings)
    # A pipe gets JSON too: the table is for eyes, and may change.
    as_json = options.json or not sys.stdout.isatty()
    print(json.dumps(record, indent=2) if as_json else status.table(record))
    return 0


def _timeline(settings: Settings, options: argparse.Namespace) -> int:
    from . import drawing, timeline  # not for a start, at which every millisecond counts

    shown = timeline.read(settings)
    if options.svg:
        try:
            options.svg.write_text(drawing.svg(shown), encoding="utf-8")
        except OSError as error:
            raise EarlyStartError(
                f"{options.svg}: cannot write: {error.strerror}",
                "name a file in a folder where you may write",
            ) from error
    elif options.json:
        print(json.dumps(timeline.to_json(shown), indent=2))
    else:
        print(timeline.text(shown))
    return 0
