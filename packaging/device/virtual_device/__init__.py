"""A device to run the agent on: Debian's dockerd and compose in namespaces of their own.

>>> from virtual_device import Device, device_tree, samples
>>> with Device(tree, preload=samples.preload(tree).docker) as device:
...     device.start_dockerd()
...     device.run(["docker", "info"])

The host needs root, mmdebstrap (see ``install-host-packages``) and, the first time, the machine's
own Debian mirror. Nothing is left on the host but the cache, see :mod:`virtual_device.cache`.
"""

from virtual_device.agent import agent_layer
from virtual_device.device import Device, DeviceError, Process
from virtual_device.tree import Tree, TreeError, device_tree

__all__ = ["Device", "DeviceError", "Process", "Tree", "TreeError", "agent_layer", "device_tree"]
