"""source_archive.py FOLDER: puts the archive that the recipe builds from into FOLDER.

Prints its path. Needs nothing but Python 3.8, which LmP's build containers have. One Python makes
the same bytes of the same tree, so BitBake builds anew only what has changed.
"""

import gzip
import io
import re
import sys
import tarfile
from pathlib import Path
from typing import Tuple

CHECKOUT = Path(__file__).resolve().parents[1]
NAME = "compose-apps-early-start"
PACKAGE = "agent/compose_apps_early_start"
CONTENT = (
    "LICENSE",
    "README.md",
    "pyproject.toml",
    PACKAGE + "/*.py",
    PACKAGE + "/*.schema.json",
    PACKAGE + "/py.typed",
    "completions/compose-apps-early-start",
    "docs/compose-apps-early-start.8",
    "examples/*",
    "fioconfig/*",
    "systemd/*",
    "tests/ptest/*",
)
"""What the recipe builds and installs."""

EPOCH = 1767225600
"""2026-01-01: any fixed time will do that is not so old that archives refuse it."""


def version() -> str:
    """Return the agent's version, which the recipe has in its file name."""
    text = (CHECKOUT / PACKAGE / "__init__.py").read_text()
    return re.findall('^__version__ = "(.+)"$', text, re.MULTILINE)[0]


def archive() -> Tuple[str, bytes]:
    """Return the archive of what this tree holds: its name, and its bytes."""
    top = f"{NAME}-{version()}"  # BitBake's ${BP}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for source in sorted(found for name in CONTENT for found in CHECKOUT.glob(name)):
            content = source.read_bytes()
            member = tarfile.TarInfo(f"{top}/{source.relative_to(CHECKOUT)}")
            member.size, member.mtime = len(content), EPOCH
            member.mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            tar.addfile(member, io.BytesIO(content))
    return f"{top}.tar.gz", gzip.compress(plain.getvalue(), mtime=EPOCH)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    name, packed = archive()
    (folder / name).write_bytes(packed)
    print(folder / name)
