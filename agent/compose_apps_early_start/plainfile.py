"""Reading plain files, and nothing else, up to a bound.

A FIFO in the place of a file would be waited for without end, a device may act on being opened, and
a file may have any size. Symbolic links are followed; what they lead to must be a plain file.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def opened(path: Path) -> BufferedReader:
    """Open `path` for reading in binary; the caller closes it, and bounds what is read.

    Raises OSError: as `open` does, and EINVAL ("not a plain file") for a FIFO, a device or a
    socket.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # which opens nothing: a watchdog would run
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a plain file")
        # The very same file, whatever has its name by now.
        descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(place)
    return os.fdopen(descriptor, "rb")


def read(path: Path, most_bytes: int) -> bytes:
    """Return what is in the plain file `path`.

    Raises OSError as `opened` does, and EFBIG ("larger than … bytes") if it holds more than
    `most_bytes`. `strerror` is fit for a message in each case.
    """
    with opened(path) as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    return data
