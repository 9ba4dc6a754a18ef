"""The recipe as BitBake's parser reads it, the source archive, and the agent installed from it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compose_apps_early_start import __version__
from layer.device_python import systemd_libraries

CHECKOUT = Path(__file__).parents[2]
NAME = "compose-apps-early-start"
VERSION = __version__
RELEASES = ("scarthgap", "wrynose")

Expand = Callable[..., dict[str, str]]


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return its output; fails the test with what it said."""
    ended = subprocess.run(
        argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode != 0:
        pytest.fail(f"{argv[0]} ended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


@pytest.fixture(scope="session")
def recipe() -> Path:
    (found,) = CHECKOUT.glob(f"bitbake/meta-subscriber-overrides/recipes-support/{NAME}/*.bb")
    return found


@pytest.fixture(scope="session")
def expand(recipe: Path) -> Expand:
    """Call it with a release and names of variables."""

    def expand(release: str, *variables: str, work: Path = Path("/work")) -> dict[str, str]:
        parser = Path(__file__).with_name("expand.py")
        told = run(sys.executable, parser, recipe, release, work, *variables)
        expanded: dict[str, str] = json.loads(told)
        return expanded

    return expand


@pytest.fixture(scope="session")
def depends(expand: Expand) -> frozenset[str]:
    """What the recipe wants from the split standard library and from libraries."""
    variable = f"RDEPENDS:{NAME}"
    words = expand("scarthgap", variable)[variable].split()
    return frozenset(word for word in words if word.startswith("python3-"))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, as `make layer` makes it."""
    folder = tmp_path_factory.mktemp("archive")
    run(sys.executable, CHECKOUT / "bitbake/source_archive.py", folder)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def source(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    run("tar", "--extract", "--file", archive, "--directory", folder)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="session")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent as the recipe's class installs it: built by the PEP 517 backend, offline."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
    run(sys.executable, "-m", "pip", "install", *options, "--target", folder, source)
    return folder


@pytest.fixture(scope="session")
def systemd_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return systemd_libraries(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(params=["Debian", "LmP"])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The PATH of a shell script: with the tools of Debian, or those of LmP, which are busybox."""
    if request.param == "Debian":
        return "/usr/local/bin:/usr/bin:/bin"
    applets = tmp_path / "applets"
    applets.mkdir()
    for name in ("sh", "cat", "grep", "mkdir", "mv", "sed"):
        (applets / name).symlink_to(str(shutil.which("busybox")))
    return str(applets)
