"""The preloaded apps: the folders of `/var/sota/compose-apps`, and what their compose files name.

A published compose file is pinned and plain, so PyYAML reads from it exactly what the plan needs.
Anything else is left to compose: interpolation, `include`, `extends`, profiles, merge
keys, tags, several documents, other files, or `COMPOSE_*` in `.env`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import bundle, plainfile
from .cause import Cause, Failure
from .errors import EarlyStartError
from .restorable import Restorable, find, installed_uris
from .settings import Settings
from .store import Store, StoreError, Version

COMPOSE_FILE = "docker-compose.yml"
PUBLISHED_HASH_LABEL = "io.compose-spec.config-hash"
"""Publishing sets this label on every service; aktualizr-lite compares it with the container's."""

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 100

_SIBLINGS_THAT_WIN = (
    "compose.yaml",
    "compose.yml",
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)

# The base loader reads every scalar as text. So `on:` can be the name of a service, and no value
# has to fit a tag or a YAML 1.1 type, which compose does not know either.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

AskCompose = Callable[[Path], Mapping[str, Any] | Failure]
"""Returns the output of `docker compose config --format json` for the app in a folder."""


@dataclass(frozen=True)
class Service:
    """One service of an app, which gets `replicas` containers."""

    name: str
    image: str
    published_hash: str | None
    replicas: int = 1


@dataclass(frozen=True)
class App:
    """A preloaded app. If it has a `failure`, it cannot be started."""

    name: str
    folder: Path
    project: str
    services: tuple[Service, ...] = ()
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    restorable: Restorable | None = None

    @property
    def from_store(self) -> bool:
        """Whether its folder is missing or damaged, and has to be restored from the store."""
        return self.restorable is not None and bool(self.restorable.damaged)

    @property
    def images(self) -> tuple[str, ...]:
        """The image references of all services, each once, as written in the compose file."""
        return tuple(dict.fromkeys(service.image for service in self.services))


@dataclass(frozen=True)
class Listing:
    """The entries of `compose-apps`: apps, and others such as files and hidden folders."""

    apps: tuple[str, ...] = ()
    not_apps: tuple[str, ...] = ()


def listing(settings: Settings) -> Listing:
    """List the folder of the preloaded apps, sorted by name; it may be missing.

    Raises `EarlyStartError` if it exists but cannot be read.
    """
    try:
        with os.scandir(settings.compose_apps) as entries:
            kinds = {entry.name: _is_folder(entry) for entry in entries}
    except FileNotFoundError:
        return Listing()
    except OSError as error:
        raise EarlyStartError(
            f"{settings.compose_apps}: cannot list the preloaded apps: {error.strerror}",
            "run it as root; it must be a folder",
        ) from error
    return Listing(
        apps=tuple(sorted(name for name, is_app in kinds.items() if is_app)),
        not_apps=tuple(sorted(name for name, is_app in kinds.items() if not is_app)),
    )


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith(".")
    except OSError:  # a symbolic link to itself
        return False


def read(
    settings: Settings,
    names: tuple[str, ...],
    ask: AskCompose,
    store: Store,
    stored: Mapping[str, tuple[Version, ...]],
) -> tuple[App, ...]:
    """Read the apps called `names`, in this order; an error becomes the `failure` of the app.

    `stored` are the versions of apps in the `store`.
    """
    # Compose labels containers with the resolved folder, so the engine knows the app by it.
    top = settings.compose_apps.resolve()
    installed = installed_uris(settings.installed_versions) if stored else {}
    apps = []
    for name in names:
        try:
            restorable = find(store, stored.get(name, ()), installed.get(name), top / name)
            apps.append(_read_app(top / name, ask, store, restorable))
        except OSError as error:
            message = f"{error.filename or top / name}: {error.strerror}"
            apps.append(_broken(top / name, Cause.APP_FOLDER_UNREADABLE, message))
        except Exception as error:  # whatever happens, only this app fails
            failure = Failure.unexpected(error)
            apps.append(_failed(top / name, failure))
    return tuple(_without_shared_project(app, apps) for app in apps)


def _without_shared_project(app: App, apps: list[App]) -> App:
    # Each of the two apps would treat the other's containers as its own.
    others = [
        each
        for each in apps
        if each is not app and not each.failure and each.project == app.project
    ]
    if app.failure or not others or app.project == app.name:
        return app
    return _broken(
        app.folder,
        Cause.APP_FOLDER_INVALID,
        f"its compose project name is {app.project!r}, as that of app {others[0].name!r}",
    )


def _broken(folder: Path, cause: Cause, message: str) -> App:
    return _failed(folder, Failure(cause, message))


def _failed(folder: Path, failure: Failure) -> App:
    return App(folder.name, folder, project_name(folder.name), failure=failure)


def project_name(name: str) -> str:
    """Return the project name that compose derives from a folder's name, or from `name:`.

    Source: compose-go, NormalizeProjectName.
    """
    return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")


def _read_app(
    folder: Path, ask: AskCompose, store: Store, restorable: Restorable | Failure | None
) -> App:
    if folder.is_symlink():
        return _broken(folder, Cause.APP_FOLDER_INVALID, "the app's folder is a symbolic link")
    if not folder.name.isprintable():
        # Labels and the Engine API hold text, so containers could not be found by this folder.
        return _broken(
            folder, Cause.APP_FOLDER_INVALID, "the folder's name is not printable UTF-8 text"
        )
    if not project_name(folder.name):
        return _broken(
            folder,
            Cause.APP_FOLDER_INVALID,
            "compose can make no project name of the folder's name",
        )
    notes = []
    if isinstance(restorable, Failure):
        if restorable.cause is not Cause.STORE_DAMAGED or not folder.exists():
            return _broken(folder, restorable.cause, restorable.message)
        # The app may not need the store.
        notes.append(restorable.message)
        restorable = None
    from_store = restorable if restorable and restorable.damaged else None
    winners = [name for name in _SIBLINGS_THAT_WIN if (folder / name).exists()]
    found: Mapping[str, Any] | Failure | None
    if from_store:
        found = _load_stored(store, from_store.version)
    else:
        found = _load(folder / COMPOSE_FILE)
        if not isinstance(found, Failure):
            try:
                clear = not winners and not _sets_compose_variables(folder / ".env")
            except OSError as error:
                message = f".env cannot be read: {error.strerror}"
                return _broken(folder, Cause.COMPOSE_FILE_INVALID, message)
            if found is None or not clear or not _is_clear(found):
                found = ask(folder)
    if isinstance(found, Failure):
        return _failed(folder, found)
    assert found is not None
    document = found
    notes += [
        f"{name} is used besides {COMPOSE_FILE}, which alone is what aktualizr-lite verifies"
        for name in winners
    ]
    project = project_name(str(document.get("name") or folder.name))
    if not project:
        return _broken(
            folder, Cause.APP_FOLDER_INVALID, "compose can make no project name of 'name:'"
        )
    if project != folder.name:
        notes.append(
            f"its compose project is {project!r}, not the app's name: "
            "aktualizr-lite will start it anew after registration"
        )
    services = tuple(
        service
        for name, content in document["services"].items()
        # A provider does not create a container.
        if "provider" not in _mapping(content)
        and (service := _service(name, _mapping(content), project)).replicas
    )
    return App(folder.name, folder, project, services, notes=tuple(notes), restorable=restorable)


def _service(name: str, service: Mapping[str, Any], project: str) -> Service:
    # Without `image:`, compose uses the name of the image that it would build.
    image = str(service.get("image") or f"{project}-{name}")
    replicas = _mapping(service.get("deploy")).get("replicas", service.get("scale"))
    return Service(
        name,
        image,
        _labels(service).get(PUBLISHED_HASH_LABEL),
        1 if replicas is None else int(replicas),
    )


def _labels(service: Mapping[str, Any]) -> dict[str, str]:
    labels = service.get("labels")
    if isinstance(labels, list):
        return dict(str(label).partition("=")[::2] for label in labels)
    return {str(key): str(value) for key, value in _mapping(labels).items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return `value`, or None for a null, which the base loader reads as text."""
    return {} if value is None or value in _NULLS else value


def _load(file: Path) -> Mapping[str, Any] | Failure | None:
    """Read a compose file; return None for YAML that two parsers may read differently."""
    try:
        data = plainfile.read(file, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Failure(Cause.COMPOSE_FILE_MISSING, f"there is no {file.name} in {file.parent}")
    except OSError as error:
        return Failure(Cause.COMPOSE_FILE_INVALID, f"{file.name} cannot be read: {error.strerror}")
    return _parse(data, file.name)


def _load_stored(store: Store, version: Version) -> Mapping[str, Any] | Failure:
    """Read the compose file in a bundle of the store, where compose cannot read it.

    Publishing has resolved everything in it except profiles.
    """
    try:
        data = bundle.compose_file(store, version, store.manifest(version), COMPOSE_FILE)
    except StoreError as error:
        return Failure(error.cause, str(error))
    document = _parse(data, COMPOSE_FILE)
    if document is None or (not isinstance(document, Failure) and "include" in document):
        message = f"{COMPOSE_FILE} in the store is not a published one"
        return Failure(Cause.COMPOSE_FILE_INVALID, message)
    if isinstance(document, Failure):
        return document
    services = {
        name: service
        for name, service in document["services"].items()
        if "profiles" not in _mapping(service)
    }
    return {**document, "services": services}


def _parse(data: bytes, name: str) -> Mapping[str, Any] | Failure | None:
    if not data.strip():
        return Failure(Cause.COMPOSE_FILE_INVALID, f"{name} is empty")
    if len(data) > MAX_BYTES:
        return Failure(Cause.COMPOSE_FILE_INVALID, f"{name} is larger than {MAX_BYTES >> 20} MiB")
    try:
        document = _construct(data)
    except yaml.YAMLError as error:
        return Failure(Cause.COMPOSE_FILE_INVALID, f"{name} is not YAML: {_one_line(error)}")
    except ValueError as error:
        return Failure(Cause.COMPOSE_FILE_INVALID, f"{name}: {error}")
    if document is _NOT_PLAIN:
        return None
    problem = _shape_problem(document)
    if problem:
        return Failure(Cause.COMPOSE_FILE_INVALID, f"{name}: {problem}")
    return dict(document)


_NOT_PLAIN = object()
"""Marks YAML with several documents, tags, merge keys, or anchors that PyYAML refuses."""


def _construct(data: bytes) -> Any:
    """Return the document in `data`, or `_NOT_PLAIN`.

    Raises ValueError for a malicious document that would exhaust memory, yaml.YAMLError for text
    that is not YAML.
    """
    depth = documents = 0
    plain = data[:1].isascii()  # no byte-order mark
    # Measure the depth in the event stream, because libyaml composes nodes by recursion in C.
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if getattr(event, "tag", None) or getattr(event, "value", None) == "<<":
            plain = False
    if documents > 1:
        return _NOT_PLAIN
    loader = _Loader(data)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > MAX_NODES:
            raise ValueError(f"its aliases expand to more than {MAX_NODES} nodes")
        return loader.construct_document(node) if plain else _NOT_PLAIN
    except yaml.composer.ComposerError:
        return _NOT_PLAIN  # YAML allows duplicate anchors, but PyYAML does not
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the nodes below `node` with all aliases expanded."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # an alias to one of its own parents is endless
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] = 1 + sum(_expanded_size(child, known) for child in children)
    return known[id(node)]


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _shape_problem(document: object) -> str | None:
    if not isinstance(document, dict):
        return "not a mapping"
    if "include" in document:  # compose reports the error
        return None
    services = document.get("services", {})
    if not isinstance(services, dict):
        return "'services' is not a mapping"
    if not services:
        return "it names no services"
    for name, service in services.items():
        if not isinstance(_mapping(service), dict):
            return f"service {name!r} is not a mapping"
    return None


def _is_clear(document: Mapping[str, Any]) -> bool:
    """Whether project, services, images and replicas depend on this text alone."""
    if "include" in document or not _is_literal(document.get("name", "none")):
        return False
    return all(_is_clear_service(each) for each in document["services"].values())


def _is_clear_service(service: Any) -> bool:
    if not isinstance(service, dict) or not _MORE_THAN_TEXT.isdisjoint(service):
        return False
    if not _is_literal(service.get("image", "none")):
        return False
    deploy = service.get("deploy", {})
    if not isinstance(deploy, dict) or "mode" in deploy:
        return False
    if "replicas" in deploy and "scale" in service:
        return False
    if not _COUNT.fullmatch(str(deploy.get("replicas", service.get("scale", "1")))):
        return False
    labels = service.get("labels", {})
    if not isinstance(labels, (dict, list)):
        return False
    texts = labels.values() if isinstance(labels, dict) else labels
    if not all(isinstance(each, str) for each in texts):
        return False
    return "$" not in _labels(service).get(PUBLISHED_HASH_LABEL, "")


_MORE_THAN_TEXT = frozenset(("extends", "profiles", "provider"))
_COUNT = re.compile(r"0|[1-9][0-9]{0,3}")


def _is_literal(value: Any) -> bool:
    """Whether `value` is text that compose uses as written."""
    return isinstance(value, str) and "$" not in value and value not in _NULLS


_NULLS = ("", "~", "null", "Null", "NULL")


def _sets_compose_variables(env_file: Path) -> bool:
    """Whether `.env` sets COMPOSE_FILE, COMPOSE_PROFILES, COMPOSE_PROJECT_NAME or the like.

    Raises OSError if it is there and cannot be read.
    """
    try:
        return b"COMPOSE_" in plainfile.read(env_file, MAX_BYTES)
    except FileNotFoundError:
        return False
