"""The docker SDK is kept from loading chardet."""

import subprocess
import sys

import pytest
from compose_apps_early_start import charset

TEXT = """\
import compose_apps_early_start.engine, requests, sys
response = requests.Response()
response._content = "Größe".encode()
print(response.text)
print(*sys.modules)
"""


@pytest.mark.usefixtures("real_processes")
def test_the_engine_reads_utf_8_and_loads_no_detection() -> None:
    argv = [sys.executable, "-W", "error", "-X", "utf8", "-c", TEXT]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.stderr == ""
    text, modules = done.stdout.splitlines()
    assert text == "Größe"
    assert not {"chardet", "charset_normalizer"} & set(modules.split())


def test_what_was_loaded_before_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chardet", sys)
    monkeypatch.delitem(sys.modules, "charset_normalizer", raising=False)
    with charset.not_detected():
        assert sys.modules["chardet"] is not sys
    assert sys.modules["chardet"] is sys
    assert "charset_normalizer" not in sys.modules
