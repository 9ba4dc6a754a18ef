"""Is this device registered, and which file says so?"""

import os
from pathlib import Path

from .errors import EarlyStartError
from .settings import Settings


def registered_by(settings: Settings) -> Path | None:
    """Return the first file that tells that the device is registered, None if there is none.

    Raises `EarlyStartError` if that cannot be known: `/var/sota` is for root only.
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
