"""`default-apps`: the shortlist of the preloaded apps to start.

Factory tools, installers and people write this file. Names are separated by line ends of any
system, spaces, tabs or commas. `#` starts a comment. A byte-order mark is skipped. Without the
file, every app starts; with an empty file, none.
"""

import codecs
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from . import plainfile
from .errors import EarlyStartError

MAX_BYTES = 1 << 20
"""The maximum size in bytes. A longer file is not a shortlist and is refused."""

MAX_CHARACTERS = 100
"""Longer names get no suggestion, and are shortened in messages."""

MAX_REPORTED = 20
"""The maximum number of unknown names to report. More of them are not typing errors."""


@dataclass(frozen=True)
class UnknownName:
    """A name on the shortlist that no preloaded app has, and the most similar app.

    A long name is shortened.
    """

    name: str
    nearest: str | None


def read(file: Path) -> tuple[str, ...] | None:
    """Return the names in `file` in order, each once; None if there is no such file.

    Raises `EarlyStartError` if the file exists but cannot be read. No app is started then: an
    unreadable restriction must not mean "start everything".
    """
    try:
        data = plainfile.read(file, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EarlyStartError(
            f"{file}: cannot read the shortlist: {error.strerror}",
            "make it a readable text file with a name per line, or remove it to start every app",
        ) from error
    return parse(data)


def parse(data: bytes) -> tuple[str, ...]:
    """Return the names in `data` in order, each once. Any bytes are accepted."""
    names = (
        name
        for line in _decode(data).splitlines()
        for name in re.split(r"[\s,]+", _uncommented(line))
    )
    return tuple(dict.fromkeys(name for name in names if name))


def _decode(data: bytes) -> str:
    # Windows editors save "Unicode" as UTF-16 with a byte-order mark.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    # Invalid UTF-8 becomes a name that no app has, and is reported as unknown.
    return data.decode("utf-8-sig", errors="backslashreplace")


def _uncommented(line: str) -> str:
    return line.partition("#")[0]


def select(
    names: Iterable[str], known: Collection[str]
) -> tuple[tuple[str, ...], tuple[UnknownName, ...]]:
    """Split `names` into known names, in order, and unknown ones.

    Names match as a whole and are case-sensitive. If there are too many unknown names, the last
    entry says how many more there are.
    """
    chosen = []
    unmatched = []
    all_known = frozenset(known)
    for name in names:
        if name in all_known:
            chosen.append(name)
        else:
            unmatched.append(name)
    unknown = [UnknownName(_cut(name), _nearest(name, known)) for name in unmatched[:MAX_REPORTED]]
    if len(unmatched) > MAX_REPORTED:
        unknown.append(UnknownName(f"... and {len(unmatched) - MAX_REPORTED} more names", None))
    return tuple(chosen), tuple(unknown)


def _cut(name: str) -> str:
    return name if len(name) <= MAX_CHARACTERS else f"{name[:MAX_CHARACTERS]}..."


def _nearest(name: str, known: Collection[str]) -> str | None:
    if len(name) > MAX_CHARACTERS:
        return None
    import difflib  # only a typo pays for it

    by_folded = {each.casefold(): each for each in known if len(each) <= MAX_CHARACTERS}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None
