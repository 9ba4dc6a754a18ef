"""The linters of code, scripts, prose and licences find nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TYPED = [
    *("agent", "completions", "packaging/device", "packaging/preload", "packaging/release.py"),
    "tests",
]

pytestmark = pytest.mark.usefixtures("real_processes")


def lint(*command: str | Path) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def files() -> list[Path]:
    """The repository's text files, those that are not yet committed among them."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = (ROOT / name for name in listed.split("\0") if name)
    return [
        file
        for file in found
        if file.is_file() and not file.is_symlink() and file.suffix not in (".tgz", ".svg")
    ]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check"], id="ruff check"),
        pytest.param(["ruff", "format", "--check"], id="ruff format"),
        pytest.param(
            ["mypy", "--strict", *TYPED],
            id="mypy",
        ),
    ],
)
def test_python(command: list[str]) -> None:
    lint(sys.executable, "-m", *command)


def test_shell_scripts() -> None:
    """All of them, by their first line; the suffix is for those that `sh` is given to read."""
    shebang = re.compile(rb"#!\s*/\S*(/|env )(ba|da)?sh\b")
    scripts = [file for file in files() if file.suffix == ".sh" or shebang.match(file.read_bytes())]
    assert ROOT / "fioconfig/early-start" in scripts
    assert ROOT / ".ci/run" in scripts
    lint(BIN / "shellcheck", *scripts)


def test_spelling() -> None:
    lint(BIN / "codespell", *files())


FENCED = re.compile(r"^( *)```.*?^\1```$|`[^`]*`", re.MULTILINE | re.DOTALL)


def test_prose(tmp_path: Path) -> None:
    """Of the documents; code in them is no prose."""
    pages = [file.relative_to(ROOT) for file in files() if file.suffix == ".md"]
    assert Path("README.md") in pages
    for page in pages:
        copy = tmp_path / page
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / page).read_text()
        # As long as it was, so that the linter names the right place.
        copy.write_text(FENCED.sub(lambda code: re.sub(r"\S", "x", code[0]), text))
    config = ROOT / "tests/proselint.json"
    lint(BIN / "proselint", "check", "--config", config, *(tmp_path / page for page in pages))


def test_licences() -> None:
    lint(BIN / "reuse", "lint")


def test_a_test_file_says_in_its_first_line_what_it_is_about() -> None:
    tests = sorted((ROOT / "tests").glob("*/test_*.py"))
    assert tests
    first = {test: test.read_text().partition("\n")[0] for test in tests}
    assert [test for test in tests if not re.fullmatch(r'"""\S.+\.("{3})?', first[test])] == []
