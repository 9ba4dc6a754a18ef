"""The kernel's clock: seconds since its start, which no correction of the time changes."""

import os
import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now() -> float:
    """Return the seconds since the kernel's start, time in suspend included."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)


def process_ticks(pid: int) -> int:
    """Return when a process was started, in clock ticks since the boot.

    Raises OSError, ValueError or IndexError where that cannot be known. Source: proc(5), stat.
    """
    # The name of the program stands in brackets, and may hold blanks and brackets itself.
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def process_started(pid: int) -> float | None:
    """Return the uptime at which a process was started, None where that cannot be known."""
    try:
        return round(process_ticks(pid) / os.sysconf("SC_CLK_TCK"), 3)
    except (OSError, ValueError, IndexError):
        return None


def boot_id() -> str | None:
    """Return the id of this boot in 32 hexadecimal digits, None where it cannot be known.

    The unit hands it over in BOOT_ID, because its sandbox hides /proc/sys.
    """
    try:
        return os.environ.get("BOOT_ID") or BOOT_ID.read_text().strip().replace("-", "")
    except OSError:
        return None
