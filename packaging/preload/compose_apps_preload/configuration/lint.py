"""What is wrong, or not as it seems, in a factory-config.yml."""

import argparse
import difflib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ..command import Subparsers, add_file
from ..finding import Finding, Mark, Severity
from .containers import KnownApps, add_options, known_apps
from .factory_config import FactoryConfig, Section, Value, read
from .matrix import branch_name, branches, rows
from .resolve import ANY_OTHER, resolve
from .yaml_tree import quoted

REMOVED = {
    "containers.preload": "containers.preloaded_images.enabled: true",
    "containers.assemble_system_image": "containers.preloaded_images.enabled: true",
    "lmp.container_preload": "lmp.preloaded_images.enabled: true",
}
"""Keys that were removed in 2021, and what to write instead. Source: the Factory's definition."""


def lint(config: FactoryConfig, known: KnownApps | None = None) -> list[Finding]:
    """Return what is to be said about `config`, in the order of the file.

    `known` tells the apps of a branch; without it, names of apps are not checked.
    """
    findings = [*config.findings, *_keys(config)]
    for section in (config.containers, config.lmp):
        findings += _untagged(config, section)
    findings += _lmp_without_enabled(config)
    # With errors in the file there is nothing to decide by, and no more to be found.
    if known and not any(each.severity is Severity.ERROR for each in config.findings):
        findings += _apps(config, known)
    return sorted(findings, key=lambda each: each.at)


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
            continue
        if key.name == "preloaded_images" and key.known == ("params",):
            yield Finding(
                Severity.WARNING,
                "unknown-key",
                key.at,
                f"{key.path}: preloaded_images is not documented for a branch, and not heeded here",
                "write params with ASSEMBLE_SYSTEM_IMAGE and APP_SHORTLIST",
            )
            continue
        close = difflib.get_close_matches(key.name, key.known, n=1, cutoff=0.8)
        if close:
            yield Finding(
                Severity.WARNING,
                "unknown-key",
                key.at,
                f"{key.path} is no known key: CI ignores what it does not know",
                f"if {close[0]} was meant, write that",
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
        only = "; only platform builds, which inherit it, heed this" if inherits else ""
        yield Finding(
            Severity.WARNING,
            "not-tagged",
            options.at,
            f"{ref} is in {section.name}.ref_options, but not in {section.name}.tagging, so "
            f"{section.name} builds are not made of it{only}",
            f"add {ref} to {section.name}.tagging, or remove it here",
        )


def _lmp_without_enabled(config: FactoryConfig) -> Iterator[Finding]:
    own, inherited = config.lmp.preloaded_images, config.containers.preloaded_images.enabled
    if own.shortlist and not own.enabled:
        on = inherited is not None and inherited.value
        yield Finding(
            Severity.WARNING,
            "enabled-inherited",
            own.shortlist.at,
            f"{own.shortlist.key} without lmp.preloaded_images.enabled: this is inherited from "
            f"containers, where it is {'true' if on else 'not true, so nothing is preloaded'}",
            "write enabled: true or enabled: false next to it",
        )


def _shortlists(config: FactoryConfig) -> Iterator[Value[tuple[str, ...]]]:
    for section in (config.containers, config.lmp):
        options = (each.value for each in section.ref_options.values())
        for said in (section.preloaded_images, section.params, *options):
            if said.shortlist:
                yield said.shortlist


def _apps(config: FactoryConfig, known: KnownApps) -> Iterator[Finding]:
    used: dict[Value[tuple[str, ...]], set[str]] = defaultdict(set)
    every: set[str] = set()
    empty: dict[Value[tuple[str, ...]], list[str]] = defaultdict(list)
    for row in rows(config, known):
        if row.target_apps is None:
            continue
        every.update(row.target_apps)
        shortlist = resolve(config, row.build, row.ref).shortlist
        if shortlist:
            used[shortlist].update(row.target_apps)
            # What "any other" branch has is a guess, if the file names branches at all.
            alone = branches(config, row.build) == (ANY_OTHER,)
            if row.resolution is None and (alone or row.ref != ANY_OTHER):
                empty[shortlist].append(f"{branch_name(row.ref)} ({row.build})")
    # A list may name an app that only some of its branches have. One that none has is a mistake.
    for shortlist in dict.fromkeys(_shortlists(config)):
        apps = used.get(shortlist, every)
        for name in shortlist.value:
            if name not in apps:
                yield _unknown_app(shortlist, name, apps)
        if shortlist in empty:
            targets = ", ".join(dict.fromkeys(empty[shortlist]))
            yield Finding(
                Severity.ERROR,
                "nothing-left",
                shortlist.value_at,
                f"{shortlist.key} names no app that the Targets of {targets} have: their builds "
                "have nothing to preload, and fail",
                "name one of their apps, or switch preloading off for them",
            )


def _unknown_app(shortlist: Value[tuple[str, ...]], name: str, apps: set[str]) -> Finding:
    folded = {each.casefold(): each for each in sorted(apps)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    nearest = f"if {folded[close[0]]} was meant, write that; otherwise " if close else ""
    return Finding(
        Severity.ERROR,
        "unknown-app",
        shortlist.value_at,
        f"{shortlist.key} names {quoted(name)}, which no Target that it is for has: CI ignores it",
        f"{nearest}add the folder {name} with a docker-compose.yml to containers.git",
    )


# The command


def add_command(commands: Subparsers) -> None:
    """Add `lint` to the command line."""
    parser = commands.add_parser("lint", help="find what is wrong in the file")
    add_file(parser)
    add_options(parser)
    parser.add_argument("--format", choices=sorted(FORMATS), default="text", help="of the findings")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    findings = lint(read(options.file), known_apps(options))
    shown = FORMATS[options.format](options.file, findings)
    if shown:
        print(shown)
    return int(any(each.severity is Severity.ERROR for each in findings))


def _as_text(file: Path, findings: Sequence[Finding]) -> str:
    if not findings:
        return f"{file}: nothing found"
    return "\n".join(
        f"{file}:{each.at.line}:{each.at.column}: {each.severity}: {each.message} [{each.code}]\n"
        f"    next: {each.hint}"
        for each in findings
    )


def _as_json(file: Path, findings: Sequence[Finding]) -> str:
    listed = []
    for each in findings:
        fields = asdict(each)
        listed.append({"file": str(file), **fields.pop("at"), **fields})
    return json.dumps(listed, indent=2)


def _as_github(file: Path, findings: Sequence[Finding]) -> str:
    # Source: GitHub's workflow commands; a property may not hold ':' and ',' either.
    def data(value: str) -> str:
        return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def place(at: Mark) -> str:
        name = data(str(file)).replace(":", "%3A").replace(",", "%2C")
        return f"file={name},line={at.line},col={at.column}"

    return "\n".join(
        f"::{each.severity} {place(each.at)},title={each.code}::"
        + data(f"{each.message}. Next: {each.hint}")
        for each in findings
    )


FORMATS: dict[str, Callable[[Path, Sequence[Finding]], str]] = {
    "github": _as_github,
    "json": _as_json,
    "text": _as_text,
}
