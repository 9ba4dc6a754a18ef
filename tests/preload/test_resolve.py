"""Which apps a build gets: the tables of the documentation, and the precedence of the keys."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_apps_preload.cli import main
from compose_apps_preload.configuration.factory_config import BUILDS, Build, load
from compose_apps_preload.configuration.resolve import NothingLeftError, Resolution, resolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preload.examples import ADVANCED, ALL_TAGGED, DATA, apps_of, loaded

DEVEL = "refs/heads/devel"
X, Y = ("x",), ("y",)
NOTHING: tuple[str, ...] = ()
ALL = None


def section(name: str, *lines: str) -> str:
    return "\n".join([f"{name}:", "  preloaded_images:", *(f"    {line}" for line in lines), ""])


ON, OFF, LIST_X, LIST_Y = "enabled: true", "enabled: false", "shortlist: x", "shortlist: y"


@pytest.mark.parametrize(
    ("text", "container_build", "platform_build"),
    [
        pytest.param("containers:\nlmp:\n", NOTHING, NOTHING, id="both absent"),
        pytest.param(section("containers", ON), ALL, ALL, id="containers on"),
        pytest.param(section("containers", ON, LIST_X), X, X, id="containers on, X"),
        pytest.param(
            section("containers", ON, LIST_X) + section("lmp", OFF), X, NOTHING, id="lmp off"
        ),
        pytest.param(
            section("containers", ON, LIST_X) + section("lmp", ON, LIST_Y), X, Y, id="lmp on, Y"
        ),
        pytest.param(section("lmp", ON, LIST_Y), NOTHING, Y, id="containers absent, lmp on, Y"),
        pytest.param(
            section("containers", OFF) + section("lmp", ON, LIST_Y), NOTHING, Y, id="only lmp on, Y"
        ),
        pytest.param(
            section("containers", ON, LIST_X) + section("lmp", ON), X, X, id="lmp on, no shortlist"
        ),
        pytest.param(
            section("containers", ON, LIST_X) + section("lmp", LIST_Y), X, Y, id="lmp Y, not on"
        ),
    ],
)
def test_each_section_decides_for_its_builds_and_lmp_inherits_from_containers(
    tmp_path: Path,
    text: str,
    container_build: tuple[str, ...] | None,
    platform_build: tuple[str, ...] | None,
) -> None:
    config = loaded(tmp_path, text)
    assert resolve(config, "containers", DEVEL).apps == container_build
    assert resolve(config, "lmp", DEVEL).apps == platform_build


BOTH = ("money-making-app", "debug-tools")
PRODUCT = ("money-making-app",)


@pytest.mark.parametrize(
    ("example", "container_build", "platform_build"),
    [
        ("simple", ALL, ALL),
        ("lmp-off", BOTH, NOTHING),
        ("lmp-differs", BOTH, PRODUCT),
        ("lmp-only", NOTHING, BOTH),
    ],
)
def test_the_examples_of_the_document_do_what_it_says(
    example: str,
    container_build: tuple[str, ...] | None,
    platform_build: tuple[str, ...] | None,
) -> None:
    config = load(DATA / f"{example}.yml")
    assert resolve(config, "containers", DEVEL).apps == container_build
    assert resolve(config, "lmp", DEVEL).apps == platform_build


def test_no_shortlist_means_all_apps_of_the_target_if_they_are_known() -> None:
    config = load(DATA / "simple.yml")
    assert resolve(config, "lmp", DEVEL, ["b", "a"]).apps == ("b", "a")


def test_a_branch_may_be_named_in_short() -> None:
    config = load(ADVANCED)
    assert resolve(config, "containers", "devel") == resolve(config, "containers", DEVEL)


# Precedence

PLACES = {
    'lmp.ref_options."refs/heads/devel".params': "lmp",
    "lmp.params": "lmp",
    "lmp.preloaded_images": "lmp",
    'containers.ref_options."refs/heads/devel".params': "containers",
    "containers.params": "containers",
    "containers.preloaded_images": "containers",
}
"""Every place that may say something on a branch, the strongest first, and its section."""


def config_of(said: Mapping[str, tuple[bool | None, str | None]]) -> str:
    """The file in which the places say whether preloading is on, and the shortlist."""
    sections: dict[str, dict[str, Any]] = {"lmp": {}, "containers": {}}
    for place, (enabled, shortlist) in said.items():
        is_param = not place.endswith("preloaded_images")
        values: dict[str, object] = {}
        if enabled is not None:
            values["ASSEMBLE_SYSTEM_IMAGE" if is_param else "enabled"] = (
                str(int(enabled)) if is_param else enabled
            )
        if shortlist is not None:
            values["APP_SHORTLIST" if is_param else "shortlist"] = shortlist
        where = sections[PLACES[place]]
        if "ref_options" in place:
            where["ref_options"] = {DEVEL: {"params": values}}
        else:
            where[place.partition(".")[2]] = values
    return str(yaml.safe_dump(sections))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.dictionaries(
        st.sampled_from(sorted(PLACES)),
        st.tuples(
            st.none() | st.booleans(), st.none() | st.sampled_from(["", "a", "b", "c", "a,c"])
        ),
    ),
    build=st.sampled_from(BUILDS),
)
def test_the_first_place_that_names_a_value_decides_and_the_others_are_overridden(
    tmp_path: Path, said: dict[str, tuple[bool | None, str | None]], build: Build
) -> None:
    resolution = resolve(loaded(tmp_path, config_of(said)), build, DEVEL)
    heard = [
        said.get(place, (None, None))
        for place, name in PLACES.items()
        if build == "lmp" or name == "containers"
    ]
    enabled = [each for each, _ in heard if each is not None]
    lists = [each for _, each in heard if each is not None]

    assert resolution.enabled == (enabled or [False])[0]
    on, listed, *_ = resolution.decisions
    assert len(on.over) == max(len(enabled) - 1, 0)
    if not resolution.enabled:
        assert resolution.apps == ()
    else:
        expected = tuple(name for name in (lists or [""])[0].split(",") if name)
        assert resolution.apps == (expected or None)
        assert len(listed.over) == max(len(lists) - 1, 0)


@given(
    shortlist=st.lists(st.sampled_from("abcdef"), min_size=1),
    target=st.sets(st.sampled_from("abcdef"), min_size=1),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_preloaded_is_what_shortlist_and_target_have_in_common_by_whole_names(
    tmp_path: Path, shortlist: list[str], target: set[str]
) -> None:
    text = section("containers", ON, f"shortlist: {' , '.join(shortlist)}")
    config = loaded(tmp_path, text)
    if target.isdisjoint(shortlist):
        with pytest.raises(NothingLeftError, match="nothing is left to preload"):
            resolve(config, "containers", DEVEL, sorted(target))
        return
    found = resolve(config, "containers", DEVEL, sorted(target))
    assert found.apps is not None
    assert set(found.apps) == target & set(shortlist)
    assert set(found.unknown_apps) == set(shortlist) - target


def test_part_of_a_name_is_not_the_name(tmp_path: Path) -> None:
    config = loaded(tmp_path, section("containers", ON, "shortlist: app,shop"))
    assert resolve(config, "containers", DEVEL, ["app-2", "shop"]).apps == ("shop",)


@pytest.mark.parametrize(
    ("text", "build", "app_type"),
    [
        pytest.param(section("containers", ON), "lmp", "restorable", id="by default"),
        pytest.param(section("containers", "app_type: compose"), "lmp", "compose", id="inherited"),
        pytest.param(
            section("containers", "app_type: compose") + section("lmp", "app_type: restorable"),
            "lmp",
            "restorable",
            id="lmp's own",
        ),
        pytest.param(
            section("lmp", "app_type: compose"), "containers", "restorable", id="not back"
        ),
    ],
)
def test_the_app_type_is_restorable_unless_a_section_says_otherwise(
    tmp_path: Path, text: str, build: Build, app_type: str
) -> None:
    assert resolve(loaded(tmp_path, text), build, DEVEL).app_type == app_type


@pytest.mark.parametrize(
    ("value", "enabled"),
    [('"1"', True), ('"0"', False), ('"1 "', True), ('" 0 "', False), ("1", True), ("0", False)],
)
def test_assemble_system_image_is_1_or_0_and_may_carry_blanks(
    tmp_path: Path, value: str, enabled: bool
) -> None:
    text = f"containers:\n  params:\n    ASSEMBLE_SYSTEM_IMAGE: {value}\n"
    assert resolve(loaded(tmp_path, text), "containers", DEVEL).enabled is enabled


def test_a_key_without_a_value_says_nothing(tmp_path: Path) -> None:
    text = section("containers", ON, LIST_X) + section("lmp", "enabled:", "shortlist: ~")
    assert resolve(loaded(tmp_path, text), "lmp", DEVEL).apps == X


def test_anchors_and_merge_keys_are_heeded(tmp_path: Path) -> None:
    text = """\
common: &common
  APP_SHORTLIST: x
  ASSEMBLE_SYSTEM_IMAGE: "1"
containers:
  ref_options:
    refs/heads/devel:
      params:
        <<: *common
        APP_SHORTLIST: y
    refs/heads/next:
      params: *common
"""
    config = loaded(tmp_path, text)
    assert resolve(config, "containers", "devel").apps == Y
    assert resolve(config, "containers", "next").apps == X


# Where the documentation is ambiguous


def doubts(resolution: Resolution) -> str:
    return "\n".join(doubt for each in resolution.decisions for doubt in each.doubts)


@pytest.mark.parametrize(
    ("branch", "apps", "literally"),
    [
        ("devel", BOTH, "apps would be money-making-app"),
        ("experimental", NOTHING, "enabled would be yes"),
    ],
)
def test_an_ambiguous_platform_build_follows_the_explanations_and_has_a_doubt(
    branch: str, apps: tuple[str, ...], literally: str
) -> None:
    resolution = resolve(load(ALL_TAGGED), "lmp", branch)
    assert resolution.apps == apps
    assert "This rule is applied" in doubts(resolution)
    assert literally in doubts(resolution)


@pytest.mark.parametrize("branch", ["production", "master"])
def test_without_ambiguity_there_is_no_doubt(branch: str) -> None:
    assert doubts(resolve(load(ALL_TAGGED), "lmp", branch)) == ""


def test_the_undocumented_case_names_the_rule_that_was_taken(tmp_path: Path) -> None:
    config = loaded(tmp_path, section("containers", ON, LIST_X) + section("lmp", ON))
    assert "Each key is inherited on its own" in doubts(resolve(config, "lmp", DEVEL))
    assert doubts(resolve(config, "containers", DEVEL)) == ""


def test_an_empty_shortlist_of_lmp_means_all_apps_and_is_not_inherited(tmp_path: Path) -> None:
    text = section("containers", ON, LIST_X) + section("lmp", ON, 'shortlist: ""')
    resolution = resolve(loaded(tmp_path, text), "lmp", DEVEL)
    assert resolution.apps is None
    assert doubts(resolution) == ""


# Tags


def test_a_branch_that_tagging_does_not_list_is_not_built() -> None:
    resolution = resolve(load(ADVANCED), "containers", "production")
    assert (resolution.built, resolution.enabled, resolution.apps, resolution.tags) == (
        False,
        False,
        (),
        (),
    )


def test_without_tagging_every_branch_is_built_and_targets_have_no_tag(tmp_path: Path) -> None:
    resolution = resolve(loaded(tmp_path, section("containers", ON)), "containers", "whatever")
    assert (resolution.built, resolution.enabled, resolution.tags) == (True, True, ())


def test_a_resolution_cannot_be_changed() -> None:
    resolution = resolve(load(ADVANCED), "lmp", "master")
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolution.enabled = False  # type: ignore[misc]


# The command


def output(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(each) for each in ("resolve", *arguments)]) == 0
    return capsys.readouterr().out


def test_resolve_prints_the_four_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, ADVANCED, "--build", "lmp", "--ref", "refs/heads/production") == (
        "enabled:  yes\napps:     money-making-app\ntags:     production\napp_type: restorable\n"
    )


def test_explain_names_the_keys_that_decided_and_those_they_overrode(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        output(capsys, ADVANCED, "--build", "containers", "--ref", DEVEL, "--explain")
        == f"""\
enabled:  yes
    by {ADVANCED}:16: containers.preloaded_images.enabled: true
apps:     money-making-app, debug-tools
    by {ADVANCED}:30: containers.ref_options."refs/heads/devel".params.APP_SHORTLIST: \
"money-making-app,debug-tools"
    over {ADVANCED}:17: containers.preloaded_images.shortlist: "money-making-app"
tags:     devel
    by {ADVANCED}:24: containers.tagging."refs/heads/devel": devel
app_type: restorable
    by default, because no key sets it
"""
    )


def test_explain_says_why_a_branch_is_not_built_and_what_a_tag_inherits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = output(capsys, ADVANCED, "--build", "containers", "--ref", "production", "--explain")
    assert "containers.tagging does not list refs/heads/production, so it is not built" in said
    said = output(capsys, ADVANCED, "--build", "lmp", "--ref", "production", "--explain")
    assert "production takes the apps of the newest Target tagged master" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            [DATA / "simple.yml", "--build", "lmp", "--ref", "master"],
            {"enabled": True, "apps": None, "tags": [], "app_type": "restorable"},
            id="all, not known",
        ),
        pytest.param(
            [DATA / "simple.yml", "--build", "lmp", "--ref", "master", "--apps", "a, b"],
            {"enabled": True, "apps": ["a", "b"], "tags": [], "app_type": "restorable"},
            id="all, known",
        ),
        pytest.param(
            [ADVANCED, "--build", "containers", "--ref", "refs/heads/master"],
            {
                "enabled": True,
                "apps": ["money-making-app"],
                "tags": ["master", "production"],
                "app_type": "restorable",
            },
            id="two tags",
        ),
        pytest.param(
            [ADVANCED, "--build", "containers", "--ref", "refs/heads/experimental"],
            {"enabled": False, "apps": [], "tags": [], "app_type": "restorable"},
            id="not built",
        ),
    ],
)
def test_json_has_the_four_values(
    capsys: pytest.CaptureFixture[str], arguments: list[str | Path], expected: dict[str, object]
) -> None:
    assert json.loads(output(capsys, *arguments, "--json")) == expected


def test_json_explains_too(capsys: pytest.CaptureFixture[str]) -> None:
    said = output(capsys, ADVANCED, "--build", "lmp", "--ref", DEVEL, "--json", "--explain")
    told = json.loads(said)["explanation"]["apps"]
    assert told["by"]["line"] == 30
    assert [each["key"] for each in told["over"]] == ["containers.preloaded_images.shortlist"]
    assert "This rule is applied" in told["doubts"][0]


def test_names_that_the_target_lacks_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    apps = ",".join(apps_of("master"))
    said = output(capsys, ADVANCED, "--build", "containers", "--ref", DEVEL, "--apps", apps)
    assert "apps:     money-making-app\n" in said
    assert "note: the Target has no debug-tools: CI ignores it silently" in said


def test_a_shortlist_that_leaves_nothing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["resolve", str(ADVANCED), "--build", "lmp", "--ref", "master", "--apps", "other"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert f"{ADVANCED}:17: containers.preloaded_images.shortlist names money-making-app" in said
    assert "Next: " in said
