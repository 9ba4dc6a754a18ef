"""Variables in a compose file: the app's `.env`, and what compose makes of `${VAR:-default}`.

Source: the Compose Specification, "Interpolation".
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream

from ..yaml_tree import MAX_BYTES

ENV_FILE = ".env"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACE = re.compile(r"\$\{|\}")
_MAX_DEPTH = 20


@dataclass(frozen=True)
class Environment:
    """What an app's `.env` sets, and in which line; a value that needs others is None."""

    values: Mapping[str, str | None] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


def read(folder: Path) -> Environment:
    """Read the `.env` of an app; without one, or if it cannot be read, nothing is set."""
    try:
        with (folder / ENV_FILE).open("rb") as stream:
            data = stream.read(MAX_BYTES)
    except OSError:
        return Environment()
    values: dict[str, str | None] = {}
    lines = {}
    for binding in parse_stream(io.StringIO(data.decode("utf-8-sig", errors="replace"))):
        if binding.key is None or binding.value is None:
            continue
        values[binding.key] = None if "$" in binding.value else binding.value
        # What was read begins with the blank lines above it.
        blank = binding.original.string
        before = blank[: len(blank) - len(blank.lstrip())].count("\n")
        lines[binding.key] = binding.original.line + before
    return Environment(values, lines)


@dataclass(frozen=True)
class Text:
    """A text with its variables replaced: None if one of them is not known.

    `missing` are those that compose insists on (`${VAR:?}`), and that are not set.
    """

    value: str | None
    missing: tuple[str, ...] = ()


def interpolate(text: str, values: Mapping[str, str | None], depth: int = 0) -> Text:
    """Replace the variables in `text` as compose does."""
    if depth > _MAX_DEPTH:
        return Text(None)
    parts = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(Text(text[position:dollar]))
        position = dollar + 2
        if text.startswith("$", dollar + 1):
            parts.append(Text("$"))
        elif text.startswith("{", dollar + 1):
            end = _closing_brace(text, position)
            parts.append(_braced(text[position:end], values, depth))
            position = end + 1
        elif name := _NAME.match(text, dollar + 1):
            parts.append(Text(values.get(name[0])))
            position = name.end()
        else:
            parts.append(Text(None))
    parts.append(Text(text[position:]))
    known = [part.value for part in parts if part.value is not None]
    return Text(
        "".join(known) if len(known) == len(parts) else None,
        tuple(name for part in parts for name in part.missing),
    )


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "${" else -1
        if not depth:
            return brace.start()
    return len(text)


def _braced(body: str, values: Mapping[str, str | None], depth: int) -> Text:
    name = _NAME.match(body)
    if not name:
        return Text(None)
    rest = body[name.end() :]
    is_set = name[0] in values
    value = values.get(name[0])
    if rest.startswith(":"):
        rest = rest[1:]
        is_set = is_set and value != ""
    operator, word = rest[:1], rest[1:]
    if operator == "?" and not is_set:
        return Text(None, (name[0],))
    if operator == "-" and not is_set:
        return interpolate(word, values, depth + 1)
    if operator == "+":
        return interpolate(word, values, depth + 1) if is_set else Text("")
    return Text(value)
