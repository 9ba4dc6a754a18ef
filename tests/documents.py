"""The JSON that the commands print: whatever a test sees of it conforms to its schema."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DOCS = Path(__file__).parents[1] / "docs"


def run(text: str) -> dict[str, Any]:
    """Read what `status --json` printed."""
    return _conforming(json.loads(text), "status", "run")


def runs(text: str) -> list[dict[str, Any]]:
    """Read what `status --list --json` printed."""
    return list(_conforming(json.loads(text), "status", "runs")["runs"])


def evidence(text: str) -> dict[str, Any]:
    """Read what `status --log --json` printed."""
    return _conforming(json.loads(text), "status", "evidence")


def plan(text: str) -> dict[str, Any]:
    """Read what `plan --json` printed."""
    return _conforming(json.loads(text), "plan")


def verify(text: str) -> dict[str, Any]:
    """Read what `compose-apps-preload verify --json` printed."""
    return _conforming(json.loads(text), "verify")


def schema(name: str) -> dict[str, Any]:
    """The schema that ships: docs/ has links to those of the packages."""
    return dict(json.loads((DOCS / f"{name}.schema.json").read_text()))


def _conforming(document: Any, name: str, part: str | None = None) -> dict[str, Any]:
    _validator(name, part).validate(document)
    return dict(document)


@cache
def _validator(name: str, part: str | None) -> Draft202012Validator:
    whole = _strict(schema(name))
    if part:
        whole = {**whole["$defs"][part], "$defs": whole["$defs"]}
    return Draft202012Validator(whole)


def _strict(node: Any) -> Any:
    """Forbid what a program that reads the JSON must put up with: keys that nobody described."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(each) for key, each in node.items()}
    if node.get("type") == "object" and "properties" in node:
        made["additionalProperties"] = False
    return made
