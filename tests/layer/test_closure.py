"""The agent runs on a Python that has only the packages which the recipe depends on.

OE splits the standard library: a package too few in RDEPENDS is found by no build, but is a
ModuleNotFoundError at the first boot.
"""

import re
import sys
from pathlib import Path

import documents
import pytest
from layer.conftest import NAME, RELEASES
from layer.device_python import DevicePython, Interpreter, interpreters
from layer.split_library import closure, package_of
from layer.stub_device import StubDevice

INTERPRETERS = interpreters()
HERE = next(iter(INTERPRETERS))

IMPLIED = frozenset(
    {"core", "compression", "crypt", "datetime", "json", "requests", "threading", "urllib3"}
)
"""They come with the others anyway, so that leaving one out cannot be seen at run time; the
comparison with the imports sees it."""


_LOADED = """\
import sys
import compose_apps_early_start.engine, compose_apps_early_start.start
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture
def device(tmp_path: Path) -> StubDevice:
    """Two apps; the shortlist names one of them, and one that is not there."""
    device = StubDevice(tmp_path / "device")
    for app in ("shop", "telemetry"):
        device.preload(app)
    device.shortlist("shop telemetri\n")
    return device


@pytest.fixture
def agent(device: StubDevice, installed: Path, systemd_python: Path, tmp_path: Path) -> "Agent":
    return Agent(device, installed, systemd_python, tmp_path)


class Agent:
    """Runs the installed agent on the device, with a Python of certain packages."""

    def __init__(self, device: StubDevice, *places: Path) -> None:
        self._device = device
        self._installed, self._systemd_python, self._scratch = places
        self.errors = self._scratch / "errors"

    def install(self, release: str, interpreter: Interpreter, packages: frozenset[str]) -> None:
        """Put the agent onto the device, with the library versions of ``release``."""
        libraries = Path(sys.prefix, release)
        assert libraries.is_dir(), f"{libraries} is missing: 'make test' makes it"
        self._python = DevicePython.install(
            self._scratch / "python", interpreter, packages, libraries, self._systemd_python
        )
        package = self._installed / NAME.replace("-", "_")
        (self._python.site / package.name).symlink_to(package)

    @property
    def site(self) -> Path:
        """Where the libraries are."""
        return self._python.site

    def loaded(self) -> set[str]:
        """Return which top-level modules are loaded with the agent; warnings are in ``errors``."""
        program = self._scratch / "loaded.py"
        program.write_text(_LOADED)
        return set(self._python.run(program, errors=self.errors).stdout.split())

    def run(self, *arguments: str) -> tuple[int, str]:
        """Return exit status and output; what goes to the journal is in the file ``errors``."""
        program = self._installed / "bin" / NAME
        with self._device.engine():
            ended = self._python.run(
                program,
                f"--root={self._device.root}",
                *arguments,
                errors=self.errors,
                NOTIFY_SOCKET=str(self._scratch / "nobody-listens"),
                EARLY_START_SETTLE_SECONDS="0",
                EARLY_START_ENGINE_SECONDS="5",
            )
        return ended.returncode, ended.stdout


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("python", INTERPRETERS)
def test_it_starts_an_app(agent: Agent, depends: frozenset[str], release: str, python: str) -> None:
    agent.install(release, INTERPRETERS[python], closure(depends))
    status, told = agent.run("plan", "--json")
    assert status == 0, agent.errors.read_text()
    assert [(each["name"], each["steps"]) for each in documents.plan(told)["apps"]] == [
        ("shop", [{"action": "up"}])
    ]
    assert agent.run("start")[0] == 3, agent.errors.read_text()
    journal = agent.errors.read_text()
    assert "did you mean 'telemetry'" in journal
    assert [line for line in journal.splitlines() if not line.startswith("MESSAGE=")] == []
    status, told = agent.run("status", "--json")
    assert status == 3, agent.errors.read_text()
    assert [(each["name"], each["state"]) for each in documents.run(told)["apps"]] == [
        ("shop", "running")
    ]


@pytest.mark.parametrize("release", RELEASES)
def test_loading_it_warns_of_nothing_and_loads_no_library_in_vain(
    agent: Agent, depends: frozenset[str], release: str
) -> None:
    agent.install(release, INTERPRETERS[HERE], closure(depends))
    assert (agent.site / "chardet").exists()
    loaded = agent.loaded()
    assert agent.errors.read_text() == ""
    assert loaded & {"docker", "chardet", "charset_normalizer", "cryptography", "OpenSSL"} == {
        "docker"
    }


def test_leaving_out_what_comes_anyway_changes_nothing(depends: frozenset[str]) -> None:
    everything = closure(depends)
    same = {name for name in depends if closure(depends - {name}) == everything}
    assert same == {f"python3-{name}" for name in IMPLIED}


@pytest.mark.parametrize(
    "left_out",
    ["difflib", "docker", "fcntl", "pyyaml", "resource", "sdnotify", "shell", "systemd"],
)
def test_a_package_too_few_is_found(agent: Agent, depends: frozenset[str], left_out: str) -> None:
    less = closure(depends - {f"python3-{left_out}"})
    assert less != closure(depends)
    agent.install("scarthgap", INTERPRETERS[HERE], less)
    assert agent.run("start")[0] == 1
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)'", agent.errors.read_text())
    assert missing
    assert package_of(missing[1]) == f"python3-{left_out}"


def test_every_package_that_adds_something_is_left_out_once(depends: frozenset[str]) -> None:
    mark = test_a_package_too_few_is_found.pytestmark[0]  # type: ignore[attr-defined]
    tried = set(mark.args[1]) | IMPLIED
    assert {f"python3-{name}" for name in tried} == depends
