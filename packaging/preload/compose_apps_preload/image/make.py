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
from .preloader import SPARE_BYTES, Request, make


def add_command(commands: command.Subparsers) -> None:
    """Add `image` to the command line."""
    parser = commands.add_parser(
        "image",
        help="preload apps into a device's image",
        description="Preload apps into a copy of a device's image. The device can then start them "
        "without a network.",
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="IN",
        help="a .wic or .ext4 image, optionally compressed with gzip, xz or zstd; it is never "
        "modified",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="the image to make; it is compressed if its name ends in .gz, .xz or .zst",
    )
    add(
        "--app",
        action="append",
        default=[],
        dest="apps",
        metavar="DIR_OR_REF",
        help="an app: a folder with docker-compose.yml, or the reference of a published app "
        "(host/factory/app@sha256:…); may be given several times (default: the apps that the "
        "image's file installed_versions names)",
    )
    add(
        "--targets",
        type=Path,
        metavar="F",
        help="a targets.json file; the apps of one of its Targets are preloaded",
    )
    add("--target", metavar="NAME", help="with --targets: the name of the Target")
    add(
        "--replace",
        action="store_true",
        help="accept an image that is preloaded already; its apps stay, except those that you give "
        "anew",
    )
    add(
        "--remove",
        action="append",
        default=[],
        metavar="APP",
        help="remove an app from an image that is preloaded already; the others stay",
    )
    add(
        "--dry-run",
        action="store_true",
        help="only show what would be fetched, and how large it is",
    )
    add(
        "--arch",
        required=True,
        help="the architecture of the device, such as arm64, amd64 or arm/v7; aarch64, x86_64 and "
        "armhf are understood, too",
    )
    add(
        "--env",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="set a variable as publishing would, such as FACTORY or TAG",
    )
    add(
        "--app-type",
        choices=("restorable", "compose"),
        help="restorable includes the store from which the device can restore apps, compose "
        "leaves it out (default: restorable)",
    )
    add(
        "--no-docker-store",
        action="store_true",
        help="write only the restorable store, as builds with bitbake do; this needs neither root "
        "nor dockerd",
    )
    add(
        "--default-apps",
        type=command.app_list,
        metavar="A,B",
        help="the shortlist: which of the apps the device starts",
    )
    add(
        "--create",
        action="store_true",
        help="also create the containers of all apps, so that the device only starts them",
    )
    add(
        "--partition",
        type=int,
        metavar="N",
        help="the number of the partition with the root file system (default: it is found by its "
        "label or its content)",
    )
    add(
        "--spare",
        type=_size,
        default=SPARE_BYTES,
        metavar="SIZE",
        help="how much space to leave free in the root file system, such as 1G (default: 64M)",
    )
    add(
        "--factory-config",
        type=Path,
        metavar="F",
        help="a factory-config.yml; of the apps that you give, those that it names are preloaded",
    )
    add("--ref", metavar="R", help="with --factory-config: the branch, as refs/heads/<branch>")
    add("--build", choices=BUILDS, help="with --factory-config: the kind of CI build")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    privilege.drop()
    only, app_type = None, options.app_type or "restorable"
    if (options.targets is None) != (options.target is None):
        raise UsageError("--targets and --target go together", "give both")
    sources = list(options.apps)
    if options.targets:
        names = {app.name_of(source) for source in sources}
        target_apps = targets.apps(options.targets, options.target)
        sources += (uri for name, uri in target_apps.items() if name not in names)
    if options.factory_config:
        if not options.ref or not options.build:
            raise UsageError("--factory-config needs --ref and --build", "give all three")
        only, resolved_type = from_factory_config(
            options.factory_config, options.build, options.ref, sources
        )
        app_type = options.app_type or resolved_type
    if options.no_docker_store and app_type == "compose":
        raise UsageError(
            "the images of apps of type compose are only in docker's store",
            "leave out --no-docker-store, or use --app-type restorable",
        )
    if options.no_docker_store and options.create:
        raise UsageError(
            "containers are in docker's store",
            "leave out --create or --no-docker-store",
        )
    request = Request(
        source=options.source,
        target=options.output,
        sources=tuple(sources),
        platform=platforms.parse(options.arch),
        restorable=app_type == "restorable",
        docker=not options.no_docker_store,
        create=options.create,
        default_apps=options.default_apps,
        only=only,
        partition=options.partition,
        spare=options.spare,
        replace=options.replace,
        removed=tuple(options.remove),
        dry_run=options.dry_run,
        variables={**os.environ, **dict(options.env)},
    )
    os.umask(0o022)  # the image gets the modes of the staged files
    with command.ended_by_signals():
        make(request)
    return 0


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper().removesuffix("B").removesuffix("I"))
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 64M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def from_factory_config(
    file: Path, build: Build, ref: str, sources: Sequence[str]
) -> tuple[tuple[str, ...] | None, str]:
    """Return the names of the apps to preload, and their type, as a Factory's configuration says.

    None for the names means all apps. Raises `PreloadError` if nothing is to be preloaded, or if
    the file names an unknown app.
    """
    names = [app.name_of(source) for source in sources]
    resolution = resolve.resolve(factory_config.load(file), build, ref, names)
    for warning in resolution.warnings:
        print(f"compose-apps-preload: {warning}", file=sys.stderr)
    if not resolution.enabled:
        raise PreloadError(
            f"{file}: a {build} build of {ref} is not preloaded",
            "to see why, run compose-apps-preload resolve "
            f"{file} --build {build} --ref {ref} --explain",
        )
    if resolution.unknown_apps:
        # CI would continue without them; here, a forgotten --app is more likely.
        raise PreloadError(
            f"unknown app {resolution.unknown_apps[0]!r} in the shortlist of {file}",
            "add it with --app, or correct the shortlist",
        )
    return resolution.apps, resolution.app_type
