"""Nothing leaves the device: no registry is contacted and no name is looked up."""

from engine.apps import ABSENT, app, worker
from engine.board import Board, assert_success

# An interface with a default route, on which nobody answers; without it every attempt would end
# before a packet is made, and there would be nothing to count.
OUTSIDE = """
ip link add out0 type veth peer name out1
echo 1 >/proc/sys/net/ipv6/conf/out0/disable_ipv6
echo 1 >/proc/sys/net/ipv6/conf/out1/disable_ipv6
ip addr add 192.0.2.2/24 dev out0
ip link set out1 up
ip link set out0 up
ip route add default via 192.0.2.1
echo nameserver 192.0.2.53 >/etc/resolv.conf
"""


def packets(board: Board) -> int:
    """How many packets left the device so far, requests for neighbours included."""
    (line,) = (
        line for line in board.shell("cat /proc/net/dev").splitlines() if "out0:" in line
    )  # fmt: skip
    return int(line.partition(":")[2].split()[9 - 1])


def asked(board: Board) -> list[str]:
    """The lines in which dockerd tells of a registry or of a name."""
    words = ("dial ", "lookup ", "registry", "pull")
    log = board.device.dockerd_log.read_text().splitlines()
    return [line for line in log if any(word in line for word in words)]


def test_a_run_sends_no_packet(board: Board) -> None:
    board.shell(OUTSIDE)
    board.preload_sample("debug-tools", "shop", "telemetry")
    board.preload("greedy", app(worker=worker(pull_policy="always")))
    board.device.start_dockerd()
    run = board.start()
    assert_success(run)
    assert packets(board) == 0
    assert asked(board) == []


def test_a_missing_image_sends_no_packet(board: Board) -> None:
    board.shell(OUTSIDE)
    board.preload("absent", app(worker=worker(image=ABSENT, pull_policy="always")))
    board.preload("tagged", app(worker=worker(image="hub2.example.test/factory/other:latest")))
    board.preload("built", app(worker={"build": "https://git.example.test/app.git"}))
    board.device.start_dockerd()
    run = board.start()
    assert run.exit_status == 1
    assert set(run.causes.values()) == {"image-missing"}
    assert packets(board) == 0
    assert asked(board) == []


def test_the_counter_of_packets_counts(board: Board) -> None:
    board.shell(OUTSIDE)
    board.device.start_dockerd()
    assert packets(board) == 0
    pull = ["timeout", "2", "docker", "pull", board.references["factory/worker"]]
    board.device.run(pull, check=False)
    assert packets(board) > 0
