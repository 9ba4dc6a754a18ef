"""What the tests start from: the examples of the document, and files as a person may write them."""

from pathlib import Path

from compose_apps_preload.configuration.factory_config import FactoryConfig, load, read

CHECKOUT = Path(__file__).parents[2]
PATHS = tuple(str(CHECKOUT / path) for path in ("agent", "packaging/preload"))
"""Where the tool's modules are."""

DATA = Path(__file__).parent / "data"
ADVANCED = DATA / "advanced.yml"
ALL_TAGGED = DATA / "advanced-experimental-tagged.yml"

BRANCHES = {
    "master": ("fiotest", "money-making-app"),
    "devel": ("debug-tools", "money-making-app"),
    "experimental": ("debug-tools", "money-making-app"),
    "production": ("money-making-app",),
}
"""The branches of containers.git in the document's advanced scenario, and their apps."""


def apps_of(ref: str) -> tuple[str, ...]:
    """The apps of a branch in the advanced scenario; production is checked out."""
    return BRANCHES.get(ref.removeprefix("refs/heads/"), BRANCHES["production"])


def written(folder: Path, text: str | bytes) -> Path:
    """A factory-config.yml with this text."""
    file = folder / "factory-config.yml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def loaded(folder: Path, text: str) -> FactoryConfig:
    """The configuration in `text`, in which nothing may be wrong."""
    return load(written(folder, text))


def seen(folder: Path, text: str) -> FactoryConfig:
    """The configuration in `text`, and what is wrong with it."""
    return read(written(folder, text))
