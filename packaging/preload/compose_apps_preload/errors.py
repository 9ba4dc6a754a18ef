"""The errors that end a command."""


class PreloadError(Exception):
    """The command cannot go on; the text names the thing, `hint` says what to do next."""

    exit_status = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PreloadError):
    """The command line is wrong in a way that only the command can tell."""

    exit_status = 2
