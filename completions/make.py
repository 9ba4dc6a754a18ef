"""Prints the completion for bash of COMMAND: `compose-apps-early-start` or `compose-apps-preload`.

The files beside this one are what it printed. They are kept, because shtab, which makes them, is
neither in OpenEmbedded nor needed on a device. A test says when they are no longer current.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import compose_apps_early_start.cli
import compose_apps_preload.cli
import shtab

PARSERS = {
    "compose-apps-early-start": compose_apps_early_start.cli.parser,
    "compose-apps-preload": compose_apps_preload.cli.parser,
}


def completion(command: str) -> str:
    """Return what bash reads to complete ``command``, one of `PARSERS`."""
    parser = PARSERS[command]()
    for action in _actions(parser):
        if str(action.metavar).startswith("DIR"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell="bash")).rstrip() + "\n"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


if __name__ == "__main__":
    if sys.argv[1:] not in [[command] for command in PARSERS]:
        sys.exit(f"usage: {sys.argv[0]} {' | '.join(PARSERS)}")
    print(completion(sys.argv[1]), end="")
