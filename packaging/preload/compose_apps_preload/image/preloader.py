"""Making a preloaded image: the steps, from what is asked for to the image in its place."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from compose_apps_early_start.settings import Settings

from ..apps import lint as lint_apps
from ..errors import PreloadError
from . import (
    app,
    architecture,
    compression,
    containers,
    disk,
    docker_store,
    held,
    oci,
    output,
    privilege,
    restorable,
    tool,
)
from .app import App
from .cache import Cache
from .containers import Making
from .contents import check, names_of
from .disk import Partition
from .ext4 import FileSystem, Tree, need
from .held import Held
from .layout import Layout
from .platforms import Platform
from .progress import megabytes, step
from .report import Report
from .skopeo import Registries

SPARE_BYTES = 64 << 20
"""What stays free in the root file system: containers write before it grows at the first boot."""

_UNPACKED = 3
"""A guess: how much larger than what is packed is what it unpacks to."""

_REMOVAL_SECONDS = 10.0
_SIDE_BY_SIDE = 6  # requests to registries
_PROGRAMS = (
    *("cp", "debugfs", "dumpe2fs", "e2fsck", "e2image", "fallocate", "resize2fs"),
    *("sfdisk", "skopeo"),
)


@dataclass(frozen=True)
class Wish:
    """What is asked for. `sources` are folders and references of apps."""

    source: Path
    target: Path
    sources: tuple[str, ...]
    platform: Platform
    restorable: bool = True
    docker: bool = True
    default_apps: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    """Names of apps that are to be taken from `sources`; None: all of them."""
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """What the images in apps' folders are interpolated with."""
    partition: int | None = None
    """The number of the root file system's partition; None: it is looked for."""
    spare: int = SPARE_BYTES
    """Bytes that stay free in the root file system."""
    replace: bool = False
    """Whether the image may be preloaded already: its apps stay, but for those of `sources`."""
    removed: tuple[str, ...] = ()
    """Names of apps that are preloaded already, and shall not be any longer."""
    create: bool = False
    """Whether the apps' containers are made, too; only with `docker`."""
    dry_run: bool = False
    """Whether to only tell what would be done, on standard output."""


def make(wish: Wish) -> None:
    """Make the image; raises `PreloadError`, and then there is none."""
    _check_files(wish.source, wish.target)
    # Whatever is missing is said before anything is fetched.
    tool.check(*_PROGRAMS, *compression.programs(wish.source, wish.target))
    engine = docker_store.check() if wish.docker and not wish.dry_run else None
    cache = Cache.of_user()
    with _workspace(wish.target) as work, cache.used():
        lint_apps.warn([Path(each) for each in wish.sources if Path(each).is_dir()])
        if wish.sources and not wish.replace and not wish.removed:
            _chosen(wish, {})  # what is wrong is said before the image is looked at
        copy = _unpacked(wish.source, work)
        partition = disk.find_root(copy or wish.source, wish.partition)
        system = FileSystem(partition.file, partition.start)
        layout = Layout.find(system)
        before = Held.read(system, layout)
        sources = _chosen(wish, _staying(wish, before))
        making = Making.for_image(system, layout) if wish.create else None
        _check_held(wish, before)
        if not before.is_empty:
            held.keep_blobs(system, layout, cache, work / "held")
        architecture.check(system, layout, wish.platform)
        registries = Registries(cache)
        with step("reading apps") as shown, _threads(registries) as pool:
            registries.advance = shown.advance
            apps = [
                pool.submit(app.load, each, work / f"app-{number}", registries, wish.variables)
                for number, each in enumerate(sources)
            ]
            loaded = [each.result() for each in apps]
            references = dict.fromkeys(reference for each in loaded for reference in each.images)
            images = {
                image.reference: image
                for image in pool.map(
                    lambda reference: oci.find(reference, wish.platform, registries), references
                )
            }
        _warn(images, wish.platform)
        if wish.dry_run:
            print(_plan(wish, partition, layout, loaded, images, cache))
            return
        _check_space(wish, images, work, cache)
        if copy is None:
            copy = work / "disk"
            with step(f"copying {wish.source.name}", wish.source.stat().st_size) as shown:
                disk.copy(wish.source, copy, shown)
            partition = partition.inside(copy)
            system = FileSystem(copy, partition.start)
        with step("checking the file system"):
            system.check()
        if not before.is_empty:
            with step("taking out what was preloaded"):
                held.remove(system, layout, before, work)
                # What was removed counts as free from now on.
                system.repair()
        stage = Settings(root=work / "root")
        blobs = stage.reset_apps / "blobs" if wish.restorable else work / "blobs"
        with (
            step("fetching images", _size(images.values())) as shown,
            _threads(registries) as pool,
        ):
            registries.advance = shown.advance
            list(pool.map(lambda image: oci.fetch(image, blobs, registries), images.values()))
        _fill(
            stage,
            wish,
            loaded,
            images,
            _installed(system, layout, loaded, wish.removed),
            _default_apps(wish, system, layout),
        )
        trees = [Tree(stage.root / "var", layout.var)]
        with contextlib.ExitStack() as stack:
            if engine:
                root = stack.enter_context(
                    docker_store.filled(
                        *(images.values(), blobs, stage.compose_apps, work / "docker"),
                        *(engine, making),
                    )
                )
                parts = docker_store.PARTS + (containers.PARTS if making else ())
                trees.append(Tree(root, layout.docker, parts, owned_by_root=False))
            partition = _with_room(partition, trees, wish.spare, work)
            with step("writing apps into the file system"):
                system.write(trees, work)
        with step("checking the file system"):
            system.repair()
        _verify(system, layout, loaded, wish, work)
        output.publish(copy, partition, wish.target, work)


def _check_files(source: Path, target: Path) -> None:
    if not source.exists():
        raise PreloadError(f"there is no image {source}", "give a .wic or .ext4 file")
    if not source.is_file():
        raise PreloadError(f"{source} is no plain file", "give a .wic or .ext4 file")
    if not target.parent.is_dir():
        raise PreloadError(f"there is no folder {target.parent}", "make it first")
    compression.check_name(target)
    for made in (target, output.bmap_name(target)):
        if made.is_dir():
            raise PreloadError(f"{made} is a folder", "name the file to be made")
        if made.exists() and not made.is_file():
            raise PreloadError(
                f"{made} is no plain file, and would be replaced by one",
                "name a file; bmaptool copy writes it to a device",
            )
        if made.exists() and made.samefile(source):
            raise PreloadError(
                f"{made} is the input, and would be overwritten",
                "an input is never modified: name another output",
            )


@contextlib.contextmanager
def _threads(registries: Registries) -> Iterator[ThreadPoolExecutor]:
    """Lend threads that read registries; if one fails, or all is interrupted, none goes on."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        try:
            yield pool
        except BaseException:
            registries.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _staying(wish: Wish, before: Held) -> Mapping[str, str]:
    """Return the sources of the apps that are the image's own, by name."""
    if before.is_empty:
        # The image says which apps belong to it: an image of a Target.
        return {} if wish.sources else before.installed
    given = {app.name_of(source) for source in wish.sources}
    unknown = [name for name in wish.removed if name not in before.apps]
    if unknown:
        raise PreloadError(
            f"unknown app {unknown[0]!r}; the image is preloaded with {', '.join(before.apps)}",
            "correct the name",
        )
    found = {}
    for name, uri in before.apps.items():
        if name in given or name in wish.removed:
            continue
        if uri is None and (wish.replace or wish.removed):
            raise PreloadError(
                f"nothing in the image tells the version of app {name!r}, which is to stay",
                f"give it with --app, or take it out with --remove {name}",
            )
        found[name] = str(uri)
    return found


def _chosen(wish: Wish, staying: Mapping[str, str]) -> list[str]:
    """Return the sources of the apps to preload; raises `PreloadError` for unknown names."""
    sources: dict[str, str] = {}
    for source in wish.sources:
        name = app.name_of(source)
        if name in sources:
            raise PreloadError(f"app {name!r} is given twice", f"leave one --app {source} out")
        sources[name] = source
    names = list(sources) if wish.only is None else list(wish.only)
    sources = {**staying, **sources}
    names += [name for name in staying if name not in names]
    if not names:
        raise PreloadError(
            "no app is to be preloaded, and the image names none of its own",
            "give apps with --app, or a Target's with --targets and --target",
        )
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
        with privilege.root():
            _remove(folder)


def _remove(folder: Path) -> None:
    # On Ctrl-C Python does not wait long for the program that it has killed, which may still write.
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _unpacked(source: Path, work: Path) -> Path | None:
    """Unpack a packed image; None for one that can be looked at where it is."""
    if not compression.is_packed(source):
        return None
    size = compression.unpacked_size(source)
    _check_free(work, size)
    with step(f"unpacking {source.name}", size) as shown:
        disk.unpack(source, work / "disk", shown)
    return work / "disk"


def _warn(images: Mapping[str, oci.Image], wanted: Platform) -> None:
    warnings = [
        f"{image.reference} has no {wanted.architecture}: {image.platform} is taken, as containerd "
        "does on the device"
        for image in images.values()
        if image.platform.architecture != wanted.architecture
    ]
    for warning in warnings:
        print(f"compose-apps-preload: warning: {warning}", file=sys.stderr)


def _size(images: Iterable[oci.Image]) -> int:
    """Return the bytes of all blobs, each counted once."""
    return sum(blob.size for blob in {blob for image in images for blob in image.blobs})


def _check_space(wish: Wish, images: Mapping[str, oci.Image], work: Path, cache: Cache) -> None:
    """Raise `PreloadError` if the folder of the output, or the cache, has too little space."""
    packed = _size(images.values())
    missing = packed - sum(
        blob.size
        for blob in {blob for image in images.values() for blob in image.blobs}
        if cache.has(blob)
    )
    needed = packed * (wish.restorable + wish.docker * _UNPACKED)
    if not compression.is_packed(wish.source):
        needed += wish.source.stat().st_blocks * 512
    if compression.of_name(wish.target):
        needed += wish.source.stat().st_size + packed * (wish.restorable + wish.docker)
    if cache.folder.stat().st_dev == work.stat().st_dev:
        needed += missing
    else:
        needed += packed
        _check_free(cache.folder, missing)
    _check_free(work, needed)


def _check_free(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        shown = folder.parent if folder.name.startswith(".") else folder
        raise PreloadError(
            f"{shown.resolve()} has too little space: about {megabytes(needed)} are "
            f"needed for a while, {megabytes(free)} are free",
            "free some, or put the output elsewhere",
        )


def _check_held(wish: Wish, before: Held) -> None:
    others = before.docker.intersection(containers.PARTS)
    if wish.create and others and (before.is_empty or "containers" not in others):
        raise PreloadError(
            f"docker in the image has {', '.join(sorted(others))} of its own already",
            "start from an image without, or leave --create out",
        )
    if before.is_empty:
        return
    if not wish.replace and not wish.removed:
        raise PreloadError(
            f"the image is preloaded already, with {', '.join(before.apps) or 'docker images'}",
            "start from an image without apps; or --replace keeps its apps, and adds or exchanges "
            "those that you give; or --remove APP takes one out",
        )


def _fill(
    stage: Settings,
    wish: Wish,
    apps: Sequence[App],
    images: Mapping[str, oci.Image],
    installed: bytes | None,
    default_apps: Sequence[str] | None,
) -> None:
    """Put into `stage` what is to lie in /var, but for docker's store."""
    for each in apps:
        app.unpack(each, stage.compose_apps / each.name)
        if wish.restorable:
            restorable.add(stage.reset_apps, each, images)
    stage.compose_apps.parent.chmod(0o700)
    if installed is not None:
        stage.installed_versions.parent.mkdir()
        stage.installed_versions.write_bytes(installed)
    if default_apps is not None:
        stage.default_apps.parent.mkdir()
        stage.default_apps.write_text("".join(f"{name}\n" for name in default_apps))


def _default_apps(wish: Wish, system: FileSystem, layout: Layout) -> Sequence[str] | None:
    """Return the shortlist to write; None: what is there stays, or there is none."""
    found = system.read(layout.default_apps)
    if wish.default_apps is not None or found is None or not wish.removed:
        return wish.default_apps
    return [name for name in names_of(found) if name not in wish.removed]


def _installed(
    system: FileSystem, layout: Layout, apps: Sequence[App], removed: Sequence[str]
) -> bytes | None:
    """Return the image's installed_versions with these apps in it; None if it has none.

    It tells aktualizr-lite, and the agent, which version of an app belongs to the image.
    """
    found = system.read(layout.installed_versions)
    if found is None:
        return None
    targets = json.loads(found)
    for target in held.current(targets):
        named = target.setdefault("custom", {}).setdefault("docker_compose_apps", {})
        for name in removed:
            named.pop(name, None)
        named.update({each.name: {"uri": each.uri} for each in apps})
    return json.dumps(targets).encode()


def _plan(
    wish: Wish,
    partition: Partition,
    layout: Layout,
    apps: Sequence[App],
    images: Mapping[str, oci.Image],
    cache: Cache,
) -> str:
    """Return, for a person, what would be done."""
    superblock = FileSystem(partition.file, partition.start).superblock
    free = superblock.free_blocks * superblock.block_size
    blobs = {blob for image in images.values() for blob in image.blobs}
    missing = sum(blob.size for blob in blobs if not cache.has(blob))
    packed = _size(images.values())
    bundles = sum(each.blobs[each.bundle].stat().st_size for each in apps)
    needed = bundles + packed * (wish.restorable + wish.docker * _UNPACKED) + wish.spare
    where = f"partition {partition.number}" if partition.number else "the whole image"
    label = f", labelled {partition.label!r}" if partition.label else ""
    lines = [f"root file system: {where}{label}; apps go into {layout.var}"]
    for each in apps:
        lines.append(f"{each.name}  {each.uri}")
        lines += (
            f"  {reference}  {images[reference].platform}, {megabytes(_size([images[reference]]))}"
            for reference in each.images
        )
    lines += (f"{name}  is taken out" for name in wish.removed)
    lines += ("the containers of all apps are made",) * wish.create
    lines.append(f"to fetch: {megabytes(missing)} of {megabytes(packed)}; the cache has the rest")
    lines.append(f"the image grows by about {megabytes(max(0, needed - free))}")
    return "\n".join(lines)


def _with_room(partition: Partition, trees: Sequence[Tree], spare: int, work: Path) -> Partition:
    """Make the partition and its file system large enough for `trees`, if they are not."""
    superblock = FileSystem(partition.file, partition.start).superblock
    block = superblock.block_size
    needed = need(trees, block)
    blocks = needed.blocks + spare // block - superblock.free_blocks
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


def _verify(
    system: FileSystem, layout: Layout, apps: Sequence[App], wish: Wish, work: Path
) -> None:
    """Read what was made back as `verify` does; raises `PreloadError` if anything is wrong."""
    report = Report(wish.target.name, layout.var)
    scratch = work / "read-back"
    scratch.mkdir()
    with step("checking apps and images"), privilege.root():
        check(system, layout, scratch, report)
        shutil.rmtree(scratch)
    problems = list(report.problems)
    stores = ("restorable",) * wish.restorable + ("docker",) * wish.docker
    if report.stores != stores or {each.name for each in report.apps} != {
        each.name for each in apps
    }:
        problems.append("not all apps, or not both stores, are in it")
    if wish.create and not all(each.containers for each in report.apps):
        problems.append("not all apps have containers in it")
    if problems:
        raise PreloadError(
            f"the image that was made is broken: {'; '.join(problems[:5])}",
            "nothing was written; is the disk sound? Then this is a bug: please report it",
        )
