"""The files in which the records of the last runs are kept.

The last one has a name of its own, `last-run.json`. Earlier ones are named by the number of the
run, which needs no clock.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import plainfile
from .settings import Settings

MAX_RUNS = 10
"""That are kept, the last one included."""

MAX_BYTES = 1 << 20
"""Of the files of all runs before the last one."""

MAX_RECORD_BYTES = 16 << 20
"""Of one record: an app takes some kilobytes in it."""

_NAME = re.compile(r"(0|[1-9][0-9]{0,8})\.json")


def read(file: Path) -> Any:
    """Return what is in the JSON file; raises OSError, or ValueError for what is no JSON."""
    try:
        return json.loads(plainfile.read(file, MAX_RECORD_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class History:
    """The records of the runs that have ended, as they were when this object was made."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.runs
        self._last_run = settings.last_run
        self._last = _number(self._last_run)

    def files(self) -> Mapping[int, Path]:
        """Return the files that are there by the number of their run, the last run at the end."""
        found = dict(sorted(self._earlier().items()))
        if self._last is not None:
            found.pop(self._last, None)  # a power cut left it under both names
            found[self._last] = self._last_run
        return found

    def next_run(self) -> int:
        """Return the number that the next run gets."""
        return max(self.files(), default=0) + 1

    def make_room(self) -> None:
        """Keep the last run under its number, so that another can take its place.

        Drops the oldest that are too many. Should the disk not take it, that one is lost.
        """
        with contextlib.suppress(OSError):
            if self._last is not None:
                self._folder.mkdir(exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    (self._folder / f"{self._last}.json").hardlink_to(self._last_run)
            size = 0
            newest_first = sorted(self._earlier().items(), reverse=True)
            for place, (_number, file) in enumerate(newest_first, start=2):
                size += file.lstat().st_size
                if place > MAX_RUNS or size > MAX_BYTES:
                    file.unlink()

    def _earlier(self) -> dict[int, Path]:
        try:
            files = list(self._folder.iterdir())
        except OSError:
            return {}
        return {int(name[1]): file for file in files if (name := _NAME.fullmatch(file.name))}


def _number(file: Path) -> int | None:
    """Return the number of the run that `file` is the record of, None if it is no record."""
    try:
        document = read(file)
        number = document.get("run", 0)  # a record of schema 1 has none
        return number if isinstance(number, int) and 0 <= number < 10**9 else None
    except (OSError, ValueError, AttributeError):
        return None
