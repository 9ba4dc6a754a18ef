"""Variables in compose files: `$NAME`, `${NAME}`, `${NAME:-default}` and their like.

Source of the syntax: the Compose Specification, "Interpolation".
"""

import re
from collections.abc import Mapping

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_START = re.compile(rf"\$(?:\$|({_NAME})|\{{({_NAME})(:?[-?+])?)")


class VariableError(ValueError):
    """A variable has no value, or its syntax is wrong; the text says which."""


def interpolated(text: str, variables: Mapping[str, str], *, strict: bool) -> str:
    """Return `text` with each variable replaced by its value; raises `VariableError`.

    `strict`: a variable without a value is an error, else it is empty.
    """
    result, rest = _until(text, variables, strict, end=None)
    assert not rest
    return result


def _until(
    text: str, variables: Mapping[str, str], strict: bool, end: str | None
) -> tuple[str, str]:
    """Replace up to `end`; return the result, and what lies behind `end`."""
    result: list[str] = []
    while text:
        if end and text[0] == end:
            return "".join(result), text[1:]
        if text[0] != "$":
            result.append(text[0])
            text = text[1:]
            continue
        match = _START.match(text)
        if match is None:
            raise VariableError(f"{text!r}: write $$ for a dollar sign")
        text = text[match.end() :]
        plain, braced, operator = match.groups()
        if match[0] == "$$":
            result.append("$")
        elif plain:
            result.append(_value(plain, variables, strict))
        elif operator is None:
            if not text.startswith("}"):
                raise VariableError(f"${{{braced}{text}: this is no variable")
            result.append(_value(braced, variables, strict))
            text = text[1:]
        else:
            # What is not used need not have a value.
            other, text = _until(text, variables, False, "}")
            result.append(_chosen(braced, operator, other, variables))
    if end:
        raise VariableError(f"a {end!r} is missing")
    return "".join(result), ""


def _value(name: str, variables: Mapping[str, str], strict: bool) -> str:
    if strict and name not in variables:
        raise VariableError(f"{name} is not set")
    return variables.get(name, "")


def _chosen(name: str, operator: str, other: str, variables: Mapping[str, str]) -> str:
    value = variables.get(name)
    there = bool(value) if operator[0] == ":" else value is not None
    if operator[-1] == "+":
        return other if there else ""
    if there:
        return str(value)
    if operator[-1] == "?":
        raise VariableError(f"{name} is not set: {other}" if other else f"{name} is not set")
    return other
