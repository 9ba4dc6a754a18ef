"""How long until a large image is back: the agent from its store, and `docker load` from a file.

Both on the same kind of engine (containerd image store), each on a fresh device, interleaved; the
table shows medians. The agent's load is what it tells of it; its whole run is from its start
to the last verdict, Python and compose included. A second app, whose image is there,
is preloaded too: what counts is that its start is not delayed by the loading.
"""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stores
from compose_apps_early_start import images
from compose_apps_early_start.store import Store
from stores import Builder, member
from virtual_device import Device, Tree, agent_layer, device_tree, samples

ROUNDS = 3
MEGABYTES = 2000
"""Unpacked: about half as many packed."""

LAYERS = 4
"""Every other one is compressible."""

_LAUNCHER = """
import json, resource
from compose_apps_early_start.cli import main
status = main(["start", "--settle-seconds", "0"])
print(json.dumps([status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


class Made:
    """On the host: the store, the same image as an archive, and the small image's archive."""

    def __init__(self, folder: Path, tree: Tree) -> None:
        busybox = (tree.layers[-1] / "usr/bin/busybox").read_bytes()
        base = stores.tar([member("bin/sleep", busybox, mode=0o755)])
        builder = Builder(folder / "reset-apps")
        layers = [base, *(_layer(number, MEGABYTES // LAYERS) for number in range(LAYERS))]
        large = builder.image("factory/large", layers)
        del layers
        small = builder.image("factory/small", [base])
        for name, image in {"large": large, "small": small}.items():
            services = {"web": {"image": image.reference, "restart": "always"}}
            text = samples.publish({"services": services}, {})
            builder.app_of_files(name, {"docker-compose.yml": text.encode()})
        self.store = builder.folder
        self.archive, self.small = folder / "large.tar", folder / "small.tar"
        store = Store(self.store)
        for app, image, file in (
            ("large", large, self.archive),
            ("small", small, self.small),
        ):
            (version,) = store.versions()[app]
            with file.open("wb") as stream:
                found = store.image(image.reference, version, None)
                for chunk in images.oci_layout(store, found, version):
                    stream.write(chunk)
        self.packed = sum(each.stat().st_size for each in builder.blobs.iterdir())


def _layer(number: int, megabytes: int) -> bytes:
    made = random.Random(number)
    if number % 2:
        data = b"".join(made.randbytes(1_000_000) for _ in range(megabytes))
    else:
        data = b"".join(made.randbytes(16) * 64 for _ in range(megabytes * 1000))[
            : megabytes * 1_000_000
        ]
    return stores.tar([member(f"data{number}", data)])


@contextmanager
def _booted(tree: Tree, made: Made) -> Iterator[Device]:
    """A device with dockerd running, and both files on the disk that docker's data are on."""
    with Device(tree) as device:
        device.path("/etc/docker").mkdir(exist_ok=True)
        features = {"features": {"containerd-snapshotter": True}}
        device.path("/etc/docker/daemon.json").write_text(json.dumps(features))
        shutil.copytree(made.store, device.path("/var/sota") / "reset-apps")
        for file in (made.archive, made.small):
            shutil.copy(file, device.path("/var/tmp"))
        os.sync()
        device.start_dockerd()
        device.run(["docker", "load", "--input", "/var/tmp/small.tar"])
        yield device


def docker_load(tree: Tree, made: Made) -> dict[str, float]:
    """Load the archive from a file."""
    with _booted(tree, made) as device:
        began = time.monotonic()
        device.run(["docker", "load", "--input", "/var/tmp/large.tar"])
        return {"seconds": time.monotonic() - began}


def agent(tree: Tree, made: Made, *apps: str) -> dict[str, float]:
    """Run the agent for `apps`, the small one among them."""
    with _booted(tree, made) as device:
        device.path("/var/lmp/default-apps").write_text(" ".join(apps))
        began = time.monotonic()
        run = device.run(["python3", "-c", _LAUNCHER])
        seconds = time.monotonic() - began
        status, megabytes = json.loads(run.stdout)
        if status != 0:
            raise SystemExit(f"the agent ended with {status}: {run.stderr}")
        up = re.search(r"^small: up, settling \(([0-9.]+) s\)", run.stderr, re.MULTILINE)
        assert up
        found = {"seconds": seconds, "megabytes": megabytes, "small": float(up[1])}
        loaded = re.search(r" is loaded \(([0-9.]+) s\)", run.stderr)
        return found | ({"loaded": float(loaded[1])} if loaded else {})


def measure(tree: Tree, made: Made, rounds: int) -> None:
    """Print the tables."""
    loads, both, alone = [], [], []
    for _ in range(rounds):
        loads.append(docker_load(tree, made))
        both.append(agent(tree, made, "large", "small"))
        alone.append(agent(tree, made, "small"))

    def median(runs: list[dict[str, float]], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    load, loaded = median(loads, "seconds"), median(both, "loaded")
    print(f"medians of {rounds} interleaved runs, {made.packed / 1e6:.0f} MB packed\n")
    print(
        "| `docker load` of the archive | agent, the load | ratio | agent, whole run | its memory |"
    )
    print("|---|---|---|---|---|")
    print(
        f"| {load:.1f} s | {loaded:.1f} s | {loaded / load:.2f} "
        f"| {median(both, 'seconds'):.1f} s | {median(both, 'megabytes'):.0f} MB |\n"
    )
    print("| another app, engine ready to up | alone | while the large image is loaded |")
    print("|---|---|---|")
    print(
        f"| its image is there | {median(alone, 'small'):.2f} s | {median(both, 'small'):.2f} s |"
    )


def main() -> None:
    """Make the devices' content, and measure."""
    top = Path(__file__).parents[2]
    deb = subprocess.check_output([top / "packaging/debian/build", top / "build"], text=True)
    tree = agent_layer(device_tree(), Path(deb.strip()))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        measure(tree, Made(Path(folder), tree), rounds)


if __name__ == "__main__":
    main()
