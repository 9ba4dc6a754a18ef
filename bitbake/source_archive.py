"""source_archive.py FOLDER: writes the source archive of the recipe into FOLDER.

It prints the path of the archive, and needs only Python 3.8, which LmP's build containers have. The
same Python makes the same archive from the same tree, so BitBake rebuilds it only after changes.
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
"""The files that the recipe builds and installs."""

EPOCH = 1767225600
"""2026-01-01. Any fixed time works that is not too old for archives."""


def version() -> str:
    """Return the agent's version, which is in the recipe's file name."""
    text = (CHECKOUT / PACKAGE / "__init__.py").read_text()
    return re.findall('^__version__ = "(.+)"$', text, re.MULTILINE)[0]


def archive() -> Tuple[str, bytes]:
    """Return the name and the content of the archive for this tree."""
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
