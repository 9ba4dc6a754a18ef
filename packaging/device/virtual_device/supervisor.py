"""The process between an owner and its device, which cleans up when either has ended.

    python3 -m virtual_device.supervisor FOLDER ARGV...

runs ARGV, then removes FOLDER (see :mod:`virtual_device.scratch`), even if the owner was killed.
"""

import signal
import subprocess
import sys
from pathlib import Path

from virtual_device import scratch


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Handled, not ignored, because child processes inherit ignored signals.
        signal.signal(number, lambda *_: None)
    folder = Path(sys.argv[1])
    try:
        return subprocess.run(sys.argv[2:], check=False).returncode
    finally:
        scratch.remove(folder)


if __name__ == "__main__":
    sys.exit(main())
