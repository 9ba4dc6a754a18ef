"""A release is reproducible, holds what it should, and refuses a version that is not everywhere."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from layer.conftest import CHECKOUT, NAME, VERSION, run

AS_SOMEBODY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.test")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This tree as the only commit of a repository."""
    folder = tmp_path / "clone"
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, run(*listed, cwd=CHECKOUT).split("\0")):
        source = CHECKOUT / name
        if source.is_symlink() or source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    run("git", "init", "--quiet", folder)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    run("git", "add", "--all", cwd=folder)
    run("git", *AS_SOMEBODY, "commit", "--quiet", "--message=all", cwd=folder)


def release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "packaging/release.py", *arguments]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def members(archive: Path) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def test_the_same_commit_makes_the_same_files(clone: Path, tmp_path: Path) -> None:
    first = release(clone, "make", str(tmp_path / "first"))
    assert first.returncode == 0, first.stderr
    # Another clone has other times, and one that works under another umask other rights.
    run("git", "clone", "--quiet", clone, tmp_path / "other")
    run("chmod", "--recursive", "go-rwx", tmp_path / "other")
    second = release(tmp_path / "other", "make", str(tmp_path / "second"))
    assert second.returncode == 0, second.stderr
    files = contents(tmp_path / "first")
    assert contents(tmp_path / "second") == files
    archive, layer = f"{NAME}-{VERSION}.tar.gz", f"meta-{NAME}-{VERSION}.tar.gz"
    assert {name for name in files if not name.endswith(".deb")} == {archive, layer, "SHA256SUMS"}
    assert f"{NAME}_{VERSION}_all.deb" in files
    sums = dict(line.split()[::-1] for line in files.pop("SHA256SUMS").decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert f"{NAME}-{VERSION}/debian/rules" in members(tmp_path / "first" / archive)
    recipe = f"meta-{NAME}/recipes-support/{NAME}"
    assert {
        f"meta-{NAME}/conf/layer.conf",
        f"{recipe}/{NAME}_{VERSION}.bb",
        f"{recipe}/{NAME}/{archive}",
    } <= members(tmp_path / "first" / layer)
    assert run("git", "tag", cwd=clone) == ""


def test_a_new_version_is_changed_in_one_place(clone: Path, tmp_path: Path) -> None:
    module = clone / "agent/compose_apps_early_start/__init__.py"
    module.write_text(module.read_text().replace(VERSION, "7.8.9"))
    changelog = clone / "CHANGELOG.md"
    text = re.sub(r"^## \[.*", "## [Unreleased]", changelog.read_text(), count=1, flags=re.M)
    changelog.write_text(text)
    refused = release(clone, "make", str(tmp_path / "release"))
    assert "there are changes that no commit holds" in refused.stderr
    assert "CHANGELOG.md" in refused.stderr
    commit(clone)
    refused = release(clone, "make", str(tmp_path / "release"))
    assert refused.returncode == 1
    assert "the recipe's name in" in refused.stderr
    assert "is not that of 7.8.9: run 'make version'" in refused.stderr
    assert not (tmp_path / "release").exists()

    assert release(clone, "version").returncode == 0
    assert re.search(r"^## \[7\.8\.9\] - 20\d\d-\d\d-\d\d$", changelog.read_text(), re.M)
    assert "Unreleased" not in changelog.read_text()
    commit(clone)
    done = release(clone, "make", str(tmp_path / "release"))
    assert done.returncode == 0, done.stderr
    head = run("git", "rev-parse", "HEAD", cwd=clone).strip()
    assert done.stdout.endswith(f"\ntag it: git tag --sign v7.8.9 {head}\n")
    made = {file.name for file in (tmp_path / "release").iterdir()}
    assert len(made) >= 6
    assert [name for name in made if "7.8.9" not in name] == ["SHA256SUMS"]
    # A second time there is nothing to write.
    assert release(clone, "version").returncode == 0
    assert run("git", "status", "--porcelain", cwd=clone) == ""


def test_every_place_has_the_version_of_this_tree(clone: Path) -> None:
    changelog = (clone / "debian/changelog").read_text()
    assert changelog.startswith(f"{NAME} ({VERSION}) ")
    assert f"\n## [{VERSION}]" in (clone / "CHANGELOG.md").read_text()
    places = ("Makefile", "agent", "bitbake", "debian", "packaging", "pyproject.toml")
    search = ("git", "grep", "--name-only", "--fixed-strings", "--word-regexp", VERSION)
    assert set(run(*search, "--", *places, cwd=clone).split()) == {
        "agent/compose_apps_early_start/__init__.py",
        "debian/changelog",
    }
