"""How long it takes to preload an image, against copying and compressing the same bytes.

An app of one image, whose layers unpack to `--megabytes` of programs and libraries, is put into a
device's image. Beside it: the bytes that this adds to the image are copied, and compressed by pigz,
and nothing else. On a busy machine the ratio of processor time says more than that of the clock.
"""

import argparse
import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preload_image import device_image
from preload_image.examples import app, arguments
from preload_image.registry import Registry, archive, configure_skopeo, serve
from virtual_device import device_tree
from virtual_device.cache import home as cache_home

_LAYERS = 20
_SAMPLE_SECONDS = 0.1
_WAYS: Mapping[str, tuple[str, ...]] = {
    "restorable store": ("--no-docker-store",),
    "docker's store": ("--app-type", "compose"),
    "both": (),
}


@dataclass(frozen=True)
class Measured:
    """Seconds, on the clock and of processors, and the most memory in bytes.

    `own` is that of the program itself, `largest` that of the largest process.
    """

    seconds: float
    processors: float
    own: int
    largest: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2600, help="in the layers")
    parser.add_argument("--way", choices=_WAYS, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=cache_home()) as scratch, _registry(Path(scratch)) as to:
        folder = Path(scratch)
        # In a process of its own: what this one takes would count as its children's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            reference = pool.apply(_push, (to.port, options.megabytes, folder))
        packed, unpacked = folder / "packed", folder / "unpacked"
        source = device_image.ext4(folder / "in.ext4", ostree=False)
        big = app(folder / "big", f"services:\n  one:\n    image: {reference}\n")
        size = sum(path.stat().st_size for path in packed.iterdir())
        print(f"{size / 1e6:.0f} MB of packed layers\n")
        head = ("image", 10), ("floor", 10), ("ratio", 8), ("processors", 12), ("memory", 14)
        print(" " * 18 + "".join(name.rjust(width) for name, width in head) + "largest".rjust(12))
        for way in options.way or _WAYS:
            target = folder / "out.ext4.gz"
            argv, environment = arguments(
                *("image", source, "--app", big, "--arch", "arm64", "-o", target), *_WAYS[way]
            )
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # all is fetched
            measured = _measured(argv, environment)
            added = {
                "restorable store": [packed],
                "docker's store": [unpacked],
                "both": [packed, unpacked],
            }[way]
            floor, floor_processors = _floor(added, folder / "floor")
            clock = measured.seconds / floor
            processors = measured.processors / floor_processors
            print(
                f"{way:18}{measured.seconds:8.1f} s{floor:8.1f} s{clock:8.2f}"
                f"{processors:12.2f}"
                f"{measured.own / 1e6:11.0f} MB{measured.largest / 1e6:9.0f} MB",
                flush=True,
            )
            target.unlink()
    return 0


@contextmanager
def _registry(scratch: Path) -> Iterator[Registry]:
    (scratch / "registry").mkdir()
    os.environ.setdefault("XDG_CACHE_HOME", str(cache_home().parent))
    os.environ["HOME"] = str(scratch)
    with serve(device_tree().tools / "usr/bin/docker-registry", scratch / "registry") as registry:
        configure_skopeo(scratch, registry.port)
        yield registry


def _push(port: int, megabytes: int, folder: Path) -> str:
    """Push the image, return its reference; leave its layers in `packed`, unpacked beside it."""
    for name in ("packed", "unpacked"):
        (folder / name).mkdir()

    def layers() -> Iterator[bytes]:
        programs = _programs(megabytes * 1_000_000 // _LAYERS)
        for number, data in zip(range(_LAYERS), programs, strict=False):
            (folder / f"unpacked/{number}").write_bytes(data)
            yield archive({f"data-{number}": data})

    reference = Registry(port, folder / "registry").push_image(
        "factory/big", {"arm64": layers()}, index=False
    )
    for number, blob in enumerate(sorted(folder.glob("registry/docker/**/blobs/**/data"))):
        shutil.copy(blob, folder / "packed" / str(number))
    return reference


def _programs(size: int) -> Iterator[bytes]:
    """Yield `size` bytes at a time of what lies in a device's tree, over and over."""
    top = device_tree().layers[-1] / "usr"
    files = sorted(path for path in top.rglob("*") if path.is_file() and not path.is_symlink())
    data = bytearray()
    for file in itertools.cycle(files):
        data += file.read_bytes()
        while len(data) >= size:
            yield bytes(data[:size])
            del data[:size]


def _measured(argv: list[str], environment: dict[str, str]) -> Measured:
    began = time.monotonic()
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
    peaks = [0]

    def watch() -> None:
        while True:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
            if not found:
                return  # it has ended
            peaks[0] = max(peaks[0], *found)
            time.sleep(_SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stderr
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        sys.exit(said)
    processors = usage.ru_utime + usage.ru_stime
    return Measured(seconds, processors, peaks[0], usage.ru_maxrss * 1024)


def _floor(folders: list[Path], target: Path) -> tuple[float, float]:
    """Copy and compress what lies in folders; return the seconds, clock and processors."""
    began, used = time.monotonic(), sum(os.times()[:4])
    for folder in folders:
        subprocess.run(["cp", "-r", folder, target], check=True)
        with (
            target.with_suffix(".gz").open("wb") as packed,
            subprocess.Popen(["pigz", "-n", "-c"], stdin=subprocess.PIPE, stdout=packed) as process,
        ):
            for file in sorted(target.iterdir()):
                with file.open("rb") as stream:
                    assert process.stdin
                    shutil.copyfileobj(stream, process.stdin, 1 << 20)
        shutil.rmtree(target)
        os.sync()
    return time.monotonic() - began, sum(os.times()[:4]) - used


if __name__ == "__main__":
    sys.exit(main())
