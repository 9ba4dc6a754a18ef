"""One run, from the registration check to the last verdict."""

import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from . import (
    bundle,
    jobs,
    plan,
    pulse,
    registration,
    report,
    restorable,
    selection,
)
from .cause import NOT_TRIED, Cause, Failure
from .compose import Compose
from .errors import EarlyStartError, EngineError, InterruptedRun
from .evidence import Evidence
from .lock import Held, held
from .preloaded import App
from .record import AppRecord, Recorder
from .report import Event, Kind, Report
from .selection import Selection
from .settings import Settings

ALL_RUN, NOTHING_RUNS, DEGRADED = 0, 1, 3
"""The exit statuses. Status 2 is wrong usage."""

ENGINE_RETRY_SECONDS = 0.5
"""The pause before asking a dockerd again that answered and then went away, in seconds."""


def start(settings: Settings) -> int:
    """Start the wanted apps; return the exit status.

    Raises `EarlyStartError` if nothing was begun: without root, or beside another run.
    """
    listener = (
        report.journal if report.connected_to_journal(os.environ) else report.terminal(sys.stderr)
    )
    status_line = pulse.status(os.environ, lambda: jobs.holding_up_docker(settings))
    listeners = [listener, status_line]
    file = registration.registered_by(settings)
    if file:
        message = f"this device is registered ({file}): nothing is started"
        Report(listeners)(Event(Kind.SKIPPED, message))
        return ALL_RUN
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    # The terminal may go away, but the apps must still come up.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held(settings) as lock:
            return _recorded(settings, lock, listeners)
    except InterruptedRun:
        return NOTHING_RUNS


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    # This ends the run in order. A second signal kills the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    raise InterruptedRun


def _recorded(settings: Settings, lock: Held, listeners: list[report.Listener]) -> int:
    warn = Report(listeners)
    recorder = Recorder(settings, lambda text: warn(Event(Kind.NOTE, text)))
    evidence = Evidence(settings)
    report = Report([recorder, evidence, *listeners], [recorder.saw])
    exit_status = _judged(settings, lock, recorder, evidence, report)
    # The verdict is published by now, and only the next unit waits.
    try:
        evidence.keep(recorder.record)
    except OSError as error:
        report(Event(Kind.NOTE, f"{settings.evidence}: cannot be written: {error.strerror}"))
    except Exception as error:  # dockerd may answer anything
        report(Event(Kind.NOTE, f"no evidence is kept: {Failure.unexpected(error).message}"))
    return exit_status


def _judged(
    settings: Settings, lock: Held, recorder: Recorder, evidence: Evidence, report: Report
) -> int:
    """Run, and report the outcome; return the exit status."""
    try:
        complete = _run(settings, lock, recorder, evidence, report)
    except EarlyStartError as error:
        report(Event(Kind.ABORTED, str(error), hint=error.hint))
        recorder.end("failed", NOTHING_RUNS)
        return NOTHING_RUNS
    except Exception as error:  # a defect of the agent ends this run and is recorded
        failure = Failure.unexpected(error)
        report(
            Event(Kind.ABORTED, failure.message, hint=failure.cause.hint, details=failure.details)
        )
        recorder.end("failed", NOTHING_RUNS)
        return NOTHING_RUNS
    except InterruptedRun:
        complete = False
        for app in recorder.record.apps:
            if app.state not in ("running", "failed"):
                report(Event.failed(app.name, NOT_TRIED))
    return _ended(recorder, report, complete=complete)


def _ended(recorder: Recorder, report: Report, *, complete: bool) -> int:
    """Close the record, and report the outcome in one line; return the exit status."""
    record = recorder.record
    runs = sum(app.state == "running" for app in record.apps)
    wanted = len(record.apps) + len(record.unknown)
    if runs == wanted and complete:
        state, exit_status, kind = "ok", ALL_RUN, Kind.FINISHED
    else:
        state = "degraded" if runs else "failed"
        exit_status, kind = (DEGRADED if runs else NOTHING_RUNS), Kind.DEGRADED
    recorder.end(state if complete else "interrupted", exit_status)
    message = f"{runs} of {wanted} apps run" if wanted else record.message or "no app is wanted"
    if not complete:
        message += ", the run was interrupted"
    failed = [f"{app.name} ({app.cause})" for app in record.apps if app.cause]
    failed += [f"{each['name']} (not preloaded)" for each in record.unknown]
    if failed:
        message += "; failed: " + ", ".join(failed)
    hint = "compose-apps-early-start status" if failed else record.hint
    report(Event(kind, message, hint=hint, seconds=record.seconds))
    return exit_status


def _run(
    settings: Settings, lock: Held, recorder: Recorder, evidence: Evidence, report: Report
) -> bool:
    """Return whether the run is complete; False if SIGTERM or SIGINT ended it."""
    compose = Compose(settings)
    for note in lock.notes:
        report(Event(Kind.NOTE, note))
    try:
        bundle.clean(settings.staging)
    except OSError as error:
        report(Event(Kind.NOTE, f"{settings.staging} cannot be removed: {error.strerror}"))
    wanted = selection.select(settings, compose.config)
    uris = restorable.installed_uris(settings.installed_versions)
    recorder.begin(
        [_recorded_app(app, uris.get(app.name)) for app in wanted.apps],
        wanted.unknown,
        restorable.installed_target(settings.installed_versions),
    )
    _report_selection(wanted, settings, report)
    if not wanted.apps and not wanted.shortlisted:
        recorder.record.message, recorder.record.hint = _nothing_preloaded(settings)
    if all(app.failure for app in wanted.apps):
        _report_all_failed(wanted, report)
        return True
    # This loads the docker SDK: while dockerd starts, and only if an engine is needed.
    from .engine import Engine
    from .images import discard_unfinished
    from .runner import Runner

    report(Event(Kind.WAITING, "waiting for dockerd"))
    if _is_first_run(settings):
        # In the first run, apps have to come up. Later runs mostly find them running.
        compose.read_ahead()
    began = time.monotonic()
    deadline = began + settings.engine_seconds
    while True:
        try:
            engine = Engine.connect(settings, deadline - time.monotonic())
            ready = time.monotonic()
            state = engine.state(wanted.images, wanted.folders)
            state = discard_unfinished(settings, engine, wanted, state, report)
            stored = selection.stored_images(wanted, state, engine)
            evidence.engine = engine
            break
        except EngineError as error:
            if time.monotonic() >= deadline - ENGINE_RETRY_SECONDS:
                _report_all_failed(wanted, report, Failure(Cause.ENGINE_UNAVAILABLE, str(error)))
                return True
        time.sleep(ENGINE_RETRY_SECONDS)
    report(Event(Kind.READY, "dockerd is ready", seconds=ready - began))
    runner = Runner(settings, engine, compose, wanted.store, lock, report, ready)
    return runner.run(plan.make(wanted, state, runner.finished, stored))


def _is_first_run(settings: Settings) -> bool:
    try:
        return not settings.last_run.exists()
    except OSError:  # the disk is broken there, but apps may start nevertheless
        return False


def _recorded_app(app: App, installed: str | None) -> AppRecord:
    stored = app.restorable.version.uri if app.restorable else None
    return AppRecord(app.name, folder=str(app.folder), version=installed or stored)


def _report_selection(wanted: Selection, settings: Settings, report: Report) -> None:
    for each in wanted.unknown:
        nearest = f", did you mean {each.nearest!r}?" if each.nearest else ""
        message = (
            f"{each.name!r} in {settings.default_apps}: no preloaded app has this name{nearest}"
        )
        report(Event(Kind.UNKNOWN, message, hint=f"correct {settings.default_apps}"))
    for name in wanted.not_apps:
        message = f"{settings.compose_apps / name} is no app's folder; it is left alone"
        report(
            Event(Kind.NOTE, message, hint="move it away, or registration will list it as an app")
        )
    if wanted.store_error:
        message = f"the restorable store cannot be read: {wanted.store_error}"
        report(Event(Kind.NOTE, message, hint="see journalctl -k: does the disk fail?"))
    for app in wanted.apps:
        for note in app.notes:
            report(Event(Kind.NOTE, note, app=app.name))


def _nothing_preloaded(settings: Settings) -> tuple[str, str]:
    """Return the message and the hint for a device without any app."""
    return (
        f"no app is preloaded: there is none in {settings.compose_apps} or {settings.reset_apps}",
        "register the device to have its apps installed, or flash an image with preloaded apps; "
        "a factory reset erases them",
    )


def _report_all_failed(wanted: Selection, report: Report, failure: Failure | None = None) -> None:
    """Report every app as failed, with its own failure or else the common `failure`."""
    for app in wanted.apps:
        reason = app.failure or failure
        assert reason is not None
        report(Event.failed(app.name, reason))
