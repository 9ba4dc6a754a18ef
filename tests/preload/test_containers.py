"""Reading the apps of each branch from a checkout of containers.git."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from compose_apps_preload.cli import main
from compose_apps_preload.configuration.containers import Checkout
from compose_apps_preload.errors import PreloadError
from preload.examples import ADVANCED, ALL_TAGGED, BRANCHES


def git(folder: Path, *arguments: str) -> None:
    alone = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.test"]
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        env=alone,
    )


def add(folder: Path, apps: Iterable[str]) -> None:
    for app in apps:
        (folder / app).mkdir(parents=True)
        (folder / app / "docker-compose.yml").write_text("services: {}\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """containers.git of the advanced scenario; production is checked out."""
    folder = tmp_path / "containers"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for branch, apps in BRANCHES.items():
        git(folder, "checkout", "--quiet", "--orphan", branch)
        add(folder, apps)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", branch)
        if branch != "production":
            git(folder, "rm", "-r", "--quiet", ".")
    return folder


def test_a_folder_is_an_app_if_it_has_a_compose_file_and_is_not_disabled(tmp_path: Path) -> None:
    add(tmp_path, ["shop", "old.disabled"])
    (tmp_path / "docs").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/docker-compose.yaml").touch()
    (tmp_path / "docker-compose.yml").touch()
    assert Checkout(tmp_path).apps("refs/heads/any") == ("shop",)


@pytest.mark.parametrize("branch", BRANCHES)
def test_each_branch_has_its_own_apps(checkout: Path, branch: str) -> None:
    assert Checkout(checkout).apps(f"refs/heads/{branch}") == BRANCHES[branch]


def test_a_clone_has_the_branches_of_its_origin(checkout: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(checkout), "clone")
    assert Checkout(tmp_path / "clone").apps("refs/heads/devel") == BRANCHES["devel"]


def test_what_is_checked_out_counts_before_it_is_committed(checkout: Path) -> None:
    add(checkout, ["brand-new"])
    assert Checkout(checkout).apps("refs/heads/production") == ("brand-new", "money-making-app")
    assert Checkout(checkout).apps("refs/heads/no-such") == ("brand-new", "money-making-app")


def test_a_hook_of_another_repository_does_not_mislead_git(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert Checkout(checkout).apps("refs/heads/devel") == BRANCHES["devel"]


def test_a_missing_checkout_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(PreloadError, match="no-such: cannot read it") as raised:
        Checkout(tmp_path / "no-such")
    assert "containers.git" in raised.value.hint


def test_what_git_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("nonsense")
    with pytest.raises(PreloadError, match=r"git for-each-ref: fatal: .*invalid gitfile"):
        Checkout(tmp_path)


def test_lint_knows_that_an_app_is_there_on_the_branch_that_names_it(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(ALL_TAGGED), "--containers-git", str(checkout)]
    assert main(["lint", *arguments]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_the_matrix_shows_the_apps_of_each_branch(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", str(ADVANCED), "--containers-git", str(checkout)]) == 0
    said = capsys.readouterr().out
    assert "production (inherit master)  fiotest, money-making-app      money-making-app" in said
