"""For all tests."""

import signal
import subprocess
from pathlib import Path

import hypothesis
import pytest

# In the background of a script, a shell has SIGINT ignored, and what ignores it hands that on: the
# programs that the tests interrupt would never know.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's .deb, built from this checkout."""
    argv = [
        Path(__file__).parents[1] / "packaging/debian/build",
        tmp_path_factory.mktemp("package"),
    ]
    built = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return Path(built.stdout.strip())
