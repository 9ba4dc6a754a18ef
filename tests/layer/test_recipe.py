"""The recipe: what can be known of it without OE-Core."""

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from layer.conftest import CHECKOUT, NAME, RELEASES, Expand, run
from layer.split_library import PACKAGES, package_of

IMAGE_RECIPE = """\
SUMMARY = "Minimal factory image which includes OTA Lite, Docker, and OpenSSH support"

CORE_IMAGE_BASE_INSTALL += " \\
    kernel-modules \\
    networkmanager-nmcli \\
    git \\
    vim \\
    packagegroup-core-full-cmdline-utils \\
    packagegroup-core-full-cmdline-extended \\
    packagegroup-core-full-cmdline-multiuser \\
"
"""
"""Of the shape that the manual's patch is for."""


@pytest.mark.parametrize("release", RELEASES)
def test_the_linter_has_nothing_to_say(recipe: Path, release: str) -> None:
    # homepageping would open the network.
    options = ("--quiet", "--release", release, "--suppress", "oelint.vars.homepageping")
    linter = Path(sys.executable).with_name("oelint-adv")
    assert run(linter, *options, "--hide", "info", recipe) == ""


@pytest.mark.parametrize("release", RELEASES)
def test_bitbake_parses_it(expand: Expand, release: str) -> None:
    got = expand(release, "PN", "PV", "SRC_URI", "SYSTEMD_SERVICE:" + NAME)
    version = got["PV"]
    assert got == {
        "PN": NAME,
        "PV": version,
        "SRC_URI": f"file://{NAME}-{version}.tar.gz",
        "SYSTEMD_SERVICE:" + NAME: f"{NAME}.service",
    }


def test_a_wrong_class_is_an_error(recipe: Path, tmp_path: Path) -> None:
    wrong = tmp_path / recipe.name
    wrong.write_text(recipe.read_text().replace("inherit python_", "inherit pyhton_"))
    parser = Path(__file__).with_name("expand.py")
    argv: list[str | Path] = [sys.executable, parser, wrong, "scarthgap", "/work"]
    ended = subprocess.run(argv, capture_output=True, text=True)
    assert "Could not inherit file" in ended.stderr


def test_its_version_is_the_agents(expand: Expand, sdist: Path) -> None:
    got = expand("scarthgap", "BP")
    assert sdist.name == got["BP"] + ".tar.gz"


def test_the_licence_is_the_one_it_names(expand: Expand, source: Path, layer: Path) -> None:
    licence = (source / "LICENSE").read_bytes()
    sums = expand("scarthgap", "LIC_FILES_CHKSUM")["LIC_FILES_CHKSUM"]
    assert sums == f"file://LICENSE;md5={hashlib.md5(licence).hexdigest()}"
    assert (layer / "LICENSE").read_bytes() == licence


@pytest.mark.parametrize("release", RELEASES)
def test_every_file_lands_in_a_package(
    expand: Expand, sdist: Path, release: str, tmp_path: Path
) -> None:
    """Runs the recipe's own do_install; what the Python class adds is not in it."""
    files = f"FILES:{NAME}", f"FILES:{NAME}-offline-docker"
    got = expand(release, "S", "D", "do_install", *files, work=tmp_path)
    unpacked = Path(got["S"]).parent
    unpacked.mkdir(exist_ok=True)
    run("tar", "--extract", "--file", sdist, "--directory", unpacked)
    shell = "set -e\npython_setuptools_build_meta_do_install() { :; }\n"
    run("sh", "-c", shell + got["do_install"])
    installed = {
        "/" + str(file.relative_to(got["D"])): file.stat().st_mode & 0o777
        for file in Path(got["D"]).rglob("*")
        if file.is_file()
    }
    assert installed == {
        f"/usr/lib/systemd/system/{NAME}.service": 0o644,
        f"/usr/lib/systemd/catalog/{NAME}.catalog": 0o644,
        f"/usr/lib/tmpfiles.d/{NAME}.conf": 0o644,
        f"/usr/share/man/man8/{NAME}.8": 0o644,
        f"/usr/lib/systemd/system-generators/{NAME}-offline-docker": 0o755,
    }
    # The unit is systemd.bbclass's to package, the man page bitbake.conf's.
    assert got[files[0]].split() == ["/usr/lib/systemd/catalog", "/usr/lib/tmpfiles.d"]
    assert got[files[1]].split() == ["/usr/lib/systemd/system-generators"]


def test_the_archive_is_the_same_for_the_same_tree(sdist: Path, tmp_path: Path) -> None:
    run(sys.executable, CHECKOUT / "bitbake/sdist.py", tmp_path)
    assert (tmp_path / sdist.name).read_bytes() == sdist.read_bytes()


def test_the_archive_has_every_module_of_this_tree(source: Path) -> None:
    package = "agent/compose_apps_early_start"
    here = {file.name: file.read_bytes() for file in (CHECKOUT / package).glob("*.py")}
    assert {file.name: file.read_bytes() for file in (source / package).iterdir()} == here


def test_the_program_is_where_users_look_for_it(installed: Path) -> None:
    assert (installed / "bin" / NAME).exists()


def imported() -> set[str]:
    """Return the top-level modules that the agent imports, wherever in its code."""
    found = set()
    for file in (CHECKOUT / "agent/compose_apps_early_start").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition(".")[0])
    return found


def test_it_depends_on_exactly_what_the_agent_imports(depends: frozenset[str]) -> None:
    """And on what a library imports and its own recipe does not name; test_closure tells."""
    assert depends == {package_of(module) for module in imported()} | {"python3-shell"}


def test_it_brings_compose(expand: Expand) -> None:
    variable = f"RDEPENDS:{NAME}"
    assert "docker-compose" in expand("wrynose", variable)[variable].split()


def test_no_module_is_in_two_packages() -> None:
    modules = [module for package in PACKAGES.values() for module in package.modules]
    assert sorted(modules) == sorted(set(modules))


def test_the_patch_adds_the_package_to_the_image(layer: Path, tmp_path: Path) -> None:
    image = tmp_path / "recipes-samples/images/lmp-factory-image.bb"
    image.parent.mkdir(parents=True)
    image.write_text(IMAGE_RECIPE)
    (patch,) = layer.glob("recipes-samples/images/*.patch")
    run("git", "apply", patch, cwd=tmp_path)
    added = "    vim \\\n    compose-apps-early-start \\\n"
    assert image.read_text() == IMAGE_RECIPE.replace("    vim \\\n", added)


def test_the_layer_has_what_yocto_check_layer_wants(layer: Path) -> None:
    readme = (layer / "README.md").read_text().lower()
    assert "maintainer" in readme
    assert "patch" in readme
    assert re.search(r"\S+@\S+", readme)
    assert (layer / "SECURITY").read_text()
    assert "LAYERSERIES_COMPAT_meta-subscriber-overrides" in (layer / "conf/layer.conf").read_text()
    for patch in layer.rglob("*.patch"):
        assert "Upstream-Status: " in patch.read_text()
