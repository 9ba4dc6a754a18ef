"""A bad file gets a message with the problem, the place and the next step, and no traceback."""

import re
import time
from pathlib import Path

import pytest
import yaml
from compose_apps_preload.cli import main
from compose_apps_preload.configuration.factory_config import load, read
from compose_apps_preload.configuration.lint import lint
from compose_apps_preload.configuration.matrix import rows, text
from compose_apps_preload.errors import PreloadError
from compose_apps_preload.finding import Severity
from compose_apps_preload.yaml_tree import MAX_BYTES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from preload.examples import ADVANCED, written

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGE_BOMB = "m0: &m0 {a: b}\n" + "".join(
    f"m{n}: &m{n} {{k{n}: v, <<: [*m{n - 1}, *m{n - 1}]}}\n" for n in range(1, 60)
)
WIDE_BOMB = (
    "m: &m {" + ", ".join(f"k{n}: v" for n in range(2000)) + "}\n"
    "containers:\n  params:\n    <<: [" + ", ".join(["*m"] * 2000) + "]\n"
)
LOOP = "containers: &c\n  params: &p\n    <<: *p\n    APP_SHORTLIST: a\n  other: *c\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("", ":1:1: the file is empty", id="an empty file"),
        pytest.param("# nothing\n", ":1:1: the file is empty", id="only a comment"),
        pytest.param("---\n", ":1:1: the file is empty", id="only a document"),
        pytest.param("just words\n", ":1:1: the file is just words, not a map", id="words"),
        pytest.param("- a\n", ":1:1: the file is a list, not a mapping", id="a list"),
        pytest.param("containers: [\n", ":2:1: invalid YAML: ", id="an open bracket"),
        pytest.param("containers:\n\tlmp: a\n", ":2:1: invalid YAML: .*tabs", id="a tab"),
        pytest.param("lmp: *a\n", ":1:6: invalid YAML: found undefined alias", id="no anchor"),
        pytest.param("lmp:\n...\ncontainers:\n", ":3:1: a second YAML document", id="dots"),
        pytest.param("lmp:\n---\ncontainers:\n", ":2:1: a second YAML document", id="dashes"),
        pytest.param(b"lmp:\n  \xff: a\n", ":2:3: the text is not UTF-8", id="Latin-1"),
        pytest.param(b"lmp:\n a\0b\n", r":2:3: the character U\+0000", id="a zero byte"),
        pytest.param('lmp: "\\UFFFFFFFF"\n', ":1:1: invalid YAML: ", id="no such character"),
        pytest.param("[" * 5000, ":1:1: the YAML is nested too deeply", id="deep nesting"),
        pytest.param("#" * (MAX_BYTES + 1), ":1:1: the file is longer than", id="a huge file"),
        pytest.param(WIDE_BOMB, ":1:4: the merge keys make more than", id="a bomb of merges"),
        pytest.param("lmp:\n  <<: [a]\n", ":2:8: '<<' merges a, not a mapping", id="no mapping"),
        pytest.param("containers: true\n", ":1:13: containers is true, not a mapping", id="a flag"),
        pytest.param(
            "lmp:\n  preloaded_images: [a]\n",
            ":2:21: lmp.preloaded_images is a list, not a mapping",
            id="a list of images",
        ),
        pytest.param(
            'lmp:\n  preloaded_images:\n    enabled: "true"\n',
            ':3:14: lmp.preloaded_images.enabled is "true". Next: write true or false, without',
            id="a quoted flag",
        ),
        pytest.param(
            "lmp:\n  preloaded_images:\n    shortlist: [a, b]\n",
            ":3:16: lmp.preloaded_images.shortlist is a list. Next: write names separated by",
            id="a shortlist as a list",
        ),
        pytest.param(
            "lmp:\n  preloaded_images:\n    shortlist: a b\n",
            ':3:16: .*"a b" cannot be the name of an app. Next: separate names with commas',
            id="a shortlist without commas",
        ),
        pytest.param(
            "lmp:\n  preloaded_images:\n    shortlist: ../a\n",
            ':3:16: .*"../a" cannot be the name of an app',
            id="a path",
        ),
        pytest.param(
            "lmp:\n  params:\n    ASSEMBLE_SYSTEM_IMAGE: true\n",
            ':3:28: lmp.params.ASSEMBLE_SYSTEM_IMAGE is true. Next: write "1" or "0"',
            id="a flag for a switch",
        ),
        pytest.param(
            'lmp:\n  params:\n    APP_SHORTLIST: "\\e[2J"\n',
            r':3:20: .*"\\x1b\[2J" cannot be',
            id="an escape sequence",
        ),
        pytest.param("lmp:\n  params: a\n", ":2:11: lmp.params is a, not a map", id="params"),
        pytest.param(
            "lmp:\n  ref_options: [a]\n", ":2:16: lmp.ref_options is a list", id="ref_options"
        ),
        pytest.param(
            "lmp:\n  ref_options:\n    devel:\n",
            ':3:5: lmp.ref_options: "devel" is not a git reference. Next: .*refs/heads/devel',
            id="a short branch",
        ),
        pytest.param(
            "lmp:\n  tagging: devel\n", ":2:12: lmp.tagging is devel, not a map", id="tagging"
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel: devel\n",
            ':3:23: lmp.tagging."refs/heads/devel" is devel. Next: write a list of tags',
            id="a tag, not a list",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel:\n", ":3:22: .* is empty", id="no tags"
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel: []\n", ":3:23: .* an empty list", id="empty"
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel: [a]\n", ":3:24: .* not a mapping", id="a word"
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel:\n      - inherit: a\n",
            ":4:9: .* has an item without a tag",
            id="no tag",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel:\n      - tag:\n",
            ":4:9: .* has an item without a tag",
            id="an empty tag",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel:\n      - tag: [a]\n",
            r':4:14: lmp.tagging."refs/heads/devel"\[\].tag is a list. Next: write a tag',
            id="a list for a tag",
        ),
        pytest.param(
            "lmp:\n  tagging:\n    refs/heads/devel:\n      - tag: a,b\n",
            ":4:14: .* is a,b. Next: write a tag without spaces, commas and colons",
            id="two tags in one",
        ),
        pytest.param(
            "lmp:\n  params: {}\n  params: {}\n",
            ":3:3: params is a duplicate of the key in line 2",
            id="a duplicate key",
        ),
    ],
)
def test_a_broken_file_is_told_with_its_place_and_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes, said: str
) -> None:
    file = written(tmp_path, content)
    assert main(["resolve", str(file), "--build", "lmp", "--ref", "devel"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(re.escape(str(file)) + said, err), err
    assert ". Next: " in err

    # lint has the same to say, as a finding.
    assert main(["lint", str(file)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    place = re.match(r":\d+:\d+:", said)
    assert place
    assert f"{file}{place[0]} error: " in out


@pytest.mark.parametrize("bomb", [BOMB, MERGE_BOMB, LOOP], ids=["aliases", "merges", "a loop"])
def test_aliases_cost_no_more_than_their_text(tmp_path: Path, bomb: str) -> None:
    began = time.monotonic()
    load(written(tmp_path, bomb))
    assert time.monotonic() - began < 5


def test_merge_keys_that_are_nested_too_deep_are_an_error(tmp_path: Path) -> None:
    text = "m0: &m0 {a: b}\n" + "".join(f"m{n}: &m{n} {{<<: *m{n - 1}}}\n" for n in range(1, 3000))
    with pytest.raises(PreloadError, match="nested too deep"):
        load(written(tmp_path, text + "containers:\n  <<: *m2999\n"))


@pytest.mark.parametrize("command", ["resolve", "matrix", "lint"])
@pytest.mark.parametrize("name", ["no-such.yml", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    more = ["--build", "lmp", "--ref", "devel"] if command == "resolve" else []
    assert main([command, str(tmp_path / name), *more]) == 1
    said = capsys.readouterr().err
    assert "cannot read it: " in said
    assert "Next: " in said


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["resolve", str(ADVANCED), "--ref", "a"], id="no build"),
        pytest.param(["resolve", str(ADVANCED), "--build", "x", "--ref", "a"], id="no such build"),
        pytest.param(["matrix", str(ADVANCED), "--apps", " , "], id="no app"),
        pytest.param(["lint", str(ADVANCED), "--apps", "a", "--containers-git", "."], id="both"),
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


def test_windows_line_ends_and_byte_order_marks_are_no_errors(tmp_path: Path) -> None:
    as_windows = ADVANCED.read_text().replace("\n", "\r\n")
    for encoding in ("utf-8-sig", "utf-16"):
        assert load(written(tmp_path, as_windows.encode(encoding))).findings == ()


# Anything at all

KEYS = st.sampled_from(
    [
        *("containers", "lmp", "preloaded_images", "enabled", "shortlist", "app_type", "params"),
        *("oe_builtin", "ref_options", "tagging", "tag", "inherit", "refs/heads/devel", "<<"),
        *("APP_SHORTLIST", "ASSEMBLE_SYSTEM_IMAGE"),
    ]
)
SCALARS = st.sampled_from(
    [
        *("true", "null", "", "1", "0 ", "a,b", ",", "devel", "~", '"\\ud800"'),
        *("!!bool x", "!!null [a]", "!secret a", "2024-13-45", "!!set a", "="),
    ]
)
FLOWS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(KEYS, inner), max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=40).map(lambda data: b"lmp:\n  " + data)
    | st.text(st.sampled_from("{}[]&*!|>%@\"'\\#:-,?<>~ \n\tabx0"), max_size=40).map(str.encode)
    | st.lists(st.tuples(KEYS, FLOWS), max_size=4).map(
        lambda items: "".join(f"{key}: {value}\n" for key, value in items).encode()
    )
)
@example(b"? [a]\n: b\n")
@example(b"lmp: {tagging: {refs/heads/devel: [{tag: !!bool x}]}}")
def test_anything_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path, content)
    config = read(file)
    for finding in lint(config, lambda _ref: ("a",)):
        assert finding.message.isprintable()
        assert finding.hint
    try:
        found = load(file)
    except PreloadError:
        assert any(each.severity is Severity.ERROR for each in config.findings)
    else:
        assert text(list(rows(found, lambda _ref: ("a",))))
        # CI reads the file by PyYAML too.
        yaml.safe_load(content)
