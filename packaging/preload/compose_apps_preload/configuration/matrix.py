"""A table of the apps that each branch is preloaded with, for both kinds of builds."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..command import Subparsers, add_file
from .containers import KnownApps, add_options, known_apps
from .factory_config import BUILDS, Build, FactoryConfig, Tag, load
from .resolve import ANY_OTHER, NothingLeftError, Resolution, resolve

HEADER = ("BUILD", "BRANCH", "TARGET TAG", "APPS IN THE TARGET", "PRELOADED")


@dataclass(frozen=True)
class Row:
    """One Target of a branch. `target_apps` is None if they are unknown.

    `resolution` is None if the shortlist leaves no app, as `complaint` then says.
    """

    build: Build
    ref: str
    tag: Tag | None
    target_apps: tuple[str, ...] | None
    resolution: Resolution | None
    complaint: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes below the table: doubtful rules, and errors."""
        if self.resolution is None:
            return (self.complaint,)
        return self.resolution.warnings


def branches(config: FactoryConfig, build: Build) -> tuple[str, ...]:
    """Return the git references in the file, starting with those of `build`."""
    own = config.section(build)
    found: dict[str, None] = {}
    for section in (own, *(config.section(other) for other in BUILDS if other != build)):
        found |= dict.fromkeys(section.tagging.value if section.tagging else ())
        found |= dict.fromkeys(section.ref_options)
    return (*found, ANY_OTHER) if own.tagging is None else tuple(found)


def branch_name(ref: str) -> str:
    """Return the name of the branch `ref` for people."""
    return "any other" if ref == ANY_OTHER else ref.removeprefix("refs/heads/")


def rows(config: FactoryConfig, known: KnownApps | None = None) -> Iterator[Row]:
    """Yield a row for each Target of each branch, or for the branch if it has none."""
    origins = Origins(config)
    for build in BUILDS:
        for ref in branches(config, build):
            outline = resolve(config, build, ref)
            for tag in outline.tags or (None,):
                if known is None or not outline.built:
                    yield Row(build, ref, tag, None, outline)
                    continue
                apps = known(origins.branch(build, ref, tag))
                try:
                    yield Row(build, ref, tag, apps, resolve(config, build, ref, apps))
                except NothingLeftError as nothing:
                    yield Row(build, ref, tag, apps, None, str(nothing))


class Origins:
    """The branches of containers.git from which Targets take their apps."""

    def __init__(self, config: FactoryConfig) -> None:
        """Find the branch that makes the Targets of each tag."""
        self._made: dict[str, str] = {}
        tagging = config.containers.tagging
        for branch, tags in tagging.value.items() if tagging else ():
            for tag in tags.value:
                self._made.setdefault(tag.name, branch)

    def branch(self, build: Build, ref: str, tag: Tag | None) -> str:
        """Return the branch from which a Target of `build` takes its apps.

        A platform build takes them over from the newest Target with the inherited tag, or with its
        own tag, which a containers build has made.
        """
        if build == "containers" or tag is None:
            return ref
        return self._made.get(tag.inherit or tag.name, ref)


# The command


def add_command(commands: Subparsers) -> None:
    """Add `matrix` to the command line."""
    parser = commands.add_parser(
        "matrix",
        help="show a table of what all branches are preloaded with",
        description="Show a table of the apps that each branch is preloaded with.",
    )
    add_file(parser)
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    listed = list(rows(load(options.file), known_apps(options)))
    print(json.dumps([to_json(row) for row in listed], indent=2) if options.json else text(listed))
    return 0


def to_json(row: Row) -> dict[str, Any]:
    """Return `row` as JSON for programs."""
    found = row.resolution
    return {
        "build": row.build,
        "ref": row.ref,
        "built": found is None or found.built,
        "tag": row.tag.name if row.tag else None,
        "inherit": row.tag.inherit if row.tag else None,
        "target_apps": row.target_apps,
        "enabled": found is None or found.enabled,
        "apps": found.apps if found else [],
        "app_type": found.app_type if found else None,
        "notes": row.notes,
    }


def text(listed: list[Row]) -> str:
    """Return the table for people, followed by each note once."""
    footnotes: dict[str, int] = {}
    table: list[tuple[str, ...]] = [HEADER]
    for row in listed:
        marks = [footnotes.setdefault(note, len(footnotes) + 1) for note in row.notes]
        preloaded = " ".join([_preloaded(row), *(f"[{mark}]" for mark in marks)])
        table.append((row.build, branch_name(row.ref), _tag(row), _target_apps(row), preloaded))
    if all(row.target_apps is None for row in listed):
        table = [(*cells[:3], *cells[4:]) for cells in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]
    if footnotes:
        lines += ["", *(f"[{number}] {note}" for note, number in footnotes.items())]
    return "\n".join(lines)


def _tag(row: Row) -> str:
    if row.tag is None:
        return "none" if row.resolution is None or row.resolution.built else "not built"
    return f"{row.tag.name} (inherit {row.tag.inherit})" if row.tag.inherit else row.tag.name


def _target_apps(row: Row) -> str:
    return "-" if row.target_apps is None else ", ".join(row.target_apps) or "none"


def _preloaded(row: Row) -> str:
    found = row.resolution
    if found is None:
        return "nothing, the build fails"
    if not found.built:
        return "-"
    return "all" if found.apps is None else ", ".join(found.apps) or "nothing"
