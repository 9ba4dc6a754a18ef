"""The package keeps to itself."""

import ast
import subprocess
import sys
from pathlib import Path

import compose_apps_preload
import pytest

PACKAGE = Path(compose_apps_preload.__file__).parent
# What is asked for only when it is needed: the agent's reading of its stores, and a dockerd.
OUTSIDE = {
    "image/contents.py": {"compose_apps_early_start"},
    "image/docker_store.py": {"virtual_device"},
}


@pytest.mark.parametrize(
    "module", sorted(str(module.relative_to(PACKAGE)) for module in PACKAGE.rglob("*.py"))
)
def test_a_module_imports_nothing_of_the_agent_nor_what_the_package_does_not_name(
    module: str,
) -> None:
    imported = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module
            imported.add(node.module.partition(".")[0])
    assert imported <= sys.stdlib_module_names | {"yaml"} | OUTSIDE.get(module, set())


def test_the_command_line_needs_nothing_but_what_the_package_names() -> None:
    code = "import sys, compose_apps_preload.cli; print(*sys.modules)"
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    argv = [sys.executable, "-c", code]
    ran = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    assert not {"compose_apps_early_start", "virtual_device"} & set(ran.stdout.split())
