"""Fuzzing for a given time: FUZZ_SECONDS in all, shared by the targets that are run.

A failing example is made small, and shown with the line that replays it.
"""

import os
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.internal.conjecture.engine
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 60)
SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
BLOB = os.environ.get("FUZZ_BLOB")
"""What hypothesis printed of a failing example: it alone is run."""

BATCH = 20
"""Examples before the time is looked at; each batch begins with the simplest ones."""

MAX_MEMORY = 1 << 30
"""Bytes of data that this process may have: what wants more is found out by a MemoryError."""

MAX_SECONDS = 2.0
"""Of the processor, for one call that is fuzzed."""


# Five minutes, unless told otherwise, for making a failing example small.
hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS = 20


class Fuzz:
    """Fuzzes one target for its share of the time."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self.examples = 0

    def __call__(self, check: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
        """Call `check` with examples of `strategies` until the time is up."""

        def counted(drawn: tuple[Any, ...]) -> None:
            self.examples += 1
            check(*drawn)

        limits = hypothesis.settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            derandomize=False,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        run = limits(hypothesis.given(st.tuples(*strategies))(counted))
        if BLOB:
            hypothesis.reproduce_failure(hypothesis.__version__, BLOB.encode())(run)()
            return
        batch, deadline = 0, time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            try:
                hypothesis.seed(f"{SEED} {self._name} {batch}")(run)()
            except Exception as error:
                notes = " ".join(getattr(error, "__notes__", ()))
                found = re.search(r"reproduce_failure\(\S+ b'([^']*)'\)", notes)
                how = f"BLOB='{found[1]}'" if found else f"SEED={SEED}"
                error.add_note(f"Run it again with: make fuzz ONLY={self._name} {how}")
                raise
            batch += 1


class Strayed(BaseException):
    """A path outside of the given root was touched. No `Exception`: nobody may catch it."""


_OPENS = {"open", "os.listdir", "os.scandir"}
_ONE_PATH = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1, "os.chmod": 2, "os.chown": 3}
"""Audit events, and at which place of their arguments the folder's descriptor is. Source: os."""

_OF_PYTHON = tuple(map(os.path.realpath, {sys.prefix, sys.base_prefix, *filter(None, sys.path)}))
"""What is imported late."""


class Border:
    """While it is `armed`, nothing outside of `root` may be touched."""

    def __init__(self) -> None:
        self.root: str | None = None

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Be the audit hook."""
        if self.root is None:
            return
        if event in _OPENS:
            self._check(event, arguments[0], None)
        elif event in _ONE_PATH:
            self._check(event, arguments[0], arguments[_ONE_PATH[event]])
        elif event == "os.rename":
            self._check(event, arguments[0], arguments[2])
            self._check(event, arguments[1], arguments[3])
        elif event == "os.symlink":
            self._check(event, arguments[1], arguments[2])

    def _check(self, event: str, path: Any, folder: int | None) -> None:
        if path is None or isinstance(path, int):
            return
        text = os.fsdecode(path)
        if not text.startswith("/"):
            # Of an `open` the folder is not told.
            inside = "/" not in text and text not in (".", "..")
            if inside and (folder is None or folder == -1):
                return
            text = os.path.realpath(f"/proc/self/fd/{folder}") + f"/{text}"
        parent, _, name = text.rpartition("/")
        real = f"{os.path.realpath(parent or '/')}/{name}"
        assert self.root is not None
        allowed = (self.root, "/proc", *_OF_PYTHON)
        if not any(real == each or real.startswith(f"{each}/") for each in allowed):
            raise Strayed(f"{event} {text!r}")


_BORDER = Border()
sys.addaudithook(_BORDER.watch)


class Within:
    """A context: nothing outside of `root` is touched, and not much time of the processor taken."""

    def __init__(self, root: Path, most_seconds: float = MAX_SECONDS) -> None:
        self._root = os.path.realpath(root)
        self._most_seconds = most_seconds

    def __enter__(self) -> None:
        _BORDER.root = self._root
        self._began = time.process_time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        _BORDER.root = None
        if isinstance(error, Strayed):
            raise AssertionError(f"outside of {self._root}: {error}") from error
        if error:
            return
        took = time.process_time() - self._began
        assert took < self._most_seconds, f"it took {took:.1f} s"
