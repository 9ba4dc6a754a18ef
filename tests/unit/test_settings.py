"""The table of settings, from which options, environment and help are made."""

import argparse
from dataclasses import fields
from pathlib import Path

import pytest
from compose_apps_early_start.errors import UsageError
from compose_apps_early_start.settings import (
    ENVIRONMENT_PREFIX,
    Settings,
    add_limit_options,
    add_root_option,
    load,
)

LIMITS = {
    "engine_seconds": 120.0,
    "app_seconds": 180.0,
    "settle_seconds": 10.0,
    "run_seconds": 600.0,
    "parallel": 4,
}


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_root_option(made)
    add_limit_options(made)
    return made


def test_nothing_said_gives_the_defaults() -> None:
    assert load({}, {}) == Settings()
    assert {each.name: each.default for each in fields(Settings)} == {"root": Path("/"), **LIMITS}


def test_no_option_given_leaves_nothing_that_would_win_over_the_environment() -> None:
    assert vars(parser().parse_args([])) == {}


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_is_an_option_and_a_variable_and_the_option_wins(name: str) -> None:
    variable = ENVIRONMENT_PREFIX + name.upper()
    options = vars(parser().parse_args([option(name), "7"]))
    for loaded, number in [
        (load({}, {variable: "5"}), 5),
        (load(options, {}), 7),
        (load(options, {variable: "5"}), 7),
        (load(options, {variable: "nonsense"}), 7),
    ]:
        changed = {each: getattr(loaded, each) for each in LIMITS}
        assert changed == {**LIMITS, name: number}
        assert type(changed[name]) is type(LIMITS[name])


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_is_in_the_help_with_its_default(name: str) -> None:
    text = " ".join(parser().format_help().split())
    assert f"{option(name)} N" in text
    assert f"(default: {LIMITS[name]})" in text


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("app_seconds", "0", 0.0),
        ("app_seconds", "2.5", 2.5),
        ("app_seconds", "1e3", 1000.0),
        ("app_seconds", " 30 ", 30.0),
        ("app_seconds", "1000000", 1_000_000.0),
        ("parallel", "1", 1),
    ],
)
def test_a_good_number(name: str, text: str, number: float) -> None:
    assert getattr(load({name: text}, {}), name) == number


SECONDS = "a number of seconds from 0 to 1000000"
COUNT = "a whole number from 1 to 1000000"


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("app_seconds", "", SECONDS),
        ("app_seconds", "-1", SECONDS),
        ("app_seconds", "soon", SECONDS),
        ("app_seconds", "3min", SECONDS),
        ("app_seconds", "1,5", SECONDS),
        ("app_seconds", "nan", SECONDS),
        ("app_seconds", "inf", SECONDS),
        ("app_seconds", "1e999", SECONDS),
        # poll(2), which waits for compose, counts milliseconds in 31 bits.
        ("run_seconds", "1000001", SECONDS),
        ("parallel", "0", COUNT),
        ("parallel", "-4", COUNT),
        ("parallel", "2.5", COUNT),
        ("parallel", "9" * 400, COUNT),
        ("parallel", "9" * 5000, COUNT),
    ],
)
def test_a_bad_number_names_the_option_or_the_variable(name: str, text: str, wanted: str) -> None:
    variable = ENVIRONMENT_PREFIX + name.upper()
    for source, options, environment in [
        (option(name), {name: text}, {}),
        (variable, {}, {variable: text}),
    ]:
        with pytest.raises(UsageError) as raised:
            load(options, environment)
        assert str(raised.value) == f"{source}: {text!r} is not {wanted}"
        assert raised.value.hint == (
            "correct the value; 'compose-apps-early-start start --help' lists the settings"
        )
        assert raised.value.exit_status == 2


def test_the_root_is_an_option_and_a_variable_and_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"root": "a"}, {"EARLY_START_ROOT": "/b"}).root == tmp_path / "a"
    assert load({}, {"EARLY_START_ROOT": "/b"}).root == Path("/b")


def test_every_path_hangs_off_the_root() -> None:
    device, moved = Settings(), Settings(root=Path("/somewhere/else"))
    paths = [name for name, kind in vars(Settings).items() if isinstance(kind, property)]
    assert len(paths) == 19
    for name in paths:
        on_device, below = getattr(device, name), getattr(moved, name)
        if isinstance(on_device, Path):
            on_device, below = (on_device,), (below,)
        for each, other in zip(on_device, below, strict=True):
            assert other == moved.root / each.relative_to("/")
