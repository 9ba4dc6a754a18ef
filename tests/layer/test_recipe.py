"""The recipe and its source archive, as far as they can be tested without OE-Core."""

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from layer.conftest import CHECKOUT, NAME, RELEASES, VERSION, Expand, run
from layer.split_library import PACKAGES, package_of


@pytest.mark.parametrize("release", [*RELEASES, "blacksail"])
def test_the_linter_has_nothing_to_say(recipe: Path, release: str) -> None:
    # The first would open the network; the source has no public place to name.
    suppressed = "oelint.vars.homepageping", "oelint.var.mandatoryvar.HOMEPAGE"
    options = ("--quiet", "--release", release, *(f"--suppress={rule}" for rule in suppressed))
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
    wrong.write_text(recipe.read_text().replace(" python_setuptools_", " pyhton_setuptools_"))
    parser = Path(__file__).with_name("expand.py")
    argv: list[str | Path] = [sys.executable, parser, wrong, "scarthgap", "/work"]
    ended = subprocess.run(argv, capture_output=True, text=True)
    assert "Could not inherit file" in ended.stderr


def test_its_version_is_the_agents(expand: Expand, archive: Path) -> None:
    got = expand("scarthgap", "BP")
    assert archive.name == got["BP"] + ".tar.gz"


def test_the_licence_is_the_one_it_names(expand: Expand, source: Path) -> None:
    licence = (source / "LICENSE").read_bytes()
    sums = expand("scarthgap", "LIC_FILES_CHKSUM")["LIC_FILES_CHKSUM"]
    assert sums == f"file://LICENSE;md5={hashlib.md5(licence).hexdigest()}"
    assert (CHECKOUT / f"bitbake/meta-{NAME}/LICENSE").read_bytes() == licence


BBFATAL = 'bbfatal() { echo "$*"; exit 1; }\n'
CLASS_INSTALLS = """\
python_setuptools_build_meta_do_install() {
    install -D /dev/null %(D)s/usr/bin/compose-apps-early-start
}
"""


@pytest.mark.parametrize("release", RELEASES)
def test_every_file_lands_in_a_package(
    expand: Expand, archive: Path, release: str, tmp_path: Path
) -> None:
    """Runs the recipe's own do_install; of what the Python class adds, it has the program only."""
    files = [f"FILES:{NAME}{option}" for option in ("", "-fast-engine", "-offline-docker")]
    got = expand(release, "S", "D", "do_install", *files, work=tmp_path)
    unpacked = Path(got["S"]).parent
    unpacked.mkdir(exist_ok=True)
    run("tar", "--extract", "--file", archive, "--directory", unpacked)
    run("sh", "-c", "set -e\n" + BBFATAL + CLASS_INSTALLS % got + got["do_install"])
    installed = {
        "/" + str(file.relative_to(got["D"])): file.stat().st_mode & 0o777
        for file in Path(got["D"]).rglob("*")
        if file.is_file()
    }
    assert installed == {
        f"/usr/bin/{NAME}": 0o755,
        f"/usr/lib/systemd/system/{NAME}.service": 0o644,
        f"/usr/lib/systemd/catalog/{NAME}.catalog": 0o644,
        f"/usr/lib/tmpfiles.d/{NAME}.conf": 0o644,
        f"/usr/share/bash-completion/completions/{NAME}": 0o644,
        f"/usr/share/doc/{NAME}/examples/default-apps": 0o644,
        f"/usr/share/doc/{NAME}/examples/limits.conf": 0o644,
        f"/usr/share/man/man8/{NAME}.8": 0o644,
        f"/usr/lib/systemd/system-generators/{NAME}-fast-engine": 0o755,
        f"/usr/lib/systemd/system-generators/{NAME}-offline-docker": 0o755,
        "/usr/share/fioconfig/actions/early-start": 0o755,
    }
    runtime = Path(got["D"], f"usr/libexec/{NAME}/fast-engine/runc")
    assert str(runtime.readlink()) == "../../../bin/crun"
    # The unit is systemd.bbclass's to package, the completion bash-completion.bbclass's, program,
    # man page and examples are bitbake.conf's.
    assert got[files[0]].split() == [
        "/usr/share/fioconfig/actions",
        "/usr/lib/systemd/catalog",
        "/usr/lib/tmpfiles.d",
    ]
    generators = f"/usr/lib/systemd/system-generators/{NAME}"
    assert got[files[1]].split() == [
        f"/usr/libexec/{NAME}/fast-engine",
        f"{generators}-fast-engine",
    ]
    assert got[files[2]].split() == [f"{generators}-offline-docker"]


def test_crun_is_built_only_if_it_is_wanted(expand: Expand, recipe: Path, tmp_path: Path) -> None:
    """BitBake builds what RDEPENDS names for the packages of an image, and for all others."""
    depends = f"RDEPENDS:{NAME}-fast-engine"
    assert expand("scarthgap", depends) == {depends: ""}
    default = 'PACKAGECONFIG ??= "'
    wanted = tmp_path / recipe.name
    wanted.write_text(recipe.read_text().replace(default, f"{default}fast-engine"))
    parser = Path(__file__).with_name("expand.py")
    told = run(sys.executable, parser, wanted, "scarthgap", "/work", depends)
    assert json.loads(told) == {depends: "crun"}


@pytest.mark.parametrize("release", RELEASES)
def test_the_tests_for_a_device_are_installed_where_their_runner_looks(
    expand: Expand, source: Path, release: str, tmp_path: Path
) -> None:
    got = expand(release, "D", "S", "do_install_ptest", work=tmp_path)
    shell = got["do_install_ptest"].replace(got["S"], str(source))
    run("sh", "-c", "set -e\n" + shell)
    installed = Path(got["D"], "usr/lib", NAME, "ptest/run-ptest")
    assert installed.read_text() == (CHECKOUT / "tests/ptest/run-ptest").read_text()
    assert installed.stat().st_mode & 0o777 == 0o755


def test_a_release_that_installs_no_program_is_told(expand: Expand, tmp_path: Path) -> None:
    """kirkstone, whose setuptools makes an empty package, and is content."""
    got = expand("scarthgap", "do_install", work=tmp_path)
    installs_nothing = "python_setuptools_build_meta_do_install() { :; }\n"
    shell = "set -e\n" + BBFATAL + installs_nothing + got["do_install"]
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == f"{NAME} needs Yocto 5.0 (LmP v95) or later\n"


@pytest.mark.parametrize("release", RELEASES)
def test_the_source_can_come_from_git_as_documented(
    recipe: Path, release: str, tmp_path: Path
) -> None:
    page = CHECKOUT / f"bitbake/meta-{NAME}/README.md"
    (append,) = re.findall(r"^```\n(SRC_URI .*?)^```", page.read_text(), re.M | re.S)
    appended = tmp_path / recipe.name
    appended.write_text(recipe.read_text() + append)
    parser = Path(__file__).with_name("expand.py")
    variables = "PV", "SRC_URI", "S"
    got = json.loads(run(sys.executable, parser, appended, release, "/work", *variables))
    assert got["PV"] == f"{VERSION}+git"
    assert Path(got["S"]).name == f"{NAME}-{VERSION}+git"
    assert got["SRC_URI"].endswith(f";destsuffix={NAME}-{VERSION}+git")


def test_the_package_names_no_example_address(recipe: Path) -> None:
    assert "example." not in recipe.read_text()


def test_the_archive_is_the_same_for_the_same_tree(archive: Path, tmp_path: Path) -> None:
    run(sys.executable, CHECKOUT / "bitbake/source_archive.py", tmp_path)
    assert (tmp_path / archive.name).read_bytes() == archive.read_bytes()


def test_the_archive_has_every_module_of_this_tree(source: Path) -> None:
    package = "agent/compose_apps_early_start"
    files = [file for file in (CHECKOUT / package).iterdir() if file.is_file()]
    # The schemas of what it prints, and py.typed.
    assert {file.suffix for file in files} == {".py", ".json", ".typed"}
    here = {file.name: file.read_bytes() for file in files}
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
