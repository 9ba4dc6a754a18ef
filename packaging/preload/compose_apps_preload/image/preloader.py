"""Creation of a preloaded image: all steps, from the request to the finished file."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compose_apps_early_start import shortlist
from compose_apps_early_start.settings import Settings

from ..apps import lint as lint_apps
from ..errors import PreloadError
from . import (
    app,
    architecture,
    compression,
    containers,
    disk,
    docker_engine,
    docker_store,
    installed_versions,
    oci,
    output,
    preloaded,
    privilege,
    restorable,
    tool,
)
from .app import App
from .bom import BillOfMaterials
from .cache import Cache
from .containers import Creation
from .contents import check
from .disk import Partition
from .docker_store import DockerStore
from .ext4 import FileSystem, Tree, usage
from .layout import Layout
from .platforms import Platform
from .preloaded import Preloaded
from .progress import megabytes, step
from .skopeo import Registries

SPARE_BYTES = 64 << 20
"""Free space in the root file system. Containers write before it grows at the first boot."""

_EXPANSION = 3
"""An estimate of how much larger an image becomes when docker unpacks it."""

_REMOVAL_SECONDS = 10.0
_PROGRAMS = (
    *("cp", "debugfs", "dumpe2fs", "e2fsck", "e2image", "fallocate", "resize2fs"),
    *("sfdisk", "skopeo"),
)


@dataclass(frozen=True)
class Request:
    """The image to make. `sources` are folders and references of apps."""

    source: Path
    target: Path
    sources: tuple[str, ...]
    platform: Platform
    restorable: bool = True
    docker: bool = True
    default_apps: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    """The names of the apps to take from `sources`; None takes all of them."""
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """The variables for the compose files in apps' folders."""
    partition: int | None = None
    """The number of the partition with the root file system; None searches for it."""
    spare: int = SPARE_BYTES
    """How many bytes stay free in the root file system."""
    replace: bool = False
    """Whether the image may be preloaded already. Its apps stay, except those in `sources`."""
    removed: tuple[str, ...] = ()
    """The names of preloaded apps to remove."""
    create: bool = False
    """Whether the apps' containers are created, too; only with `docker`."""
    dry_run: bool = False
    """Whether to only print what would be done."""


def make(request: Request) -> None:
    """Make the image. Raises `PreloadError`; no image is left behind then."""
    _check_files(request.source, request.target)
    # Report missing programs before anything is fetched.
    tool.check(*_PROGRAMS, *compression.programs(request.source, request.target))
    engine = docker_store.check() if request.docker and not request.dry_run else None
    compose = docker_engine.compose() if request.create else None
    cache = Cache.of_user()
    with (
        _workspace(request.target) as work,
        cache.locked(),
        contextlib.ExitStack() as stack,
    ):
        lint_apps.warn([Path(source) for source in request.sources if Path(source).is_dir()])
        if request.sources and not request.replace and not request.removed:
            _selected_sources(request, {})  # report wrong names before the image is read
        copy = _unpacked(request.source, work)
        partition = disk.find_root(copy or request.source, request.partition)
        system = FileSystem(partition.file, partition.start)
        layout = Layout.find(system)
        existing = Preloaded.read(system, layout)
        sources = _selected_sources(request, _kept_sources(request, existing))
        creation = Creation.for_image(compose, system, layout) if compose else None
        _check_preloaded(request, existing)
        if not existing.is_empty:
            preloaded.keep_blobs(system, layout, cache, work / "kept")
        architecture.check(system, layout, request.platform)
        registries = Registries(cache)
        with step("reading apps") as progress, registries.threads() as pool:
            registries.advance = progress.advance
            loads = [
                pool.submit(app.load, source, work / f"app-{number}", registries, request.variables)
                for number, source in enumerate(sources)
            ]
            apps = [load.result() for load in loads]
            references = dict.fromkeys(reference for each in apps for reference in each.images)
            images = {
                image.reference: image
                for image in pool.map(
                    lambda reference: oci.find(reference, request.platform, registries), references
                )
            }
        _warn(images, request.platform)
        if request.dry_run:
            print(_plan(request, partition, layout, apps, images, cache))
            return
        _check_space(request, images, work, cache)
        staging = Settings(root=work / "root")
        blobs = staging.reset_apps / "blobs" if request.restorable else work / "blobs"
        store = None
        if engine:
            store = DockerStore(
                *(images.values(), blobs, staging.compose_apps, work / "docker"), cache, creation
            )
            stack.enter_context(store.begun(engine))
        if copy is None:
            copy = work / "disk"
            with step(f"copying {request.source.name}", request.source.stat().st_size) as progress:
                disk.copy(request.source, copy, progress)
            partition = partition.in_copy(copy)
            system = FileSystem(copy, partition.start)
        with step("checking the file system"):
            system.check()
        if not existing.is_empty:
            with step("removing the old apps"):
                preloaded.remove(system, layout, existing, work)
                # This makes the removed blocks count as free.
                system.repair()
        with (
            step("fetching images", _size(images.values())) as progress,
            registries.threads() as pool,
        ):
            registries.advance = progress.advance
            list(pool.map(lambda image: oci.fetch(image, blobs, registries), images.values()))
        _stage(
            staging,
            request,
            apps,
            images,
            _installed(system, layout, apps, request.removed),
            _default_apps(request, system, layout),
        )
        trees = [Tree(staging.root / "var", layout.var)]
        with store.filled() if store else contextlib.nullcontext() as root:
            if root:
                folders = docker_store.IMAGE_FOLDERS + (containers.FOLDERS if creation else ())
                trees.append(Tree(root, layout.docker, folders, owned_by_root=False))
            partition = _make_room(partition, trees, request.spare, work)
            with step("writing apps into the file system"):
                system.write(trees, work)
        with step("checking the file system"):
            system.repair()
        _verify(system, layout, apps, request, work)
        output.publish(copy, partition, request.target, work)
        if store:
            store.keep()


def _check_files(source: Path, target: Path) -> None:
    if not source.exists():
        raise PreloadError(f"{source} does not exist", "name a .wic or .ext4 file")
    if not source.is_file():
        raise PreloadError(f"{source} is not a regular file", "name a .wic or .ext4 file")
    if not target.parent.is_dir():
        raise PreloadError(f"the folder {target.parent} does not exist", "create it first")
    compression.check_name(target)
    for made in (target, output.bmap_name(target)):
        if made.is_dir():
            raise PreloadError(f"{made} is a folder", "name the file to make")
        if made.exists() and not made.is_file():
            raise PreloadError(
                f"{made} is not a regular file, and would be replaced by one",
                "name a file; then write it to a device with bmaptool copy",
            )
        if made.exists() and made.samefile(source):
            raise PreloadError(
                f"{made} is the input image, and would be overwritten",
                "name another output; the input is never modified",
            )


def _kept_sources(request: Request, existing: Preloaded) -> Mapping[str, str]:
    """Return the sources of the apps that the image itself determines, by name."""
    if existing.is_empty:
        # An image that belongs to a Target names the apps of this Target.
        return {} if request.sources else existing.installed
    named = {app.name_of(source) for source in request.sources}
    unknown = [name for name in request.removed if name not in existing.apps]
    if unknown:
        raise PreloadError(
            f"unknown app {unknown[0]!r}; the image is preloaded with {', '.join(existing.apps)}",
            "correct the name",
        )
    found = {}
    for name, uri in existing.apps.items():
        if name in named or name in request.removed:
            continue
        if uri is None and (request.replace or request.removed):
            raise PreloadError(
                f"app {name!r} is to stay, but nothing in the image says which version it is",
                f"give it with --app, or remove it with --remove {name}",
            )
        found[name] = str(uri)
    return found


def _selected_sources(request: Request, kept: Mapping[str, str]) -> list[str]:
    """Return the sources of the apps to preload; raises `PreloadError` for unknown names."""
    sources: dict[str, str] = {}
    for source in request.sources:
        name = app.name_of(source)
        if name in sources:
            raise PreloadError(f"app {name!r} is given twice", f"leave out one --app {source}")
        sources[name] = source
    names = list(sources) if request.only is None else list(request.only)
    sources = {**kept, **sources}
    names += [name for name in kept if name not in names]
    if not names:
        raise PreloadError(
            "there is no app to preload: none is given, and the image names none",
            "give apps with --app, or a Target with --targets and --target",
        )
    for name in (*names, *(request.default_apps or ())):
        if name not in sources or name not in names:
            raise PreloadError(
                f"unknown app {name!r}; the apps to preload are {', '.join(sources)}",
                "add it with --app, or correct the name",
            )
    return [sources[name] for name in names]


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target`. A file in it can be moved to `target` in one step."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent or None))
    try:
        yield folder.resolve()
    finally:
        with privilege.root():
            _remove(folder)


def _remove(folder: Path) -> None:
    # On Ctrl-C, Python waits only briefly for the program it has killed, which may still write.
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _unpacked(source: Path, work: Path) -> Path | None:
    """Decompress an image; return None if it is not compressed and can be read in place."""
    if not compression.is_packed(source):
        return None
    size = compression.unpacked_size(source)
    _check_free(work, size)
    with step(f"unpacking {source.name}", size) as progress:
        disk.unpack(source, work / "disk", progress)
    return work / "disk"


def _warn(images: Mapping[str, oci.Image], wanted: Platform) -> None:
    warnings = [
        f"{image.reference} does not support {wanted.architecture}: using {image.platform}, as "
        "containerd does on the device"
        for image in images.values()
        if image.platform.architecture != wanted.architecture
    ]
    for warning in warnings:
        print(f"compose-apps-preload: warning: {warning}", file=sys.stderr)


def _size(images: Iterable[oci.Image]) -> int:
    """Return the size of all blobs in bytes; each blob counts once."""
    return sum(blob.size for blob in {blob for image in images for blob in image.blobs})


def _check_space(
    request: Request, images: Mapping[str, oci.Image], work: Path, cache: Cache
) -> None:
    """Raise `PreloadError` if the output's folder or the cache has too little space."""
    packed = _size(images.values())
    missing = packed - sum(
        blob.size
        for blob in {blob for image in images.values() for blob in image.blobs}
        if cache.has(blob)
    )
    needed = packed * (request.restorable + request.docker * _EXPANSION)
    if not compression.is_packed(request.source):
        needed += request.source.stat().st_blocks * 512
    if compression.of_name(request.target):
        needed += request.source.stat().st_size + packed * (request.restorable + request.docker)
    if cache.folder.stat().st_dev == work.stat().st_dev:
        needed += missing
    else:
        needed += packed
        _check_free(cache.folder, missing)
    _check_free(work, needed)


def _check_free(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        location = folder.parent if folder.name.startswith(".") else folder
        raise PreloadError(
            f"{location.resolve()} has too little space: the run needs about "
            f"{megabytes(needed)}, {megabytes(free)} are free",
            "free some space, or write the output elsewhere",
        )


def _check_preloaded(request: Request, existing: Preloaded) -> None:
    others = existing.docker.intersection(containers.FOLDERS)
    if request.create and others and (existing.is_empty or "containers" not in others):
        raise PreloadError(
            f"docker in the image already has {', '.join(sorted(others))} of its own",
            "start from an image without them, or leave out --create",
        )
    if existing.is_empty:
        return
    if not request.replace and not request.removed:
        raise PreloadError(
            f"the image is preloaded already, with {', '.join(existing.apps) or 'docker images'}",
            "start from an image without apps; or add or replace apps with --replace; or remove "
            "one with --remove APP",
        )


def _stage(
    staging: Settings,
    request: Request,
    apps: Sequence[App],
    images: Mapping[str, oci.Image],
    installed: bytes | None,
    default_apps: Sequence[str] | None,
) -> None:
    """Put into `staging` all files for /var, except docker's store."""
    for each in apps:
        app.unpack(each, staging.compose_apps / each.name)
        if request.restorable:
            restorable.add(staging.reset_apps, each, images)
    staging.compose_apps.parent.chmod(0o700)
    if installed is not None:
        staging.installed_versions.parent.mkdir()
        staging.installed_versions.write_bytes(installed)
    if default_apps is not None:
        staging.default_apps.parent.mkdir()
        staging.default_apps.write_text("".join(f"{name}\n" for name in default_apps))


def _default_apps(request: Request, system: FileSystem, layout: Layout) -> Sequence[str] | None:
    """Return the shortlist to write; None leaves the image's shortlist as it is."""
    found = system.read(layout.default_apps)
    if request.default_apps is not None or found is None or not request.removed:
        return request.default_apps
    return [name for name in shortlist.parse(found) if name not in request.removed]


def _installed(
    system: FileSystem, layout: Layout, apps: Sequence[App], removed: Sequence[str]
) -> bytes | None:
    """Return the image's installed_versions with these apps added; None if it has no such file.

    The file tells aktualizr-lite and the agent which version of an app belongs to the image.
    """
    found = system.read(layout.installed_versions)
    if found is None:
        return None
    return installed_versions.updated(found, {each.name: each.uri for each in apps}, removed)


def _plan(
    request: Request,
    partition: Partition,
    layout: Layout,
    apps: Sequence[App],
    images: Mapping[str, oci.Image],
    cache: Cache,
) -> str:
    """Return a description of what would be done."""
    superblock = FileSystem(partition.file, partition.start).superblock
    free = superblock.free_blocks * superblock.block_size
    blobs = {blob for image in images.values() for blob in image.blobs}
    missing = sum(blob.size for blob in blobs if not cache.has(blob))
    packed = _size(images.values())
    bundles = sum(each.blobs[each.bundle].stat().st_size for each in apps)
    needed = bundles + packed * (request.restorable + request.docker * _EXPANSION) + request.spare
    where = f"partition {partition.number}" if partition.number else "the whole image"
    label = f", labelled {partition.label!r}" if partition.label else ""
    lines = [f"root file system: {where}{label}; apps are written to {layout.var}"]
    for each in apps:
        lines.append(f"{each.name}  {each.uri}")
        lines += (
            f"  {reference}  {images[reference].platform}, {megabytes(_size([images[reference]]))}"
            for reference in each.images
        )
    lines += (f"{name}  is removed" for name in request.removed)
    lines += ("the containers of all apps are created",) * request.create
    lines.append(f"to fetch: {megabytes(missing)} of {megabytes(packed)}; the rest is in the cache")
    lines.append(f"the image grows by about {megabytes(max(0, needed - free))}")
    return "\n".join(lines)


def _make_room(partition: Partition, trees: Sequence[Tree], spare: int, work: Path) -> Partition:
    """Enlarge the partition and its file system if `trees` need more space."""
    superblock = FileSystem(partition.file, partition.start).superblock
    block = superblock.block_size
    needed = usage(trees, block)
    blocks = needed.blocks + spare // block - superblock.free_blocks
    if needed.inodes > superblock.free_inodes:
        groups = -(-(needed.inodes - superblock.free_inodes) // superblock.inodes_per_group)
        blocks = max(blocks, groups * superblock.blocks_per_group)
    if blocks <= 0:
        return partition
    # Each new block group has an inode table, two bitmaps, and perhaps a superblock.
    table = superblock.inodes_per_group * superblock.inode_size // block + 2
    groups = blocks // (superblock.blocks_per_group - table) + 1
    size = (superblock.blocks + blocks + groups * table) * block
    if size > partition.size:
        partition = disk.enlarge(partition, size)
    with step("enlarging the file system"):
        _resize(partition, work)
    return partition


def _resize(partition: Partition, work: Path) -> None:
    """Grow the file system to the size of its partition."""
    if not partition.start:
        FileSystem(partition.file).resize(partition.size)
        return
    # resize2fs cannot be told where a partition ends inside an image file, so it gets a copy of
    # the partition alone.
    alone = work / "partition"
    disk.copy_range(partition.file, alone, skip=partition.start, seek=0, size=partition.size)
    FileSystem(alone).resize(partition.size)
    disk.copy_range(alone, partition.file, skip=0, seek=partition.start, size=partition.size)
    alone.unlink()


def _verify(
    system: FileSystem, layout: Layout, apps: Sequence[App], request: Request, work: Path
) -> None:
    """Check the new image as `verify` does; raise `PreloadError` if anything is wrong."""
    bom = BillOfMaterials(request.target.name, layout.var)
    scratch = work / "read-back"
    scratch.mkdir()
    with step("checking apps and images"), privilege.root():
        # dockerd decompresses the same layers, and compares them with the configs.
        check(system, layout, scratch, bom, unpack=not request.docker)
        shutil.rmtree(scratch)
    problems = list(bom.problems)
    stores = ("restorable",) * request.restorable + ("docker",) * request.docker
    if bom.stores != stores or {each.name for each in bom.apps} != {each.name for each in apps}:
        problems.append("apps or a store are missing in it")
    if request.create and not all(each.containers for each in bom.apps):
        problems.append("not all apps have containers in it")
    if problems:
        raise PreloadError(
            f"the new image is broken: {'; '.join(problems[:5])}",
            "nothing was written; check the disk, and if it is sound, please report this bug",
        )
