"""A tree's packages come from this machine's Debian mirror, and from no other system's."""

from pathlib import Path

import pytest
from virtual_device import mirror


def etc(folder: Path, release: str, sources: str) -> Path:
    (folder / "apt/sources.list.d").mkdir(parents=True)
    (folder / "os-release").write_text(release)
    (folder / "apt/sources.list.d/system.sources").write_text(sources)
    return folder


def test_another_suite_comes_from_the_mirror_that_has_this_machines(tmp_path: Path) -> None:
    release = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
    sources = (
        "Types: deb deb-src\nURIs: http://mirror.example.test/debian\n"
        "Suites: bookworm bookworm-updates bookworm-backports\nComponents: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://other.example.test/tool\nSuites: bookworm\nComponents: stable\n"
    )
    assert mirror.sources("trixie", etc(tmp_path, release, sources)) == (
        "Types: deb\nURIs: http://mirror.example.test/debian\nComponents: main\n"
        "Suites: trixie trixie-updates\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_ubuntus_mirror_is_not_asked_for_a_suite_of_debian(tmp_path: Path) -> None:
    release = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n'
    sources = (
        "Types: deb\nURIs: http://archive.example.test/ubuntu/\n"
        "Suites: noble noble-updates noble-backports\nComponents: main restricted universe\n"
        "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n"
    )
    with pytest.raises(LookupError, match="runs Ubuntu, but this needs a Debian machine"):
        mirror.sources("trixie", etc(tmp_path, release, sources))
