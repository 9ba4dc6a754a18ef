"""The Debian packages have the right files, pass lintian, and are reproducible."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from layer.conftest import CHECKOUT, NAME, run

BUILD = "packaging/debian/build"
OPTIONS = ("fast-engine", "offline-docker")
TOOL = "compose-apps-preload"


def deb(packages: Path, name: str) -> Path:
    (found,) = packages.glob(f"{name}_*_all.deb")
    return found


def test_every_package_of_the_control_file_is_built(packages: Path) -> None:
    control = (CHECKOUT / "debian/control").read_text()
    named = [line.split()[1] for line in control.splitlines() if line.startswith("Package: ")]
    assert len(named) >= 3
    assert sorted(each.name.partition("_")[0] for each in packages.glob("*.deb")) == sorted(named)


def test_lintian_has_nothing_to_say(packages: Path) -> None:
    options = ("--allow-root", "--fail-on", "error,warning")
    assert run("lintian", *options, *packages.glob("*.deb")) == ""


def files(package: Path, folder: Path) -> dict[str, int]:
    """Path and mode of each file in a package, but for the modules."""
    run("dpkg-deb", "--extract", package, folder)
    found = [file for file in folder.rglob("*") if file.is_file()]
    names = {str(file.relative_to(folder)): file.stat().st_mode & 0o777 for file in found}
    return {name: mode for name, mode in names.items() if "/compose_apps_" not in name}


def documents(name: str, *more: str) -> dict[str, int]:
    named = ("changelog.gz", "copyright", *more)
    return {f"usr/share/doc/{name}/{each}": 0o644 for each in named}


def test_the_agents_package_has_its_files(packages: Path, tmp_path: Path) -> None:
    found = files(deb(packages, NAME), tmp_path)
    # debhelper's of Debian 12 puts units into /lib, which is a link to /usr/lib on a machine.
    unit = f"lib/systemd/system/{NAME}.service"
    found[unit] = found.pop(f"usr/{unit}", 0) or found[unit]
    assert found == {
        unit: 0o644,
        f"usr/bin/{NAME}": 0o755,
        f"usr/lib/systemd/catalog/{NAME}.catalog": 0o644,
        f"usr/lib/tmpfiles.d/{NAME}.conf": 0o644,
        f"usr/share/bash-completion/completions/{NAME}": 0o644,
        "usr/share/fioconfig/actions/early-start": 0o755,
        f"usr/share/man/man8/{NAME}.8.gz": 0o644,
        **documents(NAME, "CHANGELOG.md", "examples/default-apps", "examples/limits.conf"),
    }


@pytest.mark.parametrize("option", OPTIONS)
def test_an_options_package_has_a_generator(packages: Path, tmp_path: Path, option: str) -> None:
    name = f"{NAME}-{option}"
    found = files(deb(packages, name), tmp_path)
    links = [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert found == {
        f"usr/lib/systemd/system-generators/{name}": 0o755,
        **documents(name),
    }
    if option == "fast-engine":
        (link,) = links
        assert str(link.relative_to(tmp_path)) == f"usr/libexec/{NAME}/fast-engine/runc"
        assert str(link.readlink()) == "../../../bin/crun"
        assert "crun" in run("dpkg-deb", "--field", deb(packages, name), "Depends").split()
    else:
        assert not links


def test_the_host_tools_package_has_its_files(packages: Path, tmp_path: Path) -> None:
    assert files(deb(packages, TOOL), tmp_path) == {
        f"usr/bin/{TOOL}": 0o755,
        f"usr/share/bash-completion/completions/{TOOL}": 0o644,
        f"usr/share/man/man1/{TOOL}.1.gz": 0o644,
        f"usr/share/python3/runtime.d/{TOOL}.rtupdate": 0o755,
        **documents(TOOL, "CHANGELOG.md"),
    }


@pytest.mark.parametrize(
    ("name", "installed", "source"),
    [
        (NAME, "usr/lib/python3/dist-packages/compose_apps_early_start", "agent"),
        (TOOL, f"usr/share/{TOOL}/compose_apps_early_start", "agent"),
        (TOOL, f"usr/share/{TOOL}/compose_apps_preload", "packaging/preload"),
    ],
)
def test_a_package_has_the_modules_of_this_tree(
    packages: Path, tmp_path: Path, name: str, installed: str, source: str
) -> None:
    run("dpkg-deb", "--extract", deb(packages, name), tmp_path)
    there = CHECKOUT / source / Path(installed).name
    assert contents(tmp_path / installed) == contents(there)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_ubuntus_compose_is_recommended_as_an_alternative(packages: Path) -> None:
    recommends = run("dpkg-deb", "--field", deb(packages, NAME), "Recommends").strip()
    assert recommends == (
        "docker.io | docker-ce, docker-compose (>= 2) | docker-compose-v2 | docker-compose-plugin"
    )


def test_installing_starts_nothing_and_enables_the_unit(packages: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "--control", deb(packages, NAME), tmp_path)
    script = (tmp_path / "postinst").read_text()
    assert f"deb-systemd-helper enable '{NAME}.service'" in script
    assert "deb-systemd-invoke" not in script


def test_the_same_tree_makes_the_same_packages(packages: Path, tmp_path: Path) -> None:
    """Whatever the times of the files, and the rights that git gave them."""
    ignore = shutil.ignore_patterns(".*", "__pycache__")
    copy = shutil.copytree(CHECKOUT, tmp_path / "copy", symlinks=True, ignore=ignore)
    for file in copy.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode & 0o700 | 0o060)
            os.utime(file, (1_700_000_000, 1_700_000_000))
    subprocess.run([copy / BUILD, tmp_path / "again"], check=True, stdout=subprocess.DEVNULL)
    for package in packages.glob("*.deb"):
        assert (tmp_path / "again" / package.name).read_bytes() == package.read_bytes()


def test_nothing_is_built_if_nothing_has_changed(packages: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in packages.glob("*.deb")}
    assert run(CHECKOUT / BUILD, packages, "preload").strip() == str(deb(packages, TOOL))
    assert {file: file.stat().st_mtime_ns for file in packages.glob("*.deb")} == before


def test_debians_changelog_points_to_the_one_that_is_installed(
    packages: Path, tmp_path: Path
) -> None:
    run("dpkg-deb", "--extract", deb(packages, NAME), tmp_path)
    folder = tmp_path / f"usr/share/doc/{NAME}"
    assert "CHANGELOG.md" in gzip.decompress((folder / "changelog.gz").read_bytes()).decode()
    assert (folder / "CHANGELOG.md").read_text() == (CHECKOUT / "CHANGELOG.md").read_text()
