"""Deciding what a build of a branch is preloaded with, and naming the keys that decide.

The first place that has a key decides its value:

    ref_options[ref].params > params > preloaded_images > (lmp only) the same of containers

Each value is inherited on its own. Foundries' documentation is ambiguous in one case and silent in
another. The decision then has a *doubt*, which names the rule that is applied.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..command import Subparsers, add_file, app_list
from ..errors import PreloadError
from .factory_config import (
    APP_TYPES,
    BUILDS,
    Build,
    FactoryConfig,
    PreloadSettings,
    Section,
    Tag,
    Value,
    load,
)

ANY_OTHER = "refs/heads/*"
"""Stands for all branches that the file does not name. Git does not allow it as a name."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Decision:
    """A value and the reasons for it.

    The key `by` decided; None means the default. `over` are the keys that it overrides, strongest
    first. `notes` explain the value; `doubts` are rules that the documentation does not state.
    """

    name: str
    value: str
    by: Value[Any] | None = None
    over: tuple[Value[Any], ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolution:
    """What a build of a branch is preloaded with.

    `apps` are in the order of the shortlist; None means all apps of the Target, if these are
    unknown. Unless `enabled`, nothing is preloaded and `apps` is empty; a branch that is not
    `built` is not enabled. `shortlist` is the one that decided on the apps. `unknown_apps` are in
    it, but not in the Target. `decisions` are for enabled, apps, tags and app_type, in this order.
    """

    build: Build
    ref: str
    built: bool
    enabled: bool
    apps: tuple[str, ...] | None
    tags: tuple[Tag, ...]
    app_type: str
    shortlist: Value[tuple[str, ...]] | None
    unknown_apps: tuple[str, ...]
    decisions: tuple[Decision, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Possible surprises: names that CI ignores, and doubtful rules."""
        ignored = (
            f"the Target has no {name}: CI ignores it silently" for name in self.unknown_apps
        )
        return (*ignored, *(doubt for decision in self.decisions for doubt in decision.doubts))


class NothingLeftError(PreloadError):
    """The shortlist names none of the Target's apps, which makes the CI build crash."""


@dataclass(frozen=True)
class _Place:
    """A place that may have settings. Not `documented`: only the explanations imply it."""

    settings: PreloadSettings
    documented: bool


def resolve(
    config: FactoryConfig, build: Build, ref: str, apps: Sequence[str] | None = None
) -> Resolution:
    """Decide what `build` of the git reference `ref` is preloaded with.

    `ref` may be the short name of a branch. `apps` are the apps of the Target, if known.
    Raises `NothingLeftError` if the shortlist names none of them.
    """
    ref = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
    places = _places(config, build, ref)
    built, tags, tagged = _tags(config.section(build), ref)
    on, enabled = _decide("enabled", [(place.settings.enabled, place) for place in places], False)
    named, listed = _decide("apps", [(place.settings.shortlist, place) for place in places], ())
    kind, typed = _decide(
        "app_type", [(place.settings.app_type, place) for place in places], APP_TYPES[0]
    )
    chosen: tuple[str, ...] | None = ()
    by = None
    if not built:
        over = (enabled.by, *enabled.over) if enabled.by else ()
        enabled = Decision("enabled", "no", tagged.by, over, tagged.notes)
    if not (built and on):
        listed = Decision("apps", _names(()), notes=("not enabled: nothing is preloaded",))
    else:
        by = listed.by
        chosen = _chosen(config, by, apps)
        doubts = (*listed.doubts, *_undocumented(config, build, by))
        listed = replace(listed, value=_names(chosen), doubts=doubts)
    kept = frozenset(chosen or ())
    return Resolution(
        build,
        ref,
        built,
        built and on,
        chosen,
        tags,
        kind,
        by,
        tuple(name for name in named if kept and name not in kept),
        (enabled, listed, tagged, typed),
    )


def preloaded_by(
    config: FactoryConfig, build: Build, ref: str
) -> tuple[bool, Value[tuple[str, ...]] | None]:
    """Return whether `build` of `ref` is preloaded, and its shortlist; None means all apps.

    This decides the same as `resolve`, but without reasons, so it is fast for many branches.
    """
    section = config.section(build)
    if section.tagging is not None and ref not in section.tagging.value:
        return False, None
    settings = [place.settings for place in _places(config, build, ref)]
    enabled = next((found.enabled for found in settings if found.enabled), None)
    shortlist = next((found.shortlist for found in settings if found.shortlist), None)
    return enabled is not None and enabled.value, shortlist


def _places(config: FactoryConfig, build: Build, ref: str) -> list[_Place]:
    places = []
    for section in (config.lmp, config.containers) if build == "lmp" else (config.containers,):
        own = section.name == build
        if ref in section.ref_options:
            places.append(_Place(section.ref_options[ref].value, own))
        places.append(_Place(section.params, own))
        places.append(_Place(section.preloaded_images, True))
    return places


def _decide(
    name: str, values: list[tuple[Value[_T] | None, _Place]], default: _T
) -> tuple[_T, Decision]:
    named = [(value, place) for value, place in values if value]
    decided = named[0][0].value if named else default
    literally = next((value.value for value, place in named if place.documented), default)
    doubts: tuple[str, ...] = ()
    if decided != literally:
        doubts = (
            "the documentation is ambiguous. Read literally, lmp inherits only "
            f"containers.preloaded_images, so {name} would be {_shown(literally)}. By its "
            "explanations, containers' ref_options and params apply to every Target of the branch, "
            f"so {name} would be {_shown(decided)}. This rule is applied",
        )
    by = named[0][0] if named else None
    over = tuple(value for value, _ in named[1:])
    return decided, Decision(name, _shown(decided), by, over, doubts=doubts)


def _chosen(
    config: FactoryConfig, shortlist: Value[tuple[str, ...]] | None, apps: Sequence[str] | None
) -> tuple[str, ...] | None:
    if shortlist is None or not shortlist.value:
        return None if apps is None else tuple(dict.fromkeys(apps))
    if apps is None:
        return shortlist.value
    known = frozenset(apps)
    chosen = tuple(name for name in shortlist.value if name in known)
    if not chosen:
        raise NothingLeftError(
            f"{config.file}:{shortlist.at.line}: {shortlist.key} names {_names(shortlist.value)}, "
            f"but the Target has only {_names(tuple(apps))}: nothing is left to preload",
            "correct the names, or remove the key, which means all apps of the Target",
        )
    return chosen


def _tags(section: Section, ref: str) -> tuple[bool, tuple[Tag, ...], Decision]:
    if section.tagging is None:
        note = f"{section.name}.tagging is absent: every branch is built, and Targets have no tag"
        return True, (), Decision("tags", "none", notes=(note,))
    value = section.tagging.value.get(ref)
    if value is None:
        note = f"{section.name}.tagging does not list {ref}, so it is not built"
        return False, (), Decision("tags", "none, it is not built", section.tagging, notes=(note,))
    notes = tuple(
        f"{tag.name} takes the apps of the newest Target tagged {tag.inherit}"
        for tag in value.value
        if tag.inherit and section.name == "lmp"
    )
    return True, value.value, Decision("tags", value.written, value, notes=notes)


def _undocumented(
    config: FactoryConfig, build: Build, shortlist: Value[tuple[str, ...]] | None
) -> tuple[str, ...]:
    """Return the doubt if lmp is enabled without a shortlist, which no example covers."""
    on = config.lmp.preloaded_images.enabled
    if build != "lmp" or not on or not on.value:
        return ()
    if shortlist is None or not shortlist.key.startswith("containers."):
        return ()
    return (
        "not documented: lmp is enabled without a shortlist. Each key is inherited on its own, so "
        f"{shortlist.key} applies; an empty lmp.preloaded_images.shortlist would mean all apps",
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return _names(value or None)
    return str(value)


def _names(names: tuple[str, ...] | None) -> str:
    return "all apps of the Target" if names is None else ", ".join(names) or "none"


# The command


def add_command(commands: Subparsers) -> None:
    """Add `resolve` to the command line."""
    parser = commands.add_parser(
        "resolve",
        help="show what a build of a branch is preloaded with",
        description="Show what a CI build of a branch is preloaded with.",
    )
    add_file(parser)
    parser.add_argument("--build", choices=BUILDS, required=True, help="the kind of CI build")
    parser.add_argument(
        "--ref", required=True, help="the branch, such as refs/heads/devel or devel"
    )
    parser.add_argument("--apps", type=app_list, metavar="A,B", help="the apps of the Target")
    parser.add_argument("--explain", action="store_true", help="show which keys decide")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    config = load(options.file)
    resolution = resolve(config, options.build, options.ref, options.apps)
    if options.json:
        print(json.dumps(to_json(resolution, options.explain), indent=2))
    else:
        print(_text(config, resolution, options.explain))
    return 0


def to_json(resolution: Resolution, explain: bool = False) -> dict[str, Any]:
    """Return `resolution` as JSON. `apps` is null for all apps of the Target."""
    document: dict[str, Any] = {
        "enabled": resolution.enabled,
        "apps": resolution.apps,
        "tags": [tag.name for tag in resolution.tags],
        "app_type": resolution.app_type,
    }
    if explain:
        document["explanation"] = {
            decision.name: {
                "by": _where(decision.by),
                "over": [_where(value) for value in decision.over],
                "notes": decision.notes,
                "doubts": decision.doubts,
            }
            for decision in resolution.decisions
        }
    return document


def _where(value: Value[Any] | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"key": value.key, "value": value.written, "line": value.at.line}


def _text(config: FactoryConfig, resolution: Resolution, explain: bool) -> str:
    lines = []
    for decision in resolution.decisions:
        lines.append(f"{decision.name + ':':<10}{decision.value}")
        if explain:
            lines += (f"    {line}" for line in _explained(config, decision))
    # Surprises are shown even without --explain.
    lines += (f"note: {warning}" for warning in resolution.warnings)
    return "\n".join(lines)


def _explained(config: FactoryConfig, decision: Decision) -> list[str]:
    def located(value: Value[Any]) -> str:
        setting = f"{value.key}: {value.written}" if value.written else value.key
        return f"{config.file}:{value.at.line}: {setting}"

    lines = [f"by {located(decision.by)}"] if decision.by else []
    if not decision.by and not decision.notes:
        lines.append("by default, because no key sets it")
    lines += (f"over {located(value)}" for value in decision.over)
    lines += decision.notes
    return lines
