"""factory_layer.py install|check LAYER: the recipe in a Factory's meta-subscriber-overrides.

`install` copies the recipe and its source archive to a folder where BitBake finds them, and adds
the package to the Factory's image. `check` says whether BitBake would build this recipe. If BitBake
does not find it, it silently builds meta-lmp's script, which has the same name.

It needs only Python 3.8, which LmP's build containers have.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from source_archive import NAME, archive, version

RECIPE = Path(__file__).resolve().parent / "meta-subscriber-overrides/recipes-support" / NAME
IMAGE = "recipes-samples/images/lmp-factory-image.bb"
IMAGE_LINE = f'CORE_IMAGE_BASE_INSTALL += "{NAME}"'
OTHER_IMAGES = "for another image, add the layer bitbake/meta-compose-apps-early-start instead"
META_LMP_PRIORITY = 9


class LayerError(Exception):
    """The reason why nothing was copied, and what to do."""


class FactoryLayer:
    """The parts of a Factory's layer that BitBake reads."""

    def __init__(self, folder: Path) -> None:
        """Raise `LayerError` if ``folder`` is not a Factory's layer."""
        self.folder = folder
        self.image = folder / IMAGE
        if not folder.is_dir():
            raise LayerError(f"{folder} is no folder: name the factory's meta-subscriber-overrides")
        configuration = folder / "conf/layer.conf"
        if not configuration.is_file():
            raise LayerError(
                f"{folder} is no layer, it has no conf/layer.conf: "
                "name the factory's meta-subscriber-overrides"
            )
        if not self.image.is_file():
            raise LayerError(f"{folder} has no {IMAGE}: {OTHER_IMAGES}")
        self._configuration = list(_assignments(configuration.read_text()))

    def recipes(self) -> List[Path]:
        """Return every recipe of this name that BitBake reads."""
        here = "${LAYERDIR}/"
        patterns = [
            word[len(here) :]
            for variable, value in self._configuration
            if variable.split(":")[0] == "BBFILES"
            for word in value.split()
            if word.startswith(here)
        ]
        found = {file for pattern in patterns for file in self.folder.glob(pattern)}
        return sorted(file for file in found if _is_recipe(file))

    def astray(self) -> List[Path]:
        """Return every recipe of this name in a folder that BitBake does not read."""
        files = (file for file in self.folder.rglob(f"{NAME}*.bb") if _is_recipe(file))
        return sorted(set(files) - set(self.recipes()))

    def priorities(self) -> List[int]:
        """Return the layer's settings for its priority."""
        return [
            int(value)
            for variable, value in self._configuration
            if variable.startswith("BBFILE_PRIORITY") and value.strip().isdigit()
        ]

    def installs(self) -> bool:
        """Whether the image's recipe adds the package."""
        return any(":remove" not in variable for variable in self._lists())

    def removes(self) -> bool:
        """Whether the image's recipe removes the package."""
        return any(variable.endswith(":remove") for variable in self._lists())

    def _lists(self) -> List[str]:
        package = re.compile(rf"(?<![\w-]){NAME}(?![\w-])")
        return [
            variable
            for variable, value in _assignments(self.image.read_text())
            if "INSTALL" in variable and package.search(value)
        ]


def _is_recipe(file: Path) -> bool:
    return file.suffix == ".bb" and file.stem.split("_")[0] == NAME


def _assignments(text: str) -> Iterator[Tuple[str, str]]:
    """Yield the variable and the value of each assignment in a BitBake file, as written."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    assignment = r"""^\s*([A-Z][\w:${}.-]*)\s*(?:\?\?|[?+.:])?=[+.]?\s*(["'])(.*)\2\s*$"""
    for variable, _, value in re.findall(assignment, joined, re.MULTILINE):
        yield variable, value


def install(layer: FactoryLayer) -> None:
    """Copy the recipe and its archive, and add the package to the image.

    Raises `LayerError`, and changes nothing, if this would lose something or be useless.
    """
    target = layer.folder / "recipes-support" / NAME
    copies: Dict[Path, bytes] = {
        target / file.name: file.read_bytes()
        for file in (*RECIPE.glob("*.bb"), *RECIPE.glob("*.example"))
    }
    name, content = archive()
    copies[target / NAME / name] = content
    for other in (*layer.recipes(), *layer.astray()):
        if other not in copies:
            raise LayerError(f"{other} is another recipe of this name: remove it first")
    changed = {
        file: content
        for file, content in copies.items()
        if not file.exists() or file.read_bytes() != content
    }
    for file in changed:
        if file.exists() and file.name != name and not _is_committed(file):
            raise LayerError(
                f"{file} has changes that no commit holds: commit them, "
                f"or move them to {NAME}_%.bbappend"
            )
    for file, content in changed.items():
        print("replaced" if file.exists() else "added", file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    if not layer.installs():
        print("added", NAME, "to", layer.image)
        ended = layer.image.read_text().endswith("\n")
        with layer.image.open("a") as image:
            image.write(("" if ended else "\n") + f"\n{IMAGE_LINE}\n")


def _is_committed(file: Path) -> bool:
    argv = ["git", "-C", str(file.parent), "status", "--porcelain", "--ignored", "--", file.name]
    try:
        ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return False
    return ended.returncode == 0 and not ended.stdout


def problems(layer: FactoryLayer) -> Iterator[str]:
    """Yield the reasons why BitBake would not build this recipe or not add it to the image."""
    wanted = f"{NAME}_{version()}.bb"
    source = f"{NAME}-{version()}.tar.gz"
    found = layer.recipes()
    if wanted not in [file.name for file in found]:
        yield f"BitBake finds no {wanted}, it would build meta-lmp's script: run 'make layer DEST='"
    for file in layer.astray():
        yield f"{file} is not where BitBake looks: move it to recipes-support/{NAME}/"
    for file in found:
        sources = [file.parent / folder / source for folder in (NAME, "files")]
        # A .bbappend may use another source.
        sources += file.parent.glob(f"{NAME}_*.bbappend")
        if file.name != wanted:
            yield f"{file} is another recipe of this name, and could be built instead: remove it"
        elif not any(each.exists() for each in sources):
            yield f"{file} has no {source} beside it: run 'make layer DEST='"
    if any(priority <= META_LMP_PRIORITY for priority in layer.priorities()):
        yield (
            f"{layer.folder}/conf/layer.conf: BBFILE_PRIORITY must be above {META_LMP_PRIORITY}, "
            "or meta-lmp's script is built"
        )
    if not layer.installs():
        yield f"{layer.image} does not install it: add the line {IMAGE_LINE}"
    if layer.removes():
        yield f"{layer.image} removes it again: delete the line with ':remove'"


def main(command: str, folder: str) -> int:
    """Return the exit status: 0 if BitBake would build the recipe into the image."""
    layer = FactoryLayer(Path(folder).expanduser().resolve())
    if command == "install":
        install(layer)
    found = list(problems(layer))
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"BitBake will build {NAME} {version()} from {layer.folder}, into its image.")
        if command == "install":
            print("Commit what has changed there, and push it.")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("install", "check") or not sys.argv[2]:
        sys.exit("usage: make layer DEST=LAYER, make layer-check DEST=LAYER")
    try:
        sys.exit(main(*sys.argv[1:]))
    except LayerError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
