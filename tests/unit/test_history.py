"""The records of the last runs: their number, their size, and what a power cut leaves of them."""

import errno
import json
import os
from pathlib import Path

import pytest
from compose_apps_early_start import history
from compose_apps_early_start.history import MAX_RUNS, History
from compose_apps_early_start.record import AppRecord, Recorder
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.status import load_all
from pytest_mock import MockerFixture


def a_run(settings: Settings, *apps: str) -> int:
    """Have a run that ends well; return its number."""
    recorder = Recorder(settings, pytest.fail)
    recorder.begin([AppRecord(name) for name in apps], [])
    recorder.end("ok", 0)
    return recorder.record.run


def kept(settings: Settings) -> list[int]:
    """The numbers of the runs that are kept, as their records tell them."""
    files = History(settings).files()
    assert [json.loads(file.read_text())["run"] for file in files.values()] == list(files)
    return list(files)


def test_the_last_ten_runs_are_kept(settings: Settings) -> None:
    assert [a_run(settings) for _ in range(13)] == list(range(1, 14))
    assert kept(settings) == list(range(4, 14))
    assert len(kept(settings)) == MAX_RUNS
    assert len(list(settings.runs.iterdir())) == MAX_RUNS - 1


def test_large_records_are_fewer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(settings)
    monkeypatch.setattr(history, "MAX_BYTES", 3 * settings.last_run.stat().st_size + 100)
    for _ in range(8):
        a_run(settings)
    assert kept(settings) == [6, 7, 8, 9]
    size = sum(file.stat().st_size for file in settings.runs.iterdir())
    assert size <= history.MAX_BYTES


def test_a_power_cut_leaves_the_last_run_under_two_names_or_one(
    settings: Settings, mocker: MockerFixture
) -> None:
    a_run(settings)
    a_run(settings)
    # The power goes before the third takes the second's place.
    mocker.patch.object(Path, "replace", side_effect=OSError(errno.EIO, os.strerror(errno.EIO)))
    Recorder(settings, lambda text: None).end("ok", 0)
    mocker.stopall()
    assert (settings.runs / "2.json").samefile(settings.last_run)
    assert kept(settings) == [1, 2]
    assert a_run(settings) == 3
    assert kept(settings) == [1, 2, 3]


def test_a_damaged_last_run_does_not_begin_the_count_anew(settings: Settings) -> None:
    for _ in range(3):
        a_run(settings)
    settings.last_run.write_text("{")
    assert kept(settings) == [1, 2]
    assert a_run(settings) == 3
    assert kept(settings) == [1, 2, 3]


def test_a_record_of_the_first_schema_is_run_0(settings: Settings) -> None:
    settings.last_run.parent.mkdir(parents=True)
    settings.last_run.write_text('{"schema": 1, "state": "ok", "exit_status": 0}')
    assert a_run(settings) == 1
    assert [(each["run"], each["state"]) for each in load_all(settings)] == [(0, "ok"), (1, "ok")]


@pytest.mark.parametrize("text", ["[]", '{"run": "7"}', '{"run": -1}', '{"run": 1e9}', "7" * 5000])
def test_a_number_that_is_none(settings: Settings, text: str) -> None:
    settings.last_run.parent.mkdir(parents=True)
    settings.last_run.write_text(text)
    assert a_run(settings) == 1


def test_what_else_lies_there_is_left_alone(settings: Settings) -> None:
    settings.runs.mkdir(parents=True)
    names = ["README", "01.json", "-1.json", "1.json.new", ".2.json", "9999999999.json"]
    for name in names:
        (settings.runs / name).touch()
    for _ in range(MAX_RUNS + 2):
        a_run(settings)
    assert set(names) <= {file.name for file in settings.runs.iterdir()}
    assert len(kept(settings)) == MAX_RUNS


def test_a_disk_that_takes_no_history_takes_the_last_run_all_the_same(settings: Settings) -> None:
    a_run(settings)
    settings.runs.touch()  # no folder can be made there
    assert a_run(settings) == 2
    assert kept(settings) == [2]
