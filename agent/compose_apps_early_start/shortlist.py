"""`default-apps`: which of the preloaded apps are to be started.

The file is written by factory tools, by installers from a FAT partition, and by people: names are
separated by line ends (of any system), blanks, tabs or commas; `#` starts a comment; a byte-order
mark is skipped. No file means every app, an empty one means none.
"""

import codecs
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from . import plainfile
from .errors import EarlyStartError

MAX_BYTES = 1 << 20
"""A longer file is no shortlist; reading it is refused."""

MAX_CHARACTERS = 100
"""Longer names are compared with none, and cut when they are told."""

MAX_REPORTED = 20
"""So many unknown names are told one by one; a file with more of them is no typo."""


@dataclass(frozen=True)
class UnknownName:
    """A name in the shortlist that no preloaded app has, and the app that it may mean.

    A long name is cut.
    """

    name: str
    nearest: str | None


def read(file: Path) -> tuple[str, ...] | None:
    """Return the names in `file`, in order and once each, or None if there is no such file.

    Raises `EarlyStartError` if the file is there but cannot be read. Nothing is started then: a
    shortlist that cannot be read is not the wish to start everything.
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
    """Return the names in `data`, in order and once each. Any bytes are accepted."""
    names = (
        name
        for line in _decode(data).splitlines()
        for name in re.split(r"[\s,]+", _uncommented(line))
    )
    return tuple(dict.fromkeys(name for name in names if name))


def _decode(data: bytes) -> str:
    # Windows' editors save "Unicode" as UTF-16 with a mark.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    # What is not UTF-8 becomes a name that no app has, and is reported as such.
    return data.decode("utf-8-sig", errors="backslashreplace")


def _uncommented(line: str) -> str:
    return line.partition("#")[0]


def select(
    names: Iterable[str], known: Collection[str]
) -> tuple[tuple[str, ...], tuple[UnknownName, ...]]:
    """Split `names` into those that are known, in order, and those that are not.

    Names match whole and by case, never in part. Of very many unknown ones the last entry says how
    many more there are.
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
