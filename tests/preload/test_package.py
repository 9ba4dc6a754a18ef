"""The host tool imports nothing but its own dependencies and the agent's reading of stores."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import compose_apps_preload
import pytest
from preload.examples import PATHS

PACKAGE = Path(compose_apps_preload.__file__).parent
# The agent's reading of the stores comes along, and how it calls compose, which enters hashes;
# docker's SDK is asked for when it is needed.
OUTSIDE = {
    "__init__.py": {"compose_apps_early_start"},
    "ignores.py": {"docker"},
    "image/bundle.py": {"docker"},
    "image/containers.py": {"compose_apps_early_start"},
    "image/contents.py": {"compose_apps_early_start"},
    "image/docker_engine.py": {"compose_apps_early_start"},
    "image/docker_store.py": {"docker"},
    "image/layout.py": {"compose_apps_early_start"},
    "image/preloader.py": {"compose_apps_early_start"},
    "image/unpacking.py": {"compose_apps_early_start"},
    "trial/boot.py": {"compose_apps_early_start"},
    "trial/trial.py": {"compose_apps_early_start"},
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
    assert imported <= sys.stdlib_module_names | {"dotenv", "yaml"} | OUTSIDE.get(module, set())


def test_the_command_line_needs_nothing_but_what_the_package_names() -> None:
    code = "import sys, compose_apps_preload.cli; print(*sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(PATHS)}
    argv = [sys.executable, "-c", code]
    ran = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    assert not {"docker", "systemd", "virtual_device"} & set(ran.stdout.split())
