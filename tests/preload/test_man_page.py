"""The man page of the host tool has every command and option."""

import argparse
import re
import subprocess
from collections.abc import Iterator

import pytest
from compose_apps_preload import cli
from preload.examples import CHECKOUT

PAGE = CHECKOUT / "docs/compose-apps-preload.1"
COMMANDS = [module.add_command for module in cli.COMMANDS]


def rendered(*options: str) -> str:
    argv = ["mandoc", *options, str(PAGE)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(".\b", "", done.stdout)  # bold and underlined, as printers did it


def parsers() -> dict[str, argparse.ArgumentParser]:
    commands = argparse.ArgumentParser().add_subparsers()
    for add in COMMANDS:
        add(commands)
    return dict(commands.choices)


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (word for word in action.option_strings if word not in ("-h", "--help"))


def test_mandoc_has_nothing_to_say() -> None:
    assert rendered("-Tlint", "-Wwarning") == ""


@pytest.mark.parametrize("name", sorted(parsers()))
def test_every_command_and_option_is_told(name: str) -> None:
    page = rendered("-Tascii", "-Owidth=1000")
    assert re.search(rf"compose-apps-preload {name}\b", page)
    sections = re.split(r"^   (\w[\w, -]*)$", page, flags=re.MULTILINE)
    told = dict(zip(sections[1::2], sections[2::2], strict=True))
    (section,) = (text for title, text in told.items() if name in title.split(", "))
    for option in options(parsers()[name]):
        assert re.search(rf"(?<![\w-]){option}\b", section), option


def test_no_option_is_told_that_does_not_exist() -> None:
    known = {option for parser in parsers().values() for option in options(parser)}
    told = set(re.findall(r"(?<![\w-])--[a-z-]+", rendered("-Tascii", "-Owidth=1000")))
    assert told <= known | {"--help", "--version"}
