"""Finding errors and surprises in a factory-config.yml."""

import argparse
import difflib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from .. import listing
from ..command import Subparsers, add_file
from ..finding import Finding, Severity
from ..yaml_tree import quoted
from .containers import KnownApps, add_options, known_apps
from .factory_config import (
    BUILDS,
    IMAGE_KEYS,
    PARAMS,
    REF_KEYS,
    SECTION_KEYS,
    FactoryConfig,
    Section,
    Tag,
    UnknownKey,
    Value,
    read,
)
from .matrix import Origins, branch_name, branches
from .resolve import ANY_OTHER, preloaded_by

REMOVED = {
    "containers.preload": "containers.preloaded_images.enabled: true",
    "containers.assemble_system_image": "containers.preloaded_images.enabled: true",
    "lmp.container_preload": "lmp.preloaded_images.enabled: true",
}
"""Keys that were removed in 2021, and their replacements. Source: the Factory's definition."""

_HOMES = {
    **dict.fromkeys(set(SECTION_KEYS) - set(REF_KEYS), "containers or lmp"),
    **dict.fromkeys(IMAGE_KEYS, "preloaded_images of containers or lmp"),
    **dict.fromkeys(PARAMS, "params of containers, of lmp, or of one of their ref_options"),
}
"""Where keys belong that have no meaning elsewhere."""

_MAX_COMPARISONS = 20_000
"""The number of comparisons between unknown and known names, which grows with their product."""


def lint(config: FactoryConfig, known: KnownApps | None = None) -> list[Finding]:
    """Return the findings in `config`, in the order of the file.

    `known` returns the apps of a branch. Without it, the names of apps are not checked.
    """
    findings = [*config.findings, *_keys(config)]
    for section in (config.containers, config.lmp):
        findings += _untagged(config, section)
        findings += _repeated(section)
    findings += _unmatched_tags(config)
    findings += _lmp_without_enabled(config)
    # Nothing can be decided from a file with errors.
    if known and not any(finding.severity is Severity.ERROR for finding in config.findings):
        findings += _apps(config, known)
    return sorted(findings, key=lambda finding: finding.at)


def _keys(config: FactoryConfig) -> Iterator[Finding]:
    for key in config.unknown_keys:
        if key.path in REMOVED:
            yield Finding(
                Severity.ERROR,
                "removed-key",
                key.at,
                f"{key.path} was removed in 2021: CI ignores it",
                f"write {REMOVED[key.path]}",
            )
        elif key.name == "preloaded_images" and key.known == REF_KEYS:
            yield Finding(
                Severity.WARNING,
                "unknown-key",
                key.at,
                f"{key.path}: preloaded_images is not documented for a branch, and is ignored here",
                "write params with ASSEMBLE_SYSTEM_IMAGE and APP_SHORTLIST instead",
            )
        # params may contain any name, for other programs.
        elif key.name in _HOMES and key.known != PARAMS:
            yield Finding(
                Severity.ERROR,
                "misplaced-key",
                key.at,
                f"{key.path} is in the wrong place, where CI ignores it",
                f"move it into {_HOMES[key.name]}, and check the indentation",
            )
        else:
            yield from _mistyped(key)


def _mistyped(key: UnknownKey) -> Iterator[Finding]:
    close = difflib.get_close_matches(key.name, key.known, n=1, cutoff=0.8)
    if close:
        yield Finding(
            Severity.WARNING,
            "unknown-key",
            key.at,
            f"{key.path} is not a known key; CI ignores unknown keys",
            f"if you mean {close[0]}, write that",
        )


def _untagged(config: FactoryConfig, section: Section) -> Iterator[Finding]:
    if section.tagging is None:
        return
    for ref, options in section.ref_options.items():
        if ref in section.tagging.value:
            continue
        inherits = section.name == "containers" and ref in (
            config.lmp.tagging.value if config.lmp.tagging else ()
        )
        only = "; only platform builds use this, because they inherit it" if inherits else ""
        yield Finding(
            Severity.WARNING,
            "not-tagged",
            options.at,
            f"{ref} is in {section.name}.ref_options, but not in {section.name}.tagging, so it "
            f"gets no {section.name} builds{only}",
            f"add {ref} to {section.name}.tagging, or remove it here",
        )


def _tags(section: Section) -> Iterator[tuple[str, Tag]]:
    for ref, tags in section.tagging.value.items() if section.tagging else ():
        for tag in tags.value:
            yield ref, tag


def _repeated(section: Section) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for ref, tag in _tags(section):
        if tag.name not in first:
            first[tag.name] = ref
        elif first[tag.name] == ref:
            yield Finding(
                Severity.WARNING,
                "repeated-tag",
                tag.at,
                f"{ref} has the tag {tag.name} twice",
                "keep one of the two",
            )
        else:
            yield Finding(
                Severity.WARNING,
                "repeated-tag",
                tag.at,
                f"{ref} makes Targets tagged {tag.name}, and so does {first[tag.name]}: a device "
                "that follows the tag gets the Target that was built last",
                "give the two branches different tags",
            )


def _unmatched_tags(config: FactoryConfig) -> Iterator[Finding]:
    """Find tags that need a Target of the other kind of build, where no branch makes one."""
    if config.containers.tagging is None or config.lmp.tagging is None:
        return  # every branch is built, and its tags are unknown
    made = {build: {tag.name for _, tag in _tags(config.section(build))} for build in BUILDS}
    every = _Names(made["containers"] | made["lmp"])
    for section in (config.containers, config.lmp):
        for ref, tag in _tags(section):
            if tag.inherit and tag.inherit not in every:
                close = every.nearest(tag.inherit)
                yield Finding(
                    Severity.ERROR,
                    "unknown-tag",
                    tag.inherit_at,
                    f"{ref} inherits from Targets tagged {quoted(tag.inherit)}, which no branch "
                    "makes",
                    f"{close}add the tag to a branch",
                )
            elif section is config.containers and not {tag.name, tag.inherit} & made["lmp"]:
                yield Finding(
                    Severity.WARNING,
                    "no-platform",
                    tag.at,
                    f"{ref} makes Targets tagged {tag.name}, but no platform build does: no image "
                    "can be preloaded with their apps",
                    f"add a branch with the tag {tag.name} to lmp.tagging",
                )


def _lmp_without_enabled(config: FactoryConfig) -> Iterator[Finding]:
    own, inherited = config.lmp.preloaded_images, config.containers.preloaded_images.enabled
    if own.shortlist and not own.enabled:
        on = inherited is not None and inherited.value
        yield Finding(
            Severity.WARNING,
            "enabled-inherited",
            own.shortlist.at,
            f"{own.shortlist.key} is set without lmp.preloaded_images.enabled, which is inherited "
            f"from containers, where it is {'true' if on else 'not true: nothing is preloaded'}",
            "write enabled: true or enabled: false next to it",
        )


def _shortlists(config: FactoryConfig) -> Iterator[Value[tuple[str, ...]]]:
    for section in (config.containers, config.lmp):
        options = (value.value for value in section.ref_options.values())
        for settings in (section.preloaded_images, section.params, *options):
            if settings.shortlist:
                yield settings.shortlist


def _apps(config: FactoryConfig, known: KnownApps) -> Iterator[Finding]:
    used: dict[int, set[str]] = defaultdict(set)
    empty: dict[int, list[str]] = defaultdict(list)
    every: set[str] = set()
    for group in _preloaded(config, known):
        every.update(group.apps)
        if group.shortlist is None:
            continue
        used[id(group.shortlist)].update(group.apps)
        names = group.shortlist.value
        if names and not any(name in group.apps for name in names):
            empty[id(group.shortlist)] += group.targets
    # A shortlist may name an app that only some of its branches have, but not one that none has.
    for shortlist in {id(value): value for value in _shortlists(config)}.values():
        yield from _unknown_apps(shortlist, used.get(id(shortlist), every))
        if empty[id(shortlist)]:
            targets = ", ".join(dict.fromkeys(empty[id(shortlist)]))
            yield Finding(
                Severity.ERROR,
                "nothing-left",
                shortlist.value_at,
                f"{shortlist.key} names no app of the Targets of {targets}: their builds have "
                "nothing to preload and fail",
                "name one of their apps, or switch off preloading for them",
            )


@dataclass(frozen=True)
class _TargetGroup:
    """Targets with the same apps and, if they are preloaded, the same shortlist."""

    shortlist: Value[tuple[str, ...]] | None
    apps: frozenset[str]
    targets: list[str]


def _preloaded(config: FactoryConfig, known: KnownApps) -> Iterable[_TargetGroup]:
    # Keyed by identity: comparing the names of all branches would be too slow.
    found: dict[tuple[int, int], _TargetGroup] = {}
    origins = Origins(config)
    apps: dict[str, tuple[str, ...]] = {}
    for build in BUILDS:
        tagging = config.section(build).tagging
        refs = branches(config, build)
        for ref in refs:
            tags = tagging.value.get(ref) if tagging else None
            if tagging and not tags:
                continue  # not built
            on, shortlist = preloaded_by(config, build, ref)
            for tag in tags.value if tags else (None,):
                origin = origins.branch(build, ref, tag)
                names = apps.setdefault(origin, known(origin))
                key = (id(shortlist) if on else 0, id(names))
                if key not in found:
                    found[key] = _TargetGroup(shortlist if on else None, frozenset(names), [])
                # If the file names branches, the apps of "any other" branch are only a guess.
                if ref != ANY_OTHER or len(refs) == 1:
                    found[key].targets.append(f"{branch_name(ref)} ({build})")
    return found.values()


def _unknown_apps(shortlist: Value[tuple[str, ...]], apps: Collection[str]) -> Iterator[Finding]:
    known = _Names(apps)
    for name in shortlist.value:
        if name in known:
            continue
        yield Finding(
            Severity.ERROR,
            "unknown-app",
            shortlist.value_at,
            f"{shortlist.key} names {quoted(name)}, but none of its Targets has this app: "
            "CI ignores it",
            f"{known.nearest(name)}add the folder {name} with a docker-compose.yml to "
            "containers.git",
        )


class _Names:
    """Known names, and suggestions for unknown ones."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._folded = {name.casefold(): name for name in sorted(names)}
        self._comparisons_left = _MAX_COMPARISONS

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def nearest(self, name: str) -> str:
        """Return the beginning of a hint; empty if no name is similar, or after too many names."""
        self._comparisons_left -= len(self._folded)
        if self._comparisons_left < 0:
            return ""
        close = difflib.get_close_matches(name.casefold(), self._folded, n=1)
        return f"if you mean {self._folded[close[0]]}, write that; otherwise " if close else ""


# The command


def add_command(commands: Subparsers) -> None:
    """Add `lint` to the command line."""
    parser = commands.add_parser(
        "lint",
        help="find errors in factory-config.yml",
        description="Find errors and surprises in a factory-config.yml.",
    )
    add_file(parser)
    add_options(parser)
    listing.add_option(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    findings = lint(read(options.file), known_apps(options))
    return listing.show({options.file: findings}, options.format)
