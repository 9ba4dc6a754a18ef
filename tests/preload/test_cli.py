"""The host tool as a process: its streams, its exit status and how it is interrupted."""

import os
import subprocess
import sys

import pytest
from preload.examples import ADVANCED, PATHS


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        pytest.param("", 0, "", id="a file"),
        pytest.param(">&-", 0, "", id="a closed output"),
        pytest.param(">/dev/full", 1, "No space left on device", id="a full disk"),
        pytest.param("| true", 141, "", id="a reader that has seen enough"),
    ],
)
def test_the_output_may_go_to(redirection: str, status: int, said: str) -> None:
    # The program begins when the reader is surely gone.
    command = f"(sleep 0.2; {sys.executable} -m compose_apps_preload matrix {ADVANCED})"
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert (said in done.stderr) if said else not done.stderr
    assert done.returncode == status
