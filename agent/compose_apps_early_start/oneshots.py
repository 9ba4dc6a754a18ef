"""The one-shots that ended well: remembered until the end of the boot, or of dockerd.

A service that ended together with dockerd looks like a one-shot that is done, and no clock tells
them apart on a board without one. So a run writes down what it saw ending by itself.
"""

import json
from collections.abc import Iterable

from . import plainfile, record
from .container import Container
from .settings import Settings
from .verdict import Finished

_MAX_BYTES = 1 << 20


def recall(settings: Settings, engine: str | None) -> Finished:
    """Return the one-shots that ended well under the dockerd with the identity `engine`."""
    try:
        document = json.loads(plainfile.read(settings.finished, _MAX_BYTES))
        if engine is None or document["engine"] != engine:
            return frozenset()
        return frozenset((str(key), str(end)) for key, end in document["containers"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return frozenset()  # compose decides


def remember(settings: Settings, engine: str | None, containers: Iterable[Container]) -> None:
    """Write down which of `containers` are one-shots that ended well; raises OSError."""
    ended = {each.id: each.finished_at for each in containers if each.ended_well}
    record.write({"engine": engine, "containers": ended}, settings.finished)
