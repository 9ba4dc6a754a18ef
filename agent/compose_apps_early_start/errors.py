"""The errors that end a command. What fails for one app only is a `cause.Failure` instead."""


class EarlyStartError(Exception):
    """The command cannot go on; the text names the thing, `hint` says what to do next."""

    exit_status = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EarlyStartError):
    """The command line or a setting in the environment is wrong."""

    exit_status = 2


class NoRunError(EarlyStartError):
    """There is no run that could be told of."""

    exit_status = 5


class EngineError(EarlyStartError):
    """dockerd is not there, went away, or answered with an error."""


class NotUnderstoodError(EngineError):
    """dockerd is there, and one of its answers is not what its API describes."""


class BusyError(EarlyStartError):
    """Another run, or aktualizr-lite, is at work on the apps."""


class InterruptedRun(BaseException):
    """SIGTERM or SIGINT asked the run to end.

    Like KeyboardInterrupt it is no `Exception`, for the docker SDK wraps every one of those.
    """


class RefusedError(EngineError):
    """dockerd is there, and refuses this one request; `missing` if it knows no such thing."""

    def __init__(self, message: str, hint: str, *, missing: bool) -> None:
        super().__init__(message, hint)
        self.missing = missing
