"""The interface of a command module: `add_command(commands)` adds its parser and sets `run`.

`run` takes the parsed options and returns the exit status. It may raise `PreloadError`.
"""

import argparse
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `file`, a factory-config.yml."""
    parser.add_argument("file", type=Path, metavar="factory-config.yml")


def app_list(text: str) -> tuple[str, ...]:
    """Parse the value of an option that names apps: at least one, separated by commas."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("it names no app; write a,b,c")
    return names


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this like Ctrl-C does: nothing is left behind."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
