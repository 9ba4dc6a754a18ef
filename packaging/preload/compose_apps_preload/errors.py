"""Errors that end a command."""


class PreloadError(Exception):
    """The command cannot continue. The text names what is wrong; `hint` says what to do next."""

    exit_status = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PreloadError):
    """The command line is wrong in a way that argparse cannot detect."""

    exit_status = 2
