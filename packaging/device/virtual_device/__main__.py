"""``python3 -m virtual_device``: the device on the command line."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

from virtual_device.demo import demo, shell
from virtual_device.device import DeviceError
from virtual_device.tree import TreeError


def main() -> int:
    parser = argparse.ArgumentParser(prog="virtual_device", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for run, text in (
        (demo, "show the first boot of a preloaded device"),
        (shell, "a root shell on such a device, the agent not yet started"),
    ):
        command = commands.add_parser(run.__name__, help=text)
        command.add_argument("deb", type=Path, help="the agent's package")
        command.set_defaults(run=run)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        status: int = arguments.run(arguments.deb)
    except (DeviceError, TreeError, LookupError, OSError, subprocess.CalledProcessError) as error:
        print(f"virtual_device: {error}", file=sys.stderr)
        return 70  # EX_SOFTWARE: told apart from the agent's own exit status
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
