"""`.composeappignores`: the rules by which publishing leaves files out of an app.

Source: composectl, which reads the file as docker reads a .dockerignore.
"""

import re
from collections.abc import Callable
from pathlib import Path

IGNORES = ".composeappignores"


def rules(folder: Path) -> list[str]:
    """Return the rules for the app in `folder`; none without the file.

    Raises OSError if the file cannot be read, UnicodeDecodeError if it is not UTF-8.
    """
    try:
        lines = (folder / IGNORES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [*(line.strip() for line in lines if line.strip() and line[0] != "#"), IGNORES]


def matcher(folder: Path) -> Callable[[str], bool]:
    """Return a function that tells whether publishing leaves a path of the app out.

    Rules that cannot be read leave nothing out.
    """
    try:
        patterns = rules(folder)
    except (OSError, UnicodeDecodeError):
        patterns = []
    if not patterns:
        return lambda path: False
    # Few apps have the file, and importing the docker SDK takes longer than reading most apps.
    from docker.utils.build import PatternMatcher

    found = PatternMatcher(patterns)

    def ignored(path: str) -> bool:
        try:
            return bool(found.matches(path))
        except re.error:  # such as [z-a], which publishing refuses
            return False

    return ignored
