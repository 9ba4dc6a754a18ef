"""What `lint` finds in factory-config.yml, at which line, and how it prints it."""

import json
import time
from pathlib import Path

import pytest
from compose_apps_preload.cli import main
from compose_apps_preload.configuration.lint import REMOVED, lint
from compose_apps_preload.finding import Severity
from preload.examples import ADVANCED, ALL_TAGGED, DATA, apps_of, seen, written

APPS = ("money-making-app", "debug-tools")

Found = tuple[str, str, int, int]
"""Severity, code, line, column."""


def found(folder: Path, text: str, apps: tuple[str, ...] | None = APPS) -> list[Found]:
    known = None if apps is None else (lambda _ref: apps)
    return [
        (each.severity.value, each.code, each.at.line, each.at.column)
        for each in lint(seen(folder, text), known)
    ]


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        pytest.param(
            "containers:\n  preloaded_images:\n    enabled: true\n", [], id="nothing is wrong"
        ),
        pytest.param(
            "containers:\n  preloaded_images:\n    enabled: true\n"
            '    shortlist: "money-making-app,debug-tool"\n',
            [("error", "unknown-app", 4, 16)],
            id="a name that no app has",
        ),
        pytest.param(
            "containers:\n  preloaded_images:\n    enabled: true\n    shortlist: other\n",
            [("error", "unknown-app", 4, 16), ("error", "nothing-left", 4, 16)],
            id="a shortlist that leaves nothing",
        ),
        pytest.param(
            'containers:\n  preloaded_images:\n    enabled: true\n    shortlist: ","\n',
            [("error", "empty-shortlist", 4, 16)],
            id="a shortlist without a name",
        ),
        pytest.param(
            "containers:\n  preload: true\n  assemble_system_image: true\n"
            "lmp:\n  container_preload: false\n",
            [
                ("error", "removed-key", 2, 3),
                ("error", "removed-key", 3, 3),
                ("error", "removed-key", 5, 3),
            ],
            id="removed keys",
        ),
        pytest.param(
            "containers:\n  tagging:\n    refs/heads/main: [{tag: main}]\n"
            "  ref_options:\n    refs/heads/devel:\n      params: {}\n",
            [("warning", "not-tagged", 5, 5)],
            id="a branch that is not tagged",
        ),
        pytest.param(
            "containers:\n  ref_options:\n    refs/heads/devel:\n      params: {}\n",
            [],
            id="without tagging, every branch is built",
        ),
        pytest.param(
            "lmp:\n  preloaded_images:\n    shortlist: money-making-app\n",
            [("warning", "enabled-inherited", 3, 5)],
            id="lmp with a shortlist only",
        ),
        pytest.param(
            'containers:\n  params:\n    ASSEMBLE_SYSTEM_IMAGE: "0 "\n',
            [("warning", "blanks", 3, 28)],
            id="blanks around a value",
        ),
        pytest.param(
            "containers:\n  preloaded_images:\n    enabled: true\n    enabled: false\n",
            [("error", "duplicate-key", 4, 5)],
            id="a duplicate key",
        ),
        pytest.param(
            "containers:\n  params: {}\nlmp:\ncontainers:\n",
            [("error", "duplicate-key", 4, 1)],
            id="a duplicate section",
        ),
        pytest.param(
            "notify:\n  email: {users: a, users: b}\ncontainers:\n",
            [("error", "duplicate-key", 2, 21)],
            id="a duplicate key in a section that is not ours",
        ),
        pytest.param(
            "containers:\n  preloaded_image:\n    enabled: true\n",
            [("warning", "unknown-key", 2, 3)],
            id="a mistyped key",
        ),
        pytest.param(
            "containers:\n  ref_options:\n    refs/heads/devel:\n"
            "      preloaded_images:\n        enabled: true\n",
            [("warning", "unknown-key", 4, 7)],
            id="preloaded_images where nobody reads it",
        ),
        pytest.param(
            "lmp:\n  preloaded_images:\n    enabled: true\ncontainers:\ntagging:\n"
            "  refs/heads/master:\n  - tag: master\npreloaded_images:\n  enabled: true\n",
            [("error", "misplaced-key", 5, 1), ("error", "misplaced-key", 8, 1)],
            id="keys of a section without their indentation",
        ),
        pytest.param(
            "containers:\n  enabled: true\n  shortlist: a\n  APP_SHORTLIST: a\n",
            [("error", "misplaced-key", line, 3) for line in (2, 3, 4)],
            id="keys that belong one level deeper",
        ),
        pytest.param(
            "lmp:\n  ref_options:\n    refs/heads/devel:\n      APP_SHORTLIST: a\n",
            [("error", "misplaced-key", 4, 7)],
            id="a branch without params",
        ),
        pytest.param(
            "lmp:\n  params:\n    enabled: 1\n    shortlist: a\n",
            [],
            id="params of others",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/a: [{tag: a, inherits: b}]\n",
            [("warning", "unknown-key", 3, 29)],
            id="inherits for inherit",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/a: [{tag: a}, {tag: a}]\n"
            "    refs/heads/b: [{tag: a}]\n",
            [("warning", "repeated-tag", 3, 36), ("warning", "repeated-tag", 4, 26)],
            id="a tag twice",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/a: [{tag: a, inherit: mian}]\n"
            "containers:\n  tagging:\n    refs/heads/main: [{tag: main, inherit: a}]\n",
            [("error", "unknown-tag", 3, 38)],
            id="a tag that nobody makes",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/a: [{tag: a, inherit: mian}]\n",
            [],
            id="a tag that may be made by any branch",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/a: [{tag: a}]\n"
            "containers:\n  tagging:\n"
            "    refs/heads/b: [{tag: b}, {tag: c, inherit: a}, {tag: a}]\n",
            [("warning", "no-platform", 6, 26)],
            id="a tag without a platform",
        ),
        pytest.param(
            "notify:\n  password: !secret x\n  since: 2024-13-45\n  until: 2024-12-24\n  = : 1\n"
            "  ? [a]\n  : !!int b\n",
            [
                ("error", "unreadable", 2, 13),
                ("error", "unreadable", 3, 10),
                ("error", "unreadable", 5, 3),
                ("error", "unreadable", 6, 5),
                ("error", "unreadable", 7, 5),
            ],
            id="values that CI's reader cannot make, in a section of others",
        ),
        pytest.param(
            "notify:\n  email: a\ncontainers:\n  platforms: [arm64]\nlmp:\n  machines: [a]\n",
            [],
            id="keys of others",
        ),
        pytest.param(
            "containers:\n  preloaded_images:\n    enabled: yes please\n    app_type: docker\n"
            "    oe_builtin: 3\n",
            [
                ("error", "wrong-value", 3, 14),
                ("error", "wrong-value", 4, 15),
                ("error", "wrong-value", 5, 17),
            ],
            id="all that is wrong, not only the first",
        ),
    ],
)
def test_lint_finds(tmp_path: Path, text: str, findings: list[Found]) -> None:
    assert found(tmp_path, text) == findings


@pytest.mark.parametrize("example", sorted(DATA.glob("*.yml")), ids=lambda file: file.stem)
def test_the_examples_of_the_document_have_no_errors(example: Path) -> None:
    assert main(["lint", str(example), "--apps", ",".join(APPS)]) == 0


def test_the_document_itself_forgot_to_tag_a_branch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(ADVANCED)]) == 0
    assert f"{ADVANCED}:31:5: warning: refs/heads/experimental" in capsys.readouterr().out


def test_without_the_apps_their_names_are_not_checked(tmp_path: Path) -> None:
    text = "containers:\n  preloaded_images:\n    enabled: true\n    shortlist: other\n"
    assert found(tmp_path, text, apps=None) == []


def test_an_unknown_name_comes_with_the_nearest_one(tmp_path: Path) -> None:
    text = "containers:\n  params:\n    APP_SHORTLIST: debug-tools,Money-Making-App\n"
    (finding,) = lint(seen(tmp_path, text), lambda _ref: APPS)
    assert 'names "Money-Making-App"' in finding.message
    assert finding.hint.startswith("if you mean money-making-app")


def test_a_name_is_known_if_one_of_the_branches_that_its_list_is_for_has_it(tmp_path: Path) -> None:
    shared = """\
containers:
  preloaded_images:
    enabled: true
    shortlist: money-making-app,debug-tools
  tagging:
    refs/heads/master: [{tag: master}]
    refs/heads/devel: [{tag: devel}]
"""
    assert lint(seen(tmp_path, shared), apps_of) == []
    of_master = """\
  ref_options:
    refs/heads/master:
      params:
        APP_SHORTLIST: money-making-app,debug-tools
"""
    (finding,) = lint(seen(tmp_path, shared + of_master), apps_of)
    assert (finding.code, finding.at.line) == ("unknown-app", 11)


def test_a_shortlist_that_leaves_nothing_of_some_branches_names_them(tmp_path: Path) -> None:
    text = """\
containers:
  preloaded_images:
    enabled: true
    shortlist: debug-tools
  tagging:
    refs/heads/master: [{tag: master}]
    refs/heads/devel: [{tag: devel}]
lmp:
  tagging:
    refs/heads/production: [{tag: production, inherit: master}]
"""
    (finding,) = (
        each for each in lint(seen(tmp_path, text), apps_of) if each.code == "nothing-left"
    )
    assert "the Targets of master (containers), production (lmp)" in finding.message


def test_without_tagging_and_branches_a_shortlist_that_leaves_nothing_is_found_too(
    tmp_path: Path,
) -> None:
    text = "lmp:\n  preloaded_images: {enabled: true, shortlist: other}\n"
    codes = [each.code for each in lint(seen(tmp_path, text), apps_of)]
    assert codes == ["unknown-app", "nothing-left"]


def test_a_branch_that_only_platform_builds_are_made_of_is_told_as_such(tmp_path: Path) -> None:
    text = ALL_TAGGED.read_text().replace(
        "    refs/heads/experimental:\n      - tag: experimental\n\n  ref_options", "  ref_options"
    )
    (finding,) = lint(seen(tmp_path, text))
    assert "only platform builds use this, because they inherit it" in finding.message


@pytest.mark.parametrize("key", REMOVED)
def test_a_removed_key_comes_with_its_replacement(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    (finding,) = lint(seen(tmp_path, f"{section}:\n  {name}: true\n"))
    assert finding.severity is Severity.ERROR
    assert finding.hint == f"write {section}.preloaded_images.enabled: true"


def test_a_tag_that_nobody_makes_comes_with_the_nearest_one(tmp_path: Path) -> None:
    text = "containers: {tagging: {refs/heads/main: [{tag: main}]}}\n"
    text += "lmp: {tagging: {refs/heads/a: [{tag: main, inherit: mian}]}}\n"
    (finding,) = lint(seen(tmp_path, text))
    assert finding.message.startswith('refs/heads/a inherits from Targets tagged "mian"')
    assert finding.hint.startswith("if you mean main")


def test_a_file_as_the_document_prints_it_is_told_what_it_lacks(tmp_path: Path) -> None:
    as_printed = "\n".join(line.strip() for line in ADVANCED.read_text().splitlines())
    codes = {each.code for each in lint(seen(tmp_path, as_printed))}
    assert {"misplaced-key", "duplicate-key"} <= codes


@pytest.mark.parametrize("what", ["branches", "names", "keys"])
def test_ten_times_the_input_takes_about_ten_times_as_long(tmp_path: Path, what: str) -> None:
    def seconds(size: int) -> float:
        numbers = range(size)
        names = ",".join(f"app-{n}" for n in numbers) if what == "names" else "app-1,app-2"
        text = f"containers:\n  preloaded_images: {{enabled: true, shortlist: '{names}'}}\n"
        if what == "branches":
            text += "  tagging:\n" + "".join(
                f"    refs/heads/b{n}: [{{tag: t{n}}}]\n" for n in numbers
            )
        if what == "keys":
            text += "".join(f"  share_list_{n}: a\n" for n in numbers)
        config = seen(tmp_path, text)
        apps = tuple(f"other-{n}" for n in numbers)
        began = time.process_time()
        assert len(lint(config, lambda _ref: apps)) >= 3
        return time.process_time() - began

    # Were it quadratic, it would be a hundred times.
    assert seconds(4000) < 30 * seconds(400) + 0.1


# Its forms

WRONG = 'containers:\n  preload: true\n  params:\n    ASSEMBLE_SYSTEM_IMAGE: "0 "\n'


def test_errors_are_exit_status_1_and_warnings_are_not(tmp_path: Path) -> None:
    assert main(["lint", str(written(tmp_path, WRONG))]) == 1
    assert main(["lint", str(written(tmp_path, WRONG.replace("  preload: true\n", "")))]) == 0


def test_text_is_what_editors_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, WRONG)
    main(["lint", str(file)])
    assert (
        capsys.readouterr().out
        == f"""\
{file}:2:3: error: containers.preload was removed in 2021: CI ignores it [removed-key]
    next: write containers.preloaded_images.enabled: true
{file}:4:28: warning: containers.params.ASSEMBLE_SYSTEM_IMAGE has spaces around its value: "0 " \
[blanks]
    next: write "0"
"""
    )


def test_json_is_a_list_of_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, WRONG)
    main(["lint", str(file), "--format", "json"])
    first, _ = json.loads(capsys.readouterr().out)
    assert first == {
        "file": str(file),
        "line": 2,
        "column": 3,
        "severity": "error",
        "code": "removed-key",
        "message": "containers.preload was removed in 2021: CI ignores it",
        "hint": "write containers.preloaded_images.enabled: true",
    }


def test_json_is_an_empty_list_if_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["lint", str(DATA / "simple.yml"), "--format", "json"])
    assert json.loads(capsys.readouterr().out) == []


def test_github_annotates_and_nothing_in_a_value_gets_out_of_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    file = written(folder, 'containers:\n  params:\n    APP_SHORTLIST: "a%\\n::error::b"\n')
    assert main(["lint", str(file), "--format", "github"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    place = str(file).replace(",", "%2C")
    assert line.startswith(f"::error file={place},line=3,col=20,title=wrong-value::")
    assert '"a%25\\n::error::b"' in line
