"""Whether this device is registered, and which file shows it."""

import os
from pathlib import Path

from .errors import EarlyStartError
from .settings import Settings


def registered_by(settings: Settings) -> Path | None:
    """Return the first file that shows that the device is registered; None if there is none.

    Raises `EarlyStartError` if it is unknown, because only root may read `/var/sota`.
    """
    for file in settings.registration_files:
        try:
            os.lstat(file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise EarlyStartError(
                f"{file}: cannot tell whether the device is registered: {error.strerror}",
                "run it as root",
            ) from error
        return file
    return None
