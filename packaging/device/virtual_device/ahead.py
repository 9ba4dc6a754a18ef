"""Containers that are created ahead, as ``compose-apps-preload image --create`` makes them."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from compose_apps_preload.image import containers, docker_store

from virtual_device import samples
from virtual_device.cache import cached
from virtual_device.device import Device
from virtual_device.samples import Preload
from virtual_device.tree import Tree, device_tree

PARTS = (*docker_store.IMAGE_FOLDERS, *containers.FOLDERS)


def made(tree: Tree, store: Preload, apps: Mapping[str, Mapping[str, str]]) -> Preload:
    """Returns ``store`` with the containers of ``apps``, created and never started.

    ``apps``: name to the files of its bundle. docker and compose are those of the suite of
    ``tree``, for this machine. Raises DeviceError.
    """
    base = device_tree(tree.suite)

    def build(folder: Path) -> None:
        with Device(base, preload=store.docker) as device:
            device.start_dockerd()
            for name, files in apps.items():
                samples.install(device, name, files)
                argv = ["docker", "compose", "create", "--pull", "never", "--no-build"]
                device.run(argv, cwd=f"/var/sota/compose-apps/{name}")
            device.stop_dockerd()
            # Without docker's default network, as the host tool does it.
            device.start_dockerd("--bridge=none")
            device.stop_dockerd()
            (folder / "docker").mkdir()
            for part in PARTS:
                argv = ["cp", "-a", str(device.folder / "docker" / part), str(folder / "docker")]
                subprocess.run(argv, check=True)

    inputs = [base.key, str(store.docker), json.dumps(apps), Path(__file__).read_text()]
    folder = cached(f"created-ahead-{tree.name}", inputs, build)
    return Preload(folder / "docker", store.references)
