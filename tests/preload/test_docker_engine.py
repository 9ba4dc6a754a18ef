"""Which dockerd fills docker's store, and what is told where it or docker compose is missing."""

import os
import platform
from pathlib import Path

import pytest
from compose_apps_preload.errors import PreloadError
from compose_apps_preload.image import docker_engine, tool
from compose_apps_preload.image.docker_engine import Download, Engine

# What apt-get --print-uris prints on Ubuntu 24.04.
UBUNTU = """\
'http://archive.example.test/ubuntu/pool/main/c/containerd/containerd_1.7.12-0ubuntu4_amd64.deb' \
containerd_1.7.12-0ubuntu4_amd64.deb 38600000 SHA512:12
'http://archive.example.test/ubuntu/pool/universe/p/pigz/pigz_2.8-1_amd64.deb' \
pigz_2.8-1_amd64.deb 65600 SHA512:34
'http://archive.example.test/ubuntu/pool/universe/d/docker.io/docker.io_24.0.7-0ubuntu4_amd64.deb' \
docker.io_24.0.7-0ubuntu4_amd64.deb 29100000 SHA512:56
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Ubuntu's apt and without dockerd; `asked` has what apt was asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "listing").write_text(UBUNTU)
    script = f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\nexec /bin/cat {tmp_path}/listing\n'
    (programs / "apt-get").write_text(script)
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(tool, "PATH", str(programs))
    monkeypatch.setattr(docker_engine, "FOLDER", tmp_path / "cache")
    return tmp_path


def test_ubuntus_own_packages_are_downloaded_by_its_own_apt(machine: Path) -> None:
    found = docker_engine.find()
    assert isinstance(found, Download)
    names = [file.partition("_")[0] for file in found.files]
    assert (names, found.size) == (["containerd", "docker.io", "pigz"], 67_765_600)
    asked = (machine / "asked").read_text().splitlines()
    assert asked[-3:] == ["install", "docker.io", "pigz"]
    # Neither another release nor other sources than those of the machine.
    assert not [word for word in asked if "Release" in word or "Etc" in word or "State" in word]


@pytest.mark.parametrize("listing", ["", UBUNTU.partition("\n")[0]])
def test_an_apt_without_docker_is_told_with_the_package_to_install(
    machine: Path, listing: str
) -> None:
    (machine / "listing").write_text(listing)
    with pytest.raises(PreloadError) as raised:
        docker_engine.find()
    assert "docker's store needs dockerd, which is not installed" in str(raised.value)
    assert "apt-get install docker.io" in raised.value.hint


def test_apt_is_asked_again_only_after_a_change(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, folder = machine / "status", machine / "cache/engine-1"
    state.touch()
    folder.mkdir(parents=True)
    monkeypatch.setattr(docker_engine, "_APT_STATE", (state,))
    os.utime(folder, (state.stat().st_mtime + 1,) * 2)
    assert isinstance(docker_engine.find(), Engine)
    assert not (machine / "asked").exists()
    os.utime(state, (state.stat().st_mtime + 2,) * 2)
    assert isinstance(docker_engine.find(), Download)


@pytest.mark.parametrize(
    ("system", "version", "hint"),
    [
        ("ubuntu", "24.04", "run apt-get install docker-compose-v2, or "),
        ("debian", "13", "run apt-get install docker-compose, or "),
        ("debian", "12", "Debian 12 has no package of it: "),
        ("fedora", "41", ""),
    ],
)
def test_each_system_is_told_where_it_gets_docker_compose(
    machine: Path, monkeypatch: pytest.MonkeyPatch, system: str, version: str, hint: str
) -> None:
    release = {"ID": system, "VERSION_ID": version}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setenv("DOCKER_CONFIG", str(machine))
    monkeypatch.setattr(docker_engine, "PLUGIN_FOLDERS", ())
    with pytest.raises(PreloadError, match="--create needs docker compose 2") as raised:
        docker_engine.compose()
    assert raised.value.hint.startswith(f"{hint}install Docker's own package docker-compose-plugin")
