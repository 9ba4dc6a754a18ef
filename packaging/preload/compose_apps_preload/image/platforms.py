"""Platforms as containerd names and orders them, which decides on the image that a device runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

_NAMES = {
    "aarch64": ("arm64", ""),
    "armel": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "x86-64": ("amd64", ""),
    "x86_64": ("amd64", ""),
}
KNOWN = ("amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64", "mips64le")
_DEFAULTS = {"arm": "v7"}
_IMPLIED = {"arm64": "v8", "amd64": "v1"}
_MACHINES = {0x03: "386", 0x28: "arm", 0x3E: "amd64", 0xB7: "arm64", 0xF3: "riscv64"}
"""`e_machine` of ELF; source: elf.h."""


@dataclass(frozen=True)
class Platform:
    """An architecture as Go names it, and its variant; "" is the default variant."""

    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.architecture}/{self.variant}" if self.variant else self.architecture


def parse(text: str) -> Platform:
    """Parse a platform as people write it; raises `UsageError`."""
    words = text.lower().removeprefix("linux/").split("/")
    found = _normalized(*words) if 1 <= len(words) <= 2 else None
    if found is None or found.architecture not in KNOWN:
        raise UsageError(f"{text!r} is not a known architecture", f"use one of {', '.join(KNOWN)}")
    return found


def from_document(described: Mapping[str, Any]) -> Platform | None:
    """Return the platform that an index or a config names; None if it is not Linux."""
    architecture = described.get("architecture")
    if described.get("os") != "linux" or not isinstance(architecture, str):
        return None
    return _normalized(architecture, str(described.get("variant") or ""))


def accepted(wanted: Platform) -> Sequence[Platform]:
    """Return the platforms that run on `wanted`, best first; source: containerd's `Only`."""
    if wanted.architecture == "arm":
        newest = int(wanted.variant[1:])
        return [Platform("arm", f"v{level}") for level in range(newest, 4, -1)] or [wanted]
    if wanted == Platform("arm64"):
        return [wanted, *(Platform("arm", f"v{level}") for level in range(8, 4, -1))]
    if wanted.architecture == "amd64":
        newest = int(wanted.variant[1:] or 1)
        older = [Platform("amd64", f"v{level}") for level in range(newest, 1, -1)]
        return [*older, Platform("amd64"), Platform("386")]
    return [wanted]


def of_program(data: bytes) -> str | None:
    """Return the architecture of an ELF program; None if it is something else or unknown."""
    if data[:4] != b"\x7fELF" or len(data) < 20:
        return None
    return _MACHINES.get(int.from_bytes(data[18:20], "little" if data[5] == 1 else "big"))


def _normalized(architecture: str, variant: str = "") -> Platform:
    implied = ""
    architecture = architecture.lower()
    if architecture in _NAMES:
        architecture, implied = _NAMES[architecture]
    variant = variant.lower() or implied or _DEFAULTS.get(architecture, "")
    if variant.isdigit():
        variant = f"v{variant}"
    if variant == _IMPLIED.get(architecture):
        variant = ""
    if variant and not (variant[0] == "v" and variant[1:].isdigit()):
        variant = _DEFAULTS.get(architecture, "")
    return Platform(architecture, variant)
