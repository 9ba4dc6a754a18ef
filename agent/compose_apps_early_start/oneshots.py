"""The one-shots that exited with status 0, remembered as long as the same dockerd runs.

A service that ended together with dockerd looks like a finished one-shot, and on a board without a
clock no time stamp distinguishes them. So a run records which ones it saw ending by themselves.
"""

import json
from collections.abc import Iterable

from . import plainfile, record
from .container import Container
from .settings import Settings
from .verdict import Finished

_MAX_BYTES = 1 << 20


def recall(settings: Settings, engine: str | None) -> Finished:
    """Return the one-shots that exited with status 0 under the dockerd with this identity."""
    try:
        document = json.loads(plainfile.read(settings.finished, _MAX_BYTES))
        if engine is None or document["engine"] != engine:
            return frozenset()
        return frozenset((str(key), str(end)) for key, end in document["containers"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return frozenset()  # compose decides


def remember(settings: Settings, engine: str | None, containers: Iterable[Container]) -> None:
    """Record which of `containers` are one-shots that exited with status 0; raises OSError."""
    ended = {each.id: each.finished_at for each in containers if each.ended_well}
    record.write({"engine": engine, "containers": ended}, settings.finished)
