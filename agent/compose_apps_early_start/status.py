"""`status`: show what a run did, for people and for programs, and wait for its end."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import evidence, history, registration, uptime
from .errors import EarlyStartError, NoRunError
from .history import History
from .record import SCHEMA, RunRecord
from .report import printable
from .settings import Settings
from .start import ALL_RUN, DEGRADED, NOTHING_RUNS

GOES_ON, NO_RUN = 4, NoRunError.exit_status
"""Exit statuses in addition to those of a run."""

POLL_SECONDS = 0.05
"""How often `--wait` reads the record, in seconds."""

KILL_SWITCH = "compose-apps-early-start=disabled"
"""The kill switch on the kernel's command line."""


def load(settings: Settings) -> dict[str, Any]:
    """Return the record of the run in progress, or else of the last run.

    If the process of a run has disappeared, the run is `interrupted`. Raises `NoRunError` if there
    is no record, `EarlyStartError` if it cannot be read.
    """
    for file in (settings.run_status, settings.last_run):
        record = _load(file)
        if record:
            return record
    raise _no_run()


def _no_run() -> NoRunError:
    return NoRunError(
        "there is no record of a run on this device",
        "see 'systemctl status compose-apps-early-start'; on a registered device nothing is run",
    )


def load_number(settings: Settings, number: int) -> dict[str, Any]:
    """Return the record of the run with this number; raises as `load` does."""
    file = History(settings).files().get(number)
    record = _load(file) if file else _load(settings.run_status)
    if not record or record["run"] != number:
        raise NoRunError(
            f"there is no record of run {number}",
            "'compose-apps-early-start status --list' shows the runs that are kept",
        )
    return record


def load_all(settings: Settings) -> list[dict[str, Any]]:
    """Return the records of all saved runs, oldest first, without unreadable ones.

    Raises `NoRunError` if there is none, `EarlyStartError` if this user may not read them.
    """
    found = []
    for file in (*History(settings).files().values(), settings.run_status):
        try:
            record = _load(file)
        except EarlyStartError as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            continue
        if record:
            found.append(record)
    if not found:
        raise _no_run()
    return found


def _load(file: Path) -> dict[str, Any] | None:
    """Return the record in `file`, or None if it does not exist; raises `EarlyStartError`."""
    try:
        document = history.read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EarlyStartError(f"{file}: cannot read: {error.strerror}", "run it as root") from error
    except ValueError:
        document = None
    try:
        record = RunRecord.from_json(document)
    except ValueError as error:
        raise EarlyStartError(
            f"{file}: {error}", "run 'compose-apps-early-start start' to have a new one written"
        ) from error
    if record.state == "running" and not _is_alive(record.pid):
        record.state = "interrupted"
        record.message = "the run was killed before it ended"
        record.hint = "run 'systemctl restart compose-apps-early-start'"
    return record.to_json()


def exit_status(record: Mapping[str, Any]) -> int:
    """Return the exit status for this run: its own, or 4 while it is in progress."""
    if record["state"] == "running":
        return GOES_ON
    if record["exit_status"] in (ALL_RUN, NOTHING_RUNS, DEGRADED):
        return int(record["exit_status"])
    # It was killed, and running containers were left alone.
    return DEGRADED if any(app["state"] == "running" for app in record["apps"]) else NOTHING_RUNS


def wait(settings: Settings, seconds: float) -> dict[str, Any]:
    """Wait up to `seconds` for the end of a run of this boot, and return its record.

    After a time-out, the record of the run in progress is returned. Raises `NoRunError` if no run
    has begun by then, or at once if none will, and `EarlyStartError` if this user may not read it.
    """
    deadline = time.monotonic() + seconds
    record, seen = None, None
    while True:
        stamp = [_stamp(file) for file in (settings.run_status, settings.last_run)]
        if stamp != seen or (record and not _is_alive(record["pid"])):
            record, seen = _of_this_boot(settings), stamp
        if record is None:
            _check_that_one_comes(settings)
        elif record["state"] != "running":
            return record
        left = deadline - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(POLL_SECONDS, left))
    if record is None:
        raise NoRunError(
            f"no run has begun within {seconds:g} s",
            "see 'systemctl status compose-apps-early-start' and 'systemctl list-jobs'",
        )
    return record


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return a value that changes whenever `file` is replaced."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EarlyStartError(f"{file}: cannot read: {error.strerror}", "run it as root") from error
    return found.st_ino, found.st_mtime_ns


def _of_this_boot(settings: Settings) -> dict[str, Any] | None:
    for file in (settings.run_status, settings.last_run):
        try:
            record = _load(file)
        except EarlyStartError as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            continue  # the awaited run replaces a file that cannot be read now
        # A file in /run is always of this boot.
        if record and (file == settings.run_status or record["boot_id"] == uptime.boot_id()):
            return record
    return None


def _check_that_one_comes(settings: Settings) -> None:
    """Raise `NoRunError` if the unit's conditions keep it from starting."""
    registered = registration.registered_by(settings)
    if registered:
        raise NoRunError(
            f"this device is registered ({registered}): nothing was run in this boot",
            "look at 'systemctl status aktualizr-lite' for the apps",
        )
    if settings.disabled.exists():
        raise NoRunError(f"{settings.disabled} keeps runs from starting", "remove the file")
    command_line = settings.root / "proc/cmdline"
    with contextlib.suppress(OSError):
        if KILL_SWITCH in command_line.read_text(errors="replace").split():
            raise NoRunError(
                f"{KILL_SWITCH!r} on the kernel's command line keeps runs from starting",
                "remove it there",
            )


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def table(record: Mapping[str, Any], now: Mapping[str, str] | None = None) -> str:
    """Return a readable table of a record as `load` returns it.

    `now` is the current state of each app, if it is known.
    """
    rows = [("APP", "STATE", "UP", "SETTLED", "TRIES", "CAUSE", "NOW")]
    for app in record["apps"]:
        rows.append(
            (
                app["name"],
                app["state"],
                _duration(app["up_seconds"]),
                _duration(app["settled_seconds"]),
                str(app["attempts"]),
                app["cause"] or "-",
                (now or {}).get(app["name"], "-"),
            )
        )
    lines = _columns(rows if now is not None else [row[:-1] for row in rows])
    for app in record["apps"]:
        if app["message"]:
            lines += ["", f"{app['name']}: {app['message']}"]
            lines += [f"  Next: {app['hint']}"] if app["hint"] else []
    for each in record["unknown"]:
        nearest = f"; did you mean {each['nearest']!r}?" if each["nearest"] else ""
        lines += ["", f"{each['name']}: no preloaded app has this name{nearest}"]
    if record["message"]:
        lines += ["", record["message"]]
        lines += [f"  Next: {record['hint']}"] if record["hint"] else []
    lines += [
        "",
        f"{record['state']}: run {record['run']} of {record['started'] or 'an unknown time'}, "
        f"engine waited for {_duration(record['engine_wait_seconds'])}, "
        f"whole run {_duration(record['seconds'])}",
    ]
    return "\n".join(map(printable, lines))


def list_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a readable table of several runs, with one line for each."""
    rows = [("RUN", "STARTED", "STATE", "APPS", "FAILED", "SECONDS")]
    for record in records:
        failed = [app["name"] for app in record["apps"] if app["cause"]]
        failed += [each["name"] for each in record["unknown"]]
        rows.append(
            (
                str(record["run"]),
                record["started"] or "-",
                record["state"],
                str(len(record["apps"]) + len(record["unknown"])),
                ", ".join(failed) or "-",
                _duration(record["seconds"]),
            )
        )
    return "\n".join(map(printable, _columns(rows)))


def list_json(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the object that `status --list --json` prints."""
    return {"schema": SCHEMA, "runs": list(records)}


def load_evidence(settings: Settings, app: str | None) -> dict[str, Any]:
    """Return the evidence of the last run in which something failed, or its part about `app`.

    Raises `EarlyStartError` if there is none, or if it cannot be read.
    """
    try:
        found = evidence.load(settings, app)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise EarlyStartError(
            f"{settings.evidence}: cannot read: {error.strerror}", "run it as root"
        ) from error
    except ValueError as error:
        raise EarlyStartError(
            f"{settings.evidence}: not the evidence of a run",
            "it is written anew when an app fails again",
        ) from error
    if found is None:
        raise EarlyStartError(
            f"there is no evidence of app {app!r}"
            if app
            else "there is no evidence on this device",
            "it is kept for the apps that failed in the last run in which one did; "
            "'compose-apps-early-start status' shows the last run",
        )
    return found


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
