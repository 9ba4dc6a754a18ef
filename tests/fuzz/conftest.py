"""The time, and the memory, that the targets share."""

import resource
from collections.abc import Iterator

import pytest
from fuzz.fuzzing import MAX_MEMORY, SECONDS, SEED, Fuzz


def pytest_report_header() -> str:
    return f"fuzzing: seed {SEED}, {SECONDS:g} s in all"


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Fuzz]:
    targets = [
        each for each in request.session.items if "fuzz" in getattr(each, "fixturenames", ())
    ]
    made = Fuzz(request.node.name, SECONDS / len(targets))
    yield made
    with capsys.disabled():
        print(f" {made.examples} examples ", end="")


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)
