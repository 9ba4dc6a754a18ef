"""The table of all branches, compared with the one in the documentation's advanced scenario."""

import json
from pathlib import Path

import pytest
from compose_apps_preload.cli import main
from compose_apps_preload.configuration.factory_config import load
from compose_apps_preload.configuration.matrix import rows, text
from preload.examples import ADVANCED, ALL_TAGGED, DATA, apps_of, loaded

AMBIGUOUS = """\
the documentation is ambiguous. Read literally, lmp inherits only containers.preloaded_images, so \
apps would be money-making-app. By its explanations, containers' ref_options and params apply to \
every Target of the branch, so apps would be money-making-app, debug-tools. This rule is applied"""

PRINTED = """\
BUILD       BRANCH        TARGET TAG                   APPS IN THE TARGET             PRELOADED
containers  master        master                       fiotest, money-making-app      money-making-app
containers  master        production                   fiotest, money-making-app      money-making-app
containers  devel         devel                        debug-tools, money-making-app  money-making-app, debug-tools
containers  experimental  not built                    -                              -
containers  production    not built                    -                              -
lmp         production    production (inherit master)  fiotest, money-making-app      money-making-app
lmp         master        master                       fiotest, money-making-app      money-making-app
lmp         devel         devel                        debug-tools, money-making-app  money-making-app, debug-tools [1]
lmp         experimental  not built                    -                              -

[1] """  # noqa: E501


def test_the_advanced_scenario_as_printed() -> None:
    assert text(list(rows(load(ADVANCED), apps_of))) == PRINTED + AMBIGUOUS


def test_the_reference_page_shows_this_table() -> None:
    page = (Path(__file__).parents[2] / "docs/preload-configuration.md").read_text()
    assert PRINTED.partition("\n\n")[0] in page


def test_the_advanced_scenario_if_experimental_is_tagged() -> None:
    found = {
        (row.build, row.ref): (row.tag.name, row.target_apps, row.resolution.apps)
        for row in rows(load(ALL_TAGGED), apps_of)
        if row.tag and row.resolution and "experimental" in row.ref
    }
    expected = ("experimental", apps_of("experimental"), ())
    assert found == {
        ("containers", "refs/heads/experimental"): expected,
        ("lmp", "refs/heads/experimental"): expected,
    }


def test_both_ambiguous_cases_have_a_footnote() -> None:
    doubtful = [(row.build, row.ref) for row in rows(load(ALL_TAGGED)) if row.notes]
    assert doubtful == [("lmp", "refs/heads/devel"), ("lmp", "refs/heads/experimental")]


def test_without_tagging_every_branch_has_the_same_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", str(DATA / "lmp-differs.yml")]) == 0
    assert (
        capsys.readouterr().out
        == """\
BUILD       BRANCH     TARGET TAG  PRELOADED
containers  any other  none        money-making-app, debug-tools
lmp         any other  none        money-making-app
"""
    )


def test_a_shortlist_that_leaves_nothing_of_one_branch_is_told_in_its_row(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """\
containers:
  preloaded_images: {enabled: true, shortlist: fiotest}
  tagging:
    refs/heads/master: [{tag: master}]
    refs/heads/devel: [{tag: devel}]
""",
    )
    shown = text(list(rows(config, apps_of)))
    assert "nothing, the build fails [1]" in shown
    assert "[1] " + str(config.file) in shown


def test_json_has_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", str(ADVANCED), "--json", "--apps", "money-making-app,fiotest"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told) == 9
    assert told[5] == {
        "build": "lmp",
        "ref": "refs/heads/production",
        "built": True,
        "tag": "production",
        "inherit": "master",
        "target_apps": ["money-making-app", "fiotest"],
        "enabled": True,
        "apps": ["money-making-app"],
        "app_type": "restorable",
        "notes": [],
    }
