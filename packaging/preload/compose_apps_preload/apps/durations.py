"""Durations as compose writes them: `1m30s`, `500ms`."""

import re

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|us|µs|ns|s)")


def seconds(text: str | None, default: float) -> float | None:
    """Return a duration in seconds; `default` if it is absent or 0, None if it is invalid."""
    if text is None or text == "0":
        return default
    if not re.fullmatch(f"(?:{_PART.pattern})+", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)) or default
