"""Root only where root is needed: under sudo, everything else runs as the calling user.

So the output and the cache belong to this user, and skopeo finds this user's logins and mirrors.
This is a convenience, not a security boundary: the process can become root again, and does.
"""

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path


def is_root() -> bool:
    """Whether this process is root or can become root."""
    return 0 in os.getresuid()


def drop() -> None:
    """Under sudo, continue as the user who called it; otherwise do nothing."""
    number = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not number.isdigit() or int(number) == 0:
        return
    try:
        user = pwd.getpwuid(int(number))
    except KeyError:
        return
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    runtime = Path(f"/run/user/{user.pw_uid}")
    if runtime.is_dir():
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)


@contextlib.contextmanager
def root() -> Iterator[None]:
    """Run the block as root if that is possible."""
    user, group = os.geteuid(), os.getegid()
    if user == 0 or not is_root():
        yield
        return
    os.seteuid(0)
    os.setegid(0)
    try:
        yield
    finally:
        os.setegid(group)
        os.seteuid(user)
