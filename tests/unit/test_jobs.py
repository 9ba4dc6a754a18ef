"""Reading from systemd's job queue what docker.service waits for."""

import subprocess
from pathlib import Path

import pytest
from compose_apps_early_start import jobs
from compose_apps_early_start.settings import Settings
from pytest_mock import MockerFixture


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        pytest.param(
            "  2 multi-user.target                start waiting\n"
            " 97 docker.service                   start waiting\n"
            "105 systemd-networkd-wait-online.service start running\n"
            " 99 compose-apps-early-start.service start running\n",
            "docker.service waits, systemd is busy with systemd-networkd-wait-online.service",
            id="it is held up",
        ),
        pytest.param(
            "97 docker.service start running\n99 compose-apps-early-start.service start running\n",
            "docker.service is starting",
            id="it starts",
        ),
        pytest.param(
            "99 compose-apps-early-start.service start running\n",
            "docker.service is not in systemd's job queue",
            id="nobody starts it",
        ),
        pytest.param(
            "97 docker.service start waiting\n",
            "docker.service waits in systemd's job queue",
            id="nothing runs",
        ),
        pytest.param(
            "1 docker.service start waiting\n"
            + "".join(f"{number} a{number}.service start running\n" for number in range(2, 7)),
            "docker.service waits, systemd is busy with a2.service, a3.service, a4.service "
            "and 2 more",
            id="much at once",
        ),
        pytest.param("", "docker.service is not in systemd's job queue", id="an empty queue"),
        pytest.param(
            "No jobs running.\n", "docker.service is not in systemd's job queue", id="words"
        ),
    ],
)
def test_what_the_queue_says(listed: str, text: str) -> None:
    assert jobs.words(listed) == text


def test_where_systemd_does_not_run_it_is_not_asked(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BOOTED", tmp_path)
    assert jobs.holding_up_docker(settings) is None  # another root
    monkeypatch.setattr(jobs, "BOOTED", tmp_path / "nothing")
    assert jobs.holding_up_docker(Settings()) is None


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        subprocess.TimeoutExpired("systemctl", 2.0),
        subprocess.CalledProcessError(1, "systemctl"),
    ],
)
def test_a_systemctl_that_does_not_tell_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, error: Exception
) -> None:
    monkeypatch.setattr(jobs, "BOOTED", tmp_path)
    run = mocker.patch("subprocess.run", side_effect=error)
    assert jobs.holding_up_docker(Settings()) is None
    assert run.call_args.kwargs["timeout"] <= 2.0
