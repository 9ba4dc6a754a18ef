"""The completions of bash are current, and complete commands, options and paths."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPLETIONS = ROOT / "completions"
AGENT = "compose-apps-early-start"
TOOL = "compose-apps-preload"

pytestmark = pytest.mark.usefixtures("real_processes")

# What readline does at the Tab key: calls the function with the words and the place in them.
PRESS_TAB = """\
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
read -ra spec < <(complete -p "$1")
for ((i = 0; i < ${#spec[@]}; i++)); do [ "${spec[i]}" != -F ] || function=${spec[i + 1]}; done
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("command", [AGENT, TOOL])
def test_a_completion_is_what_make_completions_writes(command: str) -> None:
    argv = [sys.executable, str(COMPLETIONS / "make.py"), command]
    path = f"{ROOT}/agent:{ROOT}/packaging/preload"
    made = subprocess.run(
        argv, env={"PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    assert (COMPLETIONS / command).read_text() == made.stdout, "run 'make completions'"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([AGENT, ""], {"start", "plan", "status", "timeline"}),
        ([AGENT, "sta"], {"start", "status"}),
        ([AGENT, "status", "--l"], {"--list", "--log"}),
        ([AGENT, "start", "--app"], {"--app-seconds"}),
        ([AGENT, "timeline", "--svg", "first-"], {"first-boot.svg"}),
        ([AGENT, "plan", "--root", "dev"], {"device"}),
        ([TOOL, "re"], {"resolve"}),
        ([TOOL, "resolve", "factory-config.yml", "--build", ""], {"lmp", "containers"}),
        ([TOOL, "image", "first"], {"first-boot.svg"}),
        ([TOOL, "image", "in.wic", "--app", "d"], {"device"}),
        ([TOOL, "verify", "--form"], {"--format"}),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_the_tab_key_completes(words: list[str], wanted: set[str], tmp_path: Path) -> None:
    (tmp_path / "first-boot.svg").touch()
    (tmp_path / "device").mkdir()
    (tmp_path / "documents.txt").touch()
    argv = ["bash", "--norc", "-euc", PRESS_TAB, "bash", str(COMPLETIONS / words[0]), *words]
    bash = subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert set(bash.stdout.split()) == wanted, bash.stderr
