"""Every path and every limit of the agent, in one frozen object.

The command line, the environment and the help are made from the fields of `Settings`: the field
`app_seconds` is the option `--app-seconds` and the variable `EARLY_START_APP_SECONDS`. The command
line takes precedence over the environment.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UsageError

ENVIRONMENT_PREFIX = "EARLY_START_"

MAXIMUM = 1_000_000
"""The maximum of all numbers, because poll(2) cannot wait for 25 days."""


def _setting(default: Any, text: str, minimum: float = 0.0) -> Any:
    return field(default=default, metadata={"help": text, "least": minimum})


@dataclass(frozen=True)
class Settings:
    """The paths and limits of a device. Times are in seconds."""

    root: Path = _setting(Path("/"), "the folder that all paths are below")
    engine_seconds: float = _setting(120.0, "how long to wait for dockerd, in seconds")
    app_seconds: float = _setting(
        180.0, "how long one app may take, all attempts included, in seconds"
    )
    settle_seconds: float = _setting(10.0, "how long a container must keep running, in seconds")
    run_seconds: float = _setting(
        600.0, "how long the run may take once dockerd is ready, in seconds"
    )
    parallel: int = _setting(4, "how many 'docker compose up' run side by side", minimum=1)

    @property
    def compose_apps(self) -> Path:
        """The folder of the preloaded apps. Source: aktualizr-lite, `compose_apps_root`."""
        return self.root / "var/sota/compose-apps"

    @property
    def reset_apps(self) -> Path:
        """The restorable store. Source: aktualizr-lite, `reset_apps_root`."""
        return self.root / "var/sota/reset-apps"

    @property
    def installed_versions(self) -> Path:
        """The versions of the apps that belong to this image; the image build writes this file."""
        return self.root / "var/sota/import/installed_versions"

    @property
    def staging(self) -> Path:
        """The scratch folder for restoring apps, on the file system of `compose_apps`."""
        return self.root / "var/sota/.compose-apps-early-start"

    @property
    def default_apps(self) -> Path:
        """The shortlist of apps to start."""
        return self.root / "var/lmp/default-apps"

    @property
    def registration_files(self) -> tuple[Path, ...]:
        """If any of these files exists, the device is registered.

        Source: `sql.db` is aktualizr-lite's database; `client.pem` and `sota.toml` are written by
        lmp-device-register, before aktualizr-lite's first run.
        """
        return tuple(
            self.root / "var/sota" / name for name in ("sql.db", "client.pem", "sota.toml")
        )

    @property
    def docker_socket(self) -> Path:
        """Where dockerd, or systemd on its behalf, listens."""
        return self.root / "run/docker.sock"

    @property
    def docker_pid(self) -> Path:
        """Where dockerd writes its process id. Source: dockerd(8), `--pidfile`."""
        return self.root / "run/docker.pid"

    @property
    def aktualizr_lock(self) -> Path:
        """The file on which aktualizr-lite holds `flock(LOCK_EX)` while it works."""
        return self.root / "var/lock/aklite.lock"

    @property
    def fioup_lock(self) -> Path:
        """The file on which fioup, which may replace aktualizr-lite, holds `flock(LOCK_EX)`.

        Source: fioup, cmd/fioup/root.go, for a fioup that root runs.
        """
        return self.root / "run/fioup.lock"

    @property
    def own_lock(self) -> Path:
        """The lock that a run holds."""
        return self.root / "run/compose-apps-early-start/lock"

    @property
    def run_status(self) -> Path:
        """The status file of a run in progress."""
        return self.root / "run/compose-apps-early-start/status.json"

    @property
    def finished(self) -> Path:
        """The one-shots that exited with status 0 under the dockerd of this boot."""
        return self.root / "run/compose-apps-early-start/finished.json"

    @property
    def last_run(self) -> Path:
        """The status file of the last run that ended."""
        return self.root / "var/lib/compose-apps-early-start/last-run.json"

    @property
    def runs(self) -> Path:
        """The folder with the status files of earlier runs, named by the number of the run."""
        return self.root / "var/lib/compose-apps-early-start/runs"

    @property
    def evidence(self) -> Path:
        """The last output of containers and compose in the last run in which something failed."""
        return self.root / "var/lib/compose-apps-early-start/evidence.json"

    @property
    def disabled(self) -> Path:
        """If this file exists, the unit does not start anything."""
        return self.root / "etc/compose-apps-early-start.disabled"

    @property
    def slow_loads(self) -> Path:
        """The images that could not be loaded within the time of a run."""
        return self.root / "var/lib/compose-apps-early-start/slow-loads.json"

    @property
    def unfinished_loads(self) -> Path:
        """The images of which not everything may be on the disk yet."""
        return self.root / "var/lib/compose-apps-early-start/unfinished-loads.json"


def add_root_option(parser: argparse.ArgumentParser) -> None:
    """Add `--root` to `parser`; it is accepted before and after the subcommand."""
    _add_option(parser, "root")


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each limit to `parser`."""
    for each in fields(Settings):
        if each.name != "root":
            _add_option(parser, each.name)


def _add_option(parser: argparse.ArgumentParser, name: str) -> None:
    setting = next(each for each in fields(Settings) if each.name == name)
    parser.add_argument(
        "--" + name.replace("_", "-"),
        # With a default here, the subcommand would override the option before it.
        default=argparse.SUPPRESS,
        metavar="DIR" if name == "root" else "N",
        help=f"{setting.metadata['help']} (default: {setting.default})",
    )


def load(options: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings in parsed command-line options and the environment.

    Raises `UsageError` for a value that is not a number, too small or too large.
    """
    values: dict[str, Any] = {}
    for each in fields(Settings):
        variable = ENVIRONMENT_PREFIX + each.name.upper()
        if each.name in options:
            source, text = "--" + each.name.replace("_", "-"), options[each.name]
        elif variable in environment:
            source, text = variable, environment[variable]
        else:
            continue
        if each.name == "root":
            values[each.name] = Path(text).absolute()
        else:
            values[each.name] = _number(source, text, type(each.default), each.metadata["least"])
    return Settings(**values)


def _number(source: str, text: str, kind: type, minimum: float) -> int | float:
    try:
        number: int | float = kind(text)
    except ValueError:
        number = math.nan
    if not minimum <= number <= MAXIMUM:
        what = "a whole number" if kind is int else "a number of seconds"
        raise UsageError(
            f"{source}: {text!r} is not {what} from {minimum:g} to {MAXIMUM}",
            "correct the value; 'compose-apps-early-start start --help' lists the settings",
        )
    return number
