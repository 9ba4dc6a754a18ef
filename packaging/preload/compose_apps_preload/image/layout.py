"""The paths of the device's files in its root file system."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compose_apps_early_start.settings import Settings

from ..errors import PreloadError
from .ext4 import FileSystem

DEPLOY = "/ostree/deploy"


@dataclass(frozen=True)
class Layout:
    """The layout of a root file system. `var` is the path of the device's `/var` in it."""

    var: str

    @classmethod
    def find(cls, system: FileSystem) -> "Layout":
        """Find `/var` of an OSTree deployment, or at the top; raises `PreloadError`."""
        systems = [
            name for name in system.names(DEPLOY) if "var" in system.names(f"{DEPLOY}/{name}")
        ]
        if len(systems) > 1:
            raise PreloadError(
                f"the image holds {len(systems)} operating systems: {', '.join(sorted(systems))}",
                "use an image with one operating system",
            )
        if systems:
            return cls(f"{DEPLOY}/{systems[0]}/var")
        if "var" in system.names("/"):
            return cls("/var")
        raise PreloadError(
            "the image's root file system has neither /ostree/deploy/*/var nor /var",
            "if this is the wrong partition, choose another one with --partition",
        )

    def roots(self, system: FileSystem) -> Iterator[str]:
        """Yield where root file systems lie: OSTree's deployments, or "" for the top."""
        if not self.var.startswith(DEPLOY):
            yield ""
            return
        deployments = f"{self.var.removesuffix('/var')}/deploy"
        for name, mode in system.names(deployments).items():
            if stat.S_ISDIR(mode):
                yield f"{deployments}/{name}"

    @property
    def compose_apps(self) -> str:
        """The folder of the apps that are ready to run."""
        return str(self._settings.compose_apps)

    @property
    def reset_apps(self) -> str:
        """The restorable store."""
        return str(self._settings.reset_apps)

    @property
    def docker(self) -> str:
        """docker's data root."""
        return f"{self.var}/lib/docker"

    @property
    def installed_versions(self) -> str:
        """The file that names the apps of the image."""
        return str(self._settings.installed_versions)

    @property
    def default_apps(self) -> str:
        """The shortlist of apps to start."""
        return str(self._settings.default_apps)

    @property
    def last_run(self) -> str:
        """The agent's record of the last run that ended."""
        return str(self._settings.last_run)

    @property
    def _settings(self) -> Settings:
        """The agent's paths, all of which are below `/var`."""
        return Settings(root=Path(self.var).parent)
