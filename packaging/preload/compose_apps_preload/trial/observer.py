"""The units in the copy of an image that report what the agent does.

They are files, not kernel arguments or systemd credentials, so they work with every boot loader and
every version of systemd. The image only needs systemd, a shell and an ext4 root file system.
"""

from dataclasses import dataclass
from pathlib import Path

from ..image.ext4 import FileSystem, Tree
from ..image.layout import Layout

AGENT = "compose-apps-early-start"
GREETING = "compose-apps-try: the system is up"
"""The observer's first line on the console."""

_SCRIPT = "/etc/compose-apps-try.sh"
_LINES = """\
[Unit]
Description=The lines of compose-apps-early-start on the console
DefaultDependencies=no
After=systemd-journald.service
Before=compose-apps-early-start.service

[Service]
Environment=SYSTEMD_URLIFY=0
ExecStartPre=-/bin/echo {greeting}
ExecStart=/usr/bin/env journalctl --follow --lines=all --quiet --output=short-monotonic \
--no-hostname --identifier={agent}
SuccessExitStatus=1
StandardOutput=tty
TTYPath=/dev/{console}
"""
_OBSERVER = """\
[Unit]
Description=What compose-apps-early-start did
After=docker.service {agent}.service

[Service]
ExecStart=/bin/sh {script}
"""
_SHELL = """\
[Unit]
Description=Root shell on the console

[Service]
Type=oneshot
Environment=TERM=vt220 HOME=/root
ExecStartPre=-/usr/bin/env systemctl stop serial-getty@{console}.service
ExecStart=-/bin/sh -l
StandardInput=tty-force
StandardOutput=inherit
StandardError=inherit
TTYPath=/dev/{console}
"""
_LIMITS = """\
[Service]
Environment=EARLY_START_ENGINE_SECONDS={limits.engine:g} EARLY_START_APP_SECONDS={limits.app:g} \
EARLY_START_RUN_SECONDS={limits.run:g}
TimeoutStartSec={limits.unit:g}
"""


@dataclass(frozen=True)
class Limits:
    """The agent's limits, in seconds; see its settings."""

    engine: float
    app: float
    run: float

    @property
    def unit(self) -> float:
        """The start time-out of the agent's unit, in seconds."""
        return self.engine + self.run + 60.0


def install(
    system: FileSystem,
    layout: Layout,
    work: Path,
    *,
    console: str,
    limits: Limits | None,
    shell: bool = False,
    last: bool = True,
) -> None:
    """Put the observer into each root file system, replacing an older one.

    `work` is a scratch folder. `limits` are the agent's limits; None keeps those of the image. With
    `shell`, there is a shell on the console before the power-off. With `last`, no boot follows, and
    the power is cut. Raises `PreloadError`.
    """
    tree = work / "observer"
    units = tree / "systemd/system"
    script = Path(__file__).with_name("observe.sh").read_text()
    script = script.replace("@OFF@", "poweroff -f -f" if last else "systemctl poweroff")
    script = script.replace("@SHELL@", f"systemctl start {_unit('shell')}" if shell else "true")
    words = {"agent": AGENT, "console": console, "greeting": GREETING, "script": _SCRIPT}
    files = {
        tree / Path(_SCRIPT).name: script,
        units / _unit("lines"): _LINES.format(**words),
        units / _unit("observer"): _OBSERVER.format(**words),
        units / _unit("shell"): _SHELL.format(**words),
    }
    if limits:
        # The last drop-in takes precedence.
        files[units / f"{AGENT}.service.d/zz-try.conf"] = _LIMITS.format(limits=limits)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for target, unit in (("sysinit", _unit("lines")), ("multi-user", _unit("observer"))):
        wants = units / f"{target}.target.wants"
        wants.mkdir(exist_ok=True)
        link = wants / unit
        if not link.is_symlink():
            link.symlink_to(f"../{unit}")
    system.write((Tree(tree, f"{root}/etc") for root in layout.roots(system)), work)


def register(system: FileSystem, layout: Layout, work: Path) -> None:
    """Make the device look registered, as lmp-device-register leaves it."""
    tree = work / "registration"
    tree.mkdir(mode=0o700)
    (tree / "sota.toml").touch()
    system.write([Tree(tree, f"{layout.var}/sota")], work)


def _unit(name: str) -> str:
    return f"compose-apps-try-{name}.service"
