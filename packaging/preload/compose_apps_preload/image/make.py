"""`image`: put apps into a copy of a device's image, as `fioctl targets image` does."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .. import command
from ..configuration import factory_config, resolve
from ..configuration.factory_config import BUILDS, Build
from ..errors import PreloadError, UsageError
from . import app, disk, docker_store, oci, output, restorable
from .app import App
from .disk import Partition
from .ext4 import FileSystem, Tree, need
from .layout import Layout
from .progress import megabytes, step

SPARE_BYTES = 64 << 20
"""What stays free in the root file system: containers write before it grows at the first boot."""

_UNPACKED = 3
"""A guess: how much larger than what is packed is what it unpacks to."""

_GZIP_LEAST = 18  # bytes; header and trailer


@dataclass(frozen=True)
class Wish:
    """What is asked for. `sources` are folders and references of apps."""

    source: Path
    target: Path
    sources: tuple[str, ...]
    arch: str
    restorable: bool = True
    docker: bool = True
    default_apps: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    """Names of apps that are to be taken from `sources`; None: all of them."""


def add_command(commands: command.Subparsers) -> None:
    """Add `image` to the command line."""
    parser = commands.add_parser(
        "image",
        help="preload apps into a device's image",
        description="Preload apps into a copy of a device's image; offline devices start them.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="IN", help="a .wic or .ext4 image, perhaps .gz; only read")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="with .gz: compressed")
    add(
        "--app",
        action="append",
        required=True,
        dest="apps",
        metavar="DIR_OR_REF",
        help="a folder with docker-compose.yml, or a published app: host/factory/app@sha256:…",
    )
    add("--arch", required=True, help="of the device, as docker names it: arm64, amd64, arm/v7")
    add(
        "--app-type",
        choices=("restorable", "compose"),
        help="with or without the store that apps can be put back from (default: restorable)",
    )
    add(
        "--no-docker-store",
        action="store_true",
        help="the restorable store alone, as images preloaded by bitbake; needs no root",
    )
    add("--default-apps", type=command.app_list, metavar="A,B", help="what the device starts")
    add("--factory-config", type=Path, metavar="F", help="take the apps that this file names")
    add("--ref", metavar="R", help="with --factory-config: refs/heads/<branch>")
    add("--build", choices=BUILDS, help="with --factory-config")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    only, app_type = None, options.app_type or "restorable"
    if options.factory_config:
        if not options.ref or not options.build:
            raise UsageError("--factory-config needs --ref and --build", "give all three")
        only, resolved_type = from_factory_config(
            options.factory_config, options.build, options.ref, options.apps
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
        sources=tuple(options.apps),
        arch=options.arch,
        restorable=app_type == "restorable",
        docker=not options.no_docker_store,
        default_apps=options.default_apps,
        only=only,
    )
    os.umask(0o022)  # what is staged gets into the image with its modes
    with _ended_by_signals():
        make(wish)
    return 0


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


def make(wish: Wish) -> None:
    """Make the image; raises `PreloadError`, and then there is none."""
    _check_files(wish.source, wish.target)
    if wish.docker:
        docker_store.check()
    sources = _chosen(wish)
    with _workspace(wish.target) as work:
        with step("reading apps"):
            apps = [app.load(each, work / f"app-{number}") for number, each in enumerate(sources)]
            references = dict.fromkeys(reference for each in apps for reference in each.images)
            images = {reference: oci.find(reference, wish.arch) for reference in references}
        _check_space(wish, images, work)
        copy = work / "disk"
        with step(f"reading {wish.source.name}", _size_unpacked(wish.source)) as shown:
            disk.unpack(wish.source, copy, shown)
        partition = disk.find_root(copy)
        system = FileSystem(copy, partition.start)
        with step("checking the file system"):
            system.repair()
        layout = Layout.find(system)
        _check_empty(system, layout)
        stage = work / "var"
        blobs = stage / "sota/reset-apps/blobs" if wish.restorable else work / "blobs"
        with step("fetching images", _size(images.values())) as shown:
            for image in images.values():
                oci.fetch(image, blobs, work / "layout")
                shown.advance(_size([image]))
        _fill(stage, wish, apps, images, _installed(system, layout, apps))
        trees = [Tree(stage, layout.var)]
        with contextlib.ExitStack() as stack:
            if wish.docker:
                root = stack.enter_context(docker_store.filled(images.values(), blobs))
                trees.append(Tree(root, layout.docker, docker_store.PARTS, owned_by_root=False))
            partition = _with_room(partition, trees, work)
            with step("writing apps into the file system"):
                system.write(trees, work)
        with step("checking the file system"):
            system.repair()
        output.publish(copy, partition, wish.target, work, holes=wish.source.suffix != ".gz")


def _check_files(source: Path, target: Path) -> None:
    if not source.is_file():
        raise PreloadError(f"there is no image {source}", "give a .wic or .ext4 file")
    if not target.parent.is_dir():
        raise PreloadError(f"there is no folder {target.parent}", "make it first")
    if target.is_dir():
        raise PreloadError(f"{target} is a folder", "name the file to be made")
    if target.exists() and target.samefile(source):
        raise PreloadError(f"{target} is the input", "an input is never modified: name another")


def _chosen(wish: Wish) -> list[str]:
    """Return the sources of the apps to preload; raises `PreloadError` for unknown names."""
    sources: dict[str, str] = {}
    for source in wish.sources:
        name = app.name_of(source)
        if name in sources:
            raise PreloadError(f"app {name!r} is given twice", f"leave one --app {source} out")
        sources[name] = source
    names = list(sources) if wish.only is None else list(wish.only)
    for name in (*names, *(wish.default_apps or ())):
        if name not in sources or name not in names:
            raise PreloadError(
                f"unknown app {name!r}; these are to be preloaded: {', '.join(sources)}",
                "give it with --app, or correct its name",
            )
    return [sources[name] for name in names]


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """Lend a folder beside `target`, from where a file can be moved there in one step."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent or None))
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder)


def _size(images: Iterable[oci.Image]) -> int:
    """Return the bytes of all blobs, each counted once."""
    return sum(blob.size for blob in {blob for image in images for blob in image.blobs})


def _size_unpacked(source: Path) -> int:
    """Return the size in bytes of an image without its compression; a guess from 4 GiB on."""
    size = source.stat().st_size
    if source.suffix != ".gz" or size < _GZIP_LEAST:
        return size
    with source.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        told = int.from_bytes(stream.read(4), "little")  # modulo 4 GiB
    return told if told > size else _UNPACKED * size


def _check_space(wish: Wish, images: Mapping[str, oci.Image], work: Path) -> None:
    """Raise `PreloadError` if the folder of the output has not the space for all of it."""
    if wish.source.suffix == ".gz":
        copy = _size_unpacked(wish.source)
    else:
        copy = wish.source.stat().st_blocks * 512
    packed = _size(images.values())
    added = packed * (wish.restorable + wish.docker * _UNPACKED)
    needed = packed + copy + added
    if wish.target.suffix == ".gz":
        needed += wish.source.stat().st_size + packed * (wish.restorable + wish.docker)
    free = shutil.disk_usage(work).free
    if needed > free:
        raise PreloadError(
            f"{wish.target.parent.resolve()} has too little space: about {megabytes(needed)} are "
            f"needed for a while, {megabytes(free)} are free",
            "free some, or put the output elsewhere",
        )


def _check_empty(system: FileSystem, layout: Layout) -> None:
    for folder in (layout.compose_apps, f"{layout.reset_apps}/apps", f"{layout.docker}/image"):
        found = system.names(folder)
        if found:
            raise PreloadError(
                f"the image is preloaded already: {folder} holds {', '.join(sorted(found))}",
                "start from an image without apps",
            )


def _fill(
    stage: Path,
    wish: Wish,
    apps: Sequence[App],
    images: Mapping[str, oci.Image],
    installed: bytes | None,
) -> None:
    """Put into `stage` what is to lie in /var, but for docker's store."""
    for each in apps:
        app.unpack(each, stage / "sota/compose-apps" / each.name)
        if wish.restorable:
            restorable.add(stage / "sota/reset-apps", each, images)
    (stage / "sota").chmod(0o700)
    if installed is not None:
        (stage / "sota/import").mkdir()
        (stage / "sota/import/installed_versions").write_bytes(installed)
    if wish.default_apps is not None:
        (stage / "lmp").mkdir()
        text = "".join(f"{name}\n" for name in wish.default_apps)
        (stage / "lmp/default-apps").write_text(text)


def _installed(system: FileSystem, layout: Layout, apps: Sequence[App]) -> bytes | None:
    """Return the image's installed_versions with these apps in it; None if it has none.

    It tells aktualizr-lite, and the agent, which version of an app belongs to the image.
    """
    found = system.read(layout.installed_versions)
    if found is None:
        return None
    try:
        targets = json.loads(found)
        for target in targets.values():
            if target.get("is_current"):
                named = target.setdefault("custom", {}).setdefault("docker_compose_apps", {})
                named.update({each.name: {"uri": each.uri} for each in apps})
    except (ValueError, AttributeError) as error:
        raise PreloadError(
            f"{layout.installed_versions} in the image cannot be read: {error}",
            "was the image made by a Factory?",
        ) from error
    return json.dumps(targets).encode()


def _with_room(partition: Partition, trees: Sequence[Tree], work: Path) -> Partition:
    """Make the partition and its file system large enough for `trees`, if they are not."""
    superblock = FileSystem(partition.file, partition.start).superblock
    block = superblock.block_size
    needed = need(trees, block)
    blocks = needed.blocks + SPARE_BYTES // block - superblock.free_blocks
    if needed.inodes > superblock.free_inodes:
        groups = -(-(needed.inodes - superblock.free_inodes) // superblock.inodes_per_group)
        blocks = max(blocks, groups * superblock.blocks_per_group)
    if blocks <= 0:
        return partition
    # Each new group of blocks holds a table of inodes, two bitmaps, perhaps a superblock.
    table = superblock.inodes_per_group * superblock.inode_size // block + 2
    groups = blocks // (superblock.blocks_per_group - table) + 1
    size = (superblock.blocks + blocks + groups * table) * block
    if size > partition.size:
        partition = disk.enlarge(partition, size)
    with step("enlarging the file system"):
        _resize(partition, work)
    return partition


def _resize(partition: Partition, work: Path) -> None:
    """Let the file system fill its partition."""
    if not partition.start:
        FileSystem(partition.file).resize(partition.size)
        return
    # resize2fs knows no end of a partition in a file: it works on the partition alone.
    alone = work / "partition"
    disk.copy_range(partition.file, alone, skip=partition.start, seek=0, size=partition.size)
    FileSystem(alone).resize(partition.size)
    disk.copy_range(alone, partition.file, skip=0, seek=partition.start, size=partition.size)
    alone.unlink()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this like Ctrl-C does: nothing is left behind."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
