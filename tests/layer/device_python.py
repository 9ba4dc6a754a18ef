"""A Python that has only what is in the packages of an image, as OE would install them."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from layer.split_library import PACKAGES

MINORS = range(11, 15)
"""Python 3.11 to 3.14."""

_DESCRIBE = """\
import json, sys, sysconfig
print(json.dumps([sys.version_info[1], sys.executable, sysconfig.get_path("stdlib"),
    sysconfig.get_config_var("DESTSHARED"), sys.builtin_module_names]))
"""

_SITECUSTOMIZE = """\
# A distribution may build into its interpreter what is a file, and in a package, on the device.
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""

_C_MODULE = """\
# Stands for a C module of python3-systemd, which is built for one Python only.
import sys

__version__ = "235"

def sendv(*fields):
    print(*fields, file=sys.stderr)

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python of this machine."""

    minor: int
    executable: Path
    library: Path
    c_modules: Path
    builtin: frozenset[str]


def interpreters() -> dict[str, Interpreter]:
    """Return what Pythons there are from 3.11 on, by a name for a test: at least the one here."""
    found: dict[str, Interpreter] = {}
    here = Path(sys.base_prefix)
    names = [f"python3.{minor}" for minor in MINORS]
    # Several Pythons are either in the path, perhaps as a shim for nothing, or side by side.
    beside = [file for name in names for file in here.parent.glob(f"*/bin/{name}")]
    for name in map(str, (here / "bin/python3", "/usr/bin/python3", *names, *beside)):
        argv = [shutil.which(name) or "false", "-I", "-c", _DESCRIBE]
        told = subprocess.run(argv, capture_output=True, text=True)
        if told.returncode == 0:
            minor, executable, library, c_modules, builtin = json.loads(told.stdout)
            known = {each.library for each in found.values()}
            if minor in MINORS and Path(library) not in known:
                # Two of one version: the distribution's, which builds more modules in, and another.
                label = f"3.{minor}" if f"3.{minor}" not in found else f"3.{minor}-{len(found)}"
                found[label] = Interpreter(
                    minor, Path(executable), Path(library), Path(c_modules), frozenset(builtin)
                )
    return found


@dataclass(frozen=True)
class DevicePython:
    """Runs the agent as a device with certain packages would."""

    interpreter: Interpreter
    home: Path

    @property
    def site(self) -> Path:
        """Where the libraries and the agent are."""
        return self.home / "site"

    @classmethod
    def install(
        cls, home: Path, interpreter: Interpreter, packages: frozenset[str], *libraries: Path
    ) -> "DevicePython":
        """Make it below ``home``; what is no standard module is taken from ``libraries``."""
        python = cls(interpreter, home)
        library = home / f"lib/python3.{interpreter.minor}"
        (library / "lib-dynload").mkdir(parents=True)
        python.site.mkdir()
        # Bytecode without its source is not importable, so it may all be there.
        (library / "__pycache__").symlink_to(interpreter.library / "__pycache__")
        for configuration in interpreter.library.glob("_sysconfigdata*.py"):
            (library / configuration.name).symlink_to(configuration)
        present = frozenset().union(*(PACKAGES[name].modules for name in packages))
        for module in present:
            for source in (interpreter.library / module, interpreter.library / f"{module}.py"):
                if source.exists():
                    (library / source.name).symlink_to(source)
            for source in interpreter.c_modules.glob(f"{module}.*so"):
                (library / "lib-dynload" / source.name).symlink_to(source)
            for folder in libraries:
                if (folder / module).exists() and not (python.site / module).exists():
                    (python.site / module).symlink_to(folder / module)
        every = frozenset().union(*(package.modules for package in PACKAGES.values()))
        absent = set(every - present & interpreter.builtin)
        (python.site / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(absent=absent))
        return python

    def run(
        self, program: Path, *arguments: str, errors: Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program, its standard error connected to "the journal": a file."""
        with errors.open("w") as stream:
            status = os.fstat(stream.fileno())
            return subprocess.run(
                [self.interpreter.executable, program, *arguments],
                env={
                    "PATH": "/usr/bin:/bin",
                    "PYTHONHOME": str(self.home),
                    "PYTHONPATH": str(self.site),
                    "PYTHONNOUSERSITE": "1",
                    "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                timeout=60,
            )


def systemd_libraries(folder: Path) -> Path:
    """Make a folder of sdnotify and systemd-python for any Python: both releases have the same."""
    for name in ("sdnotify", "systemd"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (folder / name).mkdir(parents=True)
        for source in Path(spec.origin).parent.iterdir():
            if source.suffix == ".py":
                shutil.copy(source, folder / name)
            elif source.suffix == ".so":
                (folder / name / f"{source.name.split('.')[0]}.py").write_text(_C_MODULE)
    return folder
