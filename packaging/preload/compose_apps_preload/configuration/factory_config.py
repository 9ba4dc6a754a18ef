"""The parts of factory-config.yml that decide what an image is preloaded with.

Reading is tolerant: each error becomes a finding with its place, and reading continues.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

import yaml

from ..errors import PreloadError
from ..finding import Finding, Mark, Severity
from ..yaml_tree import (
    Entry,
    Tree,
    UnreadableError,
    flag,
    is_null,
    kind,
    mark,
    quoted,
    text,
    written,
)

Build = Literal["containers", "lmp"]
"""The two kinds of CI builds, named after their sections: container and platform builds."""

BUILDS: tuple[Build, ...] = get_args(Build)
APP_TYPES = ("restorable", "compose")

SECTION_KEYS = ("preloaded_images", "params", "ref_options", "tagging")
IMAGE_KEYS = ("enabled", "shortlist", "app_type", "oe_builtin")
REF_KEYS = ("params",)
PARAMS = ("ASSEMBLE_SYSTEM_IMAGE", "APP_SHORTLIST")
TAG_KEYS = ("tag", "inherit")

_T = TypeVar("_T")

_APP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REF = re.compile(r"refs/[^\s*?:\[\\^~]+")
# CI passes tags on in the form "tag:inherit,tag".
_TAG = re.compile(r"[^\s,:]+")


@dataclass(frozen=True)
class Value(Generic[_T]):
    """A value and its place: `at` is where its key is, `value_at` where the value is."""

    key: str
    value: _T
    written: str
    at: Mark
    value_at: Mark


@dataclass(frozen=True)
class PreloadSettings:
    """The settings for preloading at one place of the file; None if a setting is absent.

    An empty `shortlist` means all apps of the Target.
    """

    enabled: Value[bool] | None = None
    shortlist: Value[tuple[str, ...]] | None = None
    app_type: Value[str] | None = None


@dataclass(frozen=True)
class Tag:
    """A tag of a branch's Targets. With `inherit`, they take over the apps of that tag's Target."""

    name: str
    inherit: str | None = None
    at: Mark = field(default=Mark(1, 1), compare=False)
    inherit_at: Mark = field(default=Mark(1, 1), compare=False)


Tagging = Mapping[str, Value[tuple[Tag, ...]]]


@dataclass(frozen=True)
class Section:
    """`containers` or `lmp`. Without `tagging`, every branch is built and Targets have no tag."""

    name: Build
    preloaded_images: PreloadSettings = PreloadSettings()
    params: PreloadSettings = PreloadSettings()
    ref_options: Mapping[str, Value[PreloadSettings]] = field(default_factory=dict)
    tagging: Value[Tagging] | None = None


@dataclass(frozen=True)
class UnknownKey:
    """A key that is not read here (CI reads more keys), and the keys that are known there."""

    name: str
    path: str
    at: Mark
    known: tuple[str, ...]


@dataclass(frozen=True)
class FactoryConfig:
    """A factory-config.yml. If `findings` has an error, no decision can be based on it."""

    file: Path
    containers: Section
    lmp: Section
    findings: tuple[Finding, ...] = ()
    unknown_keys: tuple[UnknownKey, ...] = ()

    def section(self, build: Build) -> Section:
        """Return the section that configures `build`."""
        return self.containers if build == "containers" else self.lmp


def load(file: Path) -> FactoryConfig:
    """Read a `file` that must be correct.

    Raises `PreloadError` for the first error in it, or if it cannot be read.
    """
    config = read(file)
    errors = [finding for finding in config.findings if finding.severity is Severity.ERROR]
    if errors:
        first = min(errors, key=lambda finding: finding.at)
        more = f" (and {len(errors) - 1} more, see 'lint')" if len(errors) > 1 else ""
        raise PreloadError(
            f"{file}:{first.at.line}:{first.at.column}: {first.message}{more}", first.hint
        )
    return config


def read(file: Path) -> FactoryConfig:
    """Read `file` and list the errors in it.

    Raises `PreloadError` only if it cannot be read at all.
    """
    try:
        return _Reader(file).config()
    except UnreadableError as unreadable:
        return FactoryConfig(
            file, Section("containers"), Section("lmp"), findings=(unreadable.finding,)
        )


class _Reader:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._tree = Tree(file, "factory-config.yml", "'containers:' and 'lmp:'")
        self._tree.find_unreadable()
        self._unknown: list[UnknownKey] = []

    def config(self) -> FactoryConfig:
        try:
            top = self._note_unknown(self._tree.entries(self._tree.root, ""), *BUILDS)
            containers, lmp = (self._section(name, top.get(name)) for name in BUILDS)
        except RecursionError as error:
            raise UnreadableError(
                Mark(1, 1),
                "its merge keys are nested too deeply",
                "write the values without merge keys",
            ) from error
        return FactoryConfig(
            self._file,
            containers,
            lmp,
            # An alias may lead to the same place more than once.
            tuple(dict.fromkeys(self._tree.findings)),
            tuple(dict.fromkeys(self._unknown)),
        )

    def _section(self, name: Build, entry: Entry | None) -> Section:
        node = entry.node if entry else None
        entries = self._note_unknown(self._tree.entries(node, name), *SECTION_KEYS)
        preloaded, params, ref_options, tagging = (entries.get(key) for key in SECTION_KEYS)
        return Section(
            name,
            self._preloaded_images(preloaded),
            self._params(params),
            self._refs(ref_options, self._ref_params) if ref_options else {},
            self._tagging(tagging) if tagging else None,
        )

    def _preloaded_images(self, entry: Entry | None) -> PreloadSettings:
        if entry is None:
            return PreloadSettings()
        entries = self._note_unknown(self._tree.entries(entry.node, entry.path), *IMAGE_KEYS)
        # This decides nothing here, but a wrong type is still an error.
        self._value(entries.get("oe_builtin"), self._flag)
        return PreloadSettings(
            self._value(entries.get("enabled"), self._flag),
            self._value(entries.get("shortlist"), self._shortlist),
            self._value(entries.get("app_type"), self._app_type),
        )

    def _params(self, entry: Entry | None) -> PreloadSettings:
        if entry is None:
            return PreloadSettings()
        entries = self._note_unknown(self._tree.entries(entry.node, entry.path), *PARAMS)
        switch, shortlist = (entries.get(key) for key in PARAMS)
        return PreloadSettings(
            self._value(switch, self._switch), self._value(shortlist, self._shortlist)
        )

    def _ref_params(self, entry: Entry) -> Value[PreloadSettings]:
        options = self._note_unknown(self._tree.entries(entry.node, entry.path), *REF_KEYS)
        settings = self._params(options.get("params"))
        return Value(entry.path, settings, "", entry.at, mark(entry.node))

    def _tagging(self, entry: Entry) -> Value[Tagging] | None:
        if is_null(entry.node):
            return None
        tags = self._refs(entry, self._tags)
        return Value(entry.path, tags, "", entry.at, mark(entry.node))

    def _refs(self, entry: Entry, read: Callable[[Entry], Value[_T]]) -> dict[str, Value[_T]]:
        found = {}
        for ref, options in self._tree.entries(entry.node, entry.path).items():
            if _REF.fullmatch(ref) and ref.isprintable():
                found[ref] = read(options)
            else:
                self._tree.error(
                    options.key,
                    "wrong-value",
                    f"{entry.path}: {quoted(ref)} is not a git reference",
                    "write the full name of a branch, as in refs/heads/devel",
                )
        return found

    def _tags(self, entry: Entry) -> Value[tuple[Tag, ...]]:
        tags = []
        items = entry.node.value if isinstance(entry.node, yaml.SequenceNode) else []
        for item in items:
            fields = self._note_unknown(self._tree.entries(item, f"{entry.path}[]"), *TAG_KEYS)
            name, inherit = (self._value(fields.get(key), self._tag) for key in TAG_KEYS)
            if name and inherit:
                tags.append(Tag(name.value, inherit.value, name.value_at, inherit.value_at))
            elif name:
                tags.append(Tag(name.value, None, name.value_at))
            elif is_null(item) or (
                isinstance(item, yaml.MappingNode) and _is_absent(fields, "tag")
            ):
                self._wrong(item, entry.path, "has an item without a tag", "'- tag: devel'")
        if not items:
            what = "is an empty list" if isinstance(entry.node, yaml.SequenceNode) else None
            self._wrong(entry.node, entry.path, what, "a list of tags, such as '- tag: devel'")
        names = ", ".join(tag.name for tag in tags)
        return Value(entry.path, tuple(tags), names, entry.at, mark(entry.node))

    def _value(self, entry: Entry | None, read: Callable[[Entry], _T | None]) -> Value[_T] | None:
        # A key without a value counts as absent: its value was probably commented out.
        if entry is None or is_null(entry.node):
            return None
        value = read(entry)
        if value is None:
            return None
        return Value(entry.path, value, written(entry.node), entry.at, mark(entry.node))

    def _flag(self, entry: Entry) -> bool | None:
        value = flag(entry.node)
        if value is None:
            self._wrong(entry.node, entry.path, None, "true or false, without quotes")
        return value

    def _switch(self, entry: Entry) -> bool | None:
        value = text(entry.node)
        self._warn_of_blanks(entry, value)
        switch = {"1": True, "0": False}.get((value or "").strip())
        if switch is None:
            self._wrong(entry.node, entry.path, None, '"1" or "0"')
        return switch

    def _shortlist(self, entry: Entry) -> tuple[str, ...] | None:
        value = text(entry.node)
        if value is None:
            self._wrong(entry.node, entry.path, None, 'names separated by commas, such as "a,b"')
            return None
        self._warn_of_blanks(entry, value)
        names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
        for name in names:
            if not _APP.fullmatch(name):
                self._tree.error(
                    entry.node,
                    "wrong-value",
                    f"{entry.path}: {quoted(name)} cannot be the name of an app",
                    "separate names with commas; a name has letters, digits, '_', '.' and '-'",
                )
                return None
        if not names and value.strip():
            self._tree.error(
                entry.node,
                "empty-shortlist",
                f"{entry.path} names no app",
                "write the names, or remove the key, which means all apps of the Target",
            )
            return None
        return names

    def _app_type(self, entry: Entry) -> str | None:
        value = text(entry.node)
        if value not in APP_TYPES:
            self._wrong(entry.node, entry.path, None, " or ".join(APP_TYPES))
            return None
        return value

    def _tag(self, entry: Entry) -> str | None:
        value = text(entry.node)
        if value is None or not _TAG.fullmatch(value) or not value.isprintable():
            self._wrong(entry.node, entry.path, None, "a tag without spaces, commas and colons")
            return None
        return value

    def _wrong(self, node: yaml.Node, path: str, what: str | None, write: str) -> None:
        scalar = isinstance(node, yaml.ScalarNode) and text(node) is not None
        self._tree.error(
            node,
            "wrong-value" if scalar else "wrong-type",
            f"{path} {what or 'is ' + kind(node)}",
            f"write {write}",
        )

    def _warn_of_blanks(self, entry: Entry, value: str | None) -> None:
        if value is not None and value != value.strip():
            self._tree.warning(
                entry.node,
                "blanks",
                f"{entry.path} has spaces around its value: {quoted(value)}",
                f"write {quoted(value.strip())}",
            )

    def _note_unknown(self, entries: dict[str, Entry], *known: str) -> dict[str, Entry]:
        self._unknown += (
            UnknownKey(name, entry.path, entry.at, known)
            for name, entry in entries.items()
            if name not in known
        )
        return entries


def _is_absent(fields: Mapping[str, Entry], key: str) -> bool:
    return key not in fields or is_null(fields[key].node)
