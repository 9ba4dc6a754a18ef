"""Keeps the detection of character sets out of requests: dockerd's answers are UTF-8.

requests loads chardet with itself, which is a quarter of the time and of the memory that the docker
SDK takes, and warns at every start if chardet is of a version that it does not know (LmP main).
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def not_detected() -> Iterator[None]:
    """While it lasts, what is imported finds a chardet that knows UTF-8 only.

    A module that is merely missing would not do: older releases of requests insist on one, newer
    ones warn.
    """
    chardet = ModuleType("chardet")
    chardet.__version__ = "5.2.0"  # type: ignore[attr-defined]
    chardet.detect = lambda _: {"encoding": "utf-8"}  # type: ignore[attr-defined]
    # None: not importable. It is what requests takes beside chardet, or instead of it.
    stand_ins: dict[str, ModuleType | None] = {"chardet": chardet, "charset_normalizer": None}
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)
