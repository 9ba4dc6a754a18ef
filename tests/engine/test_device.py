"""The virtual device that the other engine tests rely on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from virtual_device import Device, DeviceError, Tree, device_tree, samples

UP = ["docker", "compose", "up", "-d", "--remove-orphans", "--pull", "never", "--no-build"]
BUSY = """
import time
from virtual_device import Device, device_tree, samples
preload = samples.preload(device_tree())
with Device(device_tree(), preload=preload.docker) as device:
    samples.install(device, "shop", samples.sample("shop", preload.references))
    device.start_dockerd()
    device.run(["docker", "compose", "up", "-d"], cwd="/var/sota/compose-apps/shop")
    print(device.folder, device.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def tree() -> Tree:
    return device_tree()


@pytest.fixture(scope="module")
def preload(tree: Tree) -> samples.Preload:
    return samples.preload(tree)


def network_of(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def traces(folder: Path, network: str) -> list[str]:
    """What the host still shows of a device with this scratch folder and network namespace."""
    found = [str(folder)] if folder.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if network_of(process.name) == network:
                found.append(f"process {(process / 'cmdline').read_text()}")
            if str(folder) in (process / "mountinfo").read_text():
                found.append(f"mount seen by {(process / 'cmdline').read_text()}")
        except OSError:
            continue  # it has ended meanwhile
    for parent, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{parent}/{name}" for name in folders if name.endswith(folder.name)]
    return found


def network_of_host(tree: Tree) -> list[str]:
    """The host's interfaces and packet filter."""
    rules = subprocess.run(
        ["chroot", tree.layers[-1], "iptables-save"], capture_output=True, text=True, check=True
    )
    lines = [line for line in rules.stdout.splitlines() if not line.startswith(("#", ":"))]
    return sorted(path.name for path in Path("/sys/class/net").iterdir()) + lines


def eventually(condition: Callable[[], bool], timeout: float = 20) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_device_leaves_nothing_behind(tree: Tree, preload: samples.Preload) -> None:
    before = network_of_host(tree)
    with Device(tree, preload=preload.docker) as device:
        samples.install(device, "shop", samples.sample("shop", preload.references))
        device.start_dockerd()
        device.run(UP, cwd="/var/sota/compose-apps/shop")
        folder, network = device.folder, network_of(device.pid)
        assert traces(folder, network)
    assert traces(folder, network) == []
    assert network_of_host(tree) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_device_leaves_nothing_behind_when_its_owner_is_killed(
    tree: Tree, number: signal.Signals
) -> None:
    before = network_of_host(tree)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert owner.stdout
    folder, pid = owner.stdout.readline().split()
    network = network_of(pid)
    owner.send_signal(number)
    owner.communicate()
    assert eventually(lambda: not traces(Path(folder), network)), traces(Path(folder), network)
    assert network_of_host(tree) == before


def test_what_dead_owners_and_supervisors_left_goes_with_the_next_device(tree: Tree) -> None:
    with Device(tree) as device:
        left = device.folder.parent / "left-behind"
        (left / "upper").mkdir(parents=True)
        assert device.folder.exists()
        with Device(tree) as other:
            assert not left.exists()
            assert device.folder.exists()
            assert other.run(["true"]).returncode == 0


def test_preloaded_images_resolve_by_digest_offline(tree: Tree, preload: samples.Preload) -> None:
    with Device(tree, preload=preload.docker) as device:
        device.start_dockerd()
        for reference in preload.references.values():
            device.run(["docker", "image", "inspect", reference])
        listed = device.run(["docker", "run", "--rm", preload.references["factory/tool"]])
        assert listed.stdout == "done\n"
        with pytest.raises(DeviceError):
            device.run(["docker", "pull", preload.references["factory/tool"]])


@pytest.mark.parametrize(
    ("name", "containers"),
    [
        ("shop", {"web": "running", "worker": "running"}),
        ("telemetry", {"setup": "exited", "collector": "running"}),
        ("debug-tools", {"shell": "running"}),
    ],
)
def test_docker_compose_brings_each_sample_up(
    tree: Tree, preload: samples.Preload, name: str, containers: dict[str, str]
) -> None:
    with Device(tree, preload=preload.docker) as device:
        samples.install(device, name, samples.sample(name, preload.references))
        device.start_dockerd()
        device.run(UP, cwd=f"/var/sota/compose-apps/{name}")
        listed = device.run(
            [
                *("docker", "ps", "--all", "--no-trunc", "--format"),
                '{{.Label "com.docker.compose.service"}} {{.State}}',
            ]
        )
        assert dict(line.split() for line in listed.stdout.splitlines()) == containers


def test_two_devices_do_not_see_each_other(tree: Tree, preload: samples.Preload) -> None:
    with Device(tree, preload=preload.docker) as one, Device(tree, preload=preload.docker) as two:
        for device in (one, two):
            device.start_dockerd()
        one.run(["docker", "run", "-d", "--name=only-in-one", preload.references["factory/worker"]])
        one.path("/var/lmp/default-apps").write_text("shop")
        assert "only-in-one" in one.run(["docker", "ps"]).stdout
        assert "only-in-one" not in two.run(["docker", "ps"]).stdout
        assert not two.path("/var/lmp/default-apps").exists()
        assert "shop" not in two.run(["ps", "ax"]).stdout


def test_a_client_that_connects_before_dockerd_runs_is_answered(tree: Tree) -> None:
    with Device(tree) as device:
        device.hold_socket()
        client = device.popen(["docker", "version"], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(1)
        device.start_dockerd(wait=False)
        assert "Server:" in client.communicate(timeout=30)[0]


def test_dockerd_comes_back_after_it_was_killed(tree: Tree, preload: samples.Preload) -> None:
    with Device(tree, preload=preload.docker) as device:
        device.start_dockerd()
        worker = preload.references["factory/worker"]
        device.run(["docker", "run", "--detach", "--restart=always", "--name=worker", worker])
        device.stop_dockerd(signal.SIGKILL)
        device.start_dockerd()
        running = ["docker", "inspect", "--format={{.State.Running}}", "worker"]
        assert eventually(lambda: device.run(running).stdout == "true\n")


def test_a_signal_reaches_the_process_in_the_device(tree: Tree) -> None:
    script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    with Device(tree) as device:
        process = device.popen(["sh", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        assert process.communicate()[0] == "told\n"
        assert process.returncode == 7
        sleeping = device.popen(["sleep", "600"])
        sleeping.kill()
        assert sleeping.wait() == -signal.SIGKILL
        assert "sleep" not in device.run(["ps", "ax"]).stdout


def test_the_journal_keeps_structured_fields(tree: Tree) -> None:
    send = "from systemd import journal; journal.send('started', APP='shop')"
    with Device(tree) as device:
        device.start_journald()
        device.run(["python3", "-c", send])
        device.run(["journalctl", "--sync"])
        assert '"MESSAGE":"started"' in device.run(["journalctl", "-o", "json", "APP=shop"]).stdout


def test_paths_never_lead_out_of_the_device(tree: Tree) -> None:
    with Device(tree) as device:
        root = Path(f"/proc/{device.pid}/root")
        device.path("/tmp/absolute").symlink_to("/etc/hostname")
        device.path("/tmp/upwards").symlink_to("../../../../../etc/hostname")
        for path in ("/tmp/absolute", "/tmp/upwards", "/../etc/hostname"):
            assert device.path(path) == root / "etc/hostname"
            assert device.path(path).read_text() == "device\n"
