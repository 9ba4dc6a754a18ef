"""Boots for the tests: each scenario is run once, and only if a test looks at it."""

import os
import subprocess
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from boot import power_cuts, scenarios
from boot.boots import Boot
from boot.power_cuts import CUTS, PowerCut, Recording
from boot.scenarios import FEW, SCENARIOS, SUITES
from virtual_device import samples
from virtual_device.firmware import Firmware, firmware

AT_ONCE = int(os.environ.get("BOOTS_AT_ONCE", "3"))
HANG_SECONDS = 2700
"""A test waits for the boots that it looks at, and those for the ones before them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(HANG_SECONDS))


@pytest.fixture(scope="session")
def flashed(package: Path) -> Firmware:
    """The firmware with the agent of this checkout."""
    return firmware(package)


def _created_ahead(package: Path) -> Firmware:
    """The firmware with the containers, too."""
    ahead = {name: (samples.APPS / name / "docker-compose.yml").read_text() for name in FEW}
    return firmware(package, ahead=ahead)


@pytest.fixture(scope="session")
def boots(
    request: pytest.FixtureRequest,
    packages: Path,
    package: Path,
    flashed: Firmware,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[Any]]]:
    """Scenario to what it comes to, begun for every scenario that a collected test looks at."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    pool = ThreadPoolExecutor(AT_ONCE)
    futures: dict[str, Future[Any]] = {}
    recordings: dict[str, Future[Recording]] = {}
    if "power_cut" in wanted:
        folder = tmp_path_factory.mktemp("recordings")
        for kind in dict.fromkeys(kind for kind, _number in CUTS):
            with_apps = _created_ahead(package) if kind == power_cuts.CREATED_AHEAD else flashed
            recordings[kind] = pool.submit(power_cuts.record, kind, with_apps, folder)
    # The long ones first: what comes last is short, and keeps both processors busy to the end.
    if "suite" in wanted:
        for name in SUITES:
            futures[f"suite {name}"] = pool.submit(
                lambda name: scenarios.suite(firmware(package, name)), name
            )
    for name, scenario in SCENARIOS.items():
        if name in wanted:
            futures[name] = pool.submit(scenario, flashed)
    if "offline_docker" in wanted:
        files = _options(packages, tmp_path_factory.mktemp("options"))
        futures["offline_docker"] = pool.submit(scenarios.offline_docker, flashed, files)
    if "power_cut" in wanted:
        for kind, number in CUTS:
            futures[f"power_cut {(kind, number)}"] = pool.submit(
                power_cuts.cut, kind, recordings[kind].result, number
            )
    try:
        yield futures
    finally:
        pool.shutdown(cancel_futures=True)


def _options(packages: Path, tree: Path) -> dict[str, str]:
    for option in ("fast-engine", "offline-docker"):
        (package,) = packages.glob(f"*-{option}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
    # Debian's documentation is packed, and no text.
    files = [path for path in (tree / "usr/lib").rglob("*") if path.is_file()]
    return {f"/{path.relative_to(tree)}": path.read_text() for path in files}


def _result(scenario: str) -> Any:
    """Return the fixture that gives a test the result of a scenario, and is named like it."""

    @pytest.fixture(scope="session", name=scenario)
    def result(boots: dict[str, Future[Any]]) -> Any:
        return boots[scenario].result()

    return result


def _results(scenario: str, keys: Sequence[object]) -> Any:
    """Return the same for a scenario with variants: a test runs once for each of them."""

    @pytest.fixture(scope="session", name=scenario, params=keys)
    def result(request: pytest.FixtureRequest, boots: dict[str, Future[Any]]) -> Any:
        return boots[f"{scenario} {request.param}"].result()

    return result


life = _result("life")
by_hand = _result("by_hand")
empty_shortlist = _result("empty_shortlist")
trouble = _result("trouble")
no_dockerd = _result("no_dockerd")
wait_online = _result("wait_online")
offline_docker = _result("offline_docker")
power_cut = _results("power_cut", CUTS)
suite = _results("suite", SUITES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the journals of the boots that a failed test looked at."""
    report = yield
    cut = getattr(item, "funcargs", {}).get("power_cut")
    if cut and report.when == "call":
        seen = item.config.stash[_CUTS]
        seen[cut] = seen.get(cut, True) and report.passed
    if report.failed:
        for result in getattr(item, "funcargs", {}).values():
            for name, boot in getattr(result, "__dict__", {}).items():
                if isinstance(boot, Boot):
                    report.sections.append((f"journal of the {name} boot", boot.text()))
    return report


_CUTS = pytest.StashKey[dict[PowerCut, bool]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_CUTS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the power cuts have hit."""
    seen = terminalreporter.config.stash[_CUTS]
    if not seen:
        return
    terminalreporter.section("power cuts")
    terminalreporter.line(f"{'while':44}cuts  good  sectors lost")
    for what in sorted({what for each in seen for what in each.doing}):
        good = [is_good for each, is_good in seen.items() if what in each.doing]
        lost = sum(each.lost for each in seen if what in each.doing)
        terminalreporter.line(f"{what:44}{len(good):4}  {sum(good):4}  {lost:12}")
    lost = sum(each.lost for each in seen)
    terminalreporter.line(f"{'all':44}{len(seen):4}  {sum(seen.values()):4}  {lost:12}")
