"""For all tests."""

import signal
import subprocess
from pathlib import Path

import hypothesis
import pytest

CHECKOUT = Path(__file__).parents[1]

# In the background of a script, a shell has SIGINT ignored, and what ignores it hands that on: the
# programs that the tests interrupt would never know.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the Debian packages, built from this checkout."""
    folder = tmp_path_factory.mktemp("packages")
    argv = [CHECKOUT / "packaging/debian/build", folder]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def package(packages: Path) -> Path:
    """The agent's .deb."""
    (found,) = packages.glob("compose-apps-early-start_*.deb")
    return found
