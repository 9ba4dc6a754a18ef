"""`installed_versions`: aktualizr's file in an image, with the apps that belong to it."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import PreloadError


def apps(data: bytes | None) -> Mapping[str, str]:
    """Return the uri of each app that belongs to the image; none without the file.

    Raises `PreloadError` if the file is damaged.
    """
    if data is None:
        return {}
    try:
        return {
            str(name): str(details["uri"])
            for target in _current(json.loads(data))
            for name, details in target.get("custom", {}).get("docker_compose_apps", {}).items()
        }
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise PreloadError(
            f"the image's installed_versions is damaged: {error}",
            "use an image that a Factory built",
        ) from error


def updated(data: bytes, uris: Mapping[str, str], removed: Collection[str]) -> bytes:
    """Return a valid file with the apps `uris` (name to uri) added and `removed` taken out."""
    targets = json.loads(data)
    for target in _current(targets):
        named = target.setdefault("custom", {}).setdefault("docker_compose_apps", {})
        for name in removed:
            named.pop(name, None)
        named.update({name: {"uri": uri} for name, uri in uris.items()})
    return json.dumps(targets).encode()


def _current(targets: Any) -> list[dict[str, Any]]:
    return [target for target in targets.values() if target.get("is_current")]
