"""Errors that end a command. A failure of one app is a `cause.Failure` instead."""


class EarlyStartError(Exception):
    """The command cannot continue. The text names what is wrong; `hint` says what to do next."""

    exit_status = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EarlyStartError):
    """The command line or a setting in the environment is wrong."""

    exit_status = 2


class NoRunError(EarlyStartError):
    """There is no run to show."""

    exit_status = 5


class EngineError(EarlyStartError):
    """dockerd does not run, went away, or answered with an error."""


class NotUnderstoodError(EngineError):
    """dockerd runs, but one of its answers does not match its API."""


class BusyError(EarlyStartError):
    """Another run, or aktualizr-lite, is working on the apps."""


class InterruptedRun(BaseException):
    """SIGTERM or SIGINT ends the run.

    Like KeyboardInterrupt, it is not an `Exception`, because the docker SDK wraps all exceptions.
    """


class RefusedError(EngineError):
    """dockerd runs, but refuses this request; `missing` if the requested object does not exist."""

    def __init__(self, message: str, hint: str, *, missing: bool) -> None:
        super().__init__(message, hint)
        self.missing = missing
