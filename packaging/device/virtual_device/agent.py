"""The agent, installed into the device's tree."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

from virtual_device.cache import cached
from virtual_device.device import Device
from virtual_device.tree import Tree


def agent_layer(tree: Tree, deb: Path) -> Tree:
    """Returns ``tree`` with the package file ``deb`` installed, offline, as one more layer.

    Raises DeviceError if dpkg fails, as it does if ``tree`` lacks a dependency.
    """

    def build(folder: Path) -> None:
        with Device(tree) as device:
            device.path("/tmp/agent.deb").write_bytes(deb.read_bytes())
            device.run(["dpkg", "--force-unsafe-io", "--install", "/tmp/agent.deb"])
            device.run(["rm", "/tmp/agent.deb"])
            upper = device.folder / "upper"
            subprocess.run(["cp", "-a", upper, folder / "root"], check=True)

    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    folder = cached(f"agent-{tree.suite}", [tree.key, digest, Path(__file__).read_text()], build)
    return replace(tree, layers=(folder / "root", *tree.layers))
