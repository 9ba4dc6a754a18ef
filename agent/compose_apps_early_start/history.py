"""The files with the records of the last runs.

The last run is in `last-run.json`. The files of earlier runs are named by the number of the run,
which needs no clock.
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
"""The maximum number of saved runs, including the last one."""

MAX_BYTES = 1 << 20
"""The maximum size of the files of all runs before the last one, in bytes."""

MAX_RECORD_BYTES = 16 << 20
"""The maximum size of a record in bytes. An app takes some kilobytes."""

_NAME = re.compile(r"(0|[1-9][0-9]{0,8})\.json")


def read(file: Path) -> Any:
    """Read a JSON file; raises OSError, or ValueError if it is not JSON."""
    try:
        return json.loads(plainfile.read(file, MAX_RECORD_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class History:
    """The records of finished runs at the time when this object was created."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.runs
        self._last_run = settings.last_run
        self._last = _number(self._last_run)

    def files(self) -> Mapping[int, Path]:
        """Return the existing files by the numbers of their runs; the last run comes last."""
        found = dict(sorted(self._earlier().items()))
        if self._last is not None:
            found.pop(self._last, None)  # a power cut left it under both names
            found[self._last] = self._last_run
        return found

    def next_run(self) -> int:
        """Return the number of the next run."""
        return max(self.files(), default=0) + 1

    def make_room(self) -> None:
        """Rename the last run to its number, so that another can take its place.

        Removes the oldest runs if there are too many. If writing fails, this record is lost.
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
    """Return the number of the run in the record `file`; None if it is not a record."""
    try:
        document = read(file)
        number = document.get("run", 0)  # a record of schema 1 has none
        return number if isinstance(number, int) and 0 <= number < 10**9 else None
    except (OSError, ValueError, AttributeError):
        return None
