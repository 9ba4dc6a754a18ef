"""The contents of a preloaded image: apps and their images in the stores, all of it verified.

The agent's own modules read the restorable store, so the device finds what is found here.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compose_apps_early_start import bundle, shortlist
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Descriptor, Store, StoreError, Version

from ..configuration.containers import COMPOSE_FILE
from ..errors import PreloadError
from . import compose_file, containers, installed_versions, unpacking
from .bom import BillOfMaterials, ContainerImage, PreloadedApp
from .docker_contents import DockerContents, DockerError
from .ext4 import FileSystem
from .layout import Layout


def check(
    system: FileSystem, layout: Layout, work: Path, bom: BillOfMaterials, *, unpack: bool = True
) -> None:
    """Read all preloaded apps and images of a file system into `bom`, using the folder `work`.

    Without `unpack`, it is known that the layers decompress to the digests in the configs. Then the
    restorable store's layers are checked only as they are, compressed.
    """
    try:
        _Checker(system, layout, work, bom, unpack=unpack).check()
    except DockerError as error:
        bom.problems.append(str(error))


class _Checker:
    """Fills a bill of materials."""

    def __init__(
        self, system: FileSystem, layout: Layout, work: Path, bom: BillOfMaterials, *, unpack: bool
    ) -> None:
        self._bom = bom
        self._unpack = unpack
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
            bom.problems.append(f"a container that was created ahead is damaged: {error}")
        self._checked: set[tuple[Descriptor, str]] = set()
        self._installed: Mapping[str, str] = {}
        try:
            data = system.read(layout.installed_versions)
            self._installed = installed_versions.apps(data)
        except PreloadError as error:
            bom.problems.append(str(error))
        names = system.read(layout.default_apps)
        if names is not None:
            bom.default_apps = shortlist.parse(names)

    def check(self) -> None:
        bom = self._bom
        stores = {"restorable": bool(self._versions), "docker": self._docker.is_filled}
        bom.stores = tuple(name for name, filled in stores.items() if filled)
        ready = {each.name for each in self._compose_apps.glob("*") if each.is_dir()}
        for name in sorted(ready | set(self._versions)):
            bom.apps.append(self._app(name, name in ready))
        if not bom.apps:
            bom.problems.append("no app is preloaded")
        elif not bom.stores:
            bom.problems.append("neither store holds an image")
        for name in bom.default_apps or ():
            if name not in {each.name for each in bom.apps}:
                bom.problems.append(f"default-apps names {name!r}, which is not preloaded")

    def _app(self, name: str, ready: bool) -> PreloadedApp:
        uri = self._installed.get(name)
        versions = self._versions.get(name, ())
        version = next(
            (candidate for candidate in versions if uri is None or candidate.uri == uri), None
        )
        services: Mapping[str, str] = {}
        try:
            if "restorable" in self._bom.stores and version is None:
                self._problem(name, "the restorable store does not have it")
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
        return PreloadedApp(name, version.uri if version else uri, ready, images, made)

    def _check_bundle(self, name: str, version: Version, ready: bool) -> None:
        manifest = self._store.manifest(version)
        packed = manifest.bundle
        self._store.verified(packed.sha256, version, f"the bundle of app {name!r}", packed.size)
        hashes = bundle.index(self._store, version, manifest)
        if ready:
            for file in bundle.differences(self._compose_apps / name, hashes):
                self._problem(name, f"{file} in compose-apps differs from its bundle")

    def _compose_file(self, name: str, version: Version | None, ready: bool) -> bytes:
        if ready:
            return (self._compose_apps / name / COMPOSE_FILE).read_bytes()
        assert version is not None  # an app without a folder comes from the store
        manifest = self._store.manifest(version)
        return bundle.compose_file(self._store, version, manifest, COMPOSE_FILE)

    def _image(
        self, name: str, version: Version | None, reference: str, services: Sequence[str]
    ) -> ContainerImage:
        config = architecture = None
        size = 0
        layers: Sequence[str] = ()
        stores = []
        for store in self._bom.stores:
            try:
                if store == "docker":
                    stored = self._docker.check(reference)
                    config, architecture = stored.config, stored.architecture
                    size, layers = size or stored.size, layers or stored.layers
                elif version is not None:
                    config, architecture, size, layers = self._restorable(reference, version)
                else:
                    continue  # reported for the app
            except (StoreError, DockerError, OSError, ValueError) as error:
                self._problem(name, f"{store} store: {reference}: {error}")
            else:
                stores.append(store)
        return ContainerImage(
            *(reference, tuple(services), architecture, config, size, tuple(stores)),
            layers=tuple(layers),
        )

    def _restorable(self, reference: str, version: Version) -> tuple[str, str, int, Sequence[str]]:
        """Read a whole image from the restorable store; raises `StoreError`."""
        image = self._store.image(reference, version, None)
        for _ in self._store.chunks(image.config, "its config"):
            pass
        document = json.loads((self._store.blobs / image.config.sha256).read_bytes())
        try:
            diff_ids = [str(digest) for digest in document["rootfs"].get("diff_ids") or ()]
        except (LookupError, TypeError, AttributeError) as error:
            raise StoreError("its config names no layers") from error
        if len(diff_ids) != len(image.layers):
            raise StoreError(
                f"its config names {len(diff_ids)} layers, its manifest {len(image.layers)}"
            )
        layers = set(zip(image.layers, diff_ids, strict=True)) - self._checked
        # Each thread holds pieces of a layer in memory, and keeps a processor busy.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._check_layer, layers))
        self._checked |= layers
        named = [f"sha256:{blob.sha256}" for blob in image.layers]
        architecture = str(document.get("architecture"))
        return f"sha256:{image.config.sha256}", architecture, image.size, named

    def _check_layer(self, layer: tuple[Descriptor, str]) -> None:
        blob, diff = layer
        pieces = self._store.chunks(blob, "a layer")
        if self._unpack:
            unpacking.check(pieces, diff)
        else:
            for _ in pieces:
                pass

    def _problem(self, name: str, what: str) -> None:
        self._bom.problems.append(f"app {name}: {what}")
