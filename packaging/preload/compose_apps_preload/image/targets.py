"""The apps of a Target, read from the Factory's targets.json."""

import json
from pathlib import Path
from typing import Any

from ..errors import PreloadError


def apps(file: Path, name: str) -> dict[str, str]:
    """Return the reference of each app of the Target `name`; raises `PreloadError`.

    The file is TUF's document (`signed`, `targets`), or only the part with the Targets.
    """
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise PreloadError(
            f"{file} cannot be read: {error}", "name a readable targets.json"
        ) from error
    targets: Any = document
    for key in ("signed", "targets"):
        if isinstance(targets, dict) and isinstance(targets.get(key), dict):
            targets = targets[key]
    if not isinstance(targets, dict) or name not in targets:
        names = ", ".join(targets) if isinstance(targets, dict) else ""
        raise PreloadError(
            f"{file} has no Target {name!r}{f'; it has {names}' if names else ''}",
            "correct the name; it must be the full name of the Target",
        )
    try:
        found = targets[name]["custom"].get("docker_compose_apps") or {}
        return {str(app): str(details["uri"]) for app, details in found.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise PreloadError(
            f"{file}: Target {name} does not say which apps it has",
            "use the file that the Factory publishes",
        ) from error
