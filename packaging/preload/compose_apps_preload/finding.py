"""What is wrong at one place of a file, as plain data."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error is not what was meant, or fails; a warning works, but perhaps not as expected.

    A notice is worth knowing, and nothing is wrong. The names are those of GitHub's annotations.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a file; the first line and the first column are 1, columns are characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Finding:
    """`message` names the thing, `hint` says what to do next; `code` is for machines."""

    severity: Severity
    code: str
    at: Mark
    message: str
    hint: str
