"""`try`: made images with seeded faults are booted, and each fault is found with its cause."""

import json
import struct
import subprocess
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents
import pytest
from compose_apps_preload.image import disk
from compose_apps_preload.image.ext4 import FileSystem
from compose_apps_preload.image.layout import Layout
from compose_apps_preload.trial import bootable
from compose_apps_preload.trial.boot import Patience, boot
from compose_apps_preload.trial.emulator import Board
from preload_image import device_image
from preload_image.device_image import MIB
from preload_image.examples import Ended, app, layers, preload, preload_well
from preload_image.registry import HOST, Registry, archive
from virtual_device import device_tree
from virtual_device.archive import unpacked
from virtual_device.firmware import Firmware

pytestmark = pytest.mark.timeout(1500)

APP_SECONDS = 150  # an emulated machine takes its time for each of the apps
FULL_SECONDS = 60
BOOT_PARTITION = (1 * MIB, 48 * MIB)  # start and size in bytes
ROOT_PARTITION = 49 * MIB
ZEROS = f"sha256:{'0' * 64}"


def service(image: str, *command: str, **more: object) -> str:
    """The compose file of an app with one service."""
    main = {"image": image, "restart": "always", "command": command, **more}
    return json.dumps({"services": {"main": main}})


RUNS = ("/bin/busybox", "sleep", "3600")
TOOL = f"{HOST}/factory/tool"
NOT_STARTING = {
    "bad-command": service(TOOL, "/bin/nothing"),
    "port-one": service(TOOL, *RUNS, ports=["8080:80"]),
    "port-two": service(TOOL, *RUNS, ports=["8080:80"]),
    "no-modem": service(TOOL, *RUNS, devices=["/dev/ttyUSB7:/dev/ttyUSB7"]),
    "broken-blob": service(TOOL, *RUNS),
}
NOT_RUNNING = {
    "other-machine": service(f"{HOST}/factory/mislabelled", *RUNS, restart="no"),
    "unhealthy": service(
        TOOL, *RUNS, healthcheck={"test": ["CMD", "/bin/busybox", "false"], "interval": "2s"}
    ),
    "crashes": service(TOOL, "/bin/busybox", "sh", "-c", "exit 3"),
    # An address: a name is asked for longer than an app needs to settle.
    "needs-cloud": service(TOOL, "/bin/busybox", "wget", "http://192.0.2.1/", restart="no"),
}
BY_HAND = {
    "no-image": json.dumps(
        {"services": {"main": {"image": f"{HOST}/factory/absent@{ZEROS}", "restart": "always"}}}
    ),
    "broken-file": f"services:\n  main:\n    image: {HOST}/factory/tool@{ZEROS}\n   restart: [\n",
}
CAUSES = {
    "bad-command": ("not_starting", "container-start-failed", "/bin/nothing"),
    "no-modem": ("not_starting", "device-missing", "/dev/ttyUSB7"),
    "broken-blob": ("not_starting", "store-damaged", "is damaged"),
    "no-image": ("not_starting", "image-missing", "factory/absent"),
    "broken-file": ("not_starting", "compose-file-invalid", "line"),
    "other-machine": ("not_running", "exited", "exec format error"),
    "unhealthy": ("not_running", "unhealthy", "main"),
    # Which of its last words are told depends on how busy dockerd is.
    "crashes": ("not_running", "crash-loop", "restarted"),
    "needs-cloud": ("not_running", "exited", "192.0.2.1"),
}
"""App to the image it is in, the cause that must be told, and what its line must name."""


@dataclass(frozen=True)
class Tried:
    """An image that was tried: the command's end, the files that it wrote, what it wrote to."""

    ended: Ended
    files: Path
    is_changed: bool

    @property
    def record(self) -> dict[str, Any]:
        return documents.run((self.files / "record.json").read_text())

    @property
    def apps(self) -> Mapping[str, Mapping[str, Any]]:
        return {each["name"]: each for each in self.record["apps"]}


def try_image(image: Path, *words: object) -> Tried:
    before = device_image.sha256(image)
    files = image.with_name(f"{image.name}.tried")
    ended = preload("try", image, "-o", files, *words)
    is_changed = device_image.sha256(image) != before
    image.unlink()
    return Tried(ended, files, is_changed)


@pytest.fixture(scope="module")
def tool(registry: Registry) -> Mapping[str, str]:
    """The images of the apps: a busybox that runs, one for another machine, one with much data."""
    busybox = (device_tree().layers[-1] / "usr/bin/busybox").read_bytes()
    # An ELF header that names arm64; the image says that it is for amd64.
    foreign = struct.pack("<4sBBBB8sHHI", b"\x7fELF", 2, 1, 1, 0, bytes(8), 2, 0xB7, 1) + bytes(40)
    own = archive({"bin/busybox": busybox})
    data = archive({"bin/busybox": busybox, "data/zeros": bytes(60 * MIB)})
    return {
        "tool": registry.push_image("factory/tool", {"amd64": [*layers("amd64"), own]}),
        "mislabelled": registry.push_image(
            "factory/mislabelled", {"amd64": [archive({"bin/busybox": foreign})]}
        ),
        "data": registry.push_image("factory/data", {"amd64": [data]}),
    }


@pytest.fixture(scope="module")
def tried(
    plain: Firmware, tool: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[Tried]]:
    """The images that are tried, each once, two at a time."""
    folder = tmp_path_factory.mktemp("trials")
    with ThreadPoolExecutor(2) as pool:
        return {name: pool.submit(trial, plain, folder) for name, trial in TRIALS.items()}


def _made(plain: Firmware, file: Path, apps: Mapping[str, str]) -> Path:
    folder = file.with_suffix("")
    words = [word for each in apps for word in ("--app", app(folder / each, apps[each]))]
    preload_well("image", plain.disk, *words, "--arch", "amd64", "-o", file)
    return file


def not_running(plain: Firmware, folder: Path) -> Tried:
    """An image that is one file system, with apps that start and do not run."""
    made = _made(plain, folder / "not-running.ext4", NOT_RUNNING)
    return try_image(made, "--app-seconds", APP_SECONDS)


def not_starting(plain: Firmware, folder: Path) -> Tried:
    """The same, with apps that cannot be started, but for one."""
    made = _made(plain, folder / "not-starting.ext4", NOT_STARTING)
    for name, compose in BY_HAND.items():
        file = folder / f"{name}.yml"
        file.write_text(compose)
        device_image.put(made, 0, file, f"/var/sota/compose-apps/{name}/docker-compose.yml")
    system = FileSystem(made)
    system.remove(["/var/sota/compose-apps/broken-blob"], folder)
    (version,) = system.names("/var/sota/reset-apps/apps/broken-blob")
    manifest = json.loads(system.read(f"/var/sota/reset-apps/blobs/sha256/{version}") or b"")
    bundle = manifest["layers"][0]["digest"].removeprefix("sha256:")
    damaged = folder / "damaged"
    damaged.write_bytes(b"not what was published")
    device_image.put(made, 0, damaged, f"/var/sota/reset-apps/blobs/sha256/{bundle}")
    # A copy beside the uri would do in its place.
    system.remove([f"/var/sota/reset-apps/apps/broken-blob/{version}/{bundle}.tgz"], folder)
    return try_image(made, "--app-seconds", APP_SECONDS)


def full(plain: Firmware, folder: Path) -> Tried:
    """A disk that boots by UEFI, is full, and has a shortlist with a typing error."""
    source = _uefi_disk(plain, folder / "in.wic")
    made = folder / "full.wic"
    volume = json.loads(service(f"{HOST}/factory/data", *RUNS, volumes=["data:/data"]))
    volume["volumes"] = {"data": {}}
    recorder = app(folder / "full/recorder", json.dumps(volume))
    preload_well("image", source, "--app", recorder, "--arch", "amd64", "-o", made)
    source.unlink()
    shortlist = folder / "default-apps"
    shortlist.write_text("recordr, recorder\n")
    device_image.put(made, ROOT_PARTITION, shortlist, "/var/lmp/default-apps")
    system = FileSystem(made, ROOT_PARTITION)
    superblock = system.superblock
    blocks = superblock.free_blocks - 24 * MIB // superblock.block_size
    fill = f"fallocate /var/full 0 {blocks}"
    empty = folder / "empty"
    empty.touch()
    device_image.put(made, ROOT_PARTITION, empty, "/var/full")
    device_image.debugfs(made, ROOT_PARTITION, fill, write=True)
    return try_image(made, "--app-seconds", FULL_SECONDS, "--register")


def agentless(plain: Firmware, folder: Path) -> Tried:
    """An image without the agent, in which something else has made a container."""
    made = folder / "agentless.ext4"
    subprocess.run(["cp", "--sparse=always", plain.disk, made], check=True)
    FileSystem(made).remove(
        [
            "/usr/bin/compose-apps-early-start",
            "/usr/lib/python3/dist-packages/compose_apps_early_start",
            "/usr/lib/systemd/system/compose-apps-early-start.service",
        ],
        folder,
    )
    return try_image(made)


def panicking(plain: Firmware, folder: Path) -> Tried:
    """An image whose kernel finds no init."""
    made = folder / "panicking.ext4"
    subprocess.run(["cp", "--sparse=always", plain.disk, made], check=True)
    entry = folder / "panicking.conf"
    arguments = f"{plain.kernel.arguments} rdinit=/absent"
    entry.write_text(f"linux /boot/vmlinuz\ninitrd /boot/initrd\noptions {arguments}\n")
    device_image.put(made, 0, entry, "/boot/loader/entries/device.conf")
    return try_image(made)


TRIALS = {each.__name__: each for each in (not_running, not_starting, full, agentless, panicking)}


def _uefi_disk(plain: Firmware, file: Path) -> Path:
    """Make a disk as LmP's for x86: systemd-boot, kernel and initramfs on an EFI partition."""
    size = plain.disk.stat().st_size
    with file.open("wb") as stream:
        stream.truncate(ROOT_PARTITION + size + MIB)
    start, sectors = (each // 512 for each in BOOT_PARTITION)
    table = f"label: gpt\n{start},{sectors},U\n{ROOT_PARTITION // 512},{size // 512},L\n"
    subprocess.run(["sfdisk", "--quiet", file], input=table, text=True, check=True)
    argv = ["dd", f"if={plain.disk}", f"of={file}", "bs=1M", f"seek={ROOT_PARTITION // MIB}"]
    subprocess.run([*argv, "conv=notrunc,sparse", "status=none"], check=True)
    loader = unpacked("trixie", "systemd-boot-efi") / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    entry = file.with_name("device.conf")
    arguments = plain.kernel.arguments.replace("root=/dev/vda", "root=/dev/vda2")
    entry.write_text(f"linux /vmlinuz\ninitrd /initrd\noptions {arguments}\n")
    drive = f"{file}@@{BOOT_PARTITION[0]}"
    subprocess.run(["mformat", "-i", drive, "-T", str(sectors), "-F", "::"], check=True)
    for each in ("EFI", "EFI/BOOT", "loader", "loader/entries"):
        subprocess.run(["mmd", "-i", drive, f"::{each}"], check=True)
    for source, target in {
        loader: "EFI/BOOT/BOOTX64.EFI",
        entry: "loader/entries/device.conf",
        plain.kernel.image: "vmlinuz",
        plain.kernel.initrd: "initrd",
    }.items():
        subprocess.run(["mcopy", "-i", drive, source, f"::{target}"], check=True)
    return file


@pytest.mark.parametrize("name", CAUSES)
def test_a_seeded_fault_is_found_with_its_cause(tried: dict[str, Future[Tried]], name: str) -> None:
    image, cause, named = CAUSES[name]
    result = tried[image].result()
    found = result.apps[name]
    assert (found["state"], found["cause"]) == ("failed", cause)
    assert named in found["message"]
    assert f"{name}: " in result.ended.stdout
    assert found["hint"] in result.ended.stdout


def test_of_two_apps_with_one_port_the_second_is_told(tried: dict[str, Future[Tried]]) -> None:
    apps = tried["not_starting"].result().apps
    causes = {apps[name]["cause"] for name in ("port-one", "port-two")}
    assert causes == {None, "port-taken"}
    assert any("8080" in str(apps[name]["message"]) for name in ("port-one", "port-two"))


def test_a_good_app_runs_among_the_faulty_and_the_exit_status_is_the_agents(
    tried: dict[str, Future[Tried]],
) -> None:
    result = tried["not_starting"].result()
    assert result.ended.status == result.record["exit_status"] == 3
    assert "exit status 3: some of the wanted apps run" in result.ended.stdout
    (good,) = (name for name, each in result.apps.items() if each["state"] == "running")
    assert f"{good}: runs" in result.ended.stdout  # as it happens


def test_a_full_disk_is_found_with_its_cause(tried: dict[str, Future[Tried]]) -> None:
    apps = tried["full"].result().apps
    assert apps["recorder"]["cause"] == "no-space"
    assert "no space left on device" in apps["recorder"]["message"]


def test_a_bad_shortlist_is_found_with_the_name_that_was_meant(
    tried: dict[str, Future[Tried]],
) -> None:
    result = tried["full"].result()
    assert result.record["unknown"] == [{"name": "recordr", "nearest": "recorder"}]
    assert "recordr" in result.ended.stdout


def test_a_registered_device_skips_the_agent_at_its_second_boot(
    tried: dict[str, Future[Tried]],
) -> None:
    result = tried["full"].result()
    second = result.files / "second-boot"
    assert (second / "exit-status").read_text() == "5\n"
    assert "registered" in result.ended.stdout
    assert (second / "containers.txt").exists()
    assert result.ended.status == 1


def test_record_timeline_and_logs_are_written(tried: dict[str, Future[Tried]]) -> None:
    files = tried["not_running"].result().files
    timeline = json.loads((files / "timeline.json").read_text())
    assert timeline["unknown"] is None
    assert {"kernel", "system", "apps"} <= {phase["name"] for phase in timeline["phases"]}
    assert (files / "timeline.svg").read_text().startswith("<svg")
    assert "compose-apps-early-start[" in (files / "journal.txt").read_text()
    assert "compose-apps-early-start[" in (files / "console.txt").read_text()
    assert "\ncrashes: crash-loop: " in (files / "evidence.txt").read_text()


@pytest.mark.parametrize("name", TRIALS)
def test_the_image_is_not_written_to(tried: dict[str, Future[Tried]], name: str) -> None:
    result = tried[name].result()
    assert not result.is_changed


def test_of_an_image_without_the_agent_it_is_said_what_cannot_be_told(
    tried: dict[str, Future[Tried]],
) -> None:
    result = tried["agentless"].result()
    assert result.ended.status == 5
    assert "The image has no compose-apps-early-start" in result.ended.stdout
    assert "NAMES" in (result.files / "containers.txt").read_text()
    assert "Only the agent can report whether they work" in result.ended.stdout


def test_of_a_kernel_that_panics_the_last_lines_are_shown(
    tried: dict[str, Future[Tried]],
) -> None:
    result = tried["panicking"].result()
    assert result.ended.status == 4
    assert "went off before it told anything" in result.ended.stdout
    assert "Kernel panic" in result.ended.stdout


def test_a_boot_that_takes_too_long_is_ended(plain: Firmware, tmp_path: Path) -> None:
    copy = tmp_path / "disk"
    subprocess.run(["cp", "--sparse=always", plain.disk, copy], check=True)
    partition = disk.find_root(copy)
    layout, board = Layout.find(FileSystem(copy)), Board.of("amd64")
    start = bootable.start(partition, layout, board, tmp_path)
    seen = boot(
        *(partition, layout, board, start, tmp_path, tmp_path / "files"),
        Patience(boot=5, run=5),
        memory=1024,
        processors=1,
    )
    copy.unlink()
    assert seen.trouble == "the system was not up after 5 s"
    assert seen.exit_status == 4
    assert "Linux version" in seen.text("console.txt")
