"""`.composeappignores`: what publishing leaves out of an app."""

import re
from collections.abc import Callable
from pathlib import Path

IGNORES = ".composeappignores"


def read(folder: Path) -> Callable[[str], bool]:
    """Return what tells whether publishing the app in `folder` leaves out a path in it.

    Source: composectl, which reads the file as docker reads a .dockerignore.
    """
    try:
        lines = (folder / IGNORES).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return lambda path: False
    # Few apps have one, and the docker SDK takes longer to import than most to be read.
    from docker.utils.build import PatternMatcher

    words = (line.strip() for line in lines)
    patterns = [word for word in words if word and not word.startswith("#")]
    matcher = PatternMatcher([*patterns, IGNORES])

    def ignored(path: str) -> bool:
        try:
            return bool(matcher.matches(path))
        except re.error:  # such as [z-a], which publishing refuses
            return False

    return ignored
