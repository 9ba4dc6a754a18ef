"""The first boot of a preloaded device, shown on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virtual_device import samples
from virtual_device.agent import agent_layer
from virtual_device.device import Device
from virtual_device.tree import device_tree

AGENT = "compose-apps-early-start"
PRELOADED = ("shop", "telemetry", "debug-tools")
SHORTLIST = ("shop", "telemetry")


def demo(deb: Path) -> int:
    """Boots a device with the agent of the package ``deb``; returns the agent's exit status."""
    with _preloaded(deb) as device:
        _say(f"A device with {', '.join(PRELOADED)} preloaded boots for the first time.")
        _show(device, ["cat", "/var/lmp/default-apps"])
        # docker.socket is up; docker.service and the agent start at the same time.
        device.start_dockerd(wait=False)
        status = _show(device, [AGENT, "start"])
        _show(device, [AGENT, "status"])
        _show(device, ["docker", "ps"])
        _show(device, [AGENT, "status", "--json"])
    return status


def shell(deb: Path) -> int:
    """Gives a root shell on such a device, with dockerd running and the agent not yet started."""
    with _preloaded(deb) as device:
        device.start_dockerd()
        return device.popen(["bash", "-l"], stdin=None).wait()


@contextmanager
def _preloaded(deb: Path) -> Iterator[Device]:
    tree = agent_layer(device_tree(), deb)
    preload = samples.preload(tree)
    with Device(tree, preload=preload.docker) as device:
        for name in PRELOADED:
            samples.install(device, name, samples.sample(name, preload.references))
        device.path("/var/lmp/default-apps").write_text(", ".join(SHORTLIST) + "\n")
        yield device


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _show(device: Device, argv: list[str]) -> int:
    _say(f"# {' '.join(argv)}")
    return device.popen(argv).wait()
