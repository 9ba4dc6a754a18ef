"""Keeping character set detection out of requests, because dockerd's answers are UTF-8.

requests loads chardet, which takes a quarter of the docker SDK's time and memory. It also prints a
warning at every start if it does not know the version of chardet (LmP main).
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def not_detected() -> Iterator[None]:
    """Give modules that are imported in this block a chardet that only knows UTF-8.

    A missing module would not work: older releases of requests require one, newer ones warn.
    """
    chardet = ModuleType("chardet")
    chardet.__version__ = "5.2.0"  # type: ignore[attr-defined]
    chardet.detect = lambda _: {"encoding": "utf-8"}  # type: ignore[attr-defined]
    # None makes it impossible to import. requests uses it beside chardet, or instead of it.
    stand_ins: dict[str, ModuleType | None] = {"chardet": chardet, "charset_normalizer": None}
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)
