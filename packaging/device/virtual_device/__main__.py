"""``python3 -m virtual_device``: the device on the command line."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

from virtual_device.architecture import ARCHITECTURES, OWN
from virtual_device.boot import boot, timeline
from virtual_device.demo import SHORTLIST, demo, shell
from virtual_device.device import DeviceError
from virtual_device.machine import MachineError
from virtual_device.tree import SUITES, TreeError

FAILURES = (
    DeviceError,
    MachineError,
    TreeError,
    LookupError,
    OSError,
    subprocess.CalledProcessError,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="virtual_device", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for run, text in (
        (demo, "show the first boot of a preloaded device"),
        (shell, "a root shell on such a device, the agent not yet started"),
    ):
        command = commands.add_parser(run.__name__, help=text)
        command.add_argument("deb", type=Path, help="the agent's package")
        command.set_defaults(run=lambda arguments, run=run: run(arguments.deb))
    command = commands.add_parser("boot", help="the first boot of a whole machine, under QEMU")
    command.add_argument("deb", type=Path, help="the agent's package")
    command.add_argument("--suite", default="trixie", choices=SUITES, help="which Debian")
    command.add_argument("--arch", default=OWN, choices=ARCHITECTURES, help="for which processor")
    command.add_argument(
        "--default-apps", metavar="NAMES", default=" ".join(SHORTLIST), help="the shortlist"
    )
    command.add_argument("--registered", action="store_true", help="a device that is registered")
    command.set_defaults(
        run=lambda arguments: boot(
            arguments.deb,
            arguments.suite,
            arguments.arch,
            arguments.default_apps,
            registered=arguments.registered,
        )
    )
    command = commands.add_parser("timeline", help="draw the first boot of that machine")
    command.add_argument("deb", type=Path, help="the agent's package")
    command.add_argument("picture", type=Path, help="the SVG file to write")
    command.set_defaults(run=lambda arguments: timeline(arguments.deb, arguments.picture))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        status: int = arguments.run(arguments)
    except FAILURES as error:
        print(f"virtual_device: {error}", file=sys.stderr)
        return 70  # EX_SOFTWARE: told apart from the agent's own exit status
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
