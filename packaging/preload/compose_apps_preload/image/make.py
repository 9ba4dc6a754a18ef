"""`image`: put apps into a copy of a device's image, as `fioctl targets image` does."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import command
from ..configuration import factory_config, resolve
from ..configuration.factory_config import BUILDS, Build
from ..errors import PreloadError, UsageError
from . import app, platforms, privilege, targets
from .preloader import SPARE_BYTES, Wish, make


def add_command(commands: command.Subparsers) -> None:
    """Add `image` to the command line."""
    parser = commands.add_parser(
        "image",
        help="preload apps into a device's image",
        description="Preload apps into a copy of a device's image; offline devices start them.",
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="IN",
        help="a .wic or .ext4 image, perhaps packed by gzip, xz or zstd; it is only read",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="the image to make; packed if its name ends in .gz, .xz or .zst",
    )
    add(
        "--app",
        action="append",
        default=[],
        dest="apps",
        metavar="DIR_OR_REF",
        help="a folder with docker-compose.yml, or a published app: host/factory/app@sha256:…; "
        "without any, the apps that the image's own installed_versions names",
    )
    add("--targets", type=Path, metavar="F", help="a targets.json: take the apps of a Target of it")
    add("--target", metavar="NAME", help="with --targets")
    add(
        "--replace",
        action="store_true",
        help="the image may be preloaded already: its apps stay, but for those that are given",
    )
    add(
        "--remove",
        action="append",
        default=[],
        metavar="APP",
        help="take an app out of an image that is preloaded already; the others stay",
    )
    add("--dry-run", action="store_true", help="only tell what would be fetched, and how large")
    add("--arch", required=True, help="of the device: arm64, amd64, arm/v7; aarch64, x86_64, armhf")
    add(
        "--env",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="a variable that publishing would know, such as FACTORY or TAG",
    )
    add(
        "--app-type",
        choices=("restorable", "compose"),
        help="with or without the store that apps can be put back from (default: restorable)",
    )
    add(
        "--no-docker-store",
        action="store_true",
        help="the restorable store alone, as bitbake preloads it; needs no root and no dockerd",
    )
    add("--default-apps", type=command.app_list, metavar="A,B", help="what the device starts")
    add(
        "--partition",
        type=int,
        metavar="N",
        help="the partition of the root file system (default: by label, then by what is in it)",
    )
    add(
        "--spare",
        type=_size,
        default=SPARE_BYTES,
        metavar="SIZE",
        help="what stays free in the root file system, such as 64M (the default) or 1G",
    )
    add("--factory-config", type=Path, metavar="F", help="take the apps that this file names")
    add("--ref", metavar="R", help="with --factory-config: refs/heads/<branch>")
    add("--build", choices=BUILDS, help="with --factory-config")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    privilege.drop()
    only, app_type = None, options.app_type or "restorable"
    if (options.targets is None) != (options.target is None):
        raise UsageError("--targets and --target go together", "give both")
    sources = list(options.apps)
    if options.targets:
        given = {app.name_of(source) for source in sources}
        found = targets.apps(options.targets, options.target)
        sources += (uri for name, uri in found.items() if name not in given)
    if options.factory_config:
        if not options.ref or not options.build:
            raise UsageError("--factory-config needs --ref and --build", "give all three")
        only, resolved_type = from_factory_config(
            options.factory_config, options.build, options.ref, sources
        )
        app_type = options.app_type or resolved_type
    if options.no_docker_store and app_type == "compose":
        raise UsageError(
            "apps of type compose have their images in docker's store only",
            "leave --no-docker-store out, or take --app-type restorable",
        )
    wish = Wish(
        source=options.source,
        target=options.output,
        sources=tuple(sources),
        platform=platforms.parse(options.arch),
        restorable=app_type == "restorable",
        docker=not options.no_docker_store,
        default_apps=options.default_apps,
        only=only,
        partition=options.partition,
        spare=options.spare,
        replace=options.replace,
        removed=tuple(options.remove),
        dry_run=options.dry_run,
        variables={**os.environ, **dict(options.env)},
    )
    os.umask(0o022)  # what is staged gets into the image with its modes
    with command.ended_by_signals():
        make(wish)
    return 0


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper().removesuffix("B").removesuffix("I"))
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 64M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def from_factory_config(
    file: Path, build: Build, ref: str, sources: Sequence[str]
) -> tuple[tuple[str, ...] | None, str]:
    """Return the names of the apps to preload and their type, by a factory's configuration.

    Raises `PreloadError` if the file says that nothing is preloaded, or names an unknown app.
    """
    names = [app.name_of(source) for source in sources]
    resolution = resolve.resolve(factory_config.load(file), build, ref, names)
    for warning in resolution.warnings:
        print(f"compose-apps-preload: {warning}", file=sys.stderr)
    if not resolution.enabled:
        raise PreloadError(
            f"by {file} a {build} build of {ref} is not preloaded",
            f"compose-apps-preload resolve {file} --build {build} --ref {ref} --explain says why",
        )
    if resolution.unknown_apps:
        # CI would go on without them; here it is more likely that --app was forgotten.
        raise PreloadError(
            f"unknown app {resolution.unknown_apps[0]!r} in the shortlist of {file}",
            "give it with --app, or correct the shortlist",
        )
    return resolution.apps, resolution.app_type
