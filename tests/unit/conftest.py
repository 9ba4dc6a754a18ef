"""The fuse: no test here may start a process or use a socket, not even where errors are caught."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import hypothesis
import pytest
from compose_apps_early_start.settings import Settings

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")

FORBIDDEN = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
        "socket.bind",
        "socket.connect",
        "socket.sendmsg",
        "socket.sendto",
        "subprocess.Popen",
    }
)
"""Audit events, which no way of importing a function gets around. Source: Python's audit table."""


class FuseBlown(BaseException):
    """A test did what no test here may do. No `Exception`, for the docker SDK wraps those."""


class Fuse:
    """Forbids while `armed`; remembers what was tried, for a thread's error reaches no test."""

    def __init__(self) -> None:
        self.armed = False
        self.blown: list[str] = []

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Be the audit hook."""
        if self.armed and event in FORBIDDEN:
            self.blown.append(f"{event}{arguments}")
            raise FuseBlown(self.blown[-1])

    def check(self) -> None:
        """Fail the test if anything was tried."""
        tried, self.blown = self.blown, []
        if tried:
            pytest.fail("a unit test reached out of its process: " + "; ".join(tried))


_FUSE = Fuse()
sys.addaudithook(_FUSE.watch)


@pytest.fixture
def real_processes() -> None:
    """Name it to switch the fuse off: for the tests that run linters."""


@pytest.fixture(autouse=True)
def fuse(request: pytest.FixtureRequest) -> Iterator[Fuse]:
    _FUSE.armed = "real_processes" not in request.fixturenames
    try:
        yield _FUSE
    finally:
        _FUSE.armed = False
    _FUSE.check()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A device in a folder, on which nothing is waited for long."""
    return Settings(root=tmp_path, engine_seconds=0.2, settle_seconds=0.0)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on docker's socket."""

    def refuse(**_: object) -> docker.APIClient:
        raise docker.errors.DockerException("nothing listens")

    monkeypatch.setattr("docker.APIClient", refuse)
    monkeypatch.setattr("compose_apps_early_start.preview.ENGINE_SECONDS", 0.01)
    monkeypatch.setattr("compose_apps_early_start.start.ENGINE_RETRY_SECONDS", 0.01)
