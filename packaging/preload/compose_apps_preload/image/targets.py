"""The apps of a Target, by the file of all Targets (targets.json) that fioctl and ostree know."""

import json
from pathlib import Path
from typing import Any

from ..errors import PreloadError


def apps(file: Path, name: str) -> dict[str, str]:
    """Return the reference of each app of the Target `name`; raises `PreloadError`.

    The file is TUF's (`signed`, `targets`), or has only what is in there.
    """
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise PreloadError(f"{file}: {error}", "give the file targets.json") from error
    targets: Any = document
    for key in ("signed", "targets"):
        if isinstance(targets, dict) and isinstance(targets.get(key), dict):
            targets = targets[key]
    if not isinstance(targets, dict) or name not in targets:
        names = ", ".join(targets) if isinstance(targets, dict) else ""
        raise PreloadError(
            f"{file} has no Target {name!r}{f'; it has {names}' if names else ''}",
            "correct the name: it counts whole",
        )
    try:
        found = targets[name]["custom"].get("docker_compose_apps") or {}
        return {str(app): str(details["uri"]) for app, details in found.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise PreloadError(
            f"{file}: Target {name} does not say which apps it has",
            "give a file as the Factory publishes it",
        ) from error
