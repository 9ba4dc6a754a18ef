"""A YAML file from an untrusted source, as a tree of nodes that know their lines.

No values are constructed from nodes. An alias stays a reference to one node, so an alias bomb costs
no more than its text. A value keeps the form in which it was written.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import PreloadError
from .finding import Finding, Mark, Severity

MAX_BYTES = 1 << 18
"""The maximum size of a file. Real files have a few KB; PyYAML takes some seconds for this many."""

MAX_MERGED = 100_000
"""The maximum number of merged entries. Merge keys (`<<`) can make a small file large."""

_TAG = "tag:yaml.org,2002:"
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""The booleans of YAML 1.1, which PyYAML and CI read."""

_TOO_MUCH = "write it with less nesting"

_TAGS: dict[type[yaml.Node], set[str]] = {
    yaml.MappingNode: {"map", "set"},
    yaml.SequenceNode: {"seq", "omap", "pairs"},
    yaml.ScalarNode: {"null", "bool", "int", "float", "binary", "timestamp", "str"},
}
"""The tags for which PyYAML's safe loader constructs a value."""


class UnreadableError(Exception):
    """The text is not YAML, or cannot be read any further."""

    def __init__(self, at: Mark, message: str, hint: str, code: str = "yaml") -> None:
        super().__init__(message)
        self.finding = Finding(Severity.ERROR, code, at, message, hint)


@dataclass(frozen=True)
class Entry:
    """A key of a mapping and its value; `path` is the path to it, such as `lmp.params`."""

    path: str
    key: yaml.ScalarNode
    node: yaml.Node

    @property
    def at(self) -> Mark:
        """Where the key is written."""
        return mark(self.key)


class Tree:
    """The nodes of one file, and the findings in the nodes that were read."""

    def __init__(self, file: Path, name: str, sections: str) -> None:
        """Read `file`. Messages call it `name`, and name the expected top-level keys `sections`.

        Raises `PreloadError` if it cannot be read, `UnreadableError` if it is not YAML.
        """
        self.findings: list[Finding] = []
        self._merged: dict[int, dict[str, tuple[yaml.ScalarNode, yaml.Node]]] = {}
        self._merges_left = MAX_MERGED
        root = _compose(_text(file, name))
        if root is None or is_null(root):
            raise UnreadableError(
                Mark(1, 1), "the file is empty", f"write at least {sections} into it", "empty"
            )
        self.root = root
        self._check_mappings()

    def error(self, node: yaml.Node, code: str, message: str, hint: str) -> None:
        """Add an error, which makes the file unusable."""
        self.findings.append(Finding(Severity.ERROR, code, mark(node), message, hint))

    def warning(self, node: yaml.Node, code: str, message: str, hint: str) -> None:
        """Add a warning."""
        self.findings.append(Finding(Severity.WARNING, code, mark(node), message, hint))

    def entries(self, node: yaml.Node | None, path: str) -> dict[str, Entry]:
        """Return the entries of a mapping; empty for None and for null."""
        if node is None or is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            what = path or "the file"
            self.error(
                node,
                "wrong-type",
                f"{what} is {kind(node)}, not a mapping",
                "write lines of the form 'key: value', indented below it",
            )
            return {}
        return {
            name: Entry(f"{path}.{plain(name)}" if path else plain(name), *pair)
            for name, pair in self._pairs(node).items()
        }

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
        if id(node) in self._merged:
            return self._merged[id(node)]
        # A mapping that merges itself gets nothing from itself.
        self._merged[id(node)] = {}
        own: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                for source in _sources(value):
                    if isinstance(source, yaml.MappingNode):
                        self._merge(source, merged)
            elif isinstance(key, yaml.ScalarNode):
                own[key.value] = (key, value)
        self._merged[id(node)] = merged | own
        return self._merged[id(node)]

    def _merge(
        self, source: yaml.MappingNode, into: dict[str, tuple[yaml.ScalarNode, yaml.Node]]
    ) -> None:
        pairs = self._pairs(source)
        self._merges_left -= len(pairs) + 1
        if self._merges_left < 0:
            raise UnreadableError(
                mark(source), f"the merge keys make more than {MAX_MERGED} entries", _TOO_MUCH
            )
        for name, pair in pairs.items():
            into.setdefault(name, pair)

    def nodes(self) -> Iterator[yaml.Node]:
        """Yield each node of the file once, except the keys of mappings."""
        waiting: list[yaml.Node] = [self.root]
        seen = set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            if isinstance(node, yaml.SequenceNode):
                waiting += node.value
            elif isinstance(node, yaml.MappingNode):
                waiting += (value for _, value in node.value)

    def find_unreadable(self) -> None:
        """Add an error for each value that PyYAML, and so CI, cannot construct.

        One such value anywhere makes the whole file unreadable for CI.
        """
        constructor = yaml.constructor.SafeConstructor()
        for node in self.nodes():
            self._check_value(node, constructor)
            if not isinstance(node, yaml.MappingNode):
                continue
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    self._unreadable(key, f"{kind(key)} cannot be a key")
                elif key.tag != _TAG + "merge":
                    self._check_value(key, constructor)

    def _check_value(self, node: yaml.Node, constructor: yaml.constructor.SafeConstructor) -> None:
        tag = node.tag.removeprefix(_TAG)
        if tag not in _TAGS[type(node)]:
            shown = f"!!{tag}" if node.tag.startswith(_TAG) else tag
            self._unreadable(node, f"{kind(node)} cannot have the tag {quoted(shown)}")
        elif isinstance(node, yaml.ScalarNode) and tag != "str":
            try:
                constructor.construct_object(node)
            # An impossible date, `!!int x`, `!!bool x`, `!!binary x`, or an int that is too long.
            except (yaml.YAMLError, ValueError, LookupError, ArithmeticError):
                self._unreadable(node, f"{written(node)} is not a valid {tag}")

    def _unreadable(self, node: yaml.Node, why: str) -> None:
        self.error(
            node,
            "unreadable",
            f"CI cannot read the file: {why}",
            "write a plain value; for a string, write it in quotes and without a tag",
        )

    def _check_mappings(self) -> None:
        for node in self.nodes():
            if not isinstance(node, yaml.MappingNode):
                continue
            first: dict[tuple[str, str], yaml.Node] = {}
            for key, value in node.value:
                if key.tag == _TAG + "merge":
                    self._check_merge(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                before = first.setdefault((key.tag, key.value), key)
                if before is not key:
                    self.error(
                        key,
                        "duplicate-key",
                        f"{plain(key.value)} is a duplicate of the key in line "
                        f"{mark(before).line}; YAML readers reject the file, or ignore one of them",
                        "merge them into one key",
                    )

    def _check_merge(self, node: yaml.Node) -> None:
        for source in _sources(node):
            if not isinstance(source, yaml.MappingNode):
                self.error(
                    source,
                    "wrong-type",
                    f"'<<' merges {kind(source)}, not a mapping",
                    "use the anchor of a mapping, as in '<<: *common'",
                )


def _sources(node: yaml.Node) -> list[yaml.Node]:
    """Return the nodes that a merge key merges."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def mark(node: yaml.Node) -> Mark:
    """Return where `node` begins; for an alias, where its target begins."""
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def is_null(node: yaml.Node) -> bool:
    """Whether a value is absent, or is written as `null` or `~`."""
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


def text(node: yaml.Node) -> str | None:
    """Return a string, or a number as written; None for anything else."""
    names = ("str", "int", "float")
    if isinstance(node, yaml.ScalarNode) and node.tag in [_TAG + name for name in names]:
        value: str = node.value
        return value
    return None


def flag(node: yaml.Node) -> bool | None:
    """Return a YAML boolean (`true`, `off`, …); None for anything else, including `"true"`."""
    if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "bool":
        return _FLAGS.get(node.value.lower())
    return None


def kind(node: yaml.Node) -> str:
    """Return a description of `node` for people."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if is_null(node):
        return "empty"
    # With its quotes, because they make `"true"` a string.
    return written(node)


def written(node: yaml.Node) -> str:
    """Return a scalar about as written, on one line and without control characters."""
    if not isinstance(node, yaml.ScalarNode):
        return kind(node)
    value = node.value
    shown = value if not node.style and value.isprintable() else quoted(value)
    return shown if len(shown) <= 80 else shown[:79] + "…"


def quoted(value: str) -> str:
    """Return `value` in double quotes, with control characters escaped."""
    if value.isprintable():
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + value.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def plain(name: str) -> str:
    """Return a key as people write it, in quotes only if it needs them."""
    is_plain = name.isprintable() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_plain or name == "<<" else quoted(name)


def _text(file: Path, name: str) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PreloadError(
            f"{file}: cannot read it: {reason}",
            f"name a readable {name}",
        ) from error
    if len(data) > MAX_BYTES:
        raise UnreadableError(
            Mark(1, 1), f"the file is longer than {MAX_BYTES} bytes", f"name a {name}", "size"
        )
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        at = Mark(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise UnreadableError(at, "the text is not UTF-8", "save the file as UTF-8") from error


def _compose(document: str) -> yaml.Node | None:
    # Not the C loader, which overflows the stack on deep nesting, where this one raises.
    try:
        root = yaml.compose(document, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        at = Mark(place.line + 1, place.column + 1) if place else Mark(1, 1)
        raise UnreadableError(at, *_explained(error)) from error
    except yaml.reader.ReaderError as error:
        before = document[: error.position]
        at = Mark(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        raise UnreadableError(
            at,
            f"the character U+{error.character:04X} is not allowed in YAML",
            "remove the character",
        ) from error
    except RecursionError as error:
        raise UnreadableError(Mark(1, 1), "the YAML is nested too deeply", _TOO_MUCH) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # "\UFFFFFFFF" is a ValueError out of PyYAML's scanner, without a place.
        raise UnreadableError(
            Mark(1, 1), f"invalid YAML: {error}", "check the escape sequences"
        ) from error
    return root


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    # People copy "..." from documentation, where it means "and so on"; in YAML it ends a document.
    if "single document" in (error.context or "") or "<document start>" in (error.problem or ""):
        return (
            "a second YAML document begins here, but CI reads only one",
            "remove the line '---' or '...' above it",
        )
    message = ", ".join(part for part in (error.problem, error.context) if part)
    return (
        f"invalid YAML: {message}",
        "correct it; indent all lines of a block alike, with spaces, not tabs",
    )
