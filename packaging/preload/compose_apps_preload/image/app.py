"""An app as it is published: from a registry, or made of a local folder in the same way.

Publishing (composectl) pins the images of the compose file, labels each service with a hash of its
YAML, packs the folder into a bundle, and describes that by a manifest whose digest is the version.
"""

import gzip
import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ..errors import PreloadError
from . import skopeo

COMPOSE_FILE = "docker-compose.yml"
_IGNORES = ".composeappignores"
_HASH_LABEL = "io.compose-spec.config-hash"
_INDEX_DIGEST = "org.foundries.app.bundle.index.digest"
_INDEX_SIZE = "org.foundries.app.bundle.index.size"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = b"{}"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class App:
    """A published app. `blobs` are its manifest, bundle and whatever else the manifest names."""

    name: str
    uri: str
    manifest: bytes
    bundle: bytes
    blobs: tuple[bytes, ...]
    services: Mapping[str, str]
    """Service to the pinned reference of its image."""

    @property
    def sha256(self) -> str:
        """The version, in hex."""
        return self.uri.rpartition(":")[2]

    @property
    def compose_file(self) -> bytes:
        """The pinned compose file."""
        return _compose_file(self.bundle, self.name)

    @property
    def images(self) -> tuple[str, ...]:
        """The references of all services, once each."""
        return tuple(dict.fromkeys(self.services.values()))


def name_of(source: str) -> str:
    """Return the name of the app in a folder or behind a reference, without looking at either."""
    if Path(source).is_dir():
        return Path(source).resolve().name
    return skopeo.repository(source).rpartition("/")[2]


def load(source: str, scratch: Path) -> App:
    """Read the app in the folder `source`, or behind the reference `source`.

    Raises `PreloadError` if there is none, or if it cannot be pinned.
    """
    if Path(source).is_dir():
        return from_folder(Path(source))
    if "/" not in source or Path(source).exists() or source.startswith((".", "/")):
        raise PreloadError(
            f"there is no app {source!r}",
            f"give a folder with a {COMPOSE_FILE}, or a reference: host/factory/app@sha256:…",
        )
    return from_registry(source, scratch)


def from_registry(reference: str, scratch: Path) -> App:
    """Fetch a published app; raises `PreloadError`."""
    manifest = skopeo.raw(reference)
    digest = skopeo.digest_of(manifest)
    uri = f"{skopeo.repository(reference)}@{digest}"
    try:
        document = json.loads(manifest)
        bundle_descriptor = document["layers"][0]
        is_app = document["annotations"]["compose-app"] == "v1"
    except (ValueError, LookupError, TypeError):
        is_app = False
    if not is_app:
        raise PreloadError(
            f"{reference} is not a compose app",
            "give the app's own reference (fioctl targets show), not that of an image",
        )
    skopeo.copy(uri, _MANIFEST_TYPE, scratch / "app", scratch / "app-layout")
    found = scratch / "app/sha256"
    named = (document["config"], *document["layers"])
    blobs = {each["digest"]: (found / each["digest"][7:]).read_bytes() for each in named}
    bundle = blobs[bundle_descriptor["digest"]]
    index = bundle_descriptor.get("annotations", {}).get(_INDEX_DIGEST)
    if index is not None:
        # No layer of the manifest, so skopeo leaves it out; but it follows from the bundle.
        made = _index(bundle, reference)
        if skopeo.digest_of(made) != index:
            raise PreloadError(
                f"{reference}: its bundle index is not that of its bundle",
                "publish the app anew",
            )
        blobs[index] = made
    name = name_of(reference)
    services = pinned_services(_compose_file(bundle, name), name)
    return App(name, uri, manifest, bundle, (manifest, *blobs.values()), services)


def from_folder(folder: Path) -> App:
    """Make of a local folder what publishing makes of it; raises `PreloadError`.

    Images without a digest are pinned to what their registries have now.
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
            f"app {name}: cannot read {file}: {error.strerror}", "an app is a folder with that file"
        ) from error
    pinned = _pinned(text, name)
    services = pinned_services(pinned, name)
    bundle = _packed(folder, pinned)
    index = _index(bundle, name)
    layer = {
        "mediaType": "application/octet-stream",
        "size": len(bundle),
        "digest": skopeo.digest_of(bundle),
        "annotations": {
            _INDEX_DIGEST: skopeo.digest_of(index),
            _INDEX_SIZE: str(len(index)),
        },
    }
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "size": len(_EMPTY),
                "digest": skopeo.digest_of(_EMPTY),
            },
            "layers": [layer],
            "annotations": {"compose-app": "v1"},
            "artifactType": "application/vnd.fio+compose-app",
        }
    )
    uri = f"{_home(services)}/{name}@{skopeo.digest_of(manifest)}"
    return App(name, uri, manifest, bundle, (manifest, bundle, index, _EMPTY), services)


def _home(services: Mapping[str, str]) -> str:
    """Return the registry and factory of an app that was never published: those of an image."""
    first = next(iter(services.values()))
    home = skopeo.repository(first).rpartition("/")[0]
    return home if skopeo.host(first) != "docker.io" else f"docker.io/{home or 'library'}"


def unpack(app: App, folder: Path) -> None:
    """Put the app's files into `folder`, as they lie ready on the device; raises `PreloadError`."""
    folder.mkdir(parents=True)
    with _opened(app.bundle) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise PreloadError(
                    f"app {app.name}: {member.name!r} leads out of its folder", "publish it anew"
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                target.mkdir(exist_ok=True)
            elif member.isreg() and (stream := archive.extractfile(member)):
                target.write_bytes(stream.read())
            else:
                raise PreloadError(
                    f"app {app.name}: {member.name!r} is neither a file nor a folder",
                    "publish the app without it",
                )
            target.chmod(member.mode & 0o1777)


# The compose file.


def _pinned(text: bytes, name: str) -> bytes:
    """Return a compose file with every image pinned and every service labelled.

    Works on YAML's nodes, not on values: to PyYAML `22:22` and `on` are other values than to
    compose, and they must come out as they went in.
    """
    root = _parsed(text, name)
    services = _services(root, name)
    if _get(root, "include") is not None:
        raise _unpinnable(name, "it includes other files")
    digests: dict[str, str] = {}
    for position, (key, node) in enumerate(services.value):
        if not isinstance(node, yaml.MappingNode):
            raise _unpinnable(name, f"service {key.value!r} is no mapping")
        image = _get(node, "image")
        if not isinstance(image, yaml.ScalarNode):
            raise _unpinnable(name, f"service {key.value!r} has no image of its own")
        reference = image.value
        if reference not in digests:
            digests[reference] = _pin(reference, name)
        # A copy: an anchor may have made two services, or two sets of labels, one node.
        service = yaml.MappingNode(node.tag, list(node.value), flow_style=False)
        _set(service, "image", _scalar(digests[reference]))
        labels = _labels(_get(service, "labels"))
        published = hashlib.sha256(yaml.serialize(service, allow_unicode=True).encode())
        labels.value.append((_scalar(_HASH_LABEL), _scalar(published.hexdigest())))
        _set(service, "labels", labels)
        services.value[position] = (key, service)
    return str(yaml.serialize(root, allow_unicode=True, width=1 << 20)).encode()


def _pin(reference: str, name: str) -> str:
    if "$" in reference:
        raise _unpinnable(name, f"image {reference!r} depends on a variable")
    if skopeo.is_pinned(reference):
        return reference
    if "@" in reference:
        raise _unpinnable(name, f"image {reference!r} has a digest that is no sha256")
    try:
        digest = skopeo.digest_of(skopeo.raw(reference))
    except PreloadError as error:
        raise _unpinnable(name, f"image {reference!r}: {error}") from error
    return f"{skopeo.repository(reference)}@{digest}"


def _unpinnable(name: str, why: str) -> PreloadError:
    return PreloadError(
        f"app {name}: its {COMPOSE_FILE} cannot be pinned: {why}",
        "publish images first, and name them in each service; docker compose config writes all out",
    )


def _get(node: Any, key: str) -> Any:
    """Return the value of `key` in a mapping, through merges (`<<`); None if there is none."""
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        if name.value == key and name.tag != "tag:yaml.org,2002:merge":
            return value
    for name, value in node.value:
        if name.tag == "tag:yaml.org,2002:merge":
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                found = _get(source, key)
                if found is not None:
                    return found
    return None


def _set(node: yaml.MappingNode, key: str, value: yaml.Node) -> None:
    for position, (name, _) in enumerate(node.value):
        if name.value == key:
            node.value[position] = (name, value)
            return
    node.value.append((_scalar(key), value))


def _labels(node: Any) -> yaml.MappingNode:
    """Return labels as a mapping of their own, without a hash of an earlier publishing."""
    pairs: list[tuple[yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            key, _, value = each.value.partition("=")
            pairs.append((_scalar(key), _scalar(value)))
    elif isinstance(node, yaml.MappingNode):
        pairs = list(node.value)
    kept = [(key, value) for key, value in pairs if key.value != _HASH_LABEL]
    return yaml.MappingNode("tag:yaml.org,2002:map", kept, flow_style=False)


def _scalar(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text)


def pinned_services(text: bytes, name: str) -> dict[str, str]:
    """Return each service's image; raises `PreloadError` for one that is not pinned."""
    found = {}
    for key, node in _services(_parsed(text, name), name).value:
        image = _get(node, "image")
        if not isinstance(image, yaml.ScalarNode) or not skopeo.is_pinned(image.value):
            what = image.value if image else "it has no image"
            raise PreloadError(
                f"app {name}: service {key.value!r} is not pinned: {what}",
                "publish the app: that pins each image to a digest",
            )
        found[str(key.value)] = str(image.value)
    return found


def _parsed(text: bytes, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise PreloadError(
            f"app {name}: {COMPOSE_FILE} is not YAML: {error}", "correct it"
        ) from error


def _services(root: yaml.Node | None, name: str) -> yaml.MappingNode:
    services = _get(root, "services")
    if not isinstance(services, yaml.MappingNode) or not services.value:
        raise PreloadError(f"app {name}: {COMPOSE_FILE} names no services", "add a service")
    return services


# The bundle.


def _packed(folder: Path, compose: bytes) -> bytes:
    """Pack a folder so that the same files always give the same bytes."""
    ignored = _ignores(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _files(folder, folder, ignored):
            name = path.relative_to(folder).as_posix()
            found = path.lstat()
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if path.is_dir() or found.st_mode & stat.S_IXUSR else 0o644
            if path.is_dir():
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
                continue
            data = compose if name == COMPOSE_FILE else path.read_bytes()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _files(folder: Path, top: Path, ignored: Callable[[str], bool]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(top).as_posix()
        if name == ".git" or (name != COMPOSE_FILE and ignored(name)):
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise PreloadError(
                f"app {top.name}: {name} is neither a file nor a folder",
                f"remove it, or name it in {_IGNORES}",
            )
        yield path
        if path.is_dir():
            yield from _files(path, top, ignored)


def _ignores(folder: Path) -> Callable[[str], bool]:
    """Return what tells whether publishing leaves a file out: patterns as in a .dockerignore."""
    try:
        lines = (folder / _IGNORES).read_text().splitlines()
    except FileNotFoundError:
        return lambda name: False
    patterns = [(False, _pattern(_IGNORES))]
    for line in lines:
        word = line.strip()
        if word and not word.startswith("#"):
            negated = word.startswith("!")
            patterns.append((negated, _pattern(word.lstrip("!").strip().strip("/"))))

    def ignored(name: str) -> bool:
        result = False
        for negated, pattern in patterns:
            if pattern.fullmatch(name):
                result = not negated
        return result

    return ignored


def _pattern(glob: str) -> re.Pattern[str]:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", os.path.normpath(glob))
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def _index(bundle: bytes, what: str) -> bytes:
    """Return the bundle index as publishing writes it: each file's digest, sorted by name."""
    hashes = {}
    with _opened(bundle) as archive:
        for member in archive:
            if member.isreg() and (stream := archive.extractfile(member)):
                name = str(PurePosixPath(member.name))
                hashes[name] = skopeo.digest_of(stream.read())
    if COMPOSE_FILE not in hashes:
        raise PreloadError(f"{what}: there is no {COMPOSE_FILE} in its bundle", "publish it anew")
    return _json(dict(sorted(hashes.items())))


def _compose_file(bundle: bytes, name: str) -> bytes:
    with _opened(bundle) as archive:
        for member in archive:
            if str(PurePosixPath(member.name)) == COMPOSE_FILE and (
                stream := archive.extractfile(member)
            ):
                return stream.read()
    raise PreloadError(f"app {name}: there is no {COMPOSE_FILE} in its bundle", "publish it anew")


def _opened(bundle: bytes) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=io.BytesIO(bundle), mode="r:*")
    except tarfile.TarError as error:
        raise PreloadError(
            f"a bundle is no tar archive: {error}", "publish the app anew"
        ) from error


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
