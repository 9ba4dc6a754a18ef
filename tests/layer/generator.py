"""A systemd generator, run as systemd runs it."""

import shutil
import subprocess
from pathlib import Path

from layer.conftest import CHECKOUT, NAME


class Machine:
    """A root file system as it is when generators run, and the generator of an option package."""

    def __init__(self, root: Path, option: str, tools: str) -> None:
        self.root = root
        self.path = tools
        self._generator = CHECKOUT / f"systemd/{NAME}-{option}"
        self.put("proc/cmdline", "root=/dev/vda quiet\n")

    def put(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def generate(self) -> dict[str, str]:
        """Run the generator; return what it wrote, and where."""
        output = self.root / "run/systemd"
        folders = [output / name for name in ("generator", "generator.early", "generator.late")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        environment = {"PATH": self.path, "EARLY_START_ROOT": str(self.root)}
        ended = subprocess.run(
            ["sh", self._generator, *folders], env=environment, capture_output=True, text=True
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        return {
            str(file.relative_to(output)): file.read_text()
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file()
        }
