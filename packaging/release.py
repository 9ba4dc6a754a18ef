"""release.py version: writes the version in each place that has to repeat it.
release.py make FOLDER: makes the files of a release of the commit that is checked out.

The version is `__version__` of the agent. `make` refuses if a place has another one. It makes the
source archive, the layer with its source inside, the Debian packages and their checksums, and
prints the tag that the commit should get. It sets no tag and sends nothing anywhere. One Debian
release makes the same bytes of the same commit: all times in the files are the commit's.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "compose-apps-early-start"
LAYER = f"bitbake/meta-{NAME}"
SOURCE = ROOT / "agent/compose_apps_early_start/__init__.py"
RECIPES = ROOT / "bitbake/meta-subscriber-overrides/recipes-support" / NAME
CHANGELOG = ROOT / "CHANGELOG.md"
DEBIAN_CHANGELOG = ROOT / "debian/changelog"
UNRELEASED = " - Unreleased"


class ReleaseError(Exception):
    """Why there is no release; tells what to do."""


def version() -> str:
    """Return the agent's version, which all others are compared with."""
    (found,) = re.findall('^__version__ = "(.+)"$', SOURCE.read_text(), re.MULTILINE)
    return str(found)


def follow() -> None:
    """Write the version into the recipe's name and into the changelogs, which get today's date.

    Raises `ReleaseError` if the changelog has no section that it could be the heading of.
    """
    now = datetime.now(UTC)
    text = CHANGELOG.read_text()
    if f"## [{version()}] - 2" not in text:
        heading = rf"^## \[(?:Unreleased\]|.+\]{UNRELEASED})$"
        text, count = re.subn(heading, f"## [{version()}] - {now:%Y-%m-%d}", text, flags=re.M)
        if count != 1:
            raise ReleaseError(f"{CHANGELOG.name} needs one section with the heading [Unreleased]")
        CHANGELOG.write_text(text)
    (recipe,) = RECIPES.glob("*.bb")
    recipe.rename(RECIPES / f"{NAME}_{version()}.bb")
    debian = DEBIAN_CHANGELOG.read_text()
    if _debian_version(debian) != version():
        entry, _, _ = debian.partition("\n -- ")
        entry = entry.replace(f"({_debian_version(debian)})", f"({version()})", 1)
        (maintainer,) = set(re.findall(r"^ -- (.+>)  ", debian, re.MULTILINE))
        signed = f"\n -- {maintainer}  {now:%a, %d %b %Y %H:%M:%S +0000}\n\n"
        DEBIAN_CHANGELOG.write_text(entry + signed + debian)


def _debian_version(text: str) -> str:
    return text.partition("(")[2].partition(")")[0]


def make(folder: Path) -> None:
    """Put the files of a release into ``folder``.

    Raises `ReleaseError` if the tree is not that of a commit, or the version is not everywhere, and
    `subprocess.CalledProcessError` if a command fails, which then has said why.
    """
    _check()
    folder.mkdir(parents=True, exist_ok=True)
    commit, seconds = _git("log", "-1", "--format=%H %ct").split()
    top = f"{NAME}-{version()}"
    made = [folder / f"{top}.tar.gz"]
    plain = subprocess.run(
        ["git", "archive", "--format=tar", f"--prefix={top}/", commit],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    made[0].write_bytes(gzip.compress(plain, mtime=int(seconds)))
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["tar", "--extract", "--directory", work], check=True, input=plain)
        tree = Path(work) / top
        made.append(_layer(tree, folder, int(seconds)))
        made += _packages(tree, folder, seconds)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in made]
    (folder / "SHA256SUMS").write_text("".join(sums))
    for file in (*made, folder / "SHA256SUMS"):
        print(file)
    if f"[{version()}]{UNRELEASED}" in CHANGELOG.read_text():
        print(f"{CHANGELOG.name} says that {version()} is unreleased: run 'make version' first")
    else:
        print(f"tag it: git tag --sign v{version()} {commit}")


def _check() -> None:
    changed = _git("status", "--porcelain")
    if changed:
        raise ReleaseError(f"there are changes that no commit holds:\n{changed}commit them first")
    next_step = f"is not that of {version()}: run 'make version', and commit what it changes"
    if not (RECIPES / f"{NAME}_{version()}.bb").exists():
        raise ReleaseError(f"the recipe's name in {RECIPES.relative_to(ROOT)} {next_step}")
    if _debian_version(DEBIAN_CHANGELOG.read_text()) != version():
        raise ReleaseError(f"the newest entry of debian/changelog {next_step}")
    if f"\n## [{version()}]" not in CHANGELOG.read_text():
        raise ReleaseError(f"no section of {CHANGELOG.name} {next_step}")


def _layer(tree: Path, folder: Path, seconds: int) -> Path:
    """Pack the layer with the recipe's source; links are followed, the recipe is behind one."""
    sources = tree / LAYER / "recipes-support" / NAME / NAME
    argv = [sys.executable, str(tree / "bitbake/source_archive.py"), str(sources)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    def normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.uname, member.gname = seconds, 0, 0, "", ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    packed = folder / f"meta-{NAME}-{version()}.tar.gz"
    with (
        packed.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=seconds) as compressed,
        tarfile.open(fileobj=compressed, mode="w", dereference=True) as tar,
    ):
        tar.add(tree / LAYER, f"meta-{NAME}", filter=normal)  # sorted by name
    return packed


def _packages(tree: Path, folder: Path, seconds: str) -> list[Path]:
    build = [tree / "packaging/debian/build", tree / "build"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": seconds}
    subprocess.run(build, env=environment, check=True, stdout=subprocess.DEVNULL)
    return [Path(shutil.copy(each, folder)) for each in sorted((tree / "build").glob("*.deb"))]


def _git(*arguments: str) -> str:
    argv = ["git", *arguments]
    return subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case ["version"]:
                follow()
            case ["make", folder]:
                make(Path(folder))
            case _:
                sys.exit(f"usage: {sys.argv[0]} version | make FOLDER")
    except ReleaseError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
