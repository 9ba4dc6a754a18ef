"""The variables of an app, as far as its own files determine them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import env_file
from ..interpolation import Template, Variable, VariableError, parse
from ..yaml_tree import MAX_BYTES


@dataclass(frozen=True)
class Environment:
    """The variables in an app's `.env`, and their lines. A value with variables in it is None."""

    values: Mapping[str, str | None] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


def read(folder: Path) -> Environment:
    """Read the `.env` of an app; empty if there is none or it cannot be read."""
    try:
        with (folder / env_file.ENV_FILE).open("rb") as stream:
            data = stream.read(MAX_BYTES)
    except OSError:
        return Environment()
    values: dict[str, str | None] = {}
    lines = {}
    for assignment in env_file.parse(data.decode("utf-8-sig", errors="replace")):
        values[assignment.name] = None if "$" in assignment.value else assignment.value
        lines[assignment.name] = assignment.line
    return Environment(values, lines)


@dataclass(frozen=True)
class Text:
    """A text with its variables replaced; None if one of them is unknown.

    `missing` are the variables that compose requires (`${VAR:?}`) and that are not set.
    """

    value: str | None
    missing: tuple[str, ...] = ()


def interpolate(text: str, values: Mapping[str, str | None]) -> Text:
    """Replace the variables in `text` as compose does."""
    return _interpolated(parse(text), values)


def _interpolated(template: Template, values: Mapping[str, str | None]) -> Text:
    parts = [_value(part, values) for part in template]
    known = [part.value for part in parts if part.value is not None]
    return Text(
        "".join(known) if len(known) == len(parts) else None,
        tuple(name for part in parts for name in part.missing),
    )


def _value(variable: str | Variable | VariableError, values: Mapping[str, str | None]) -> Text:
    if not isinstance(variable, Variable):
        return Text(variable if isinstance(variable, str) else None)
    operator, is_set = variable.operator[-1:], variable.is_set(values)
    if operator == "?" and not is_set:
        return Text(None, (variable.name,))
    if operator == "-" and not is_set:
        return _interpolated(variable.word, values)
    if operator == "+":
        return _interpolated(variable.word, values) if is_set else Text("")
    return Text(values.get(variable.name))
