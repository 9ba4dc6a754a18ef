"""Which of the preloaded apps are wanted: the catalog under the shortlist."""

from dataclasses import dataclass

from . import catalog, shortlist
from .catalog import App, AskCompose
from .settings import Settings
from .shortlist import UnknownName


@dataclass(frozen=True)
class Selection:
    """The apps that are wanted, in order of dispatch.

    `shortlisted` is False where there is no shortlist, so that every app is taken. `unknown` are
    names of the shortlist that no app has, `strays` what lies among the apps and is none.
    """

    shortlisted: bool
    apps: tuple[App, ...]
    unknown: tuple[UnknownName, ...]
    strays: tuple[str, ...]

    @property
    def images(self) -> frozenset[str]:
        """The images of all wanted apps."""
        return frozenset(image for app in self.apps for image in app.images)


def select(settings: Settings, ask: AskCompose) -> Selection:
    """Read the shortlist, and the apps that it wants.

    Raises `EarlyStartError` if the shortlist or the folder of the apps cannot be read.
    """
    names = shortlist.read(settings.default_apps)
    found = catalog.listing(settings)
    chosen, unknown = (found.apps, ()) if names is None else shortlist.select(names, found.apps)
    apps = catalog.read(settings, chosen, ask)
    return Selection(names is not None, apps, unknown, found.strays)
