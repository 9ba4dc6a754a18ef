"""What systemd's job queue does while the agent waits for docker.service."""

import subprocess
from pathlib import Path

from .settings import Settings

SECONDS = 2.0
"""The time-out of systemctl, in seconds."""

BOOTED = Path("/run/systemd/system")
"""This folder exists if systemd runs. Source: sd_booted(3)."""

_OWN, _DOCKER = "compose-apps-early-start.service", "docker.service"
_MAX_UNITS = 3


def holding_up_docker(settings: Settings) -> str | None:
    """Return in a few words what docker.service waits for; None if it is unknown."""
    if settings.root != Path("/") or not BOOTED.is_dir():
        return None
    try:
        done = subprocess.run(
            ["systemctl", "list-jobs", "--no-legend", "--no-pager", "--full"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            text=True,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return words(done.stdout)


def words(listed: str) -> str:
    """Describe what the jobs `listed` by `systemctl list-jobs` mean for docker.service."""
    jobs = [fields for line in listed.splitlines() if len(fields := line.split()) == 4]
    states = {unit: state for _number, unit, _type, state in jobs}
    at_work = [unit for unit, state in states.items() if state == "running" and unit != _OWN]
    if _DOCKER in at_work:
        return f"{_DOCKER} is starting"
    if _DOCKER not in states:
        return f"{_DOCKER} is not in systemd's job queue"
    if not at_work:
        return f"{_DOCKER} waits in systemd's job queue"
    more = f" and {len(at_work) - _MAX_UNITS} more" if len(at_work) > _MAX_UNITS else ""
    return f"{_DOCKER} waits, systemd is busy with {', '.join(at_work[:_MAX_UNITS])}{more}"
