"""An app's folder in containers.git: its compose file as nodes, and the other files."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .. import ignores
from ..configuration.containers import COMPOSE_FILE
from ..env_file import ENV_FILE
from ..finding import Finding, Mark, Severity
from ..yaml_tree import Entry, Tree, UnreadableError, is_null, kind, mark, plain
from . import variables

PUBLISHED_HASH_LABEL = "io.compose-spec.config-hash"
"""The label that publishing sets on every service."""

_LIST = "write a list, with a line '- …' for each item"


@dataclass(frozen=True)
class Service:
    """A service of an app, with or without a profile."""

    name: str
    at: Mark
    fields: Mapping[str, Entry]

    def __str__(self) -> str:
        return plain(self.name)

    @property
    def extends(self) -> bool:
        """Whether it extends another service, which may have further keys."""
        return "extends" in self.fields


class App:
    """The files of an app. `findings` are about everything that compose cannot read.

    A value that depends on a variable which the app does not set is unknown, and counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        """Read the app in `folder`; raises `PreloadError` if its compose file cannot be read."""
        self.folder = folder
        self.name = folder.resolve().name
        self.file = folder / COMPOSE_FILE
        self._is_ignored = ignores.matcher(folder)
        self.environment = variables.Environment()
        if self.has(ENV_FILE):
            self.environment = variables.read(folder)
        self._tree: Tree | None = None
        self._unreadable: list[Finding] = []
        self.top: Mapping[str, Entry] = {}
        self.services: Mapping[str, Service] = {}
        try:
            self._tree = Tree(self.file, COMPOSE_FILE, "'services:' with a service")
            self.top = self.fields(self._tree.root, "")
            self.services = self._services()
        except UnreadableError as unreadable:
            self._unreadable.append(unreadable.finding)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The errors in the form of the file, as far as it was read until now."""
        # A part that two services share by an alias or a merge key is read twice.
        return tuple(
            dict.fromkeys((*self._unreadable, *(self._tree.findings if self._tree else ())))
        )

    @property
    def project(self) -> str | None:
        """The project name that compose uses; None if it depends on unknown variables."""
        name: str | None = self.name
        if "name" in self.top:
            name = self.text(self.top["name"].node)
        if "COMPOSE_PROJECT_NAME" in self.environment.values:
            name = self.environment.values["COMPOSE_PROJECT_NAME"]
        return None if name is None else project_name(name)

    @property
    def started(self) -> Iterator[Service]:
        """The services that compose starts when no profile is enabled."""
        for service in self.services.values():
            scale = self.value(service.fields, "scale")
            deploy = self.below(service.fields, "deploy")
            if not self.items(service.fields, "profiles") and "0" not in (
                scale,
                self.value(deploy, "replicas"),
            ):
                yield service

    def has(self, path: str) -> bool:
        """Whether the published app has `path`, which is relative to its folder."""
        path = os.path.normpath(path)
        if path.startswith(".."):
            return False
        try:
            return (self.folder / path).exists() and not self._is_ignored(path)
        except (OSError, ValueError):  # the path is too long, or has a NUL byte
            return False

    def nodes(self) -> Iterator[yaml.Node]:
        """Yield each node of the compose file once."""
        return self._tree.nodes() if self._tree else iter(())

    def text(self, node: yaml.Node) -> str | None:
        """Return a scalar as written, with its variables replaced; None if it is unknown."""
        if not isinstance(node, yaml.ScalarNode) or is_null(node):
            return None
        return variables.interpolate(node.value, self.environment.values).value

    def value(self, fields: Mapping[str, Entry], key: str) -> str | None:
        """Return the text of a key; None if it is absent or unknown."""
        return self.text(fields[key].node) if key in fields else None

    def knows(self, fields: Mapping[str, Entry], *keys: str) -> bool:
        """Whether the text of each of `keys` is known; absent keys count as known."""
        return all(self.text(fields[key].node) is not None for key in keys if key in fields)

    def fields(self, node: yaml.Node, path: str) -> Mapping[str, Entry]:
        """Return the entries of a mapping, except those with a tag of compose (`!reset`)."""
        if self._tree is None or self._unreadable:
            return {}
        try:
            entries = self._tree.entries(node, path)
        except UnreadableError as unreadable:
            self._unreadable.append(unreadable.finding)
            return {}
        except RecursionError:
            message = "the merge keys are nested too deeply"
            hint = "write the values without merge keys"
            self._unreadable.append(Finding(Severity.ERROR, "yaml", mark(node), message, hint))
            return {}
        return {key: entry for key, entry in entries.items() if not entry.node.tag.startswith("!")}

    def below(self, fields: Mapping[str, Entry], key: str) -> Mapping[str, Entry]:
        """Return the entries of the mapping at `key`; empty if it is absent."""
        return self.fields(fields[key].node, fields[key].path) if key in fields else {}

    def items(self, fields: Mapping[str, Entry], key: str) -> list[yaml.Node]:
        """Return the items of the list at `key`; empty if it is absent."""
        if key not in fields or is_null(fields[key].node):
            return []
        node = fields[key].node
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self._wrong_type(fields[key], "a list", _LIST)
        return []

    def names(self, fields: Mapping[str, Entry], key: str) -> list[str]:
        """Return the names at `key`: the items of a list, or the keys of a mapping."""
        if key in fields and isinstance(fields[key].node, yaml.MappingNode):
            return list(self.below(fields, key))
        return [text for item in self.items(fields, key) if (text := self.text(item)) is not None]

    def _services(self) -> Mapping[str, Service]:
        found = {}
        for name, entry in self.below(self.top, "services").items():
            if is_null(entry.node):
                self._wrong_type(entry, "a mapping", "write at least its image")
                continue
            fields = self.fields(entry.node, entry.path)
            if isinstance(entry.node, yaml.MappingNode):
                found[name] = Service(name, entry.at, fields)
        return found

    def _wrong_type(self, entry: Entry, wanted: str, hint: str) -> None:
        if self._tree:
            at = entry.key if is_null(entry.node) else entry.node
            self._tree.error(
                at, "wrong-type", f"{entry.path} is {kind(entry.node)}, not {wanted}", hint
            )


def project_name(name: str) -> str:
    """Return the project name that compose derives from `name`."""
    return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")


def place(entry: Entry) -> Mark:
    """Return the place of the value of `entry`."""
    return mark(entry.node)
