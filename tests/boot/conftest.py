"""Boots for the tests: each scenario is run once, and only if a test looks at it."""

import os
import subprocess
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from boot import scenarios
from boot.boots import Boot
from boot.scenarios import (
    FEW,
    POWER_CUTS,
    SCENARIOS,
    SUITES,
    ByHand,
    Flashed,
    Life,
    OfflineDocker,
    PowerCut,
)
from virtual_device import samples
from virtual_device.firmware import Firmware, firmware

CHECKOUT = Path(__file__).parents[2]
AT_ONCE = 3
HANG_SECONDS = 1500
"""A test waits for the boots that it looks at, and those for the ones before them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(HANG_SECONDS))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's .deb, built from this checkout."""
    argv = [CHECKOUT / "packaging/debian/build", tmp_path_factory.mktemp("package")]
    built = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return Path(built.stdout.strip())


@pytest.fixture(scope="session")
def flashed(package: Path) -> Firmware:
    """The firmware with the agent of this checkout; with MADE_AHEAD the containers, too."""
    if not os.environ.get("MADE_AHEAD"):
        return firmware(package)
    ahead = {name: (samples.APPS / name / "docker-compose.yml").read_text() for name in FEW}
    return firmware(package, ahead=ahead)


@pytest.fixture(scope="session")
def boots(
    request: pytest.FixtureRequest,
    package: Path,
    flashed: Firmware,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[Any]]]:
    """Scenario to what it comes to, begun for every scenario that a collected test looks at."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    pool = ThreadPoolExecutor(AT_ONCE)
    futures: dict[str, Future[Any]] = {}
    if "power_cut" in wanted:
        start = pool.submit(scenarios.frozen, flashed, tmp_path_factory.mktemp("frozen"))
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
        files = _offline_docker_package(tmp_path_factory.mktemp("offline-docker"))
        futures["offline_docker"] = pool.submit(scenarios.offline_docker, flashed, files)
    if "power_cut" in wanted:
        for number in range(POWER_CUTS):
            futures[f"power_cut {number}"] = pool.submit(
                scenarios.power_cut, flashed, start.result, number
            )
    try:
        yield futures
    finally:
        pool.shutdown(cancel_futures=True)


def _offline_docker_package(folder: Path) -> dict[str, str]:
    tree = folder / "tree"
    argv = [str(CHECKOUT / "packaging/debian/build"), str(folder), "offline-docker"]
    built = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    subprocess.run(["dpkg-deb", "--extract", built.stdout.strip(), str(tree)], check=True)
    files = [path for path in tree.rglob("*") if path.is_file()]
    return {f"/{path.relative_to(tree)}": path.read_text() for path in files}


@pytest.fixture(scope="session")
def life(boots: dict[str, Future[Any]]) -> Life:
    result: Life = boots["life"].result()
    return result


@pytest.fixture(scope="session")
def by_hand(boots: dict[str, Future[Any]]) -> ByHand:
    result: ByHand = boots["by_hand"].result()
    return result


@pytest.fixture(scope="session")
def empty_shortlist(boots: dict[str, Future[Any]]) -> Flashed:
    result: Flashed = boots["empty_shortlist"].result()
    return result


@pytest.fixture(scope="session")
def trouble(boots: dict[str, Future[Any]]) -> Flashed:
    result: Flashed = boots["trouble"].result()
    return result


@pytest.fixture(scope="session")
def no_dockerd(boots: dict[str, Future[Any]]) -> Flashed:
    result: Flashed = boots["no_dockerd"].result()
    return result


@pytest.fixture(scope="session")
def wait_online(boots: dict[str, Future[Any]]) -> Flashed:
    result: Flashed = boots["wait_online"].result()
    return result


@pytest.fixture(scope="session")
def offline_docker(boots: dict[str, Future[Any]]) -> OfflineDocker:
    result: OfflineDocker = boots["offline_docker"].result()
    return result


@pytest.fixture(scope="session", params=range(POWER_CUTS))
def power_cut(request: pytest.FixtureRequest, boots: dict[str, Future[Any]]) -> PowerCut:
    result: PowerCut = boots[f"power_cut {request.param}"].result()
    return result


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest, boots: dict[str, Future[Any]]) -> Flashed:
    result: Flashed = boots[f"suite {request.param}"].result()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the journals of the boots that a failed test looked at."""
    report = yield
    if report.failed:
        for result in getattr(item, "funcargs", {}).values():
            for name, boot in getattr(result, "__dict__", {}).items():
                if isinstance(boot, Boot):
                    report.sections.append((f"journal of the {name} boot", boot.text()))
    return report
