"""KVM is used only where it runs the machine: a stub of QEMU shows what it did elsewhere."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from compose_apps_preload.image import tool
from compose_apps_preload.trial import emulator
from compose_apps_preload.trial.emulator import Board, Kernel, Uefi, is_emulated

BOARD = replace(Board.of("amd64"), program=f"qemu-system-{os.uname().machine}")
# As nested KVM does at an instruction that it cannot emulate: the machine hangs, and uses no time.
HANGS = "echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60"
ENDS = "exit 1"
BOOTS = """
while [ "$1" != -serial ]; do shift; done
echo '[    0.900000] Kernel panic - not syncing: VFS: Unable to mount root fs' >"${2#file:}"
exec sleep 60
"""
SILENT = "exec sleep 60"


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tool, "PATH", f"{tmp_path}:{tool.PATH}")
    monkeypatch.setattr(emulator, "_PROBE_SECONDS", 1.0)
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/dev/kvm")
    emulator._runs.cache_clear()
    return tmp_path / BOARD.program


@pytest.mark.parametrize(
    ("behaviour", "emulated"),
    [(HANGS, True), (ENDS, True), (BOOTS, False), (SILENT, True)],
)
def test_kvm_is_used_if_a_kernel_boots(qemu: Path, behaviour: str, emulated: bool) -> None:
    qemu.write_text(f'#!/bin/sh\necho "$@" >>{qemu}.log\n{behaviour}\n')
    qemu.chmod(stat.S_IRWXU)
    starts = [Kernel(Path("/k"), Path(name), name) for name in ("one", "two")]
    assert [is_emulated(BOARD, start) for start in starts] == [emulated] * 2
    (probe,) = Path(f"{qemu}.log").read_text().splitlines()
    assert "-accel kvm" in probe
    assert "-initrd" not in probe


def test_the_probe_of_a_disk_does_not_write_to_it(qemu: Path, tmp_path: Path) -> None:
    qemu.write_text(f'#!/bin/sh\necho "$@" >>{qemu}.log\n{ENDS}\n')
    qemu.chmod(stat.S_IRWXU)
    assert is_emulated(BOARD, Uefi(Path("/firmware"), tmp_path / "disk"))
    probe = Path(f"{qemu}.log").read_text()
    assert "-snapshot" in probe
    assert f"file={tmp_path}/disk" in probe


def test_kvm_cannot_run_another_architecture() -> None:
    assert is_emulated(replace(BOARD, program="qemu-system-s390x"), Kernel(Path("/k"), None, ""))
