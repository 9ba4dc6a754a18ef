"""Fuzzed output of compose: its messages when it fails, and its JSON."""

import json
from pathlib import Path

import pytest
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.compose import Compose
from compose_apps_early_start.diagnosis import MAX_CHARACTERS, diagnose
from compose_apps_early_start.report import printable
from compose_apps_early_start.settings import Settings
from fuzz.fuzzing import Fuzz, Within
from fuzz.mutations import damaged, json_files
from hypothesis import strategies as st

WORDS = (
    " Container shop-web-1  Creating\n Container shop-web-1  Error\n"
    "Error response from daemon: failed to set up container networking: driver failed programming "
    "external connectivity on endpoint shop-web-1: Bind for 0.0.0.0:80 failed: port is already "
    "allocated\n"
    "validating /var/sota/compose-apps/shop/docker-compose.yml: services.web additional properties "
    "'imag' not allowed\n  and more\n(see the manual)\n"
    "network " + "0" * 64 + " not found:\n network-scoped alias x but y network\n"
)
TEXTS = st.one_of(
    damaged(WORDS.encode()).map(lambda each: each.decode(errors="replace")),
    st.text(),
    st.sampled_from([" x\n", "x:\n", "(\n", "Container \n", "\t \n", " ", ".", "a\n", "Network\t"]),
)


def check_line(failure: Failure) -> None:
    assert failure.message
    assert len(failure.message.splitlines()) == 1
    assert len(failure.message) <= MAX_CHARACTERS + 10
    assert printable(failure.message).isprintable()


def test_words_of_compose(fuzz: Fuzz, tmp_path: Path) -> None:
    def check(text: str, times: int) -> None:
        # As much as is read of it.
        text *= min(times, (4 << 20) // max(1, len(text)))
        with Within(tmp_path):
            failure = diagnose(text)
        check_line(failure)

    fuzz(check, TEXTS, st.sampled_from([1, 1, 1, 100, 4 << 20]))


CONFIG = {
    "name": "shop",
    "services": {"web": {"image": "hub.example.test/web", "labels": {"a": "b"}, "scale": 2}},
}


def test_what_compose_prints_of_its_configuration(
    fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "usr/lib/docker/cli-plugins/docker-compose"
    plugin.parent.mkdir(parents=True)
    plugin.touch(0o755)
    compose = Compose(Settings(root=tmp_path))

    def check(status: int | None, output: bytes, errors: str) -> None:
        ended = (status, output.decode(errors="replace"), errors)
        monkeypatch.setattr(compose, "_run", lambda *_: ended)
        with Within(tmp_path):
            found = compose.config(tmp_path)
        if isinstance(found, Failure):
            check_line(found)
            assert found.cause is not Cause.INTERNAL_ERROR
        else:
            assert found["services"]
            json.dumps(found)

    statuses = st.sampled_from([0, 0, 0, 0, 1, 14, -9, None])
    warned = st.sampled_from([b"", b"time=... level=warning\n"])
    outputs = st.tuples(warned, json_files(CONFIG)).map(b"".join)
    fuzz(check, statuses, outputs, st.text(max_size=200))
