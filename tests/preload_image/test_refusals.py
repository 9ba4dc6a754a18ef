"""What `image` refuses, and that it leaves nothing behind however it ends."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from preload_image import device_image
from preload_image.examples import Preloaded, app, arguments, layers, preload
from preload_image.registry import HOST, Registry


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """An image; in the end it must be as it was, and nothing must lie beside it."""
    folder = tmp_path / "images"
    folder.mkdir()
    made = device_image.ext4(tmp_path / "in.ext4").rename(folder / "in.ext4")
    before = device_image.sha256(made)
    yield made
    assert [each.name for each in folder.iterdir()] == ["in.ext4"]
    assert device_image.sha256(made) == before


def refused(source: Path, *words: object, arch: str = "arm64") -> str:
    """Run `image`, which must refuse; return the message, which must say what to do."""
    common = ("--arch", arch, "--no-docker-store", "-o", source.with_name("out.ext4"))
    ended = preload("image", source, *words, *common)
    assert ended.status == 1, ended.stderr
    assert ended.stdout == ""
    (line,) = (each for each in ended.stderr.splitlines() if ". Next: " in each)
    return line


def test_an_app_whose_images_lack_the_architecture_is_refused(
    source: Path, tmp_path: Path, images: Mapping[str, str], shop: Path
) -> None:
    folder = app(tmp_path / "old", f"services:\n  one:\n    image: {images['amd64-only']}\n")
    said = refused(source, "--app", shop, "--app", folder)
    assert f"{images['amd64-only']} does not support arm64, only amd64" in said


def test_an_architecture_that_no_image_has_is_refused(source: Path, shop: Path) -> None:
    assert "does not support riscv64, only amd64, arm64" in refused(
        source, "--app", shop, arch="riscv64"
    )


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("image: ${REGISTRY}/web", "'${REGISTRY}/web': REGISTRY is not set"),
        ("image: x:1\n    environment: ['A=${B:?give B}']", "B is not set: give B"),
        ("build: .", "service 'one' has no image"),
        (f"image: {HOST}/factory/web@sha512:{'12' * 32}", "has a digest that is not sha256"),
        ("image: A B", "this is not a valid image reference"),
        (
            f"image: {HOST}/factory/web\n    labels: [{{a: b}}]",
            "neither the form NAME=VALUE nor NAME: VALUE",
        ),
        ("extends: {file: other.yml, service: web}", "other.yml: No such file or directory"),
        ("extends: one", "a service extends itself"),
        ("&one\n    <<: *one", "an anchor is merged into itself"),
    ],
)
def test_a_compose_file_that_cannot_be_pinned_is_refused(
    source: Path, tmp_path: Path, registry: object, service: str, message: str
) -> None:
    folder = app(tmp_path / "odd", f"services:\n  one:\n    {service}\n")
    said = refused(source, "--app", folder)
    assert "app odd: its docker-compose.yml cannot be pinned" in said
    assert message in said


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/nothing/at/all"])
def test_an_app_that_is_not_there_is_refused(source: Path, name: str) -> None:
    assert f"'{name}' is not an app" in refused(source, "--app", name)


def test_an_app_that_the_registry_does_not_have_is_refused(source: Path, registry: object) -> None:
    said = refused(source, "--app", f"{HOST}/factory/gone@sha256:{'0' * 64}")
    assert "manifest unknown" in said


def test_an_image_in_the_place_of_an_app_is_refused(
    source: Path, images: Mapping[str, str]
) -> None:
    assert "is not a compose app" in refused(source, "--app", images["arm64-only"])


def test_a_shortlist_with_an_unknown_app_is_refused(source: Path, shop: Path) -> None:
    said = refused(source, "--app", shop, "--default-apps", "shop,shpo")
    assert "unknown app 'shpo'" in said


@pytest.mark.parametrize(
    ("enabled", "message"), [("true", "unknown app 'shpo'"), ("false", "is not preloaded")]
)
def test_a_factorys_configuration_that_names_no_such_apps_is_refused(
    source: Path, tmp_path: Path, shop: Path, enabled: str, message: str
) -> None:
    config = tmp_path / "factory-config.yml"
    config.write_text(
        f"containers:\n  preloaded_images:\n    enabled: {enabled}\n    shortlist: shop,shpo\n"
    )
    words = ("--factory-config", config, "--ref", "refs/heads/main", "--build", "containers")
    assert message in refused(source, "--app", shop, *words)


def test_an_app_that_is_given_twice_is_refused(source: Path, shop: Path) -> None:
    assert "app 'shop' is given twice" in refused(source, "--app", shop, "--app", shop)


def test_too_little_disk_is_refused(source: Path, tmp_path: Path, shop: Path) -> None:
    words = ("--app", shop, "--arch", "arm64", "--no-docker-store")
    full = tmp_path / "full"
    full.mkdir()
    mounted = (
        f'mount -t tmpfs -o size=1M tmpfs {full} && "$@"; status=$?; ls -A {full}; exit $status'
    )
    ended = preload(
        *("image", source, *words, "-o", full / "out.ext4"),
        prefix=("unshare", "--mount", "sh", "-c", mounted, "sh"),
    )
    assert ended.status == 1
    assert ended.stdout == ""
    assert f"{full} has too little space" in ended.stderr


def test_an_image_that_is_preloaded_already_is_refused(
    tmp_path: Path, preloaded: Preloaded, telemetry: Path
) -> None:
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", preloaded.made, *words, "-o", tmp_path / "again.wic")
    assert ended.status == 1
    assert "preloaded already" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_partition_that_would_have_to_grow_into_another_is_refused(
    tmp_path: Path, telemetry: Path
) -> None:
    source = device_image.two_roots(tmp_path / "in.wic", ("otaroot", "data"), mib=48)
    before = device_image.sha256(source)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", source, *words, "-o", tmp_path / "out.wic")
    assert ended.status == 1
    assert "but the next partition leaves it" in ended.stderr
    assert not (tmp_path / "out.wic").exists()
    assert device_image.sha256(source) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither an ext4 file system nor a partition table"),
        (b"no image" * 4096, "does not contain a recognized partition table"),
        (b"QFI\xfb" + bytes(4096), "a qcow2 image (qemu-img convert"),
        (b"BZh9" + bytes(4096), "compressed with bzip2"),
        (bytes(4096) + b"EFI PART" + bytes(4096), "4096-byte sectors"),
        (bytes(0x10040) + b"_BHRfS_M" + bytes(4096), "the image is btrfs"),
    ],
)
def test_what_is_no_image_is_refused(
    tmp_path: Path, telemetry: Path, content: bytes, message: str
) -> None:
    (tmp_path / "in.wic").write_bytes(content)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", tmp_path / "in.wic", *words, "-o", tmp_path / "out.wic")
    assert ended.status == 1
    assert message in ended.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["in.wic"]


def test_a_cut_image_is_refused(tmp_path: Path, telemetry: Path) -> None:
    root = device_image.ext4(tmp_path / "root.ext4")
    disk = device_image.wic(tmp_path / "in.wic", root)
    for image in (root, disk):
        with image.open("r+b") as stream:
            stream.truncate(20 << 20)
        words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
        ended = preload("image", image, *words, "-o", tmp_path / "out.wic")
        assert ended.status == 1
        assert "the image is truncated" in ended.stderr


def test_a_damaged_file_system_is_refused_with_e2fscks_words(
    source: Path, tmp_path: Path, shop: Path
) -> None:
    (tmp_path / "content").write_text("x")
    damaged = Path(shutil.copy(source, tmp_path / "damaged.ext4"))
    device_image.debugfs(damaged, 0, "clri /etc", write=True)
    before = device_image.sha256(damaged)
    words = ("--app", shop, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", damaged, *words, "-o", tmp_path / "out.ext4")
    assert ended.status == 1
    assert "is damaged; e2fsck says: " in ended.stderr
    assert "has deleted/unused inode" in ended.stderr
    assert device_image.sha256(damaged) == before
    assert not (tmp_path / "out.ext4").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.wic.bz2", ".bz2 files cannot be written"),
        ("out.qcow2", ".qcow2 files cannot be written"),
        ("device", "is not a regular file"),
        ("folder", "is a folder"),
        ("mapped.wic", "mapped.bmap is not a regular file"),
    ],
)
def test_an_output_that_would_harm_is_refused(
    source: Path, tmp_path: Path, shop: Path, name: str, message: str
) -> None:
    os.mknod(tmp_path / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "mapped.wic.bmap")
    words = ("--app", shop, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", source, *words, "-o", tmp_path / name)
    assert ended.status == 1
    assert message.replace("mapped.bmap", "mapped.wic.bmap") in ended.stderr
    assert stat.S_ISCHR((tmp_path / "device").stat().st_mode)


def test_a_block_map_that_would_overwrite_the_input_is_refused(tmp_path: Path, shop: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4").rename(tmp_path / "in.bmap")
    before = device_image.sha256(source)
    words = ("--app", shop, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", source, *words, "-o", tmp_path / "in")
    assert ended.status == 1
    assert "in.bmap is the input image, and would be overwritten" in ended.stderr
    assert device_image.sha256(source) == before


def test_an_image_of_another_architecture_is_refused(
    source: Path, tmp_path: Path, shop: Path
) -> None:
    program = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xb7\0" + bytes(100)
    (tmp_path / "busybox").write_bytes(program)
    image = Path(shutil.copy(source, tmp_path / "arm64.ext4"))
    deployed = "/ostree/deploy/lmp/deploy"
    for folder in (deployed, f"{deployed}/0.0", f"{deployed}/0.0/usr"):
        device_image.debugfs(image, 0, f"mkdir {folder}", write=True)
    device_image.put(image, 0, tmp_path / "busybox", f"{deployed}/0.0/usr/bin/busybox")
    words = ("--app", shop, "--no-docker-store", "-o", tmp_path / "out.ext4")
    ended = preload("image", image, *words, "--arch", "amd64")
    assert ended.status == 1
    assert "the image is for arm64, not for amd64, as /ostree/deploy/lmp" in ended.stderr
    assert preload("image", image, *words, "--arch", "aarch64").status == 0


def test_an_image_whose_layers_are_not_what_its_config_says_is_refused(
    source: Path, tmp_path: Path, registry: Registry
) -> None:
    reference = registry.push_image(
        "factory/lying", {"arm64": layers("arm64")}, index=False, lie=True
    )
    folder = app(tmp_path / "lying", f"services:\n  one:\n    image: {reference}\n")
    said = refused(source, "--app", folder)
    assert "the new image is broken" in said
    assert "does not decompress to sha256:" in said
    # With docker's store, dockerd finds it.
    words = ("--app", folder, "--arch", "arm64", "-o", source.with_name("out.ext4"))
    ended = preload("image", source, *words)
    assert ended.status == 1
    assert "layers from manifest don't match image configuration" in ended.stderr


def test_missing_programs_are_told_before_anything_is_fetched(
    source: Path, shop: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("cp", "debugfs", "dumpe2fs", "sfdisk"):
        shutil.copy(str(shutil.which(name)), programs)
    hidden = 'mount -t tmpfs none /usr/sbin && mount -t tmpfs none /sbin && exec "$@"'
    alone = ("unshare", "--mount", "sh", "-c", hidden, "sh", "env", f"PATH={programs}")
    words = ("--app", shop, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", source, *words, "-o", tmp_path / "out.ext4", prefix=alone)
    assert ended.status == 1
    assert "not installed: e2fsck, e2image, fallocate, resize2fs, skopeo. Next:" in ended.stderr
    assert "apt-get install e2fsprogs skopeo util-linux" in ended.stderr


def test_a_truncated_gz_is_refused(tmp_path: Path, preloaded: Preloaded, telemetry: Path) -> None:
    (tmp_path / "in.wic.gz").write_bytes(preloaded.made.read_bytes()[:-1000])
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    ended = preload("image", tmp_path / "in.wic.gz", *words, "-o", tmp_path / "out.wic")
    assert ended.status == 1
    assert "in.wic.gz is damaged" in ended.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["in.wic.gz"]


def test_the_input_as_output_is_refused(tmp_path: Path, telemetry: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4")
    before = device_image.sha256(source)
    words = ("--app", telemetry, "--arch", "arm64", "--no-docker-store")
    assert preload("image", source, *words, "-o", source).status == 1
    assert device_image.sha256(source) == before


@pytest.mark.parametrize(
    "words",
    [
        ("--app-type", "compose", "--no-docker-store"),
        ("--factory-config", "factory-config.yml"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    source: Path, shop: Path, words: tuple[str, ...]
) -> None:
    out = source.with_name("out.ext4")
    ended = preload("image", source, "--app", shop, "--arch", "arm64", *words, "-o", out)
    assert ended.status == 2


# What the program has said when it is interrupted: before it fetches, while it writes.
MOMENTS = ("reading apps", "fetching images", "enlarging")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing_behind(
    source: Path, shop: Path, number: signal.Signals, moment: str
) -> None:
    status = interrupted(source, shop, number, moment)
    assert status == 130


def test_an_interrupted_run_ends_the_dockerd_that_comes_up_while_it_fetches(
    source: Path, shop: Path
) -> None:
    words = ("--app", shop, "--arch", "arm64", "-o", source.with_name("out.ext4"))
    argv, environment = arguments("image", source, *words)
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(line.startswith("copying") for line in process.stderr)
        assert dockerds(source.parent)
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130
    assert not dockerds(source.parent)


def dockerds(folder: Path) -> list[str]:
    """The command lines that run a dockerd in `folder`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(file.read_text(errors="replace"))
    return [line for line in found if "dockerd" in line and str(folder) in line]


def test_a_killed_run_leaves_no_output(tmp_path: Path, shop: Path) -> None:
    source = device_image.ext4(tmp_path / "in.ext4")
    assert interrupted(source, shop, signal.SIGKILL, MOMENTS[-1]) == -signal.SIGKILL
    visible = [each.name for each in tmp_path.iterdir() if not each.name.startswith(".")]
    assert sorted(visible) == ["in.ext4", "in.ext4.tree"]


def interrupted(source: Path, shop: Path, number: signal.Signals, moment: str) -> int:
    """Send a signal to `image` when it has said `moment`; return its exit status."""
    common = ("--arch", "arm64", "--no-docker-store", "-o", source.with_name("out.ext4.gz"))
    argv, environment = arguments("image", source, "--app", shop, *common)
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith(moment):
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert "Traceback" not in rest
    return process.returncode
