"""A problem at one place in a file, as plain data."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error fails, or does not do what was meant. A warning works, but perhaps unexpectedly.

    A notice is worth knowing, but nothing is wrong. The names are those of GitHub's annotations.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a file. Lines and columns count from 1; columns count characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Finding:
    """`message` names what is wrong, `hint` says what to do next, `code` is for programs."""

    severity: Severity
    code: str
    at: Mark
    message: str
    hint: str
