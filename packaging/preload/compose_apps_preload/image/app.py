"""A published app: fetched from a registry, or made from a local folder in the same way.

Publishing (composectl) pins the images in the compose file and labels each service with a hash of
its YAML. It then packs the folder into a bundle and writes a manifest of it. The digest of the
manifest is the app's version.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..configuration.containers import COMPOSE_FILE
from ..errors import PreloadError
from . import bundle, compose_file
from .cache import Blob
from .skopeo import Registries, digest_of, host, repository

_INDEX_DIGEST = "org.foundries.app.bundle.index.digest"
_INDEX_SIZE = "org.foundries.app.bundle.index.size"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = b"{}"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class App:
    """A published app. `blobs` maps the digest of its manifest and of each blob to a file."""

    name: str
    uri: str
    blobs: Mapping[str, Path]
    bundle: str
    """The digest of its bundle."""
    services: Mapping[str, str]
    """Service to the pinned reference of its image."""

    @property
    def sha256(self) -> str:
        """The version, in hex."""
        return self.uri.rpartition(":")[2]

    @property
    def manifest(self) -> Path:
        """The manifest, exactly as published."""
        return self.blobs[f"sha256:{self.sha256}"]

    @property
    def compose_file(self) -> bytes:
        """The pinned compose file."""
        return bundle.read(self.blobs[self.bundle], COMPOSE_FILE, f"app {self.name}")

    @property
    def images(self) -> tuple[str, ...]:
        """The image references of all services, each once."""
        return tuple(dict.fromkeys(self.services.values()))


def name_of(source: str) -> str:
    """Return the name of the app in a folder or behind a reference, without reading either."""
    if Path(source).is_dir():
        return Path(source).resolve().name
    return repository(source).rpartition("/")[2]


def load(source: str, scratch: Path, registries: Registries, variables: Mapping[str, str]) -> App:
    """Read the app in the folder `source`, or behind the reference `source`.

    Its blobs are put into the folder `scratch`, which is created. Raises `PreloadError` if there is
    no app, or if it cannot be pinned.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        return from_folder(Path(source), scratch, registries, variables)
    if "/" not in source or Path(source).exists() or source.startswith((".", "/")):
        raise PreloadError(
            f"{source!r} is not an app",
            f"name a folder with a {COMPOSE_FILE}, or a reference: host/factory/app@sha256:…",
        )
    return from_registry(source, scratch, registries)


def from_registry(reference: str, scratch: Path, registries: Registries) -> App:
    """Fetch a published app; raises `PreloadError`."""
    manifest = registries.manifest(reference)
    uri = f"{repository(reference)}@{digest_of(manifest)}"
    index = None
    try:
        document = json.loads(manifest)
        blobs = [
            Blob(str(entry["digest"]), int(entry["size"]))
            for entry in (document["config"], *document["layers"])
        ]
        packed = blobs[1].digest
        index = (document["layers"][0].get("annotations") or {}).get(_INDEX_DIGEST)
        is_app = document["annotations"]["compose-app"] == "v1"
    except (ValueError, LookupError, TypeError, AttributeError):
        is_app = False
    if not is_app:
        raise PreloadError(
            f"{reference} is not a compose app",
            "use the reference of the app (see fioctl targets show), not of an image",
        )
    registries.fetch(uri, _MANIFEST_TYPE, blobs, scratch)
    files = {blob.digest: _blob(scratch, blob.digest) for blob in blobs}
    files[digest_of(manifest)] = _put(manifest, scratch)
    if index is not None:
        # The index is not a layer, so skopeo does not copy it; but it follows from the bundle.
        hashes = bundle.hashes(files[packed], f"app {reference}")
        index_data = bundle.index(hashes)
        if digest_of(index_data) != index:
            index_data = registries.blob(uri, str(index))
            _check_index(index_data, hashes, reference)
        files[str(index)] = _put(index_data, scratch)
    name = name_of(reference)
    text = bundle.read(files[packed], COMPOSE_FILE, f"app {name}")
    services = compose_file.pinned_services(text, name)
    return App(name, uri, files, packed, services)


def _check_index(index: bytes, hashes: Mapping[str, str], reference: str) -> None:
    try:
        same = json.loads(index) == hashes
    except ValueError:
        same = False
    if not same:
        raise PreloadError(
            f"{reference}: the bundle index does not match the bundle", "publish the app again"
        )


def from_folder(
    folder: Path, scratch: Path, registries: Registries, variables: Mapping[str, str]
) -> App:
    """Make an app from a local folder as publishing does; raises `PreloadError`.

    Images without a digest are pinned to what their registries have now. `variables` come from
    the environment; the app's `.env` supplies the ones that are missing there.
    """
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise PreloadError(
            f"{name!r} cannot be the name of an app", "use lower case letters, digits, - _ ."
        )
    file = folder / COMPOSE_FILE
    try:
        text = file.read_bytes()
    except OSError as error:
        raise PreloadError(
            f"app {name}: cannot read {file}: {error.strerror}", _without_compose_file(folder)
        ) from error
    variables = {**compose_file.dotenv(folder, name), **variables}
    pinned = compose_file.pinned(text, folder, variables, registries)
    services = compose_file.pinned_services(pinned, name)
    scratch.mkdir(parents=True, exist_ok=True)
    packed, hashes = bundle.pack(folder, pinned, scratch)
    index = bundle.index(hashes)
    layer = {
        "mediaType": "application/octet-stream",
        "size": _blob(scratch, packed).stat().st_size,
        "digest": packed,
        "annotations": {_INDEX_DIGEST: digest_of(index), _INDEX_SIZE: str(len(index))},
    }
    config = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "size": len(_EMPTY),
        "digest": digest_of(_EMPTY),
    }
    document = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": config,
        "layers": [layer],
        "annotations": {"compose-app": "v1"},
        "artifactType": "application/vnd.fio+compose-app",
    }
    manifest = json.dumps(document, separators=(",", ":")).encode()
    uri = f"{_registry_path(services)}/{name}@{digest_of(manifest)}"
    blobs = {digest_of(data): _put(data, scratch) for data in (manifest, index, _EMPTY)}
    blobs[packed] = _blob(scratch, packed)
    return App(name, uri, blobs, packed, services)


def _without_compose_file(folder: Path) -> str:
    if not any(folder.iterdir()) or (folder / ".git").is_file():
        return "if it is a git submodule, check it out with git submodule update --init"
    return f"name a folder with a {COMPOSE_FILE}; other file names are not read"


def _registry_path(services: Mapping[str, str]) -> str:
    """Return registry and factory for an app that was never published, taken from an image."""
    first = next(iter(services.values()))
    home = repository(first).rpartition("/")[0]
    return home if host(first) != "docker.io" else f"docker.io/{home.partition('/')[2]}"


def unpack(app: App, folder: Path) -> None:
    """Put the app's files into `folder`, as on the device; raises `PreloadError`."""
    bundle.unpack(app.blobs[app.bundle], folder, f"app {app.name}")


def _blob(folder: Path, digest: str) -> Path:
    return folder / "sha256" / digest.removeprefix("sha256:")


def _put(data: bytes, folder: Path) -> Path:
    file = _blob(folder, digest_of(data))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return file
