"""The agent, installed into the device's tree."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

from virtual_device import installation
from virtual_device.architecture import OWN
from virtual_device.cache import cached
from virtual_device.device import Device
from virtual_device.kernel import kernel
from virtual_device.tree import Tree


def agent_layer(tree: Tree, deb: Path) -> Tree:
    """Returns ``tree`` with the package file ``deb`` installed, offline.

    It is one more layer, but for a tree of another architecture than this machine's, which is made
    anew as a whole.

    Raises DeviceError, or MachineError if it is emulated, if dpkg fails, as it does if ``tree``
    lacks a dependency.
    """
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    inputs = [tree.key, digest, Path(__file__).read_text()]
    if tree.architecture != OWN:

        def build_emulated(folder: Path) -> None:
            its_kernel = kernel(tree.suite, tree.architecture)
            installation.install(its_kernel, tree.layers[0], folder / "root", deb)

        folder = cached(f"agent-{tree.name}", [*inputs, installation.KEY], build_emulated)
        return replace(tree, layers=(folder / "root",))

    def build(folder: Path) -> None:
        with Device(tree) as device:
            device.path("/tmp/agent.deb").write_bytes(deb.read_bytes())
            device.run(["dpkg", "--force-unsafe-io", "--install", "/tmp/agent.deb"])
            device.run(["rm", "/tmp/agent.deb"])
            upper = device.folder / "upper"
            subprocess.run(["cp", "-a", upper, folder / "root"], check=True)

    folder = cached(f"agent-{tree.name}", inputs, build)
    return replace(tree, layers=(folder / "root", *tree.layers))
