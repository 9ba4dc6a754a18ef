"""The file `.env` of an app, which sets variables for its compose file."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from dotenv.parser import parse_stream

ENV_FILE = ".env"


@dataclass(frozen=True)
class Assignment:
    """A variable and its value, which may refer to other variables; `line` counts from 1."""

    name: str
    value: str
    line: int


def parse(text: str) -> Iterator[Assignment]:
    """Yield the assignments in the text of a `.env`; other lines are skipped."""
    for binding in parse_stream(io.StringIO(text)):
        if binding.key is not None and binding.value is not None:
            # What was read begins with the blank lines above the assignment.
            read = binding.original.string
            above = read[: len(read) - len(read.lstrip())].count("\n")
            yield Assignment(binding.key, binding.value, binding.original.line + above)
