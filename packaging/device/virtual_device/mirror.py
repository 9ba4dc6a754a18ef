"""This machine's Debian mirror, for another suite."""

import re
from pathlib import Path

from virtual_device.architecture import OWN

# Third parties use Debian's suite names, too; only Debian has these and a "main".
_POCKETS = ("", "-updates", "-security")
APT_OPTIONS = {
    # Downloads as root: _apt may not look into this user's cache.
    "APT::Sandbox::User": "root",
    # The signature of a testing suite is valid for a week only, and a mirror may be older. The
    # signature itself is checked all the same.
    "Acquire::Check-Valid-Until": "false",
}


def sources(suite: str, etc: Path = Path("/etc")) -> str:
    """Returns apt sources in deb822 form: those of this machine, with ``suite`` for its own suite.

    Raises LookupError if this machine has no Debian sources, as on another distribution.
    """
    system = (etc / "os-release").read_text()
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', system, re.MULTILINE))
    if release.get("ID") != "debian":
        # The mirrors of others, such as Ubuntu's, do not have Debian's suites.
        name = release.get("NAME", "another system")
        raise LookupError(f"this machine runs {name}, but this needs a Debian machine")
    own = release.get("VERSION_CODENAME", "stable")
    stanzas = []
    for path in [etc / "apt/sources.list", *sorted((etc / "apt/sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            stanzas += _deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            stanzas += _one_line(path.read_text())
    texts = [text for stanza in stanzas if (text := _exchanged(stanza, own, suite))]
    if not texts:
        raise LookupError(f"no apt source of {own} main in {etc}/apt: this needs a Debian machine")
    return "\n".join(texts)


def _deb822(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    stanzas = []
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        stanzas.append({name.title(): value for name, value in fields})
    return stanzas


def _one_line(text: str) -> list[dict[str, str]]:
    stanzas = []
    for options, uri, suite, components in re.findall(
        r"^deb[ \t]+(?:\[([^]]*)\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+([^#\n]+)", text, re.MULTILINE
    ):
        stanza = {"Types": "deb", "Uris": uri, "Suites": suite, "Components": components}
        signed_by = re.search(r"signed-by=(\S+)", options)
        if signed_by:
            stanza["Signed-By"] = signed_by.group(1)
        stanzas.append(stanza)
    return stanzas


def _exchanged(stanza: dict[str, str], own: str, suite: str) -> str | None:
    pockets = [own + pocket for pocket in _POCKETS]
    suites = [name for name in stanza.get("Suites", "").split() if name in pockets]
    wanted = (
        "deb" in stanza.get("Types", "").split()
        and "main" in stanza.get("Components", "").split()
        and stanza.get("Enabled", "yes").lower() not in ("no", "false", "0")
    )
    if not wanted or not suites:
        return None
    text = f"Types: deb\nURIs: {stanza['Uris']}\nComponents: main\n"
    text += f"Suites: {' '.join(suite + name.removeprefix(own) for name in suites)}\n"
    if "Signed-By" in stanza:
        text += f"Signed-By: {stanza['Signed-By']}\n"
    return text


def apt_options(suite: str, folder: Path, architecture: str = OWN) -> list[str]:
    """Returns options that make this machine's apt work on ``suite`` with all files in ``folder``.

    ``architecture``: that of the packages. ``folder`` is created. Raises LookupError like
    :func:`sources`.
    """
    for name in ("sources.d", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.d/debian.sources").write_text(sources(suite))
    values = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": folder / "sources.d",
        "Dir::State": folder / "state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": folder / "cache",
    }
    return [f"--option={key}={value}" for key, value in {**APT_OPTIONS, **values}.items()]
