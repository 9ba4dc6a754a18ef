"""`verify`: read a preloaded image back, check every image of every app, and list all of it."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .. import command
from ..errors import PreloadError
from . import compression, disk, spdx, tool
from .contents import check
from .ext4 import FileSystem
from .layout import Layout
from .progress import megabytes, step
from .report import Report

SCHEMA = 1
"""Of the JSON; a number that grows when a field changes its meaning."""


def add_command(commands: command.Subparsers) -> None:
    """Add `verify` to the command line."""
    parser = commands.add_parser(
        "verify",
        help="check a preloaded image, and list what is in it",
        description="Check that every image of every app is in the stores of a preloaded image.",
        epilog="exit status: 0 all is there; 1 something is missing or damaged; 2 wrong usage",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help=".wic or .ext4, perhaps packed")
    parser.add_argument(
        "--format",
        choices=("text", "json", "spdx"),
        default="text",
        help="for people, the bill of materials as JSON, or as SPDX 2.3 in JSON (default: text)",
    )
    parser.add_argument(
        "--json",
        action="store_const",
        const="json",
        dest="format",
        help="the same as --format json",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    report = verify(options.image)
    if options.format == "json":
        print(json.dumps({"schema": SCHEMA, **asdict(report)}, indent=2))
    elif options.format == "spdx":
        print(json.dumps(spdx.document(report), indent=2))
        for problem in report.problems:
            print(f"compose-apps-preload: problem: {problem}", file=sys.stderr)
    else:
        print(text(report))
    return 1 if report.problems else 0


def verify(image: Path) -> Report:
    """Read the image back; raises `PreloadError` if it is none. Needs space in TMPDIR."""
    if not image.is_file():
        raise PreloadError(f"there is no image {image}", "give a .wic or .ext4 file")
    tool.check("debugfs", "sfdisk", *compression.programs(image, image))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        raw = image
        if compression.is_packed(image):
            raw = work / "disk"
            with step(f"unpacking {image.name}", compression.unpacked_size(image)) as shown:
                disk.unpack(image, raw, shown)
        partition = disk.find_root(raw)
        system = FileSystem(raw, partition.start)
        layout = Layout.find(system)
        report = Report(image.name, layout.var)
        with step("checking apps and images"):
            check(system, layout, work, report)
    return report


def text(report: Report) -> str:
    """Return the report for a person."""
    lines = [
        f"{report.image}: {len(report.apps)} apps; stores: {', '.join(report.stores) or 'none'}"
    ]
    if report.default_apps is not None:
        lines.append(f"default-apps: {', '.join(report.default_apps) or 'none'}")
    for each in report.apps:
        lines += ["", f"{each.name}  {each.uri or 'version unknown'}"]
        for image in each.images:
            lines.append(f"  {', '.join(image.services)}: {image.reference}")
            facts = (image.architecture or "?", image.config or "?", megabytes(image.size))
            lines.append(f"    {' '.join(facts)}, in: {', '.join(image.stores) or 'no store'}")
        if each.containers:
            lines.append(f"  containers made ahead: {', '.join(each.containers)}")
    lines += ["", *(f"problem: {problem}" for problem in report.problems)]
    return "\n".join(lines if report.problems else lines[:-1])
