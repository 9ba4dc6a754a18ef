"""`verify`: check every image of every app in a preloaded image, and list them."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .. import command
from ..errors import PreloadError
from . import compression, disk, spdx, tool
from .bom import BillOfMaterials
from .contents import check
from .ext4 import FileSystem
from .layout import Layout
from .progress import megabytes, step

SCHEMA = 1
"""The version of the JSON document. It grows when a key changes its meaning."""


def add_command(commands: command.Subparsers) -> None:
    """Add `verify` to the command line."""
    parser = commands.add_parser(
        "verify",
        help="check a preloaded image, and list its contents",
        description="Check that the stores of a preloaded image hold every image of every app.",
        epilog="exit status: 0 nothing is missing; 1 something is missing or damaged; "
        "2 wrong usage",
    )
    parser.add_argument(
        "image",
        type=Path,
        metavar="IMAGE",
        help="a .wic or .ext4 image, optionally compressed",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "spdx"),
        default="text",
        help="text for people, or the bill of materials as JSON or as SPDX 2.3 in JSON "
        "(default: text)",
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
    """Run the command; return the exit status."""
    bom = verify(options.image)
    if options.format == "json":
        print(json.dumps({"schema": SCHEMA, **asdict(bom)}, indent=2))
    elif options.format == "spdx":
        print(json.dumps(spdx.document(bom), indent=2))
        for problem in bom.problems:
            print(f"compose-apps-preload: problem: {problem}", file=sys.stderr)
    else:
        print(text(bom))
    return 1 if bom.problems else 0


def verify(image: Path) -> BillOfMaterials:
    """Read a preloaded image, which needs space in TMPDIR; raises `PreloadError` if it cannot."""
    if not image.is_file():
        raise PreloadError(f"{image} does not exist", "name a .wic or .ext4 file")
    tool.check("debugfs", "sfdisk", *compression.programs(image, image))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        raw = image
        if compression.is_packed(image):
            raw = work / "disk"
            with step(f"unpacking {image.name}", compression.unpacked_size(image)) as progress:
                disk.unpack(image, raw, progress)
        partition = disk.find_root(raw)
        system = FileSystem(raw, partition.start)
        layout = Layout.find(system)
        bom = BillOfMaterials(image.name, layout.var)
        with step("checking apps and images"):
            check(system, layout, work, bom)
    return bom


def text(bom: BillOfMaterials) -> str:
    """Return the bill of materials as text for people."""
    lines = [f"{bom.image}: {len(bom.apps)} apps; stores: {', '.join(bom.stores) or 'none'}"]
    if bom.default_apps is not None:
        lines.append(f"default-apps: {', '.join(bom.default_apps) or 'none'}")
    for app in bom.apps:
        lines += ["", f"{app.name}  {app.uri or 'version unknown'}"]
        for image in app.images:
            lines.append(f"  {', '.join(image.services)}: {image.reference}")
            facts = (image.architecture or "?", image.config or "?", megabytes(image.size))
            lines.append(f"    {' '.join(facts)}, in: {', '.join(image.stores) or 'no store'}")
        if app.containers:
            lines.append(f"  containers created ahead: {', '.join(app.containers)}")
    lines += ["", *(f"problem: {problem}" for problem in bom.problems)]
    return "\n".join(lines if bom.problems else lines[:-1])
