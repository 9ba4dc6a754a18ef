"""What the restorable store holds for the wanted apps: which version, what is to be put back."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import bundle, plainfile
from .cause import Cause, Failure
from .store import Image, Store, StoreError, Version

MAX_BYTES = 16 << 20
"""Of installed_versions: a Target takes kilobytes in it."""


@dataclass(frozen=True)
class Restorable:
    """An app that can be put back. `damaged` are the files of its folder that have to be."""

    version: Version
    hashes: Mapping[str, str]
    damaged: tuple[str, ...]


def installed_uris(file: Path) -> Mapping[str, str]:
    """Return the uri of each app that belongs to this image; none if `file` does not tell.

    Source: `/var/sota/import/installed_versions`, written by the image build for aktualizr.
    """
    try:
        return {
            app: details["uri"]
            for target in _current_targets(file).values()
            for app, details in target["custom"]["docker_compose_apps"].items()
            if isinstance(details["uri"], str)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def installed_target(file: Path) -> str | None:
    """Return the name of the Target that is this image; None if `file` does not tell."""
    try:
        return next((str(name) for name in _current_targets(file)), None)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _current_targets(file: Path) -> Mapping[str, Any]:
    targets = json.loads(plainfile.read(file, MAX_BYTES))
    return {name: target for name, target in targets.items() if target.get("is_current")}


def find(
    store: Store, versions: tuple[Version, ...], installed: str | None, folder: Path
) -> Restorable | Failure | None:
    """Pick the version of the app for `folder`, and compare the two.

    That is the version `installed` (a uri), else the only one, else the one that the folder is an
    intact copy of. None if the store does not have the app in that version.
    """
    if installed is not None:
        versions = tuple(each for each in versions if each.uri == installed)
    if not versions:
        return None
    try:
        found = [_compare(store, version, folder) for version in versions]
    except StoreError as error:
        return Failure(error.cause, str(error))
    intact = [each for each in found if not each.damaged]
    if len(found) > 1 and not intact:
        uris = ", ".join(version.uri for version in versions)
        return Failure(Cause.VERSION_UNCLEAR, f"the store has {len(found)} versions: {uris}")
    return (intact or found)[0]


def _compare(store: Store, version: Version, folder: Path) -> Restorable:
    hashes = bundle.index(store, version, store.manifest(version))
    return Restorable(version, hashes, bundle.differences(folder, hashes))


def images(
    store: Store, wanted: Iterable[tuple[Version, Iterable[str]]], architecture: str
) -> Mapping[str, Image | StoreError]:
    """Find images of versions in the store, or what is wrong with them there, by reference."""
    found: dict[str, Image | StoreError] = {}
    for version, references in wanted:
        for reference in references:
            if isinstance(found.get(reference), Image):
                continue
            try:
                found[reference] = store.image(reference, version, architecture)
            except StoreError as error:
                found[reference] = error
    return found
