"""Finding errors and surprises in the files of the apps of a device.

This checks each item about apps in the checklist of docs/integration.md that files can show.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from .. import listing
from ..command import Subparsers
from ..configuration.containers import COMPOSE_FILE, folders
from ..env_file import ENV_FILE
from ..errors import PreloadError
from ..finding import Finding, Mark, Severity
from ..yaml_tree import flag, mark, quoted
from . import binds, shared, variables
from .app import PUBLISHED_HASH_LABEL, App, Service, place, project_name
from .durations import seconds

AGENT_APP_SECONDS = 180
"""How long the agent waits for an app in seconds: the default of EARLY_START_APP_SECONDS."""

_SIBLINGS = {
    "compose.yaml": "instead of",
    "compose.yml": "instead of",
    "compose.override.yml": "besides",
    "compose.override.yaml": "besides",
    "docker-compose.override.yml": "besides",
    "docker-compose.override.yaml": "besides",
}
"""Files other than docker-compose.yml that compose reads."""

_SET_BY_COMPOSE = frozenset(["COMPOSE_PROJECT_NAME"])
"""Variables that compose sets itself."""

# Docker's defaults. Source: the reference of Dockerfile's HEALTHCHECK.
_INTERVAL, _START_INTERVAL, _RETRIES = 30, 5, 3

_FILE_START = Mark(1, 1)


def lint(apps: Sequence[App]) -> listing.Findings:
    """Return the findings in the files of `apps`, which are on the same device."""
    found: dict[Path, list[Finding]] = {app.file: [] for app in apps}
    for app in apps:
        found[app.file] += _of_file(app)
        for file, finding in _of_siblings(app):
            found.setdefault(file, []).append(finding)
    for app, finding in shared.findings(apps):
        found[app.file].append(finding)
    for app in apps:
        # Last, because the checks above add findings when they read the file.
        found[app.file] += app.findings
    return {
        file: sorted(dict.fromkeys(findings), key=lambda finding: finding.at)
        for file, findings in found.items()
    }


def read(paths: Sequence[Path]) -> list[App]:
    """Read the apps in `paths`. Each path is the folder of an app, or contains such folders.

    Raises `PreloadError` if there is no app, or if one cannot be read.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inner = [path] if (path / COMPOSE_FILE).is_file() else []
        inner += [path / name for name in folders(path)] if not inner else []
        if not inner:
            raise PreloadError(
                f"{path} has no app: neither {COMPOSE_FILE} nor a folder with this file",
                "name the folder of an app, or a checkout of containers.git",
            )
        for folder in inner:
            found.setdefault(folder.resolve(), folder)
    return [App(folder) for folder in found.values()]


# Checking the compose file of an app.


def _of_file(app: App) -> Iterator[Finding]:
    yield from _project(app)
    yield from _required(app)
    if "include" in app.top:
        yield Finding(
            Severity.ERROR,
            "include",
            app.top["include"].at,
            "include: adds services from other files, whose images publishing cannot pin",
            f"write the services into {COMPOSE_FILE}",
        )
    elif not app.findings and not app.services:
        yield Finding(
            Severity.ERROR, "no-services", _FILE_START, "there are no services", "add a service"
        )
    yield from _images(app)
    for section in ("configs", "secrets"):
        yield from _files(app, section)
    waiting = _waited_for(app)
    for service in app.started:
        yield from _restart(app, service, waiting.get(service.name))
        yield from _health(app, service)
        yield from _env_files(app, service)
        yield from binds.findings(app, service)


def _project(app: App) -> Iterator[Finding]:
    if app.project is None or app.project == app.name:
        return
    if "COMPOSE_PROJECT_NAME" in app.environment.values:
        return  # reported for .env
    if "name" in app.top:
        yield Finding(
            Severity.WARNING,
            "project-name",
            place(app.top["name"]),
            f"name: makes the compose project {quoted(app.project)}, not {quoted(app.name)}: "
            "aktualizr-lite does not recognize the running containers, and creates new ones",
            "leave out name:",
        )
    else:
        yield Finding(
            Severity.WARNING,
            "project-name",
            _FILE_START,
            f"compose derives the project {quoted(app.project)} from the folder's name, not "
            f"{quoted(app.name)}: aktualizr-lite does not recognize the running containers, and "
            "creates new ones",
            "use only lower case letters, digits, '-' and '_' in the folder's name",
        )


def _required(app: App) -> Iterator[Finding]:
    by_ci = {
        id(service.fields["image"].node)
        for service in app.services.values()
        if "image" in service.fields
    }
    for node in app.nodes():
        if not isinstance(node, yaml.ScalarNode) or "$" not in node.value or id(node) in by_ci:
            continue
        on_device = variables.interpolate(node.value, app.environment.values).missing
        # Source: composectl's publish, which interpolates only from the environment.
        for name in dict.fromkeys(variables.interpolate(node.value, {}).missing):
            if name in _SET_BY_COMPOSE:
                continue
            unset = name in on_device
            yield Finding(
                Severity.ERROR if unset else Severity.WARNING,
                "required-variable",
                mark(node),
                f"compose refuses the app unless the variable {name} is set, "
                + (
                    "but nothing sets it"
                    if unset
                    else f"but publishing does not read {ENV_FILE}, which sets it"
                ),
                f"write ${{{name}:-default}}",
            )


def _images(app: App) -> Iterator[Finding]:
    published = any(
        label.partition("=")[0] == PUBLISHED_HASH_LABEL
        for service in app.services.values()
        for label in app.names(service.fields, "labels")
    )
    for service in app.services.values():
        if "image" not in service.fields:
            if not service.extends:
                yield Finding(
                    Severity.ERROR,
                    "no-image",
                    service.at,
                    f"service {service} has no image; publishing refuses it, because it does not "
                    "build images",
                    "name the image that CI builds: hub.foundries.io/${FACTORY}/…",
                )
            continue
        reference = app.value(service.fields, "image")
        if reference is None or "@" in reference:
            continue
        at = place(service.fields["image"])
        if published:
            yield Finding(
                Severity.WARNING,
                "not-pinned",
                at,
                f"service {service} has an image without a digest, although the app was "
                "published: a device may start another image than intended, or none",
                "use the app exactly as it was published",
            )
        elif _is_on_docker_hub(reference) and ":" not in reference:
            yield Finding(
                Severity.WARNING,
                "no-tag",
                at,
                f"service {service} gets whatever {quoted(reference)} is at the time of "
                "publishing; some versions of publishing refuse an image without a tag",
                "add the tag of a release",
            )


def _is_on_docker_hub(reference: str) -> bool:
    host, slash, _ = reference.partition("/")
    return not slash or not (re.search("[.:]", host) or host == "localhost")


def _files(app: App, section: str) -> Iterator[Finding]:
    used = set()
    for service in app.started:
        for item in app.items(service.fields, section):
            named = app.fields(item, section) if isinstance(item, yaml.MappingNode) else None
            used.add(app.text(item) if named is None else app.value(named, "source"))
    for name, entry in app.below(app.top, section).items():
        fields = app.fields(entry.node, entry.path)
        if name in used and "file" in fields:
            yield from _missing(app, fields["file"].node, f"{entry.path} is")


def _env_files(app: App, service: Service) -> Iterator[Finding]:
    entry = service.fields.get("env_file")
    if entry is not None:
        single = isinstance(entry.node, yaml.ScalarNode)
        for item in [entry.node] if single else app.items(service.fields, "env_file"):
            if isinstance(item, yaml.MappingNode):
                fields = app.fields(item, "env_file[]")
                required = fields.get("required")
                if "path" not in fields or (required and flag(required.node) is False):
                    continue
                item = fields["path"].node
            yield from _missing(app, item, f"service {service} has the env_file")
    extends = service.fields.get("extends")
    if extends is not None and isinstance(extends.node, yaml.MappingNode):
        file = app.below(service.fields, "extends").get("file")
        if file is not None:
            yield from _missing(app, file.node, f"service {service} extends a service in")


def _missing(app: App, node: yaml.Node, what: str) -> Iterator[Finding]:
    path = app.text(node)
    if path and not path.startswith(("/", "~")) and not app.has(path):
        yield Finding(
            Severity.ERROR,
            "missing-file",
            mark(node),
            f"{what} {quoted(path)}, which is not in the app's folder: compose refuses the app",
            "add it, or correct the path, which is relative to the app's folder",
        )


def _waited_for(app: App) -> Mapping[str, str]:
    """Return the services whose end others wait for, each with one of the waiting services."""
    found: dict[str, str] = {}
    for service in app.started:
        entry = service.fields.get("depends_on")
        if entry is None or not isinstance(entry.node, yaml.MappingNode):
            continue
        for name, dependency in app.below(service.fields, "depends_on").items():
            fields = app.fields(dependency.node, dependency.path)
            if app.value(fields, "condition") == "service_completed_successfully":
                found.setdefault(name, str(service))
    return found


def _restart(app: App, service: Service, waiting: str | None) -> Iterator[Finding]:
    entry = service.fields.get("restart")
    if waiting and entry and app.text(entry.node) in ("always", "unless-stopped"):
        yield Finding(
            Severity.ERROR,
            "one-shot-restarts",
            mark(entry.node),
            f"service {waiting} waits until service {service} has ended, but its restart policy "
            "starts it again and again",
            'leave out restart, or write restart: "no"',
        )
    elif not (waiting or entry or service.extends) and not app.below(
        app.below(service.fields, "deploy"), "restart_policy"
    ):
        yield Finding(
            Severity.WARNING,
            "no-restart",
            service.at,
            f"service {service} has no restart policy: once the device is registered, nothing "
            "starts it again after a reboot",
            'write restart: unless-stopped, or restart: "no" if it ends by itself or must not be '
            "started again",
        )


def _health(app: App, service: Service) -> Iterator[Finding]:
    check = app.below(service.fields, "healthcheck")
    disable = check.get("disable")
    is_list = "test" in check and isinstance(check["test"].node, yaml.SequenceNode)
    none = is_list and app.names(check, "test") == ["NONE"]
    if not check or none or (disable and flag(disable.node)):
        return
    if not app.knows(check, "interval", "start_period", "start_interval", "retries"):
        return
    interval = seconds(app.value(check, "interval"), _INTERVAL)
    start = seconds(app.value(check, "start_period"), 0)
    start_interval = seconds(app.value(check, "start_interval"), _START_INTERVAL)
    retries = app.value(check, "retries") or str(_RETRIES)
    if interval is None or start is None or start_interval is None:
        return
    if not re.fullmatch(r"[0-9]{1,9}", retries):
        return
    at = service.fields["healthcheck"].at
    first = min(interval, start_interval) if start else interval
    longest = start + interval * (int(retries) or _RETRIES)
    if first > AGENT_APP_SECONDS:
        yield Finding(
            Severity.ERROR,
            "slow-health",
            at,
            f"the first health check of service {service} runs after {first:g} s, but the agent "
            f"waits only {AGENT_APP_SECONDS} s for the whole app and then reports a failure",
            "shorten interval, add start_period with a start_interval, or raise "
            "EARLY_START_APP_SECONDS on the device",
        )
    elif longest > AGENT_APP_SECONDS:
        yield Finding(
            Severity.WARNING,
            "slow-health",
            at,
            f"the health checks of service {service} may take {longest:g} s (start_period + "
            f"interval times retries) to find a failure, but the agent waits only "
            f"{AGENT_APP_SECONDS} s for the whole app, and misses it",
            "shorten them, or raise EARLY_START_APP_SECONDS on the device",
        )


# Checking the files beside the compose file.


def _of_siblings(app: App) -> Iterator[tuple[Path, Finding]]:
    for name, how in _SIBLINGS.items():
        if app.has(name):
            yield (
                app.folder / name,
                Finding(
                    Severity.WARNING,
                    "other-file",
                    _FILE_START,
                    f"compose reads it {how} {COMPOSE_FILE}, but its images are neither pinned nor "
                    "preloaded, and aktualizr-lite does not recognize the running containers",
                    "remove it, or add it to .composeappignores",
                ),
            )
    environment = app.environment
    named = environment.values.get("COMPOSE_PROJECT_NAME")
    if named is not None and project_name(named) != app.name:
        yield (
            app.folder / ENV_FILE,
            Finding(
                Severity.WARNING,
                "project-name",
                Mark(environment.lines["COMPOSE_PROJECT_NAME"], 1),
                f"COMPOSE_PROJECT_NAME makes the compose project {quoted(project_name(named))}, "
                f"not {quoted(app.name)}: aktualizr-lite does not recognize the running "
                "containers, and creates new ones",
                "remove the line",
            ),
        )
    files = environment.values.get("COMPOSE_FILE", COMPOSE_FILE)
    if files != COMPOSE_FILE:
        yield (
            app.folder / ENV_FILE,
            Finding(
                Severity.WARNING,
                "other-file",
                Mark(environment.lines["COMPOSE_FILE"], 1),
                f"COMPOSE_FILE makes compose read files other than {COMPOSE_FILE}, whose images "
                "are neither pinned nor preloaded",
                "remove the line",
            ),
        )


def warn(folders: Sequence[Path]) -> None:
    """Print the errors and warnings for the apps in `folders` on stderr.

    A folder without a compose file is skipped. Raises `PreloadError` if one cannot be read.
    """
    apps = [App(folder) for folder in folders if (folder / COMPOSE_FILE).is_file()]
    shown = {
        file: [finding for finding in found if finding.severity is not Severity.NOTICE]
        for file, found in lint(apps).items()
    }
    listing.show({file: found for file, found in shown.items() if found}, "text", sys.stderr)


# The command


def add_command(commands: Subparsers) -> None:
    """Add `lint-apps` to the command line."""
    parser = commands.add_parser(
        "lint-apps",
        help="find what will not work on a device in the files of apps",
        description="Find errors and surprises in the files of the apps of a device. Apps that you "
        "name together are checked as the apps of one device.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="the folder of an app, or a folder of apps, such as a checkout of containers.git",
    )
    listing.add_option(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    return listing.show(lint(read(options.folders)), options.format)
