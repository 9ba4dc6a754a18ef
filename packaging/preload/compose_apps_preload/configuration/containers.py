"""The apps of a Target: the folders of containers.git, or names from the command line."""

import argparse
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..command import app_list
from ..errors import PreloadError

COMPOSE_FILE = "docker-compose.yml"
DISABLED = ".disabled"
"""CI ignores folders with this suffix."""

KnownApps = Callable[[str], tuple[str, ...]]
"""Returns the apps of the branch with a git reference."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the apps of a Target."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--apps", type=app_list, metavar="A,B", help="the apps of every Target")
    group.add_argument(
        "--containers-git",
        type=Path,
        metavar="DIR",
        help="a checkout of containers.git; the apps of a Target are those of its branch there, or "
        "those in the working tree if there is no such branch",
    )


def known_apps(options: argparse.Namespace) -> KnownApps | None:
    """Return the apps that the options name; None without these options.

    Raises `PreloadError` if the checkout cannot be read.
    """
    if options.apps is not None:
        apps: tuple[str, ...] = options.apps
        return lambda _ref: apps
    if options.containers_git is not None:
        return Checkout(options.containers_git).apps
    return None


class Checkout:
    """A checkout of containers.git, or a plain folder with the same content."""

    def __init__(self, folder: Path) -> None:
        """Read `folder`; raises `PreloadError` if its apps cannot be listed."""
        self._folder = folder
        self._working_tree = folders(folder)
        self._branches: dict[str, tuple[str, ...]] = {}
        self._revisions: frozenset[str] = frozenset()
        if (folder / ".git").exists():
            self._revisions = frozenset(self._git("for-each-ref", "--format=%(refname)").split())
            # The working tree may have a new app that is not committed yet.
            head = self._git("rev-parse", "--symbolic-full-name", "HEAD").strip()
            self._branches[head] = self._working_tree

    def apps(self, ref: str) -> tuple[str, ...]:
        """Return the names of the apps of the branch `ref`."""
        if ref not in self._branches:
            self._branches[ref] = self._read(ref)
        return self._branches[ref]

    def _read(self, ref: str) -> tuple[str, ...]:
        # Prefer the local branch, which is going to be pushed.
        remote = ref.replace("refs/heads/", "refs/remotes/origin/", 1)
        revision = next((name for name in (ref, remote) if name in self._revisions), None)
        if revision is None:
            return self._working_tree
        listed = self._git("ls-tree", "-r", "-z", "--name-only", "--full-tree", revision)
        paths = (path.split("/") for path in listed.split("\0"))
        return tuple(
            sorted(
                path[0]
                for path in paths
                if path[1:] == [COMPOSE_FILE] and not path[0].endswith(DISABLED)
            )
        )

    def _git(self, *arguments: str) -> str:
        # In a git hook of another repository, git's variables refer to that repository.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        try:
            done = subprocess.run(
                ["git", "-C", str(self._folder), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                encoding="utf-8",
                errors="backslashreplace",
                check=True,
            )
        except OSError as error:
            raise PreloadError(
                f"{self._folder}: cannot run git: {error.strerror}",
                "install git, or name the apps with --apps",
            ) from error
        except subprocess.CalledProcessError as error:
            complaint = error.stderr.strip().partition("\n")[0]
            raise PreloadError(
                f"{self._folder}: git {arguments[0]}: {complaint}",
                "make the checkout readable for git, or name the apps with --apps",
            ) from error
        return done.stdout


def folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the apps in `folder`; raises `PreloadError` if it cannot be read."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if (entry / COMPOSE_FILE).is_file())
    except OSError as error:
        raise PreloadError(
            f"{folder}: cannot read it: {error.strerror}",
            "name a checkout of containers.git",
        ) from error
    return tuple(name for name in names if not name.endswith(DISABLED))
