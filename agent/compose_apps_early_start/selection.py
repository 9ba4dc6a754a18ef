"""The wanted apps: the preloaded apps, restricted by the shortlist."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import preloaded, shortlist
from .container import State
from .preloaded import App, AskCompose
from .restorable import images
from .settings import Settings
from .shortlist import UnknownName
from .store import Image, Store, StoreError, Version

if TYPE_CHECKING:  # it loads the docker SDK
    from .engine import Engine


@dataclass(frozen=True)
class Selection:
    """The apps that are wanted, in order of dispatch.

    `shortlisted` is False without a shortlist, when all apps are wanted. `unknown` are names on the
    shortlist that no app has. `not_apps` are entries among the apps that are not apps. `store` is
    the restorable store, and `store_error` says why it cannot be read.
    """

    shortlisted: bool
    apps: tuple[App, ...]
    unknown: tuple[UnknownName, ...]
    not_apps: tuple[str, ...]
    store: Store
    store_error: str | None = None

    @property
    def images(self) -> frozenset[str]:
        """The images of all wanted apps."""
        return frozenset(image for app in self.apps for image in app.images)

    @property
    def folders(self) -> frozenset[str]:
        """The folders of all wanted apps, as compose writes them into its labels."""
        return frozenset(str(app.folder) for app in self.apps)


def select(settings: Settings, ask: AskCompose) -> Selection:
    """Read the shortlist and the wanted apps.

    Raises `EarlyStartError` if the shortlist or the folder of the apps cannot be read.
    """
    names = shortlist.read(settings.default_apps)
    found = preloaded.listing(settings)
    store = Store(settings.reset_apps)
    stored: Mapping[str, tuple[Version, ...]] = {}
    store_error = None
    try:
        stored = store.versions()
    except OSError as error:  # apps that have their folders can start without the store
        store_error = f"{error.filename}: {error.strerror}"
    known = tuple(sorted({*found.apps, *stored}))
    chosen, unknown = (known, ()) if names is None else shortlist.select(names, known)
    apps = preloaded.read(settings, chosen, ask, store, stored)
    return Selection(names is not None, apps, unknown, found.not_apps, store, store_error)


def stored_images(
    wanted: Selection, state: State, engine: "Engine"
) -> Mapping[str, Image | StoreError]:
    """Return the images in the store that the engine lacks, by reference.

    Raises `EngineError`.
    """
    lacking = [
        (app.restorable.version, [image for image in app.images if image not in state.images])
        for app in wanted.apps
        if app.restorable
    ]
    if not any(references for _version, references in lacking):
        return {}
    return images(wanted.store, lacking, engine.storage().architecture)
