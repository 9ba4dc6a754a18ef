"""A registry with images, apps that use them, and an image that was preloaded with the apps."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from preload_image import device_image
from preload_image.examples import ARCH, SHOP, Preloaded, app, layers, preload_well
from preload_image.registry import Registry, configure_skopeo, serve
from virtual_device import agent_layer, device_tree
from virtual_device.cache import home as cache_home
from virtual_device.disk import disk
from virtual_device.firmware import Firmware
from virtual_device.kernel import kernel


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on loopback, which skopeo knows as hub.example.test."""
    folder = tmp_path_factory.mktemp("registry")
    program = device_tree().tools / "usr/bin/docker-registry"
    cache = cache_home().parent
    with serve(program, folder) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("HOME", str(folder / "home"))
        configure_skopeo(folder / "home", running.port)
        yield running


@pytest.fixture(scope="session")
def compose(registry: Registry) -> None:
    """docker compose, as a plugin of who makes images."""
    plugins = registry.folder / "home/.docker/cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(
        device_tree().layers[-1] / "usr/libexec/docker/cli-plugins/docker-compose"
    )


@pytest.fixture(scope="session")
def plain(package: Path) -> Firmware:
    """A device with the agent of this checkout, and without apps and images."""
    tree = device_tree(architecture=ARCH)
    its_kernel = kernel(tree.suite, tree.architecture)
    image = disk(agent_layer(tree, package), its_kernel, None)
    return Firmware(its_kernel, image, {})


@pytest.fixture(scope="session")
def images(registry: Registry) -> Mapping[str, str]:
    """Repository to reference by digest: an OCI index, a docker manifest list, one manifest."""
    both = {each: layers(each) for each in ("amd64", "arm64")}
    worker = {each: layers(each)[:1] for each in ("amd64", "arm64")}
    amd64, arm64 = {"amd64": layers("amd64")}, {"arm64": layers("arm64")}
    return {
        "web": registry.push_image("factory/web", both),
        "worker": registry.push_image("factory/worker", worker, docker=True),
        "amd64-only": registry.push_image("factory/amd64-only", amd64, index=False),
        "arm64-only": registry.push_image("factory/arm64-only", arm64, docker=True, index=False),
    }


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, images: Mapping[str, str]) -> Path:
    """A local app folder, its images by tag."""
    assert images
    folder = app(tmp_path_factory.mktemp("apps") / "shop", SHOP)
    (folder / "site").mkdir()
    (folder / "site/index.html").write_text("shop")
    return folder


@pytest.fixture(scope="session")
def telemetry(tmp_path_factory: pytest.TempPathFactory, images: Mapping[str, str]) -> Path:
    """A local app folder, its one image by digest."""
    compose = f"services:\n  collector:\n    image: {images['arm64-only']}\n"
    return app(tmp_path_factory.mktemp("apps") / "telemetry", compose)


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory, shop: Path, telemetry: Path) -> Preloaded:
    """Both apps for arm64, in both stores."""
    folder = tmp_path_factory.mktemp("preloaded")
    source = device_image.wic(folder / "in.wic", device_image.ext4(folder / "root.ext4"))
    before = device_image.sha256(source)
    made = folder / "out.wic.gz"
    apps = ("--app", shop, "--app", telemetry, "--default-apps", "shop")
    preload_well("image", source, *apps, "--arch", "arm64", "-o", made)
    flashed = device_image.flash(made, folder / "flashed")
    return Preloaded(source, before, made, flashed)
