"""Upgrading the agent's package keeps an administrator's decision; purging it leaves nothing."""

from pathlib import Path

from engine.board import Board

NAME = "compose-apps-early-start"


def enabled(board: Board) -> str:
    return str(board.device.run(["systemctl", "is-enabled", NAME], check=False).stdout).strip()


def test_installing_enables_the_unit_and_an_upgrade_does_not_enable_it_again(
    board: Board, package: Path
) -> None:
    assert enabled(board) == "enabled"
    board.device.run(["systemctl", "disable", NAME])
    board.device.path("/tmp/agent.deb").write_bytes(package.read_bytes())
    board.device.run(["dpkg", "--force-unsafe-io", "--install", "/tmp/agent.deb"])
    assert enabled(board) == "disabled"


def test_purging_leaves_nothing(board: Board) -> None:
    state = board.device.path(f"/var/lib/{NAME}")
    state.mkdir(exist_ok=True)
    (state / "last-run.json").touch()
    board.device.run(["dpkg", "--purge", NAME])
    names = ["-name", f"*{NAME}*", "-o", "-name", "compose_apps_early_start"]
    left = board.device.run(["find", "/etc", "/usr", "/var", "-xdev", "(", *names, ")"])
    assert left.stdout == ""
