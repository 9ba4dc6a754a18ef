"""The kernel's clock: seconds since its start, which setting the time does not change."""

import os
import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now() -> float:
    """Return the seconds since the kernel's start, including time in suspend."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)


def process_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since the boot.

    Raises OSError, ValueError or IndexError if this is unknown. Source: proc(5), stat.
    """
    # The name of the program is in parentheses, and may contain spaces and parentheses.
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def process_started(pid: int) -> float | None:
    """Return the uptime at which a process started; None if it is unknown."""
    try:
        return round(process_ticks(pid) / os.sysconf("SC_CLK_TCK"), 3)
    except (OSError, ValueError, IndexError):
        return None


def boot_id() -> str | None:
    """Return the id of this boot in 32 hexadecimal digits; None if it is unknown.

    The unit passes it in BOOT_ID, because its sandbox hides /proc/sys.
    """
    try:
        return os.environ.get("BOOT_ID") or BOOT_ID.read_text().strip().replace("-", "")
    except OSError:
        return None
