"""The firmware of a machine: kernel, disk, and the sample apps for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from virtual_device import samples
from virtual_device.agent import agent_layer
from virtual_device.ahead import made
from virtual_device.architecture import OWN
from virtual_device.disk import disk
from virtual_device.kernel import Kernel, kernel
from virtual_device.tree import device_tree

COMPOSE_APPS = "/var/sota/compose-apps"


@dataclass(frozen=True)
class Firmware:
    """``references``: repository (``factory/web``) to the reference of its image on the disk."""

    kernel: Kernel
    disk: Path
    references: Mapping[str, str]

    def samples(self, *names: str) -> dict[str, str]:
        """Returns the files of these sample apps, for :meth:`.machine.Machine.boot`."""
        files: dict[str, str] = {}
        for name in names:
            files |= _placed(name, samples.sample(name, self.references))
        return files

    def app(self, name: str, compose: str | Mapping[str, object]) -> dict[str, str]:
        """Returns the files of an app with this compose file, as publishing makes it."""
        text = samples.publish(compose, self.references)
        return _placed(name, {"docker-compose.yml": text})


def _placed(name: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{COMPOSE_APPS}/{name}/{file}": text for file, text in files.items()}


def firmware(
    deb: Path,
    suite: str = "trixie",
    architecture: str = OWN,
    ahead: Mapping[str, str | Mapping[str, object]] | None = None,
) -> Firmware:
    """Returns the firmware of ``suite`` for ``architecture`` with the agent's package ``deb``.

    ``ahead``: the apps whose containers are created ahead, name to compose file as for
    :meth:`Firmware.app`.

    Takes about 40 s unless it is cached, for an emulated architecture some minutes. Raises the
    errors of its parts: TreeError, DeviceError, MachineError, LookupError,
    subprocess.CalledProcessError.
    """
    tree = device_tree(suite, architecture)
    preload = samples.preload(tree)
    if ahead:
        texts = {name: samples.publish(text, preload.references) for name, text in ahead.items()}
        apps = {name: {"docker-compose.yml": text} for name, text in texts.items()}
        preload = made(tree, preload, apps)
    the_kernel = kernel(suite, architecture)
    the_disk = disk(agent_layer(tree, deb), the_kernel, preload)
    return Firmware(the_kernel, the_disk, preload.references)
