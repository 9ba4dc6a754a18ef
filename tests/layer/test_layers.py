"""Both ways into a build: `make layer` changes the Factory's layer, or a layer of its own is added.

What is documented is run as it is documented, as a user without rights, on a copy of this tree.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from layer.conftest import CHECKOUT, NAME, VERSION, run

NOBODY = 65534
RECIPES = f"recipes-support/{NAME}"
IMAGE = "recipes-samples/images/lmp-factory-image.bb"
FOLDERS = ("agent", "bitbake", "docs", "fioconfig", "systemd", "tests/ptest")
LINE = f'CORE_IMAGE_BASE_INSTALL += "{NAME}"'

LAYER_CONF = """\
BBPATH .= ":${LAYERDIR}"
BBFILES += "${LAYERDIR}/recipes*/*/*.bb ${LAYERDIR}/recipes*/*/*.bbappend"
BBFILE_COLLECTIONS += "meta-subscriber-overrides"
BBFILE_PATTERN_meta-subscriber-overrides = "^${LAYERDIR}/"
BBFILE_PRIORITY_meta-subscriber-overrides = "10"
LAYERDEPENDS_meta-subscriber-overrides = "meta-lmp-base"
LAYERSERIES_COMPAT_meta-subscriber-overrides = "scarthgap"
"""

HEAD = """\
SUMMARY = "Minimal factory image which includes OTA Lite, Docker, and OpenSSH support"

require recipes-samples/images/lmp-image-common.inc

"""
TEMPLATES = {
    "before 2021": """\
CORE_IMAGE_BASE_INSTALL += " \\
    kernel-modules \\
    networkmanager-nmcli \\
    git \\
    vim \\
    packagegroup-core-full-cmdline-utils \\
    packagegroup-core-full-cmdline-extended \\
    packagegroup-core-full-cmdline-multiuser \\
"
""",
    "today": """\
CORE_IMAGE_BASE_INSTALL_GPLV3 = "\\
    packagegroup-core-full-cmdline-utils \\
    packagegroup-core-full-cmdline-multiuser \\
"

CORE_IMAGE_BASE_INSTALL += " \\
    kernel-modules \\
    networkmanager-nmcli \\
    git \\
    vim \\
    packagegroup-core-full-cmdline-extended \\
    ${@bb.utils.contains('LMP_DISABLE_GPLV3', '1', '', '${CORE_IMAGE_BASE_INSTALL_GPLV3}', d)} \\
"
""",
}
"""The shapes of a factory's image recipe."""


def documented(page: Path, command: str) -> str:
    """Return the block of commands of a page that begins with ``command``."""
    (block,) = re.findall(rf"^```\n({re.escape(command)}.*?)^```", page.read_text(), re.M | re.S)
    assert isinstance(block, str)
    return block


class Place:
    """A folder with a copy of this tree, and a factory's layer beside it."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / NAME
        self.factory = folder / "meta-subscriber-overrides"
        self.image = self.factory / IMAGE
        self.recipe = self.factory / RECIPES / f"{NAME}_{VERSION}.bb"

    def do(self, commands: str, cwd: Path | None = None) -> tuple[int, str]:
        """Run commands as a user without rights; return exit status and what they say."""
        rights: dict[str, Any] = {}
        if os.geteuid() == 0:
            rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        done = subprocess.run(
            ["sh", "-c", f"set -e\n{commands}"],
            cwd=cwd or self.checkout,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.checkout.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **rights,
        )
        return done.returncode, done.stdout

    def done(self, commands: str, cwd: Path | None = None) -> str:
        """The same; fails the test if that is no success."""
        status, said = self.do(commands, cwd)
        assert status == 0, said
        return said

    def refused(self, commands: str) -> str:
        """The same; fails the test if it is a success, or changes the factory's layer."""
        before = contents(self.factory)
        status, said = self.do(commands)
        assert status != 0, said
        assert "Traceback" not in said
        assert contents(self.factory) == before
        return said


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def place() -> Iterator[Place]:
    # Not below pytest's own folder, which is closed for others.
    with tempfile.TemporaryDirectory(prefix="layers-") as folder:
        place = Place(Path(folder))
        place.checkout.mkdir()
        shutil.copy(CHECKOUT / "Makefile", place.checkout)
        tracked = run("git", "ls-files", "-z", *FOLDERS, cwd=CHECKOUT)
        for name in (*tracked.split("\0")[:-1], "LICENSE", "README.md", "pyproject.toml"):
            (place.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, place.checkout / name, follow_symlinks=False)
        place.image.parent.mkdir(parents=True)
        place.image.write_text(HEAD + TEMPLATES["today"])
        (place.factory / "conf").mkdir()
        (place.factory / "conf/layer.conf").write_text(LAYER_CONF)
        if os.geteuid() == 0:
            for path in (Path(folder), *Path(folder).rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield place


@pytest.fixture
def meta_lmp(tmp_path: Path) -> Path:
    """meta-lmp-base, with the script."""
    layer = tmp_path / "meta-lmp-base"
    recipe = layer / RECIPES / f"{NAME}.bb"
    recipe.parent.mkdir(parents=True)
    recipe.touch()
    (layer / "conf").mkdir()
    text = LAYER_CONF.replace("meta-subscriber-overrides", "meta-lmp-base")
    (layer / "conf/layer.conf").write_text(text.replace('"10"', '"9"'))
    return layer


def find(*layers: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What BitBake finds in these layers, and what they depend on; see find.py."""
    told = run(sys.executable, Path(__file__).with_name("find.py"), *layers)
    found: tuple[list[dict[str, Any]], list[str]] = json.loads(told)
    return found


def preferred(*layers: Path) -> str:
    """Which recipe of our name BitBake would build."""
    recipes = [Path(each["recipe"]) for each in find(*layers)[0]]
    return str(next(each for each in recipes if each.stem.split("_")[0] == NAME))


OVERLAY_README = CHECKOUT / "bitbake/meta-subscriber-overrides/README.md"
LAYER_README = CHECKOUT / "bitbake/meta-compose-apps-early-start/README.md"
INSTALL = documented(OVERLAY_README, "make layer DEST=")
CHECK = documented(OVERLAY_README, "make layer-check DEST=")


# The factory's own layer


def test_without_it_bitbake_builds_the_script_and_the_check_says_so(
    place: Place, meta_lmp: Path
) -> None:
    assert preferred(place.factory, meta_lmp) == str(meta_lmp / RECIPES / f"{NAME}.bb")
    said = place.refused(CHECK)
    assert f"BitBake finds no {NAME}_{VERSION}.bb, it would build meta-lmp's script" in said
    assert f"{place.image} does not install it: add the line {LINE}" in said


@pytest.mark.parametrize("shape", TEMPLATES)
def test_one_command_puts_it_into_the_layer_and_the_image(
    place: Place, meta_lmp: Path, archive: Path, shape: str
) -> None:
    template = HEAD + TEMPLATES[shape]
    place.image.write_text(template)
    said = place.done(INSTALL + CHECK)
    assert f"added {place.recipe}\n" in said
    assert f"added {NAME} to {place.image}\n" in said
    assert f"BitBake will build {NAME} {VERSION} from {place.factory}, into its image.\n" in said
    assert preferred(place.factory, meta_lmp) == str(place.recipe)
    assert place.image.read_text() == f"{template}\n{LINE}\n"
    # BitBake looks for it there, by FILESPATH.
    assert (place.recipe.parent / NAME / archive.name).exists()


def test_it_can_be_repeated(place: Place) -> None:
    place.done(INSTALL)
    before = contents(place.factory)
    assert "added" not in place.done(INSTALL)
    assert contents(place.factory) == before


def test_it_works_from_a_checkout_of_lmp(place: Place) -> None:
    checkout = place.checkout.parent / "lmp"
    place.done(f"mkdir -p {checkout}/layers && mv {place.factory} {checkout}/layers/")
    page = CHECKOUT / "docs/integration.md"
    place.done(documented(page, f"make -C ~/{NAME} layer DEST=").splitlines()[0], checkout)
    assert (checkout / "layers/meta-subscriber-overrides" / RECIPES).is_dir()


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATES["today"].replace("    vim \\\n", f"    vim \\\n    {NAME} \\\n"),
        f'IMAGE_INSTALL:append:intel-corei7-64 = " {NAME}"\n',
        f"CORE_IMAGE_BASE_INSTALL += \"${{@bb.utils.contains('A', '1', '{NAME}', '', d)}}\"\n",
    ],
    ids=["by the manual", "for a machine", "by a condition"],
)
def test_an_image_that_lists_it_is_left_alone(place: Place, text: str) -> None:
    place.image.write_text(text)
    place.done(INSTALL)
    assert place.image.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        f"# {LINE}\n",
        f'CORE_IMAGE_BASE_INSTALL += "{NAME}-offline-docker"\n',
        f'MINE = "{NAME}"',
    ],
    ids=["comment", "another package", "another variable"],
)
def test_an_image_that_does_not_gets_the_line(place: Place, text: str) -> None:
    place.image.write_text(text)
    place.done(INSTALL)
    assert place.image.read_text() == f"{text.strip()}\n\n{LINE}\n"


def test_an_image_that_takes_it_away_is_found(place: Place) -> None:
    with place.image.open("a") as image:
        image.write(f'CORE_IMAGE_BASE_INSTALL:remove = "{NAME}"\n')
    status, said = place.do(INSTALL)
    assert status != 0
    assert f"{place.image} removes it again" in said


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("../nowhere", "nowhere is no folder: name the factory's meta-subscriber-overrides"),
        ("docs", "docs is no layer, it has no conf/layer.conf"),
        ("bitbake/meta-compose-apps-early-start", f"has no {IMAGE}: for another image, add the"),
        ("", "usage: make layer DEST=LAYER"),
    ],
)
@pytest.mark.parametrize("target", ["layer", "layer-check"])
def test_what_is_no_factory_layer_is_refused(
    place: Place, target: str, folder: str, words: str
) -> None:
    assert words in place.refused(f"make {target} DEST={folder}")


def test_the_mistake_of_one_folder_is_found(place: Place, meta_lmp: Path) -> None:
    """`cp -r` of the recipe's folder to a recipes-support that is not there."""
    place.done(f"cp -r bitbake/meta-subscriber-overrides/{RECIPES} {place.factory}/recipes-support")
    assert preferred(place.factory, meta_lmp) == str(meta_lmp / RECIPES / f"{NAME}.bb")
    stray = place.factory / f"recipes-support/{NAME}_{VERSION}.bb"
    assert f"{stray} is not where BitBake looks" in place.refused(CHECK)
    assert f"{stray} is another recipe of this name: remove it first" in place.refused(INSTALL)


def test_a_copy_of_the_script_would_win_and_is_found(place: Place, meta_lmp: Path) -> None:
    script = place.factory / f"recipes-custom/apps/{NAME}.bb"
    script.parent.mkdir(parents=True)
    script.touch()
    assert "remove it first" in place.refused(INSTALL)
    script.unlink()
    place.done(INSTALL)
    script.touch()
    assert preferred(place.factory, meta_lmp) == str(script)
    assert f"{script} is another recipe of this name, and could be built" in place.refused(CHECK)


def test_a_layer_of_too_low_a_priority_is_found(place: Place, meta_lmp: Path) -> None:
    place.done(INSTALL)
    configuration = place.factory / "conf/layer.conf"
    configuration.write_text(LAYER_CONF.replace('"10"', '"9"'))
    assert preferred(place.factory, meta_lmp) == str(meta_lmp / RECIPES / f"{NAME}.bb")
    assert "BBFILE_PRIORITY must be above 9" in place.refused(CHECK)


def test_a_layer_that_bitbake_reads_elsewhere_is_found(place: Place, meta_lmp: Path) -> None:
    configuration = place.factory / "conf/layer.conf"
    configuration.write_text(LAYER_CONF.replace("recipes*/*/*.bb ", "recipes-samples/*/*.bb "))
    status, said = place.do(INSTALL)
    assert status != 0
    assert f"BitBake finds no {NAME}_{VERSION}.bb" in said
    assert preferred(place.factory, meta_lmp) == str(meta_lmp / RECIPES / f"{NAME}.bb")


def test_a_missing_archive_is_found_unless_the_source_is_elsewhere(place: Place) -> None:
    place.done(INSTALL)
    shutil.rmtree(place.recipe.parent / NAME)
    assert f"has no {NAME}-{VERSION}.tar.gz beside it" in place.refused(CHECK)
    (place.recipe.parent / f"{NAME}_%.bbappend").touch()
    place.done(CHECK)


def test_changes_are_replaced_only_if_a_commit_holds_them(place: Place) -> None:
    place.done(INSTALL)
    ours = place.recipe.read_text()
    place.recipe.write_text(ours + "# mine\n")
    assert "has changes that no commit holds: commit them" in place.refused(INSTALL)
    git = "git -c user.name=n -c user.email=e@example.test"
    place.done(f"{git} init -q . && git add . && {git} commit -qm factory", place.factory)
    assert f"replaced {place.recipe}\n" in place.done(INSTALL)
    assert place.recipe.read_text() == ours


def test_it_runs_on_the_python_of_lmps_build_containers() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    run(vermin, "--target=3.8-", "--violations", *CHECKOUT.glob("bitbake/*.py"))


def test_the_manuals_patch_fits_the_older_shape(tmp_path: Path) -> None:
    image = tmp_path / IMAGE
    image.parent.mkdir(parents=True)
    before = HEAD + TEMPLATES["before 2021"]
    image.write_text(before)
    (patch,) = OVERLAY_README.parent.glob("recipes-samples/images/*.patch")
    run("git", "apply", patch, cwd=tmp_path)
    assert image.read_text() == before.replace("    vim \\\n", f"    vim \\\n    {NAME} \\\n")


# The layer apart


@pytest.fixture
def layer_apart(place: Place) -> Path:
    """It, copied as its page says."""
    layers = place.checkout.parent / "layers"
    place.done("mkdir ../layers")
    place.done(documented(LAYER_README, "make layer\n"))
    return layers / f"meta-{NAME}"


def test_it_wins_over_both_and_extends_the_factorys_image(
    place: Place, layer_apart: Path, meta_lmp: Path, archive: Path
) -> None:
    place.done(INSTALL)
    found, _ = find(place.factory, meta_lmp, layer_apart)
    assert found[0]["recipe"] == str(layer_apart / RECIPES / f"{NAME}_{VERSION}.bb")
    assert (layer_apart / RECIPES / NAME / archive.name).exists()
    (image,) = (each for each in found if each["recipe"] == str(place.image))
    (append,) = image["appends"]
    assert Path(append).is_relative_to(layer_apart / "dynamic-layers")
    assert LINE in Path(append).read_text().splitlines()


def test_it_works_from_this_tree_without_a_copy(meta_lmp: Path) -> None:
    layer = CHECKOUT / f"bitbake/meta-{NAME}"
    assert preferred(meta_lmp, layer) == str(layer / RECIPES / f"{NAME}_{VERSION}.bb")


def test_it_needs_no_layer_of_lmp(layer_apart: Path) -> None:
    found, depends = find(layer_apart)
    assert depends == ["core", "meta-python", "virtualization-layer"]
    assert [each["appends"] for each in found] == [[]]


def test_a_copy_that_lost_the_recipe_is_refused(place: Place, meta_lmp: Path) -> None:
    layer = place.checkout.parent / "lost"
    place.done(f"cp -r bitbake/meta-{NAME} {layer}")
    assert not (layer / RECIPES).exists()
    finder = Path(__file__).with_name("find.py")
    done = subprocess.run(
        [sys.executable, finder, layer, meta_lmp], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{layer} has no recipe: copy the layer with cp -rL" in done.stderr + done.stdout


def test_it_has_what_yocto_check_layer_wants() -> None:
    readme = LAYER_README.read_text()
    assert "maintainer" in readme.lower()
    assert "patch" in readme
    assert re.search(r"\S+@\S+", readme)
    # It stops looking where a page names another of that name.
    assert "README" not in readme
    layer = LAYER_README.parent
    assert (layer / "SECURITY").read_text()
    assert f"LAYERSERIES_COMPAT_{NAME}" in (layer / "conf/layer.conf").read_text()
    for patch in CHECKOUT.rglob("bitbake/**/*.patch"):
        assert "Upstream-Status: " in patch.read_text()


def test_the_example_for_urllib3_is_off_until_it_is_copied(
    place: Place, layer_apart: Path, tmp_path: Path
) -> None:
    oe_core = tmp_path / "meta"
    urllib3 = oe_core / "recipes-devtools/python/python3-urllib3_2.2.2.bb"
    urllib3.parent.mkdir(parents=True)
    urllib3.touch()
    (oe_core / "conf").mkdir()
    text = LAYER_CONF.replace("meta-subscriber-overrides", "core").replace('"10"', '"5"')
    (oe_core / "conf/layer.conf").write_text(text)

    def appends() -> list[str]:
        recipes, _ = find(oe_core, layer_apart)
        (found,) = (each["appends"] for each in recipes if each["recipe"] == str(urllib3))
        assert isinstance(found, list)
        return found

    assert appends() == []
    page = CHECKOUT / "docs/integration.md"
    place.done(documented(page, "cp python3-urllib3_%"), layer_apart / RECIPES)
    assert appends() == [str(layer_apart / RECIPES / "python3-urllib3_%.bbappend")]
