"""Reading regular files, and nothing else, up to a limit.

Reading a FIFO may block for ever, opening a device may have effects, and a file may have any size.
Symbolic links are followed, but must lead to a regular file.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def opened(path: Path) -> BufferedReader:
    """Open `path` for reading bytes; the caller closes it, and limits what it reads.

    Raises OSError: as `open` does, and EINVAL ("not a plain file") for a FIFO, a device or a
    socket.
    """
    # O_PATH opens nothing: really opening a watchdog would start it.
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a plain file")
        # The same file, even if another file has its name by now.
        descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(place)
    return os.fdopen(descriptor, "rb")


def read(path: Path, most_bytes: int) -> bytes:
    """Return the content of the regular file `path`.

    Raises OSError as `opened` does, and EFBIG ("larger than … bytes") if it holds more than
    `most_bytes`. In each case, `strerror` can be used in a message.
    """
    with opened(path) as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    return data
