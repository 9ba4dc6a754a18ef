"""What lies in a preloaded image: apps, and their images in the stores, all of it verified.

The restorable store is read by the agent's own reading of it: what holds here, the device finds.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compose_apps_early_start import bundle
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Descriptor, Store, StoreError, Version

from ..errors import PreloadError
from . import compose_file, containers, unpacking
from .docker_contents import DockerContents, DockerError
from .ext4 import FileSystem
from .layout import Layout
from .report import AppReport, ImageReport, Report


def check(system: FileSystem, layout: Layout, work: Path, report: Report) -> None:
    """Read all that is preloaded in a file system, into `report`. `work` is a scratch folder."""
    try:
        _Checker(system, layout, work, report).check()
    except DockerError as error:
        report.problems.append(str(error))


class _Checker:
    """Fills a report."""

    def __init__(self, system: FileSystem, layout: Layout, work: Path, report: Report) -> None:
        self._report = report
        copied = Settings(root=work)
        system.dump(f"{layout.var}/sota", work / "var")
        system.dump(f"{layout.docker}/image/overlay2", work / "image")
        self._compose_apps = copied.compose_apps
        self._store = Store(copied.reset_apps)
        self._versions = self._store.versions()
        self._docker = DockerContents(
            work / "image/overlay2",
            lambda path, target: system.dump(f"{layout.docker}/{path}", target),
            work,
        )
        system.dump(f"{layout.docker}/containers", work / "made")
        self._containers: Mapping[str, Sequence[str]] = {}
        try:
            self._containers = containers.made(work / "made/containers")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            report.problems.append(f"a container that was made ahead is damaged: {error}")
        self._unpacked: set[tuple[Descriptor, str]] = set()
        self._installed: Mapping[str, str] = {}
        try:
            self._installed = _installed(copied.installed_versions)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            report.problems.append(f"installed_versions is damaged: {error}")
        shortlist = system.read(layout.default_apps)
        if shortlist is not None:
            report.default_apps = names_of(shortlist)

    def check(self) -> None:
        report = self._report
        stores = {"restorable": bool(self._versions), "docker": self._docker.is_filled}
        report.stores = tuple(name for name, filled in stores.items() if filled)
        ready = {each.name for each in self._compose_apps.glob("*") if each.is_dir()}
        for name in sorted(ready | set(self._versions)):
            report.apps.append(self._app(name, name in ready))
        if not report.apps:
            report.problems.append("no app is preloaded")
        elif not report.stores:
            report.problems.append("neither store holds an image")
        for name in report.default_apps or ():
            if name not in {each.name for each in report.apps}:
                report.problems.append(f"default-apps names {name!r}, which is not preloaded")

    def _app(self, name: str, ready: bool) -> AppReport:
        uri = self._installed.get(name)
        versions = self._versions.get(name, ())
        version = next((each for each in versions if uri is None or each.uri == uri), None)
        services: Mapping[str, str] = {}
        try:
            if "restorable" in self._report.stores and version is None:
                self._problem(name, "it is not in the restorable store")
            if version is not None:
                self._check_bundle(name, version, ready)
            services = compose_file.pinned_services(self._compose_file(name, version, ready), name)
        except (StoreError, PreloadError, OSError, ValueError) as error:
            self._problem(name, str(error))
        images = tuple(
            self._image(
                name, version, reference, [key for key in services if services[key] == reference]
            )
            for reference in dict.fromkeys(services.values())
        )
        made = tuple(self._containers.get(name, ()))
        return AppReport(name, version.uri if version else uri, ready, images, made)

    def _check_bundle(self, name: str, version: Version, ready: bool) -> None:
        manifest = self._store.manifest(version)
        packed = manifest.bundle
        self._store.verified(packed.sha256, version, f"the bundle of app {name!r}", packed.size)
        hashes = bundle.index(self._store, version, manifest)
        if ready:
            for file in bundle.differences(self._compose_apps / name, hashes):
                self._problem(name, f"{file} in compose-apps is not that of its bundle")

    def _compose_file(self, name: str, version: Version | None, ready: bool) -> bytes:
        if ready:
            return (self._compose_apps / name / compose_file.COMPOSE_FILE).read_bytes()
        assert version is not None  # the app is there by this version alone
        manifest = self._store.manifest(version)
        return bundle.compose_file(self._store, version, manifest, compose_file.COMPOSE_FILE)

    def _image(
        self, name: str, version: Version | None, reference: str, services: Sequence[str]
    ) -> ImageReport:
        config = architecture = None
        size = 0
        layers: Sequence[str] = ()
        stores = []
        for store in self._report.stores:
            try:
                if store == "docker":
                    held = self._docker.check(reference)
                    config, architecture = held.config, held.architecture
                    size, layers = size or held.size, layers or held.layers
                elif version is not None:
                    config, architecture, size, layers = self._restorable(reference, version)
                else:
                    continue  # said of the app
            except (StoreError, DockerError, OSError, ValueError) as error:
                self._problem(name, f"{store} store: {reference}: {error}")
            else:
                stores.append(store)
        return ImageReport(
            *(reference, tuple(services), architecture, config, size, tuple(stores)),
            layers=tuple(layers),
        )

    def _restorable(self, reference: str, version: Version) -> tuple[str, str, int, Sequence[str]]:
        """Read all of an image in the restorable store; raises `StoreError`."""
        image = self._store.image(reference, version, None)
        for _ in self._store.chunks(image.config, "its config"):
            pass
        document = json.loads((self._store.blobs / image.config.sha256).read_bytes())
        try:
            diff_ids = [str(each) for each in document["rootfs"].get("diff_ids") or ()]
        except (LookupError, TypeError, AttributeError) as error:
            raise StoreError("its config names no layers") from error
        if len(diff_ids) != len(image.layers):
            raise StoreError(
                f"its config names {len(diff_ids)} layers, its manifest {len(image.layers)}"
            )
        layers = set(zip(image.layers, diff_ids, strict=True)) - self._unpacked
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._check_layer, layers))
        self._unpacked |= layers
        named = [f"sha256:{blob.sha256}" for blob in image.layers]
        architecture = str(document.get("architecture"))
        return f"sha256:{image.config.sha256}", architecture, image.size, named

    def _check_layer(self, layer: tuple[Descriptor, str]) -> None:
        blob, diff = layer
        unpacking.check(self._store.chunks(blob, "a layer"), diff)

    def _problem(self, name: str, what: str) -> None:
        self._report.problems.append(f"app {name}: {what}")


def _installed(file: Path) -> Mapping[str, str]:
    """Return the uri of each app that the image's installed_versions names."""
    if not file.is_file():
        return {}
    targets = json.loads(file.read_bytes()).values()
    current = [target["custom"] for target in targets if target.get("is_current")]
    return {
        name: str(details["uri"])
        for custom in current
        for name, details in custom.get("docker_compose_apps", {}).items()
    }


def names_of(shortlist: bytes) -> tuple[str, ...]:
    """Return the names in a shortlist, as the device reads it."""
    lines = shortlist.decode(errors="replace").splitlines()
    words = [word for line in lines for word in re.split(r"[\s,]+", line.partition("#")[0])]
    return tuple(word for word in words if word)
