"""Fuzzed small files: the shortlist, installed_versions, the records, the agent's own notes."""

import json
from pathlib import Path

import pytest
from compose_apps_early_start import oneshots, restorable, shortlist, status
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.images import TooSlow
from compose_apps_early_start.report import printable
from compose_apps_early_start.settings import Settings
from fuzz.fuzzing import Fuzz, Within
from fuzz.mutations import damaged, json_files
from hypothesis import strategies as st

SHORTLIST = "# what starts first\r\nshop, telemetry\tweb-1\n\n  Shop # twice\nfactory_reset\n"
SHORTLISTS = st.one_of(
    *(damaged(SHORTLIST.encode(each)) for each in ("utf-8", "utf-8-sig", "utf-16", "latin-1")),
    st.text().map(lambda each: each.encode("utf-8", "surrogatepass")),
    st.binary(),
)
NAMES = st.text(max_size=200) | st.sampled_from(["shop", "telemetry", "web-1", "shopp"])


def test_shortlists(fuzz: Fuzz, tmp_path: Path) -> None:
    file = tmp_path / "default-apps"

    def check(data: bytes, times: int, known: list[str]) -> None:
        data *= times
        file.write_bytes(data)
        with Within(tmp_path):
            try:
                names = shortlist.read(file)
            except EarlyStartError:
                assert len(data) > shortlist.MAX_BYTES
                return
            assert names is not None
            chosen, unknown = shortlist.select(names, known)
        assert len(set(names)) == len(names)
        assert all(each and not set(each) & set(" ,\t\r\n#") for each in names)
        assert set(chosen) <= set(known)
        strange = [name for name in names if name not in known]
        assert [*chosen] == [name for name in names if name in known]
        assert len(unknown) == min(len(strange), shortlist.MAX_REPORTED + 1)
        assert all(len(each.name) < 2 * shortlist.MAX_CHARACTERS for each in unknown)
        assert all(each.nearest in (None, *known) for each in unknown)

    fuzz(
        check,
        SHORTLISTS,
        st.sampled_from([1, 1, 1, 1, 20_000]),
        st.lists(NAMES, unique=True, max_size=200),
    )


INSTALLED = {
    "board-lmp-12": {
        "hashes": {"sha256": "e" * 64},
        "is_current": True,
        "custom": {
            "docker_compose_apps": {
                "shop": {"uri": "hub.example.test/factory/shop@sha256:" + "a" * 64},
                "telemetry": {"uri": "hub.example.test/factory/telemetry@sha256:" + "b" * 64},
            }
        },
    }
}


def test_installed_versions(fuzz: Fuzz, tmp_path: Path) -> None:
    file = tmp_path / "installed_versions"

    def check(data: bytes) -> None:
        file.write_bytes(data)
        with Within(tmp_path):
            found = restorable.installed_uris(file)
        assert all(isinstance(each, str) for each in (*found, *found.values()))

    fuzz(check, json_files(INSTALLED))


RECORD = {
    "schema": 1,
    "state": "running",
    "exit_status": None,
    "message": "dockerd did not answer",
    "hint": "look at it",
    "started": "2026-11-25T08:00:00+00:00",
    "pid": 1 << 30,
    "engine_wait_seconds": 1.5,
    "seconds": 60.25,
    "apps": [
        {
            "name": "shop",
            "state": "failed",
            "cause": "exited",
            "message": "container 'shop-web-1' ended with exit status 1",
            "hint": "look at its log",
            "attempts": 2,
            "up_seconds": 2.5,
            "settled_seconds": None,
        }
    ],
    "unknown": [{"name": "shopp", "nearest": "shop"}],
}


def test_records_of_runs(fuzz: Fuzz, tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    settings.run_status.parent.mkdir(parents=True)

    def check(data: bytes) -> None:
        settings.run_status.write_bytes(data)
        with Within(tmp_path):
            try:
                record = status.load(settings)
            except EarlyStartError:
                return
            shown = status.table(record)
        json.dumps(record)
        assert all(map(str.isprintable, shown.split("\n")))

    fuzz(check, json_files(RECORD))


def test_notes_of_earlier_runs(fuzz: Fuzz, tmp_path: Path) -> None:
    """Of one-shots that ended, and of images that take too long: what is none is not there."""
    settings = Settings(root=tmp_path)
    for file in (settings.finished, settings.slow_loads):
        file.parent.mkdir(parents=True)
    image = "hub.example.test/factory/web@sha256:" + "a" * 64

    def check(finished: bytes, slow: bytes) -> None:
        settings.finished.write_bytes(finished)
        settings.slow_loads.write_bytes(slow)
        with Within(tmp_path):
            recalled = oneshots.recall(settings, "1:2")
            too_slow = TooSlow(settings.slow_loads)
            seconds = too_slow.seconds(image)
            too_slow.remember(image, 60.0)
            assert too_slow.seconds(image) == 60.0
            too_slow.forget(image)
        assert all(isinstance(text, str) for each in recalled for text in each)
        assert isinstance(seconds, float)

    ended = {"engine": "1:2", "containers": {"c" * 64: "2026-11-25T08:00:00.1Z"}}
    fuzz(check, json_files(ended), json_files({image: 12.5, "other": 3.0}))


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\ud800", "\u2028", "\0"])
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    assert printable(text).isprintable()
