"""Variables in compose files: `$NAME`, `${NAME}`, `${NAME:-default}` and the like.

Source of the syntax: the Compose Specification, "Interpolation".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

_MAX_DEPTH = 20  # variables inside the default of another variable
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_START = re.compile(rf"\$(?:\$|({_NAME})|\{{({_NAME})(:?[-?+])?)")
_OUTSIDE = re.compile(r"\$")
_IN_BRACES = re.compile(r"[$}]")


class VariableError(ValueError):
    """A variable has no value, or its syntax is wrong; the text says which."""


@dataclass(frozen=True)
class Variable:
    """A variable. `operator` is empty, or `-`, `?` or `+`, each with or without a `:` before it.

    `word` is what follows the operator: a default, an error message, or a replacement.
    """

    name: str
    operator: str = ""
    word: "Template" = ()

    def is_set(self, values: Mapping[str, object]) -> bool:
        """Whether the variable has a value; after a `:`, an empty value does not count."""
        return self.name in values and not (self.operator[:1] == ":" and values[self.name] == "")


Template: TypeAlias = tuple[str | Variable | VariableError, ...]
"""A text that was parsed: literal parts, variables, and an error for each malformed variable."""


def parse(text: str) -> Template:
    """Split a text at its variables."""
    template, _ = _parse(text, 0, 0)
    return template


def _parse(text: str, position: int, depth: int) -> tuple[Template, int]:
    """Parse up to the end of the text, or of the braces; return the position behind it too."""
    if depth > _MAX_DEPTH:
        return (VariableError("the variables are nested too deeply"),), len(text)
    parts: list[str | Variable | VariableError] = []
    stop = _IN_BRACES if depth else _OUTSIDE
    while found := stop.search(text, position):
        parts.append(text[position : found.start()])
        position = found.end()
        if found[0] == "}":
            return tuple(parts), position
        match = _START.match(text, found.start())
        if match is None:
            parts.append(VariableError(f"{text[found.start() :]!r}: write $$ for a dollar sign"))
            continue
        plain, braced, operator = match.groups()
        position = match.end()
        if match[0] == "$$":
            parts.append("$")
        elif plain:
            parts.append(Variable(plain))
        elif operator:
            word, position = _parse(text, position, depth + 1)
            parts.append(Variable(braced, operator, word))
        elif text.startswith("}", position):
            parts.append(Variable(braced))
            position += 1
        else:
            parts.append(VariableError(f"{text[found.start() :]!r} is not a variable"))
    parts.append(text[position:])
    if depth:
        parts.append(VariableError("a '}' is missing"))
    return tuple(parts), len(text)


def substitute(text: str, values: Mapping[str, str], *, strict: bool) -> str:
    """Return `text` with each variable replaced by its value; raises `VariableError`.

    A variable without a value is empty, or, if `strict`, an error.
    """
    return _substituted(parse(text), values, strict)


def _substituted(template: Template, values: Mapping[str, str], strict: bool) -> str:
    result = []
    for part in template:
        if isinstance(part, VariableError):
            raise part
        result.append(_value(part, values, strict) if isinstance(part, Variable) else part)
    return "".join(result)


def _value(variable: Variable, values: Mapping[str, str], strict: bool) -> str:
    name, operator = variable.name, variable.operator[-1:]
    is_set = variable.is_set(values)
    if is_set and operator != "+":
        return values[name]
    if not is_set and operator == "+":
        return ""
    # A variable inside a default or a replacement may lack a value.
    word = _substituted(variable.word, values, strict=False)
    if operator == "?":
        raise VariableError(f"{name} is not set: {word}" if word else f"{name} is not set")
    if not operator and strict:
        raise VariableError(f"{name} is not set")
    return word
