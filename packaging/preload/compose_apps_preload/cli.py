"""The command line, with one subcommand for each module in `COMMANDS`."""

import argparse
import os
import sys
from collections.abc import Sequence

from . import __version__
from .apps import lint as lint_apps
from .configuration import lint, matrix, resolve
from .errors import PreloadError
from .image import cache, make, verify
from .trial import trial

COMMANDS = (resolve, matrix, lint, lint_apps, make, verify, trial, cache)
"""Each of these modules has `add_command`; see `command`."""

_DESCRIPTION = (
    "Show which Compose apps a FoundriesFactory Target is preloaded with, and make, change and\n"
    "check preloaded images."
)

_EPILOG = """\
examples:
  compose-apps-preload resolve factory-config.yml --build lmp --ref refs/heads/devel --explain
  compose-apps-preload matrix factory-config.yml --containers-git ../containers
  compose-apps-preload lint factory-config.yml --containers-git ../containers --format github
  compose-apps-preload lint-apps ../containers
  compose-apps-preload image lmp.wic.gz --app shop/ --arch arm64 -o lmp-shop.wic.gz
  compose-apps-preload verify lmp-shop.wic.gz
  compose-apps-preload try lmp-shop.wic.gz -o tried/

exit status: 0 success; 1 failure, or errors found by lint, lint-apps or
verify; 2 wrong usage; 130 interrupted; try has that of the agent"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        print(end="", flush=True)
    except PreloadError as error:
        print(f"compose-apps-preload: {error}. Next: {error.hint}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Otherwise Python reports the error again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader closed the pipe
            return 141
        print(f"compose-apps-preload: {error}", file=sys.stderr)
        return 1
    return status


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line; the completion of shells is made from it."""
    parser = argparse.ArgumentParser(
        prog="compose-apps-preload",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_command(commands)
    return parser
