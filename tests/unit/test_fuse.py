"""The fuse of conftest.py fails every test that starts a process or uses a socket."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.conftest import Fuse


def blown(fuse: Fuse, event: str) -> None:
    """Take note that `event` was forbidden, so that this test does not fail for it."""
    with pytest.raises(pytest.fail.Exception, match=event):
        fuse.check()


@pytest.mark.parametrize(
    ("event", "reach_out"),
    [
        pytest.param("subprocess.Popen", lambda: subprocess.run(["true"]), id="a subprocess"),
        pytest.param("os.system", lambda: os.system("true"), id="a shell"),
        pytest.param("os.fork", os.fork, id="a fork"),
        pytest.param("os.exec", lambda: os.execv("/bin/true", ["true"]), id="another program"),
        pytest.param(
            "os.posix_spawn",
            lambda: os.posix_spawn("/bin/true", ["true"], {}),
            id="a spawned process",
        ),
        pytest.param(
            "socket.connect",
            lambda: socket.create_connection(("127.0.0.1", 9)),
            id="a TCP connection",
        ),
        pytest.param(
            "socket.connect",
            lambda: socket.socket(socket.AF_UNIX).connect("/run/docker.sock"),
            id="docker's socket",
        ),
        pytest.param(
            "socket.bind", lambda: socket.socket().bind(("127.0.0.1", 0)), id="a server socket"
        ),
    ],
)
def test_the_fuse_blows_for(event: str, reach_out: Callable[[], object], fuse: Fuse) -> None:
    # By its name: pytest imports conftest.py under another one than this module does.
    with pytest.raises(BaseException, match=event) as raised:
        reach_out()
    assert raised.type.__name__ == "FuseBlown"
    blown(fuse, event)


def test_the_fuse_blows_for_what_is_tried_in_a_thread_and_swallowed_there(fuse: Fuse) -> None:
    def reach_out() -> None:
        try:
            subprocess.run(["true"])
        except BaseException:
            return

    thread = threading.Thread(target=reach_out)
    thread.start()
    thread.join()
    blown(fuse, "subprocess.Popen")


def test_the_fuse_can_be_switched_off_by_name(real_processes: None) -> None:
    assert subprocess.run(["true"]).returncode == 0


def test_files_are_no_business_of_the_fuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert (tmp_path / "file").read_text() == "text"
