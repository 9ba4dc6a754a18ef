"""The imports, the unit, the message catalog and the man page agree with the code."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest
from compose_apps_early_start import preview, record, report, shortlist, start, status
from compose_apps_early_start.cause import Cause
from compose_apps_early_start.report import Kind
from compose_apps_early_start.settings import ENVIRONMENT_PREFIX, Settings, load

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "agent/compose_apps_early_start"
UNIT = ROOT / "systemd/compose-apps-early-start.service"
CATALOG = ROOT / "systemd/compose-apps-early-start.catalog"
TMPFILES = ROOT / "systemd/compose-apps-early-start.conf"
MAN_PAGE = ROOT / "docs/compose-apps-early-start.8"

REGISTRATION_FILES = ("/var/sota/sql.db", "/var/sota/client.pem", "/var/sota/sota.toml")
KILL_SWITCH_FILE = "/etc/compose-apps-early-start.disabled"
KILL_SWITCH_ARGUMENT = "compose-apps-early-start=disabled"

pytestmark = pytest.mark.usefixtures("real_processes")


def output(*command: str | Path) -> str:
    """What `command` says, on both streams; fails with it if that is not its success."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# The Makefile


def test_make_demo_and_make_boot_find_their_modules_in_a_clone() -> None:
    path = output("make", "--silent", "--eval=path: ; @echo $(DEVICE)", "path").strip()
    # -S: as on a machine on which no Python package is installed.
    argv = ["env", f"PYTHONPATH={path}", sys.executable, "-S", "-c", "import virtual_device.boot"]
    output(*argv)


# Python

DEPENDENCIES = {"yaml", "docker", "requests", "urllib3", "sdnotify", "systemd"}
"""The packages that may be used on the device; requests and urllib3 come with docker."""


@pytest.mark.parametrize("module", sorted(AGENT.glob("*.py")), ids=lambda module: module.name)
def test_a_module_imports_nothing_that_a_device_does_not_have(module: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module
            imported.add(node.module.partition(".")[0])
    assert imported <= sys.stdlib_module_names | DEPENDENCIES


def test_only_the_engine_speaks_to_dockerd() -> None:
    users = {
        module.stem
        for module in AGENT.glob("*.py")
        if re.search(r"^\s*(import|from) (docker|requests|urllib3)\b", module.read_text(), re.M)
    }
    assert users == {"engine"}


# The unit


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """The unit's settings: every value that each was given."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(UNIT, units)
    for target in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(target, units)
    program = tmp_path / "usr/bin/compose-apps-early-start"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    assert output("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", UNIT.name) == ""


def test_the_unit_is_hardened_to_an_exposure_of_one_or_less() -> None:
    said = output("systemd-analyze", "security", "--offline=true", "--threshold=10", UNIT)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert exposure, said
    assert float(exposure[1]) <= 1.0


def test_systemd_waits_longer_than_the_agent_may_take(unit: dict[str, list[str]]) -> None:
    (timeout,) = unit["TimeoutStartSec"]
    microseconds = re.search(r"s: ([0-9]+)$", output("systemd-analyze", "timespan", timeout), re.M)
    assert microseconds
    limits = Settings()
    margin = 30  # loading Python on a slow board, and ending compose
    seconds = int(microseconds[1]) / 1_000_000
    assert seconds >= limits.engine_seconds + limits.run_seconds + margin


def test_the_unit_is_skipped_on_a_registered_device_and_by_the_kill_switches(
    unit: dict[str, list[str]],
) -> None:
    assert [str(each) for each in Settings().registration_files] == list(REGISTRATION_FILES)
    assert unit["ConditionPathExists"] == [
        *(f"!{file}" for file in REGISTRATION_FILES),
        f"!{KILL_SWITCH_FILE}",
    ]
    assert unit["ConditionKernelCommandLine"] == [f"!{KILL_SWITCH_ARGUMENT}"]


def test_the_unit_may_write_where_the_agent_does(unit: dict[str, list[str]]) -> None:
    settings = Settings()
    (runtime,), (state,), (paths,) = (
        unit["RuntimeDirectory"],
        unit["StateDirectory"],
        unit["ReadWritePaths"],
    )
    assert settings.run_status.parent == settings.own_lock.parent == Path("/run", runtime)
    assert settings.last_run.parent == Path("/var/lib", state)
    # On the device /var/lock is a link to /run/lock.
    assert settings.aktualizr_lock.parent == Path("/var/lock")
    below = "/var/sota"
    for path in (settings.compose_apps, settings.staging):
        assert path.is_relative_to(below)
    # The one with the hyphen may be missing.
    assert paths.split() == ["/run/lock", f"-{below}"]


def test_what_the_unit_may_not_do_is_an_error_and_not_its_death(
    unit: dict[str, list[str]],
) -> None:
    assert "~@privileged" in unit["SystemCallFilter"][1].split()  # giving files away is among it
    assert unit["SystemCallErrorNumber"] == ["EPERM"]


def test_ota_and_registration_wait_and_nothing_restarts(unit: dict[str, list[str]]) -> None:
    assert unit["Type"] == ["oneshot"]
    assert unit["RemainAfterExit"] == ["yes"]
    assert set(unit["Before"][0].split()) == {
        "aktualizr-lite.service",
        "fioup.service",
        "lmp-device-auto-register.service",
    }
    assert "Restart" not in unit
    assert "OnFailure" not in unit
    assert "docker.service" not in " ".join(unit["After"]).split()


# The message catalog


def entries() -> dict[str, tuple[dict[str, str], str]]:
    """By message id: its headers, and its text."""
    found = {}
    for entry in re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)[1:]:
        head, _, text = entry.partition("\n\n")
        message_id, *headers = head.splitlines()
        found[message_id] = (dict(each.split(": ", 1) for each in headers), text)
    return found


def test_each_kind_of_event_is_explained_and_nothing_else() -> None:
    assert sorted(entries()) == sorted(kind.message_id for kind in Kind)


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_an_entry_says_what_happened_and_what_to_do_next(kind: Kind) -> None:
    headers, text = entries()[kind.message_id]
    assert headers["Subject"]
    assert headers["Defined-By"] == "compose-apps-early-start"
    assert headers["Documentation"] == "man:compose-apps-early-start(8)"
    explanation, found, next_step = text.partition("What to do next: ")
    assert found
    assert explanation.strip()
    assert next_step.strip()


def test_the_catalog_names_only_fields_that_are_sent() -> None:
    sent = set(re.findall(r'"([A-Z_]+)":', inspect.getsource(report.journal)))
    named = set(re.findall(r"@([A-Z_]+)@", CATALOG.read_text()))
    assert named
    assert named <= sent


def test_systemd_reads_the_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    output("journalctl", f"--root={tmp_path}", "--update-catalog")
    listed = output("journalctl", f"--root={tmp_path}", "--list-catalog")
    for kind in Kind:
        assert f"{kind.message_id} compose-apps-early-start: " in listed


def test_a_scratch_folder_that_a_power_cut_left_goes_at_the_next_boot(tmp_path: Path) -> None:
    """At boot only: a run that is at work has one."""
    scratch = tmp_path / str(Settings().staging).lstrip("/")
    (scratch / "new/site").mkdir(parents=True)
    (scratch / "new/site/index.html").touch()
    app = scratch.parent / "compose-apps/shop/docker-compose.yml"
    app.parent.mkdir(parents=True)
    app.touch()
    conf = tmp_path / "usr/lib/tmpfiles.d" / TMPFILES.name
    conf.parent.mkdir(parents=True)
    shutil.copy(TMPFILES, conf)
    said = output("systemd-tmpfiles", f"--root={tmp_path}", "--remove", TMPFILES.name)
    assert said == ""
    assert (scratch / "new/site/index.html").exists()
    said = output("systemd-tmpfiles", f"--root={tmp_path}", "--boot", "--remove", TMPFILES.name)
    assert said == ""
    assert [each.name for each in scratch.parent.iterdir()] == ["compose-apps"]
    assert app.exists()


# The man page


@pytest.fixture(scope="module")
def man_page() -> str:
    """The man page as it is read, without line breaks inside of paragraphs."""
    rendered = output("mandoc", "-Tascii", "-Owidth=1000", MAN_PAGE)
    return re.sub(".\b", "", rendered)  # bold and underlined, as printers did it


def test_mandoc_has_nothing_to_say_about_the_man_page() -> None:
    assert output("mandoc", "-Tlint", "-Wwarning", MAN_PAGE) == ""


def missing(page: str, wanted: list[str]) -> list[str]:
    return [each for each in wanted if not re.search(rf"(?<![\w-]){re.escape(each)}\b", page)]


def test_the_man_page_has_every_command_and_option(man_page: str) -> None:
    limits = ["--" + each.name.replace("_", "-") for each in fields(Settings)]
    assert missing(man_page, ["start", "plan", "status", "timeline"]) == []
    assert missing(man_page, [*limits, "--json", "--help", "--version"]) == []
    assert missing(man_page, ["--wait", "--list", "--run", "--log"]) == []


def test_the_man_page_has_every_variable_and_default(man_page: str) -> None:
    limits = [each for each in fields(Settings) if each.name != "root"]
    assert missing(man_page, [ENVIRONMENT_PREFIX + each.name.upper() for each in limits]) == []
    for each in limits:
        paragraph = man_page.split(ENVIRONMENT_PREFIX + each.name.upper())[1].split("--")[0]
        assert re.search(rf"\b{each.default:g}\b", paragraph), f"{each.name}: {paragraph}"


def test_the_man_page_explains_every_cause(man_page: str) -> None:
    causes = man_page.split("\nCAUSES")[1].split("\nFILES")[0]
    assert missing(causes, [cause.label for cause in Cause]) == []


def test_the_man_page_has_every_exit_status(man_page: str) -> None:
    section = man_page.split("\nEXIT STATUS")[1].split("\nEXAMPLES")[0]
    assert re.findall(r"^ +(\d) ", section, re.MULTILINE) == list("012345")
    assert (start.ALL_RUN, start.NOTHING_RUNS, start.DEGRADED) == (0, 1, 3)
    assert (status.GOES_ON, status.NO_RUN) == (4, 5)


def test_the_man_page_has_every_path(man_page: str) -> None:
    settings = Settings()
    paths = [getattr(settings, name) for name, kind in vars(Settings).items() if is_path(kind)]
    flat = [str(each) for some in paths for each in (some if isinstance(some, tuple) else [some])]
    assert len(flat) == 21
    section = man_page.split("\nFILES")[1].split("\nEXIT STATUS")[0]
    assert [each for each in flat if each not in section] == []
    assert KILL_SWITCH_FILE in section
    assert KILL_SWITCH_ARGUMENT in section


# The examples


def test_the_example_of_a_drop_in_shows_every_limit_with_its_default(
    unit: dict[str, list[str]], tmp_path: Path
) -> None:
    text = (ROOT / "examples/limits.conf").read_text()
    shown = re.findall(r"^#Environment=(\w+)=(\w+)$", text, re.MULTILINE)
    names = [each.name for each in fields(Settings) if each.name != "root"]
    assert [name for name, _ in shown] == [ENVIRONMENT_PREFIX + each.upper() for each in names]
    assert load({}, dict(shown)) == Settings()
    assert f"\n#TimeoutStartSec={unit['TimeoutStartSec'][0]}\n" in text
    # As a person would use it: with all lines in force.
    shutil.copy(UNIT, tmp_path)
    drop_in = tmp_path / f"{UNIT.name}.d/limits.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(re.sub(r"^#(?=\w+=)", "", text, flags=re.MULTILINE))
    said = output("systemd-analyze", "security", "--offline=true", tmp_path / UNIT.name)
    assert "Overall exposure level" in said
    assert "limits.conf" not in said


def test_the_example_of_default_apps_names_the_sample_apps() -> None:
    text = (ROOT / "examples/default-apps").read_bytes()
    assert shortlist.parse(text) == ("shop", "telemetry", "debug-tools")


def is_path(kind: object) -> bool:
    return isinstance(kind, property)


def test_both_kinds_of_json_have_a_schema_version() -> None:
    assert (preview.SCHEMA, record.SCHEMA) == (1, 2)
